/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Two files in the state directory, `events` and the one before it, `events.1`: plain text, a line
 * an event. The stream is both of them, one after the other.
 */
#include "node/node.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILE_SIZE (4u << 20)
#define LINE_SIZE 1024u

struct events {
    int dirfd;
    pthread_mutex_t lock; /* guards the rest */
    int fd, old_fd;       /* old_fd -1: none yet */
    uint64_t old_at;      /* offsets in the stream: where `events.1` begins, */
    uint64_t at, end;     /* where `events` does, and where it ends */
    struct map_bytes raised;
    void (*grow)(void *);
    void *grow_arg;
};

/* ---- opening ---- */

static bool next_word(const char **at, const char *end, const char **word, size_t *len)
{
    const char *stop = memchr(*at, ' ', (size_t)(end - *at));
    if (!stop)
        return false;
    *word = *at;
    *len = (size_t)(stop - *at);
    *at = stop + 1;
    return true;
}

static int replay_line(struct events *e, const char *line, const char *end)
{
    const char *time, *kind, *name;
    size_t time_len, kind_len, name_len;

    if (!next_word(&line, end, &time, &time_len) || !next_word(&line, end, &kind, &kind_len) ||
        !next_word(&line, end, &name, &name_len))
        return 0;
    if (kind_len == 6 && memcmp(kind, "raised", 6) == 0)
        return map_bytes_set(&e->raised, name, name_len, e, NULL);
    if (kind_len == 7 && memcmp(kind, "cleared", 7) == 0)
        map_bytes_del(&e->raised, name, name_len);
    return 0;
}

/* What is raised outlives the worker: it is what the files say. */
static int replay(struct events *e, const char *file)
{
    char *data;
    size_t len;

    int rc = io_read_file_at(e->dirfd, file, 2 * FILE_SIZE, &data, &len);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    const char *line = data, *end = data + len, *stop;
    while (!rc && (stop = memchr(line, '\n', (size_t)(end - line)))) {
        rc = replay_line(e, line, stop);
        line = stop + 1;
    }
    free(data);
    return rc;
}

static int open_file(struct events *e, const char *name, int flags, int *fd, uint64_t *size)
{
    int got = openat(e->dirfd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (got < 0)
        return -errno;
    off_t end = lseek(got, 0, SEEK_END);
    if (end < 0) {
        int rc = -errno;
        close(got);
        return rc;
    }
    *fd = got;
    *size = (uint64_t)end;
    return 0;
}

/* A line that was being written when the worker died is ended, so that the next is one of its own.
 */
static int end_line(struct events *e)
{
    char last = '\n';
    size_t got;

    if (e->end == e->at)
        return 0;
    int rc = io_pread(e->fd, &last, 1, e->end - e->at - 1, &got);
    if (rc || last == '\n')
        return rc;
    rc = io_write_full(e->fd, "\n", 1);
    if (!rc)
        e->end++;
    return rc;
}

static int open_files(struct events *e)
{
    uint64_t size;

    int rc = open_file(e, "events.1", O_RDONLY, &e->old_fd, &size);
    if (rc == -ENOENT)
        size = 0;
    else if (rc)
        return rc;
    e->at = size;
    rc = open_file(e, "events", O_RDWR | O_CREAT | O_APPEND, &e->fd, &size);
    if (rc)
        return rc;
    e->end = e->at + size;
    rc = end_line(e);
    if (!rc)
        rc = replay(e, "events.1");
    return rc ? rc : replay(e, "events");
}

int events_open(int state_fd, struct events **out)
{
    struct events *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->fd = e->old_fd = -1;
    pthread_mutex_init(&e->lock, NULL);
    map_bytes_init(&e->raised);
    e->dirfd = fcntl(state_fd, F_DUPFD_CLOEXEC, 3);
    int rc = e->dirfd < 0 ? -errno : open_files(e);
    if (rc) {
        events_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void events_close(struct events *e)
{
    if (!e)
        return;
    if (e->fd >= 0)
        close(e->fd);
    if (e->old_fd >= 0)
        close(e->old_fd);
    if (e->dirfd >= 0)
        close(e->dirfd);
    map_bytes_fini(&e->raised);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* ---- writing ---- */

static int rotate(struct events *e)
{
    uint64_t size;
    int fd;

    if (renameat(e->dirfd, "events", e->dirfd, "events.1") < 0)
        return -errno;
    if (e->old_fd >= 0)
        close(e->old_fd);
    e->old_fd = e->fd;
    e->fd = -1;
    e->old_at = e->at;
    e->at = e->end;
    int rc = open_file(e, "events", O_RDWR | O_CREAT | O_APPEND, &fd, &size);
    if (rc)
        return rc;
    e->fd = fd;
    return 0;
}

/* Control characters of names and of peers' texts must not make lines of their own. */
__attribute__((format(printf, 4, 0))) static size_t
make_line(char line[LINE_SIZE], const char *kind, const char *name, const char *fmt, va_list ap)
{
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(line, LINE_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    int r = snprintf(line + n, LINE_SIZE - n, ".%03ldZ %s %s ", now.tv_nsec / 1000000, kind, name);
    n += r > 0 ? (size_t)r : 0;
    if (n > LINE_SIZE - 2)
        n = LINE_SIZE - 2;
    r = vsnprintf(line + n, LINE_SIZE - 1 - n, fmt, ap);
    size_t len = n + strlen(line + n);
    for (size_t i = 0; i < len && r >= 0; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = '?';
    line[len] = '\n';
    return len + 1;
}

/* Under the lock. */
static void append(struct events *e, const char *line, size_t len)
{
    int rc = 0;

    if (e->fd < 0 || e->end - e->at + len > FILE_SIZE)
        rc = e->fd < 0 ? open_file(e, "events", O_RDWR | O_CREAT | O_APPEND, &e->fd, &(uint64_t){0})
                       : rotate(e);
    if (!rc)
        rc = io_write_full(e->fd, line, len);
    if (!rc) {
        e->end += len;
        return;
    }
    if (e->fd >= 0 && ftruncate(e->fd, (off_t)(e->end - e->at)) < 0)
        log_debug("events: half a line is left");
    log_warn_code(rc, "an event cannot be written");
}

__attribute__((format(printf, 4, 0))) static void put(struct events *e, const char *kind,
                                                      const char *name, const char *fmt, va_list ap)
{
    char line[LINE_SIZE];

    size_t len = make_line(line, kind, name, fmt, ap);
    append(e, line, len);
    line[len - 1] = 0;
    log_info("event: %s", strchr(line, ' ') + 1);
}

static void tell(struct events *e)
{
    pthread_mutex_lock(&e->lock);
    void (*f)(void *) = e->grow;
    void *arg = e->grow_arg;
    pthread_mutex_unlock(&e->lock);
    if (f)
        f(arg);
}

void events_raise(struct events *e, const char *name, const char *fmt, ...)
{
    va_list ap;

    pthread_mutex_lock(&e->lock);
    bool fresh = !map_bytes_get(&e->raised, name, strlen(name));
    if (fresh) {
        if (map_bytes_set(&e->raised, name, strlen(name), e, NULL) < 0)
            log_debug("event %s may be repeated", name);
        va_start(ap, fmt);
        put(e, "raised", name, fmt, ap);
        va_end(ap);
    }
    pthread_mutex_unlock(&e->lock);
    if (fresh)
        tell(e);
}

void events_clear(struct events *e, const char *name, const char *fmt, ...)
{
    va_list ap;

    pthread_mutex_lock(&e->lock);
    bool was = map_bytes_del(&e->raised, name, strlen(name)) != NULL;
    if (was) {
        va_start(ap, fmt);
        put(e, "cleared", name, fmt, ap);
        va_end(ap);
    }
    pthread_mutex_unlock(&e->lock);
    if (was)
        tell(e);
}

void events_note(struct events *e, const char *name, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    pthread_mutex_lock(&e->lock);
    put(e, "note", name, fmt, ap);
    pthread_mutex_unlock(&e->lock);
    va_end(ap);
    tell(e);
}

void events_on_grow(struct events *e, void (*f)(void *), void *arg)
{
    pthread_mutex_lock(&e->lock);
    e->grow = f;
    e->grow_arg = arg;
    pthread_mutex_unlock(&e->lock);
}

/* ---- reading ---- */

uint64_t events_size(struct events *e)
{
    pthread_mutex_lock(&e->lock);
    uint64_t end = e->end;
    pthread_mutex_unlock(&e->lock);
    return end;
}

/* Up to n bytes from one of the files, which holds the stream from `at` to `end`. */
static int read_part(int fd, uint64_t at, uint64_t end, uint64_t off, size_t n, struct buf *out)
{
    size_t got;

    if (n > end - off)
        n = (size_t)(end - off);
    uint8_t *to = buf_reserve(out, n);
    if (!to)
        return out->err;
    int rc = io_pread(fd, to, n, off - at, &got);
    if (!rc)
        out->len += got;
    return rc;
}

/* What has been dropped since the worker began reads as empty lines. */
static int read_dropped(uint64_t end, uint64_t off, size_t n, struct buf *out)
{
    if (n > end - off)
        n = (size_t)(end - off);
    uint8_t *to = buf_reserve(out, n);
    if (!to)
        return out->err;
    memset(to, '\n', n);
    out->len += n;
    return 0;
}

int events_read(struct events *e, uint64_t off, size_t n, struct buf *out)
{
    int rc = 0;

    pthread_mutex_lock(&e->lock);
    if (off < e->old_at)
        rc = read_dropped(e->old_at, off, n, out);
    else if (off < e->at)
        rc = read_part(e->old_fd, e->old_at, e->at, off, n, out);
    else if (off < e->end)
        rc = read_part(e->fd, e->at, e->end, off, n, out);
    pthread_mutex_unlock(&e->lock);
    return rc;
}
