/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 64u
#define SECTOR 512u

static struct {
    pthread_mutex_t lock;
    bool on;
    char dir[256];
    struct recording r;
    ino_t inodes[FILES];
    unsigned files;
} rec = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct op *add(enum op_kind kind)
{
    if (rec.r.n == rec.r.size) {
        rec.r.size = rec.r.size ? rec.r.size * 2 : 1024;
        rec.r.ops = realloc(rec.r.ops, rec.r.size * sizeof *rec.r.ops);
        MUST(rec.r.ops);
    }
    struct op *o = &rec.r.ops[rec.r.n++];
    memset(o, 0, sizeof *o);
    o->kind = kind;
    return o;
}

static unsigned file_of(ino_t inode)
{
    for (unsigned i = 0; i < rec.files; i++)
        if (rec.inodes[i] == inode)
            return i;
    MUST(rec.files < FILES);
    rec.inodes[rec.files] = inode;
    return rec.files++;
}

/* 0: not below the directory; 1: a file in it; 2: itself. */
static int watched(int fd, unsigned *file)
{
    char link[64], path[512];
    struct stat st;

    if (!rec.on)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    size_t dir = strlen(rec.dir);
    if (strncmp(path, rec.dir, dir) != 0)
        return 0;
    if (path[dir] == 0)
        return 2;
    const char *dash = strrchr(path, '-');
    if (path[dir] != '/' || (dash && strcmp(dash, "-lock") == 0) || fstat(fd, &st) < 0)
        return 0;
    *file = file_of(st.st_ino);
    return 1;
}

static void note_write(int fd, const void *p, size_t n, off_t off)
{
    unsigned file;

    pthread_mutex_lock(&rec.lock);
    if (watched(fd, &file) == 1) {
        struct op *o = add(OP_WRITE);
        o->file = file;
        o->off = (uint64_t)off;
        o->len = n;
        o->data = malloc(n);
        MUST(o->data);
        memcpy(o->data, p, n);
    }
    pthread_mutex_unlock(&rec.lock);
}

static void note_fd(int fd, enum op_kind kind, uint64_t size)
{
    unsigned file;

    pthread_mutex_lock(&rec.lock);
    int what = watched(fd, &file);
    if (what == 1) {
        struct op *o = add(kind);
        o->file = file;
        o->off = size;
    } else if (what == 2 && kind == OP_SYNC) {
        add(OP_SYNC_DIR);
    }
    pthread_mutex_unlock(&rec.lock);
}

/* ---- the calls ---- */

ssize_t pwrite(int fd, const void *p, size_t n, off_t off)
{
    ssize_t w = syscall(SYS_pwrite64, fd, p, n, off);
    if (w > 0)
        note_write(fd, p, (size_t)w, off);
    return w;
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t off)
{
    return pwrite(fd, p, n, off);
}

/* In pieces: each is a write of its own to the disk. */
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
    ssize_t sum = 0;

    for (int i = 0; i < n; i++) {
        ssize_t w = pwrite(fd, v[i].iov_base, v[i].iov_len, off + sum);
        if (w < 0)
            return sum ? sum : w;
        sum += w;
    }
    return sum;
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t off)
{
    return pwritev(fd, v, n, off);
}

ssize_t write(int fd, const void *p, size_t n)
{
    off_t at = rec.on ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t w = syscall(SYS_write, fd, p, n);
    if (w > 0 && rec.on)
        note_write(fd, p, (size_t)w, at);
    return w;
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    ssize_t sum = 0;

    for (int i = 0; i < n; i++) {
        ssize_t w = write(fd, v[i].iov_base, v[i].iov_len);
        if (w < 0)
            return sum ? sum : w;
        sum += w;
    }
    return sum;
}

int fdatasync(int fd)
{
    int r = (int)syscall(SYS_fdatasync, fd);
    if (r == 0)
        note_fd(fd, OP_SYNC, 0);
    return r;
}

int fsync(int fd)
{
    int r = (int)syscall(SYS_fsync, fd);
    if (r == 0)
        note_fd(fd, OP_SYNC, 0);
    return r;
}

int ftruncate(int fd, off_t size)
{
    int r = (int)syscall(SYS_ftruncate, fd, size);
    if (r == 0)
        note_fd(fd, OP_SIZE, (uint64_t)size);
    return r;
}

int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

int posix_fallocate(int fd, off_t off, off_t len)
{
    if (syscall(SYS_fallocate, fd, 0, off, len) < 0)
        return errno;
    note_fd(fd, OP_SIZE, (uint64_t)(off + len));
    return 0;
}

int posix_fallocate64(int fd, off64_t off, off64_t len)
{
    return posix_fallocate(fd, off, len);
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode)
{
    bool creates = rec.on && (flags & O_CREAT);
    bool there = creates && syscall(SYS_faccessat, dirfd, path, F_OK) == 0;
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    unsigned file;

    if (!creates || fd < 0)
        return fd;
    pthread_mutex_lock(&rec.lock);
    if (watched(fd, &file) == 1) {
        const char *slash = strrchr(path, '/');
        struct op *o = NULL;
        if (!there) {
            o = add(OP_CREATE);
            o->file = file;
            snprintf(o->name, sizeof o->name, "%s", slash ? slash + 1 : path);
        } else if (flags & O_TRUNC) {
            o = add(OP_SIZE);
            o->file = file;
        }
    }
    pthread_mutex_unlock(&rec.lock);
    return fd;
}

#define OPEN_MODE(flags, mode)                    \
    do {                                          \
        if ((flags) & (O_CREAT | O_TMPFILE)) {    \
            va_list ap_;                          \
            va_start(ap_, flags);                 \
            mode = (mode_t)va_arg(ap_, unsigned); \
            va_end(ap_);                          \
        }                                         \
    } while (0)

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    OPEN_MODE(flags, mode);
    return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    OPEN_MODE(flags, mode);
    return open_at(AT_FDCWD, path, flags, mode);
}

int openat(int dirfd, const char *path, int flags, ...)
{
    mode_t mode = 0;
    OPEN_MODE(flags, mode);
    return open_at(dirfd, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...)
{
    mode_t mode = 0;
    OPEN_MODE(flags, mode);
    return open_at(dirfd, path, flags, mode);
}

int renameat(int from, const char *old, int to, const char *new)
{
    unsigned file;
    int r = (int)syscall(SYS_renameat2, from, old, to, new, 0);

    pthread_mutex_lock(&rec.lock);
    if (r == 0 && watched(from, &file) == 2) {
        struct op *o = add(OP_RENAME);
        snprintf(o->name, sizeof o->name, "%s", old);
        snprintf(o->to, sizeof o->to, "%s", new);
    }
    pthread_mutex_unlock(&rec.lock);
    return r;
}

int unlinkat(int dirfd, const char *name, int flags)
{
    unsigned file;
    int r = (int)syscall(SYS_unlinkat, dirfd, name, flags);

    pthread_mutex_lock(&rec.lock);
    if (r == 0 && watched(dirfd, &file) == 2)
        snprintf(add(OP_UNLINK)->name, sizeof rec.r.ops->name, "%s", name);
    pthread_mutex_unlock(&rec.lock);
    return r;
}

/* ---- recording ---- */

void record_start(const char *dir)
{
    snprintf(rec.dir, sizeof rec.dir, "%s", dir);
    rec.r = (struct recording){0};
    rec.files = 0;
    rec.on = true;
}

static bool is_name(const struct op *o)
{
    return o->kind == OP_CREATE || o->kind == OP_RENAME || o->kind == OP_UNLINK;
}

void record_stop(struct recording *out)
{
    size_t dir = SIZE_MAX, file[FILES];

    rec.on = false;
    memset(file, 0xff, sizeof file);
    for (size_t i = rec.r.n; i > 0; i--) {
        struct op *o = &rec.r.ops[i - 1];
        if (o->kind == OP_SYNC_DIR)
            dir = i - 1;
        else if (o->kind == OP_SYNC)
            file[o->file] = i - 1;
        o->durable = is_name(o) ? dir : file[o->file];
    }
    *out = rec.r;
}

void record_note(uint64_t what)
{
    pthread_mutex_lock(&rec.lock);
    add(OP_NOTE)->off = what;
    pthread_mutex_unlock(&rec.lock);
}

/* ---- playing ---- */

static bool synced(const struct recording *r, size_t at, size_t upto)
{
    return r->ops[at].durable < upto;
}

static bool changes(const struct op *o)
{
    return o->kind == OP_WRITE || o->kind == OP_SIZE || is_name(o);
}

size_t record_loose(const struct recording *r, size_t upto, size_t *ops, size_t max)
{
    size_t n = 0;

    for (size_t i = upto; i > 0; i--) {
        if (!changes(&r->ops[i - 1]) || synced(r, i - 1, upto))
            continue;
        if (n < max)
            ops[n] = i - 1;
        n++;
    }
    return n;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

struct disk {
    int fds[FILES];
    unsigned nlink[FILES];
    char names[FILES][32]; /* "": none */
    const char *dir;
};

static void write_op(int fd, const struct op *o, bool sectors, uint64_t seed)
{
    for (size_t at = 0; at < o->len;) {
        uint64_t sector = (o->off + at) / SECTOR;
        size_t n = (size_t)((sector + 1) * SECTOR - (o->off + at));
        if (!sectors)
            n = o->len;
        if (n > o->len - at)
            n = o->len - at;
        if (!sectors || mix(seed ^ sector) & 1)
            MUST(syscall(SYS_pwrite64, fd, o->data + at, n, o->off + at) == (ssize_t)n);
        at += n;
    }
}

static unsigned named(const struct disk *d, const char *name)
{
    for (unsigned i = 0; i < FILES; i++)
        if (strcmp(d->names[i], name) == 0)
            return i;
    return FILES;
}

static int file_fd(struct disk *d, unsigned file)
{
    char path[300];

    if (d->fds[file] < 0) {
        snprintf(path, sizeof path, "%s/inode-%u", d->dir, file);
        d->fds[file] = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        MUST(d->fds[file] >= 0);
    }
    return d->fds[file];
}

static void play_op(struct disk *d, const struct op *o, bool sectors, uint64_t seed)
{
    unsigned file;

    switch (o->kind) {
    case OP_WRITE: write_op(file_fd(d, o->file), o, sectors, seed); break;
    case OP_SIZE: MUST(syscall(SYS_ftruncate, file_fd(d, o->file), o->off) == 0); break;
    case OP_CREATE:
        file_fd(d, o->file);
        memcpy(d->names[o->file], o->name, sizeof o->name);
        break;
    case OP_UNLINK:
        file = named(d, o->name);
        if (file < FILES)
            d->names[file][0] = 0;
        break;
    case OP_RENAME:
        file = named(d, o->name);
        if (file == FILES)
            break;
        if (named(d, o->to) < FILES)
            d->names[named(d, o->to)][0] = 0;
        memcpy(d->names[file], o->to, sizeof o->to);
        break;
    default: break;
    }
}

void record_play(const struct recording *r, size_t upto, enum keep keep, size_t one, uint64_t seed,
                 const char *dir)
{
    struct disk d = {.dir = dir};
    char from[300], to[300];

    memset(d.fds, -1, sizeof d.fds);
    for (size_t i = 0; i < upto; i++) {
        const struct op *o = &r->ops[i];
        uint64_t luck = mix(seed ^ (i << 20));
        bool sectors = false;
        if (!changes(o))
            continue;
        if (keep != KEEP_ALL && !synced(r, i, upto)) {
            if (keep == KEEP_NONE || (keep == KEEP_ALL_BUT && i == one) ||
                (keep == KEEP_ONLY && i != one) || (keep == KEEP_RANDOM && luck % 3 == 0))
                continue;
            sectors = (keep == KEEP_TORN && i == one) || (keep == KEEP_RANDOM && luck % 3 == 1);
        }
        play_op(&d, o, sectors, luck);
    }
    for (unsigned i = 0; i < FILES; i++) {
        if (d.fds[i] < 0)
            continue;
        snprintf(from, sizeof from, "%s/inode-%u", dir, i);
        snprintf(to, sizeof to, "%s/%s", dir, d.names[i]);
        MUST((d.names[i][0] ? rename(from, to) : unlink(from)) == 0);
        close(d.fds[i]);
    }
}
