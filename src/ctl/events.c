/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"
#include "ctl/format.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLLOW_LINES 10 /* shown of the past by -f */
#define LINE_MAX_ (64u << 10)

static void print_lines(const char *text, size_t n, const struct options *o)
{
    const char *end = text + n;
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t len = newline != NULL ? (size_t)(newline - text) : (size_t)(end - text);
        if (o->json)
            event_print_json(stdout, text, len);
        else
            event_print(stdout, o->colour, text, len);
        text += len + (newline != NULL);
    }
}

/* The daemon's worker was restarted and its events begin anew: so do we. */
static void rewind_if_shorter(int fd)
{
    struct stat st;
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at > 0 && fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size < at)
        (void)lseek(fd, 0, SEEK_SET);
}

/* What has come since, in whole lines; an unfinished one stays in `part` for the next time. */
static int print_new(int fd, char *part, size_t *have, const struct options *o)
{
    for (;;) {
        ssize_t n = read(fd, part + *have, LINE_MAX_ - *have);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n <= 0)
            break;
        *have += (size_t)n;
        const char *last = memrchr(part, '\n', *have);
        size_t whole = last != NULL ? (size_t)(last - part) + 1 : *have == LINE_MAX_ ? *have : 0;
        print_lines(part, whole, o);
        memmove(part, part + whole, *have - whole);
        *have -= whole;
    }
    return fflush(stdout) == 0 ? 0 : -errno;
}

static int follow(int fd, const struct options *o)
{
    char *part = malloc(LINE_MAX_);
    size_t have = 0;
    int err = part != NULL ? 0 : -ENOMEM;
    while (err == 0) {
        (void)watchdog_set(-1);
        err = farm_wait(fd, -1);
        (void)watchdog_set(ANSWER_MS);
        rewind_if_shorter(fd);
        if (err == 0)
            err = print_new(fd, part, &have, o);
    }
    free(part);
    return err;
}

int ctl_events(const struct farm *f, const struct options *o)
{
    int fd = -1;
    char *text;
    size_t n;
    int err = farm_stream(f, "events", &fd);
    if (err < 0)
        return ctl_failed(f, "events", err);
    err = farm_read(f, "events", &text, &n);
    if (err == 0) {
        int64_t lines = o->lines < 0 && o->follow ? FOLLOW_LINES : o->lines;
        const char *from = lines < 0 ? text : format_last_lines(text, n, (size_t)lines);
        print_lines(from, (size_t)(text + n - from), o);
        fflush(stdout);
        free(text);
        if (o->follow)
            err = lseek(fd, (off_t)n, SEEK_SET) < 0 ? -errno : follow(fd, o);
    }
    close(fd);
    return err < 0 ? ctl_failed(f, "events", err) : EXIT_OK;
}
