/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/io.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_CHUNK (128u * 1024u)

int io_read_full(int fd, void *p, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = read(fd, (char *)p + done, n - done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            return done == 0 ? FARM_ECLOSED : FARM_ECORRUPT;
        done += (size_t)r;
    }
    return 0;
}

int io_write_full(int fd, const void *p, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = write(fd, (const char *)p + done, n - done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        done += (size_t)r;
    }
    return 0;
}

int io_pread(int fd, void *p, size_t n, uint64_t off, size_t *got)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = pread(fd, (char *)p + done, n - done, (off_t)(off + done));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            break;
        done += (size_t)r;
    }
    *got = done;
    return 0;
}

int io_pwrite(int fd, const void *p, size_t n, uint64_t off)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = pwrite(fd, (const char *)p + done, n - done, (off_t)(off + done));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        done += (size_t)r;
    }
    return 0;
}

static int copy_plain(int from, int to, uint64_t off, uint64_t end)
{
    CLEANUP_FREE char *chunk = malloc(COPY_CHUNK);
    if (chunk == NULL)
        return -ENOMEM;
    while (off < end) {
        size_t want = end - off < COPY_CHUNK ? (size_t)(end - off) : COPY_CHUNK;
        size_t got = 0;
        int r = io_pread(from, chunk, want, off, &got);
        if (r == 0)
            r = io_pwrite(to, chunk, got, off);
        if (r < 0 || got < want)
            return r;
        off += got;
    }
    return 0;
}

/* Errors by which copy_file_range says "not between these two", rather than "the copy failed". */
static bool cannot_offload(int err)
{
    return err == EXDEV || err == EINVAL || err == ENOSYS || err == EOPNOTSUPP || err == EPERM;
}

static int copy_data(int from, int to, uint64_t off, uint64_t end)
{
    while (off < end) {
        off_t in = (off_t)off, out = (off_t)off;
        size_t want = end - off < SSIZE_MAX ? (size_t)(end - off) : SSIZE_MAX;
        ssize_t r = copy_file_range(from, &in, to, &out, want, 0);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && !cannot_offload(errno))
            return -errno;
        /* 0 is the end of the file, or a file system that only pretends: a plain copy tells */
        if (r <= 0)
            return copy_plain(from, to, off, end);
        off += (uint64_t)r;
    }
    return 0;
}

/* Make [off, end) of a file read as zeros, within its present size. */
static int clear_range(int to, uint64_t off, uint64_t end)
{
    struct stat st;
    if (fstat(to, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < end)
        end = (uint64_t)st.st_size;
    if (off >= end)
        return 0;
    int r;
    do
        r = fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
                      (off_t)(end - off));
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    static const char zeros[4096];
    while (off < end) {
        size_t n = end - off < sizeof(zeros) ? (size_t)(end - off) : sizeof(zeros);
        r = io_pwrite(to, zeros, n, off);
        if (r < 0)
            return r;
        off += n;
    }
    return 0;
}

/* The next run of data in [off, end): *start == end when the rest is a hole. A file system that
 * knows no holes answers EINVAL, and all is data. */
static int next_data(int fd, uint64_t off, uint64_t end, uint64_t *start, uint64_t *stop)
{
    off_t s = lseek(fd, (off_t)off, SEEK_DATA);
    if (s < 0 && errno == EINVAL) {
        *start = off;
        *stop = end;
        return 0;
    }
    if (s < 0 && errno != ENXIO)
        return -errno;
    if (s < 0 || (uint64_t)s >= end) {
        *start = *stop = end;
        return 0;
    }
    off_t h = lseek(fd, s, SEEK_HOLE);
    *start = (uint64_t)s;
    *stop = h < 0 || (uint64_t)h > end ? end : (uint64_t)h;
    return 0;
}

int io_copy_range(int from, int to, uint64_t off, uint64_t len)
{
    struct stat st;
    if (fstat(from, &st) < 0)
        return -errno;
    uint64_t size = (uint64_t)st.st_size;
    if (off >= size)
        return 0;
    uint64_t end = len < size - off ? off + len : size;
    while (off < end) {
        uint64_t start = end, stop = end;
        int r = next_data(from, off, end, &start, &stop);
        if (r == 0)
            r = clear_range(to, off, start);
        if (r == 0)
            r = copy_data(from, to, start, stop);
        if (r < 0)
            return r;
        off = stop;
    }
    /* a hole at the end writes nothing, yet it belongs to the range */
    if (fstat(to, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < end && ftruncate(to, (off_t)end) < 0)
        return -errno;
    return 0;
}

/* fsync the directory that holds a name, so that the rename in it survives a crash. */
static int sync_parent(int dirfd, const char *name)
{
    const char *slash = strrchr(name, '/');
    size_t n = slash == NULL ? 0 : slash == name ? 1 : (size_t)(slash - name);
    CLEANUP_FREE char *parent = n > 0 ? strndup(name, n) : strdup(".");
    if (parent == NULL)
        return -ENOMEM;
    CLEANUP_FD int fd = openat(dirfd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return -errno;
    return 0;
}

static int write_synced(int fd, const void *p, size_t n, mode_t mode)
{
    int r = io_write_full(fd, p, n);
    if (r < 0)
        return r;
    /* fchmod, since the umask does not apply to what we were asked for */
    if (fchmod(fd, mode) < 0 || fsync(fd) < 0)
        return -errno;
    return 0;
}

int io_write_file_at(int dirfd, const char *name, const void *p, size_t n, mode_t mode)
{
    uint64_t salt;
    io_random(&salt, sizeof(salt));
    CLEANUP_FREE char *tmp = NULL;
    if (asprintf(&tmp, "%s.%016llx", name, (unsigned long long)salt) < 0)
        return -ENOMEM;
    CLEANUP_FD int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = write_synced(fd, p, n, mode);
    if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dirfd, tmp, 0);
        return r;
    }
    return sync_parent(dirfd, name);
}

int io_read_file_at(int dirfd, const char *name, size_t max, char **data, size_t *len)
{
    CLEANUP_FD int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* the size that fstat tells means nothing in /proc, and may grow: read until the end */
    CLEANUP_FREE char *text = NULL;
    size_t n = 0, size = 0;
    for (;;) {
        if (n == size) {
            if (size > max)
                return -EFBIG;
            size = size == 0 ? 4096 : size * 2;
            if (size > max)
                size = max + 1;
            char *more = realloc(text, size + 1);
            if (more == NULL)
                return -ENOMEM;
            text = more;
        }
        ssize_t r = read(fd, text + n, size - n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            break;
        n += (size_t)r;
    }
    if (n > max)
        return -EFBIG;
    text[n] = '\0';
    *data = take_ptr(text);
    *len = n;
    return 0;
}

union one_fd {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
};

int io_send_fd(int sock, const void *p, size_t n, int fd)
{
    farm_assert(n > 0); /* a stream socket carries no descriptor without a byte */
    struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union one_fd control;
    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof(control.space);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    while (iov.iov_len > 0) {
        ssize_t r = sendmsg(sock, &msg, MSG_NOSIGNAL);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        iov.iov_base = (char *)iov.iov_base + r;
        iov.iov_len -= (size_t)r;
        msg.msg_control = NULL; /* it went with the first part */
        msg.msg_controllen = 0;
    }
    return 0;
}

/* Take the descriptors out of a message: the first is kept, any others are closed (the padding of
 * our space has room for one more). Returns how many came. */
static size_t collect_fds(struct msghdr *msg, int *fd)
{
    size_t count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++, count++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
            if (count == 0)
                *fd = got;
            else
                close(got);
        }
    }
    return count;
}

int io_recv_fd(int sock, void *p, size_t n, size_t *got, int *fd)
{
    struct iovec iov = {.iov_base = p, .iov_len = n};
    union one_fd control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof(control.space)};
    ssize_t r;
    do
        r = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    CLEANUP_FD int first = -1;
    size_t count = collect_fds(&msg, &first);
    if (count > 1 || (msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0)
        return FARM_EPROTO;
    if (r == 0)
        return FARM_ECLOSED;
    *got = (size_t)r;
    *fd = take_fd(&first);
    return 0;
}

void io_random(void *p, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = getrandom((char *)p + done, n - done, 0);
        if (r < 0 && errno == EINTR)
            continue;
        farm_assert(r > 0);
        done += (size_t)r;
    }
}

void io_hex(const void *p, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *in = p;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * n] = '\0';
}

void io_human(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, 16, "%u B", (unsigned)bytes);
        return;
    }
    double v = (double)bytes;
    unsigned u = 0;
    /* 1023.95 would print as "1024.0" */
    while (v >= 1023.95 && u < 6) {
        v /= 1024;
        u++;
    }
    snprintf(out, 16, "%.1f %s", v, units[u]);
}
