/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/watchdog.h"

#include "ctl/ctl.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static pthread_cond_t changed;
static bool running, armed;
static struct timespec deadline; /* CLOCK_MONOTONIC */

static void *watch(void *arg)
{
    static const char text[] = "farmctl: the daemon does not answer: look at its log, or kill its "
                               "worker process (it is started again by itself)\n";
    (void)arg;
    pthread_mutex_lock(&lock);
    for (;;) {
        if (!armed) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        struct timespec until = deadline, now;
        pthread_cond_timedwait(&changed, &lock, &until);
        clock_gettime(CLOCK_MONOTONIC, &now);
        bool late = now.tv_sec > deadline.tv_sec ||
                    (now.tv_sec == deadline.tv_sec && now.tv_nsec >= deadline.tv_nsec);
        if (armed && late) {
            ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
            (void)ignored;
            _exit(EXIT_NO_DAEMON);
        }
    }
}

static int start(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_t thread;
    int err = pthread_create(&thread, NULL, watch, NULL);
    if (err == 0)
        pthread_detach(thread);
    running = err == 0;
    return -err;
}

int watchdog_set(int64_t ms)
{
    pthread_mutex_lock(&lock);
    int err = running ? 0 : start();
    armed = ms >= 0;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    int64_t ns = deadline.tv_nsec + ms % 1000 * 1000000;
    deadline.tv_sec += (time_t)(ms / 1000 + ns / 1000000000);
    deadline.tv_nsec = (long)(ns % 1000000000);
    if (running)
        pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    return err;
}
