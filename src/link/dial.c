/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "link/dial.h"

#include "base/io.h"
#include "link/session.h"
#include "link/ssh.h"

#include <errno.h>
#include <sys/eventfd.h>

#define BACKOFF_MIN_MS 50u
#define BACKOFF_MAX_MS 2000u

/* Between three quarters and five quarters, so that a farm does not come back in step. */
static int jittered(unsigned ms)
{
    uint16_t r;

    io_random(&r, sizeof r);
    return (int)(ms * 3 / 4 + ms / 2 * r / UINT16_MAX);
}

static void back_off(struct peer *p, unsigned *ms)
{
    struct pollfd wake = {.fd = p->wake, .events = POLLIN};
    eventfd_t asked;

    if (poll(&wake, 1, jittered(*ms)) > 0)
        (void)!eventfd_read(p->wake, &asked);
    *ms = *ms * 2 < BACKOFF_MAX_MS ? *ms * 2 : BACKOFF_MAX_MS;
}

static void *dial_thread(void *arg)
{
    struct peer *p = arg;
    unsigned ms = BACKOFF_MIN_MS;

    for (;;) {
        struct transport t;
        char text[LINK_TEXT_MAX];
        int r = ssh_dial(p, &t, text);
        if (r)
            peer_down(p, NULL, r, text);
        /* Packets that vanish have cost their time already: go on asking, to be there when they
         * stop vanishing. */
        if (r == -ETIMEDOUT || (r == 0 && session_run(p, &t, true)))
            ms = BACKOFF_MIN_MS;
        back_off(p, &ms);
    }
    return NULL;
}

int thread_start(void *(*run)(void *), void *arg)
{
    pthread_t id;
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&id, &attr, run, arg);
    pthread_attr_destroy(&attr);
    return -r;
}

int dial_start(struct peer *p)
{
    return thread_start(dial_thread, p);
}
