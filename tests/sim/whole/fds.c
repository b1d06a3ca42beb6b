/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Descriptors that are the simulator's: files, events, streams; and waiting for them. */
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define VFDS_MAX 8192u

struct watch {
    struct watch *next;
    struct desc *desc;
    struct epoll_event ev;
    uint64_t seen; /* EPOLLET: generation last told of */
};

static struct vfd {
    struct desc *desc;
    struct proc *owner;
} vfds[VFDS_MAX];
static struct proc *real_owner[ALL_FDS_MAX];

static char any_change; /* what those wait for who look at several */

ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __real_write(int fd, const void *p, size_t n);
int __real_close(int fd);
int __real_fcntl(int fd, int op, ...);
int __real_dup(int fd);

/* ---- the table ---- */

static int slot_for(struct desc *d, struct proc *owner)
{
    for (unsigned i = 0; i < VFDS_MAX; i++) {
        if (vfds[i].desc)
            continue;
        vfds[i] = (struct vfd){d, owner};
        return (int)i + VFD_BASE;
    }
    fail("descriptors run out: they leak");
    return fail_errno(EMFILE);
}

int desc_new(enum desc_kind kind, struct machine *m, struct proc *owner, struct desc **out)
{
    struct desc *d = calloc(1, sizeof *d);

    if (!d)
        abort();
    d->kind = kind;
    d->machine = m;
    d->refs = 1;
    int fd = slot_for(d, owner);
    if (out)
        *out = d;
    return fd;
}

struct desc *desc_of(int fd)
{
    return fd >= VFD_BASE && fd < VFD_BASE + (int)VFDS_MAX ? vfds[fd - VFD_BASE].desc : NULL;
}

int desc_dup(int fd, struct proc *owner)
{
    struct desc *d = desc_of(fd);

    if (!d)
        return fail_errno(EBADF);
    d->refs++;
    return slot_for(d, owner);
}

static void watches_forget(const struct desc *d)
{
    for (unsigned i = 0; i < VFDS_MAX; i++) {
        struct desc *e = vfds[i].desc;
        if (!e || e->kind != D_EPOLL)
            continue;
        for (struct watch **p = &e->watches; *p;) {
            struct watch *x = *p;
            if (x->desc == d) {
                *p = x->next;
                free(x);
            } else {
                p = &x->next;
            }
        }
    }
}

int desc_close(int fd)
{
    struct desc *d = desc_of(fd);

    if (!d)
        return fail_errno(EBADF);
    vfds[fd - VFD_BASE] = (struct vfd){NULL, NULL};
    if (--d->refs)
        return 0;
    if (d->kind == D_STREAM)
        stream_close(d);
    if (d->kind == D_FILE)
        d->inode->opens--;
    if (d->kind == D_PACKETS) {
        if (d->machine->link == d)
            d->machine->link = NULL;
        if (d->machine->super == d)
            d->machine->super = NULL;
        while (d->packets) {
            struct packet *k = d->packets;
            d->packets = k->next;
            if (k->fd >= 0)
                desc_close(k->fd);
            free(k);
        }
    }
    if (d->kind != D_FILE)
        watches_forget(d);
    while (d->watches) {
        struct watch *x = d->watches;
        d->watches = x->next;
        free(x);
    }
    free(d);
    return 0;
}

void desc_signal(struct desc *d)
{
    d->gen++;
    fiber_wake(d);
    fiber_wake(&any_change);
}

void real_fd_opened(int fd)
{
    if (fd >= 0 && fd < (int)ALL_FDS_MAX)
        real_owner[fd] = self ? self->proc : NULL;
}

void proc_close_fds(struct proc *p)
{
    for (int i = 0; i < (int)VFDS_MAX; i++)
        if (vfds[i].desc && vfds[i].owner == p)
            desc_close(i + VFD_BASE);
    for (int fd = 0; fd < (int)ALL_FDS_MAX; fd++) {
        if (real_owner[fd] != p)
            continue;
        real_owner[fd] = NULL;
        __real_close(fd);
    }
}

void packets_put(struct desc *d, const void *p, size_t n, int fd)
{
    struct packet *k = malloc(sizeof *k + n), **at = &d->packets;

    if (!k)
        abort();
    *k = (struct packet){.n = n, .fd = fd};
    memcpy(k->bytes, p, n);
    while (*at)
        at = &(*at)->next;
    *at = k;
    desc_signal(d);
}

static bool readable(const struct desc *d)
{
    switch (d->kind) {
    case D_EVENT: return d->count > 0;
    case D_STREAM: return stream_readable(d);
    case D_PACKETS: return d->packets != NULL;
    case D_CLOSES: return d->machine->k.ncloses > 0;
    default: return false;
    }
}

/* ---- reading and writing ---- */

static ssize_t event_read(struct desc *d, void *p, size_t n)
{
    while (!d->count) {
        if (d->flags & EFD_NONBLOCK)
            return fail_errno(EAGAIN);
        fiber_wait(d, 0);
    }
    if (n < 8)
        return fail_errno(EINVAL);
    memcpy(p, &d->count, 8);
    d->count = 0;
    return 8;
}

static ssize_t closes_read(struct desc *d, void *p, size_t n)
{
    struct kernel *k = &d->machine->k;
    struct fanotify_event_metadata *e = p;
    struct desc *c;
    size_t got = 0;

    if (!k->ncloses)
        return fail_errno(EAGAIN);
    while (k->ncloses && (got + 1) * sizeof *e <= n && got < 4) {
        memset(&e[got], 0, sizeof *e);
        e[got].event_len = sizeof *e;
        e[got].vers = FANOTIFY_METADATA_VERSION;
        e[got].metadata_len = sizeof *e;
        e[got].mask = FAN_CLOSE_WRITE;
        e[got].fd = desc_new(D_CLOSED, d->machine, self->proc, &c);
        c->lid = k->closes[0];
        memmove(k->closes, k->closes + 1, --k->ncloses * sizeof *k->closes);
        got++;
    }
    return (ssize_t)(got * sizeof *e);
}

ssize_t __wrap_read(int fd, void *p, size_t n);
ssize_t __wrap_read(int fd, void *p, size_t n)
{
    struct desc *d = desc_of(fd);

    point();
    if (!d)
        return __real_read(fd, p, n);
    switch (d->kind) {
    case D_EVENT: return event_read(d, p, n);
    case D_STREAM: return stream_read(d, p, n);
    case D_CLOSES: return closes_read(d, p, n);
    default: return fail_errno(EBADF);
    }
}

/* A successor asks for the requests in flight again. */
static ssize_t fuse_write(struct machine *m, const void *p, size_t n)
{
    const struct fuse_out_header *h = p;

    if (n < sizeof *h || h->error != 7)
        return fail_errno(EINVAL);
    kernel_resend(m);
    return (ssize_t)n;
}

ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
    struct desc *d = desc_of(fd);
    uint64_t add;

    point();
    if (!d)
        return __real_write(fd, p, n);
    switch (d->kind) {
    case D_EVENT:
        memcpy(&add, p, 8);
        d->count += add;
        desc_signal(d);
        return 8;
    case D_STREAM: return stream_write(d, p, n);
    case D_FUSE: return fuse_write(d->machine, p, n);
    default: return fail_errno(EBADF);
    }
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct desc *d = desc_of(fd);
    ssize_t all = 0;

    (void)flags;
    point();
    if (!d || d->kind != D_STREAM)
        return fail_errno(EBADF);
    for (size_t i = 0; i < m->msg_iovlen; i++) {
        ssize_t r = stream_write(d, m->msg_iov[i].iov_base, m->msg_iov[i].iov_len);
        if (r < 0)
            return all ? all : r;
        all += r;
        if ((size_t)r < m->msg_iov[i].iov_len)
            break;
    }
    return all;
}

int __wrap_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags)
{
    struct desc *d;
    int fd = desc_new(D_EVENT, here(), self->proc, &d);

    d->count = count;
    d->flags = flags;
    return fd;
}

int __wrap_eventfd_write(int fd, eventfd_t v);
int __wrap_eventfd_write(int fd, eventfd_t v)
{
    return __wrap_write(fd, &v, 8) < 0 ? -1 : 0;
}

int __wrap_eventfd_read(int fd, eventfd_t *v);
int __wrap_eventfd_read(int fd, eventfd_t *v)
{
    return __wrap_read(fd, v, 8) < 0 ? -1 : 0;
}

int __wrap_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how)
{
    struct desc *d = desc_of(fd);

    if (!d || d->kind != D_STREAM)
        return fail_errno(ENOTSOCK);
    if (how == SHUT_WR)
        d->back->ended = true;
    else
        stream_shutdown(d);
    fiber_wake(&d->back->room);
    if (d->back->reader)
        desc_signal(d->back->reader);
    return 0;
}

/* What the worker tells the supervisor. */
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags)
{
    const struct super_msg *s = p;
    struct desc *d = desc_of(fd);

    (void)flags;
    point();
    if (!d || d->kind != D_PACKETS || n != sizeof *s)
        return fail_errno(EBADF);
    if (s->type == WORKER_FAILED)
        fail("machine %u: the worker gives up: %s", d->machine->i, s->text);
    if (s->type == WORKER_SERVING)
        net_worker_up(d->machine);
    return (ssize_t)n;
}

int __wrap_io_recv_fd(int sock, void *p, size_t n, size_t *got, int *fd);
int __wrap_io_recv_fd(int sock, void *p, size_t n, size_t *got, int *fd)
{
    struct desc *d = desc_of(sock);

    point();
    if (!d || d->kind != D_PACKETS)
        return -EBADF;
    while (!d->packets)
        fiber_wait(d, 0);
    struct packet *k = d->packets;
    d->packets = k->next;
    *got = k->n < n ? k->n : n;
    memcpy(p, k->bytes, *got);
    *fd = k->fd;
    if (k->fd >= 0)
        vfds[k->fd - VFD_BASE].owner = self->proc;
    free(k);
    return 0;
}

/* ---- descriptors as such ---- */

int __wrap_close(int fd);
int __wrap_close(int fd)
{
    point();
    if (fd >= VFD_BASE)
        return desc_close(fd);
    if (fd >= 0 && fd < (int)ALL_FDS_MAX)
        real_owner[fd] = NULL;
    return __real_close(fd);
}

int __wrap_dup(int fd);
int __wrap_dup(int fd)
{
    if (desc_of(fd))
        return desc_dup(fd, self ? self->proc : NULL);
    int r = __real_dup(fd);
    real_fd_opened(r);
    return r;
}

int __wrap_fcntl(int fd, int op, ...);
int __wrap_fcntl(int fd, int op, ...)
{
    va_list ap;
    va_start(ap, op);
    long arg = va_arg(ap, long);
    va_end(ap);

    if (op == F_DUPFD_CLOEXEC || op == F_DUPFD)
        return __wrap_dup(fd);
    return desc_of(fd) ? 0 : __real_fcntl(fd, op, arg);
}

/* ---- waiting for several ---- */

static short poll_of(struct desc *d, short events)
{
    short r = 0;

    if (events & POLLIN && readable(d))
        r |= POLLIN;
    if (events & POLLRDHUP && d->kind == D_STREAM && stream_ended(d))
        r |= POLLRDHUP;
    return r;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms)
{
    uint64_t until = ms < 0 ? 0 : w.now + (uint64_t)ms * 1000 + 1;

    point();
    for (;;) {
        int got = 0;
        for (nfds_t i = 0; i < n; i++) {
            struct desc *d = desc_of(p[i].fd);
            p[i].revents = d ? poll_of(d, p[i].events) : 0;
            got += p[i].revents != 0;
        }
        if (got || ms == 0 || (until && w.now >= until))
            return got;
        fiber_wait(&any_change, until);
    }
}

int __wrap_epoll_create1(int flags);
int __wrap_epoll_create1(int flags)
{
    (void)flags;
    return desc_new(D_EPOLL, here(), self->proc, NULL);
}

int __wrap_epoll_ctl(int ep, int op, int fd, struct epoll_event *ev);
int __wrap_epoll_ctl(int ep, int op, int fd, struct epoll_event *ev)
{
    struct desc *e = desc_of(ep), *d = desc_of(fd);

    if (!e || !d)
        return fail_errno(EBADF);
    for (struct watch **p = &e->watches; *p; p = &(*p)->next) {
        if ((*p)->desc != d)
            continue;
        struct watch *x = *p;
        if (op == EPOLL_CTL_DEL) {
            *p = x->next;
            free(x);
        } else {
            x->ev = *ev;
        }
        return 0;
    }
    struct watch *x = calloc(1, sizeof *x);
    if (!x)
        abort();
    x->desc = d;
    x->ev = *ev;
    x->seen = UINT64_MAX;
    x->next = e->watches;
    e->watches = x;
    return 0;
}

static int epoll_look(struct desc *e, struct epoll_event *ev, int max)
{
    int n = 0;

    for (struct watch *x = e->watches; x && n < max; x = x->next) {
        if (!readable(x->desc) || (x->ev.events & EPOLLET && x->seen == x->desc->gen))
            continue;
        x->seen = x->desc->gen;
        ev[n] = x->ev;
        ev[n++].events = EPOLLIN;
    }
    return n;
}

int __wrap_epoll_pwait2(int ep, struct epoll_event *ev, int max, const struct timespec *t,
                        const void *mask);
int __wrap_epoll_pwait2(int ep, struct epoll_event *ev, int max, const struct timespec *t,
                        const void *mask)
{
    struct desc *e = desc_of(ep);
    uint64_t until = w.now + (uint64_t)t->tv_sec * SEC + (uint64_t)t->tv_nsec / 1000 + 1;

    (void)mask;
    point();
    for (;;) {
        int n = epoll_look(e, ev, max);
        if (n || w.now >= until)
            return n;
        fiber_wait(&any_change, until);
    }
}
