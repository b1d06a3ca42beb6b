/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * LD_PRELOAD=faultshim.so FARM_FAULT=FILE: the faults of FILE (see faultpage.h) happen to the
 * process. Loaded into the supervisor it is in the worker too; only the process named in the page
 * is counted. What changes something: names, content, attributes, syncs, and what is said to the
 * kernel and to other processes (writes to sockets and /dev/fuse), since it matters what was done
 * when it was said. One counter for all threads.
 */
#include "faultpage.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static struct fault_page *page;

__attribute__((constructor)) static void shim_start(void)
{
    const char *path = getenv("FARM_FAULT");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0) {
        return;
    }
    void *p = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    page = p == MAP_FAILED ? NULL : p;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) {
        pause();
    }
}

static bool is_file(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

static void note(const char *call, int fd, const char *name)
{
    char link[40], at[200] = "";

    snprintf(page->call, sizeof page->call, "%s", call);
    if (pthread_getname_np(pthread_self(), page->thread, sizeof page->thread) != 0) {
        page->thread[0] = 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, at, sizeof at - 1) < 0) {
        at[0] = 0;
    }
    snprintf(page->path, sizeof page->path, "%s%s%.60s", at, name[0] ? "/" : "", name);
}

/* Before a call on fd (a directory, when there is a name; -1 for none). 0: go on; 1: die after it;
 * -1: fail with errno. */
static int before(const char *call, int fd, const char *name)
{
    if (page == NULL || page->pid == 0 || page->pid != (uint32_t)getpid()) {
        return 0;
    }
    int keep = errno;
    if (page->kind == FAULT_ERROR && name[0] == 0 && !is_file(fd)) {
        errno = keep;
        return 0;
    }
    if (atomic_fetch_add(&page->count, 1) + 1 != page->at || page->kind == FAULT_COUNT) {
        errno = keep;
        return 0;
    }
    note(call, fd, name);
    page->hit = 1;
    if (page->kind == FAULT_KILL) {
        die();
    }
    errno = page->kind == FAULT_ERROR ? (int)page->error : keep;
    return page->kind == FAULT_ERROR ? -1 : 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Defines `name` as itself with faults. */
#define CALL(type, name, params, args, fd, what) \
    type name params                             \
    {                                            \
        static __typeof__(&name) real;           \
        int fate = before(#name, fd, what);      \
        if (fate < 0) {                          \
            return -1;                           \
        }                                        \
        if (real == NULL) {                      \
            real = REAL(name);                   \
        }                                        \
        type r = real args;                      \
        if (fate > 0) {                          \
            die();                               \
        }                                        \
        return r;                                \
    }

CALL(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n), fd, "")
CALL(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), fd, "")
CALL(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t o), (fd, p, n, o), fd, "")
CALL(ssize_t, pwrite64, (int fd, const void *p, size_t n, off64_t o), (fd, p, n, o), fd, "")
CALL(ssize_t, send, (int fd, const void *p, size_t n, int f), (fd, p, n, f), fd, "")
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f), fd, "")
CALL(ssize_t, copy_file_range, (int a, off64_t *ao, int b, off64_t *bo, size_t n, unsigned f),
     (a, ao, b, bo, n, f), b, "")
CALL(int, ftruncate, (int fd, off_t n), (fd, n), fd, "")
CALL(int, fallocate, (int fd, int m, off_t o, off_t n), (fd, m, o, n), fd, "")
CALL(int, fsync, (int fd), (fd), fd, "")
CALL(int, fdatasync, (int fd), (fd), fd, "")
CALL(int, msync, (void *p, size_t n, int f), (p, n, f), -1, "mapping")
CALL(int, fchmod, (int fd, mode_t m), (fd, m), fd, "")
CALL(int, chmod, (const char *p, mode_t m), (p, m), -1, p)
CALL(int, chown, (const char *p, uid_t u, gid_t g), (p, u, g), -1, p)
CALL(int, fchownat, (int fd, const char *p, uid_t u, gid_t g, int f), (fd, p, u, g, f), fd, p)
CALL(int, utimensat, (int fd, const char *p, const struct timespec t[2], int f), (fd, p, t, f), fd,
     p != NULL ? p : "")
CALL(int, setxattr, (const char *p, const char *n, const void *v, size_t s, int f), (p, n, v, s, f),
     -1, p)
CALL(int, fsetxattr, (int fd, const char *n, const void *v, size_t s, int f), (fd, n, v, s, f), fd,
     "")
CALL(int, removexattr, (const char *p, const char *n), (p, n), -1, p)
CALL(int, mkdirat, (int fd, const char *p, mode_t m), (fd, p, m), fd, p)
CALL(int, mknodat, (int fd, const char *p, mode_t m, dev_t d), (fd, p, m, d), fd, p)
CALL(int, symlinkat, (const char *t, int fd, const char *p), (t, fd, p), fd, p)
CALL(int, linkat, (int a, const char *p, int b, const char *q, int f), (a, p, b, q, f), b, q)
CALL(int, unlinkat, (int fd, const char *p, int f), (fd, p, f), fd, p)
CALL(int, unlink, (const char *p), (p), -1, p)
CALL(int, renameat, (int a, const char *p, int b, const char *q), (a, p, b, q), b, q)
CALL(int, renameat2, (int a, const char *p, int b, const char *q, unsigned f), (a, p, b, q, f), b,
     q)

/* Opening changes something when it makes or empties a file. */
static bool makes(int flags)
{
    return (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

int openat(int at, const char *path, int flags, ...)
{
    static __typeof__(&openat) real;
    mode_t mode = 0;

    if (makes(flags)) {
        va_list v;
        va_start(v, flags);
        mode = va_arg(v, mode_t);
        va_end(v);
    }
    int fate = makes(flags) ? before("openat", at, path) : 0;
    if (fate < 0) {
        return -1;
    }
    if (real == NULL) {
        real = REAL(openat);
    }
    int fd = real(at, path, flags, mode);
    if (fate > 0) {
        die();
    }
    return fd;
}

int ioctl(int fd, unsigned long request, ...)
{
    static __typeof__(&ioctl) real;
    va_list v;

    va_start(v, request);
    void *p = va_arg(v, void *);
    va_end(v);
    int fate = before("ioctl", fd, "");
    if (fate < 0) {
        return -1;
    }
    if (real == NULL) {
        real = REAL(ioctl);
    }
    int r = real(fd, request, p);
    if (fate > 0) {
        die();
    }
    return r;
}

/* ---- the time of day ---- */

int clock_gettime(clockid_t id, struct timespec *t)
{
    static __typeof__(&clock_gettime) real;

    if (real == NULL) {
        real = REAL(clock_gettime);
    }
    int r = real(id, t);
    int64_t shift = page != NULL ? page->clock_us : 0;
    if (r == 0 && shift != 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = t->tv_nsec + shift % 1000000 * 1000;

        t->tv_sec += shift / 1000000 + (ns < 0 ? -1 : ns / 1000000000);
        t->tv_nsec = ns < 0 ? ns + 1000000000 : ns % 1000000000;
    }
    return r;
}

time_t time(time_t *out)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    if (out != NULL) {
        *out = t.tv_sec;
    }
    return t.tv_sec;
}
