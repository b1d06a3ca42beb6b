/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"

#include "base/clock.h"
#include "base/err.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_ 2048
#define RATE_PER_SECOND 10
#define RATE_SLOTS 64

static char speaker[64] = "farmfs";
static enum log_level threshold = LOG_INFO_;

/* A format string's address stands for the place that logs it. A collision takes the slot over,
 * which at worst lets a few lines more through. */
struct rate {
    const char *fmt;
    uint64_t second;
    unsigned seen, dropped;
};
static pthread_mutex_t rate_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rate rates[RATE_SLOTS]; /* rate_lock */

void log_init(const char *name, enum log_level least)
{
    snprintf(speaker, sizeof(speaker), "%s", name);
    threshold = least;
}

bool log_enabled(enum log_level level)
{
    return level >= threshold;
}

/* May this line be written? *dropped: how many like it were not, in the last busy second. */
static bool rate_admit(const char *fmt, unsigned *dropped)
{
    uint64_t second = clock_mono(&clock_system) / 1000000u;
    struct rate *r = &rates[((uintptr_t)fmt * 0x9e3779b97f4a7c15u) >> 58];
    bool admit = true;
    *dropped = 0;
    pthread_mutex_lock(&rate_lock);
    if (r->fmt != fmt || r->second != second) {
        *dropped = r->fmt == fmt ? r->dropped : 0;
        *r = (struct rate){.fmt = fmt, .second = second, .seen = 1};
    } else if (r->seen < RATE_PER_SECOND) {
        r->seen++;
    } else {
        r->dropped++;
        admit = false;
    }
    pthread_mutex_unlock(&rate_lock);
    return admit;
}

/* snprintf to the end of a line; what does not fit is cut. */
__attribute__((format(printf, 3, 0))) static size_t append(char *line, size_t n, const char *fmt,
                                                           va_list ap)
{
    int r = vsnprintf(line + n, LINE_MAX_ - n, fmt, ap);
    if (r < 0)
        return n;
    return (size_t)r < LINE_MAX_ - n ? n + (size_t)r : LINE_MAX_ - 1;
}

__attribute__((format(printf, 3, 4))) static size_t appendf(char *line, size_t n, const char *fmt,
                                                            ...)
{
    va_list ap;
    va_start(ap, fmt);
    n = append(line, n, fmt, ap);
    va_end(ap);
    return n;
}

static size_t append_head(char *line, enum log_level level)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    uint64_t now = clock_wall(&clock_system);
    time_t sec = (time_t)(now / 1000000u);
    struct tm tm;
    gmtime_r(&sec, &tm);
    size_t n = strftime(line, LINE_MAX_, "%Y-%m-%dT%H:%M:%S", &tm);
    return appendf(line, n, ".%03uZ %s %s: ", (unsigned)(now / 1000u % 1000u), names[level],
                   speaker);
}

/* One write per line keeps lines of threads and processes whole. Names of files may hold newlines
 * and escape sequences: those must not forge lines or reach a terminal. */
static void emit(char *line, size_t n)
{
    if (n > LINE_MAX_ - 2)
        n = LINE_MAX_ - 2;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[n++] = '\n';
    ssize_t r = write(STDERR_FILENO, line, n);
    (void)r; /* there is nowhere left to complain */
}

void log_write(enum log_level level, int code, const char *fmt, ...)
{
    unsigned dropped;
    if (!log_enabled(level) || !rate_admit(fmt, &dropped))
        return;
    char line[LINE_MAX_];
    size_t n = append_head(line, level);
    va_list ap;
    va_start(ap, fmt);
    n = append(line, n, fmt, ap);
    va_end(ap);
    if (code != 0)
        n = appendf(line, n, ": %s", err_text(code));
    if (dropped > 0)
        n = appendf(line, n, " (%u more like this were dropped)", dropped);
    emit(line, n);
}

void log_panic(const char *file, int line, const char *what)
{
    char text[LINE_MAX_];
    size_t n = append_head(text, LOG_ERROR_);
    n = appendf(text, n, "assertion failed: %s (%s:%d)", what, file, line);
    emit(text, n);
    abort();
}
