/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Operations in the area of all. On one node they follow each other (a lock outside the mount), so
 * that whatever is found changed there came from another node. In the ledger:
 *   C BEGIN END PATH WRITER:COUNTER WRITER:COUNTER ERRNO   content; the second: what it was built
 * on N BEGIN END WORD PATH PATH2 WRITER:COUNTER ERRNO       names; "-" and 0:0 where there is none
 */
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t below(struct shared *s, size_t n)
{
    return (size_t)(chaos_random(s->rng) % n);
}

static struct segment segment_new(struct shared *s, struct vid after)
{
    size_t max = below(s, 30) == 0 ? BODY_MAX : below(s, 4) == 0 ? 40000 : 3000;

    return (struct segment){.id = {s->writer, ++*s->counter},
                            .after = after,
                            .area = AREA_SHARED,
                            .len = 1 + (uint32_t)below(s, max)};
}

static int put_at(struct shared *s, int fd, const struct segment *seg, off_t off)
{
    size_t len = segment_size(seg->len), done = 0;

    segment_fill(seg, s->out);
    while (done < len) {
        ssize_t n = pwrite(fd, s->out + done, len - done, off + (off_t)done);

        if (n <= 0) {
            return errno != 0 ? errno : EIO;
        }
        done += (size_t)n;
    }
    return 0;
}

static int close_fd(int fd, int r)
{
    if (close(fd) < 0 && r == 0) {
        r = errno;
    }
    return r;
}

int shared_prepare(int dirfd)
{
    static unsigned char bytes[256];
    char name[16];

    for (unsigned i = 0; i < SHARED_CONTENT; i++) {
        struct segment seg = {.id = {1, i + 1}, .area = AREA_SHARED, .len = 100};

        segment_fill(&seg, bytes);
        snprintf(name, sizeof name, "c%u", i);
        int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, bytes, segment_size(seg.len)) < 0 || close(fd) < 0) {
            return -errno;
        }
    }
    for (unsigned i = 0; i < SHARED_DIRS; i++) {
        snprintf(name, sizeof name, "s%u", i);
        if (mkdirat(dirfd, name, 0755) < 0) {
            return -errno;
        }
    }
    return 0;
}

/* ---- content: what it is built on is read through the descriptor that is written to ---- */

static int content(struct shared *s, int dirfd, const char **what)
{
    struct chain c = {0};
    char name[16];
    int64_t from = now_us();

    snprintf(name, sizeof name, "c%zu", below(s, SHARED_CONTENT));
    *what = "open of a shared file";
    int fd = openat(dirfd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    *what = "read of a shared file";
    long size = file_read(fd, s->buf);
    if (size < 0) {
        return close_fd(fd, (int)-size);
    }
    chain_parse(s->buf, (size_t)size, &c);
    bool append = c.whole && c.n < CHAIN_MAX && below(s, 3) == 0;
    struct vid on = chain_last(&c);
    struct segment seg = segment_new(s, append ? on : (struct vid){0, 0});
    /* Said before it is done: whoever sees it can look it up. */
    fprintf(s->ledger, "C %lld %lld %s %u:%u %u:%u %d\n", (long long)from, 0ll, name, seg.id.writer,
            seg.id.counter, on.writer, on.counter, -1);
    *what = "pwrite to a shared file";
    int r = put_at(s, fd, &seg, append ? size : 0);
    *what = r == 0 ? "ftruncate of a shared file" : *what;
    if (r == 0 && !append && (size_t)size > segment_size(seg.len) &&
        ftruncate(fd, (off_t)segment_size(seg.len)) < 0) {
        r = errno;
    }
    if (r == 0 && below(s, 8) == 0 && fsync(fd) < 0) {
        *what = "fsync of a shared file";
        r = errno;
    }
    *what = r == 0 ? "close of a shared file" : *what;
    r = close_fd(fd, r);
    fprintf(s->ledger, "C %lld %lld %s %u:%u %u:%u %d\n", (long long)from, (long long)now_us(),
            name, seg.id.writer, seg.id.counter, on.writer, on.counter, r);
    return r;
}

/* ---- names ---- */

static void some_name(struct shared *s, char out[32])
{
    if (below(s, 2) == 0) {
        snprintf(out, 32, "n%zu", below(s, SHARED_NAMES));
    } else {
        snprintf(out, 32, "s%zu/x%zu", below(s, SHARED_DIRS), below(s, 2));
    }
}

static int put_file(struct shared *s, int dirfd, const char *name, struct segment *seg)
{
    int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    return fd < 0 ? errno : close_fd(fd, put_at(s, fd, seg, 0));
}

/* Names may have been changed by another node since: these errors are answers. */
static int answer(int err)
{
    return err == ENOENT || err == EEXIST || err == ENOTEMPTY || err == ENOTDIR || err == EISDIR
               ? 0
               : err;
}

static int name_op(struct shared *s, int dirfd, const char *word, const char *a, const char *b,
                   struct segment *seg)
{
    char temporary[32];
    int r = 0;

    switch (word[0]) {
    case 'w': return put_file(s, dirfd, a, seg);
    case 'p':
        snprintf(temporary, sizeof temporary, "t%u", s->writer);
        r = put_file(s, dirfd, temporary, seg);
        if (r == 0 && renameat(dirfd, temporary, dirfd, a) < 0) {
            r = errno;
        }
        return r;
    case 'u': return unlinkat(dirfd, a, 0) < 0 ? errno : 0;
    case 'r':
    case 'v': return renameat(dirfd, a, dirfd, b) < 0 ? errno : 0;
    case 'l': return linkat(dirfd, a, dirfd, b, 0) < 0 ? errno : 0;
    case 'm': return mkdirat(dirfd, a, 0755) < 0 ? errno : 0;
    default: return unlinkat(dirfd, a, AT_REMOVEDIR) < 0 ? errno : 0;
    }
}

static int names(struct shared *s, int dirfd, const char **what)
{
    static const char *const words[] = {"write",  "write",  "put",  "put",   "put",    "unlink",
                                        "rename", "rename", "link", "mkdir", "delete", "v-rename"};
    const char *word = words[below(s, sizeof words / sizeof words[0])];
    bool dirs = word[0] == 'm' || word[0] == 'd' || word[0] == 'v';
    bool two = word[0] == 'r' || word[0] == 'l' || word[0] == 'v';
    bool bytes = word[0] == 'w' || word[0] == 'p';
    struct segment seg = {0};
    char a[32], b[32] = "-";
    int64_t from = now_us();

    some_name(s, a);
    if (two) {
        some_name(s, b);
    }
    if (dirs) {
        snprintf(a, sizeof a, "s%zu", below(s, SHARED_DIRS));
    }
    if (word[0] == 'v') {
        snprintf(b, sizeof b, "s%zu", below(s, SHARED_DIRS));
    }
    if (bytes) {
        seg = segment_new(s, (struct vid){0, 0});
    }
    fprintf(s->ledger, "N %lld %lld %s %s %s %u:%u %d\n", (long long)from, 0ll, word, a, b,
            seg.id.writer, seg.id.counter, -1);
    *what = word;
    int r = name_op(s, dirfd, word, a, b, &seg);
    fprintf(s->ledger, "N %lld %lld %s %s %s %u:%u %d\n", (long long)from, (long long)now_us(),
            word, a, b, seg.id.writer, seg.id.counter, r);
    return answer(r);
}

int shared_step(struct shared *s, int dirfd, const char **what)
{
    flock(s->lock, LOCK_EX);
    int r = below(s, 2) == 0 ? content(s, dirfd, what) : names(s, dirfd, what);
    flock(s->lock, LOCK_UN);
    return r;
}
