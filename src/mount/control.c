/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Two threads: `serve` answers requests, `notify` wakes pollers, so that nothing is ever sent to
 * the kernel from within a request.
 */
#include "mount/control_i.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define NOTIFY_RESEND 7 /* FUSE_NOTIFY_RESEND, since Linux 6.9 */

void control_unref(struct control *c)
{
    pthread_mutex_lock(&c->lock);
    size_t left = --c->refs;
    pthread_mutex_unlock(&c->lock);
    if (left > 0)
        return;
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void control_grown(struct control *c, const char *path)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    c->grown_s = now.tv_sec;
    c->grown_ns = now.tv_nsec;
    pthread_mutex_lock(&c->lock);
    struct open_file *o;
    uint64_t fh;
    for (size_t it = 0; (o = map_u64_next(&c->opens, &it, &fh)) != NULL;) {
        if (o->ph == NULL || strcmp(o->path, path) != 0)
            continue;
        o->notify = true;
        c->notify_pending = true;
    }
    if (c->notify_pending)
        pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
}

/* Takes the poll handles to wake out of their files. Under the lock. */
static size_t take_pollers(struct control *c, struct fuse_pollhandle *out[CONTROL_OPENS_MAX])
{
    size_t n = 0;
    struct open_file *o;
    uint64_t fh;
    for (size_t it = 0; (o = map_u64_next(&c->opens, &it, &fh)) != NULL && n < CONTROL_OPENS_MAX;) {
        if (o->notify && o->ph != NULL) {
            out[n++] = o->ph;
            o->ph = NULL;
        }
        o->notify = false;
    }
    c->notify_pending = false;
    return n;
}

static void *notify_main(void *arg)
{
    struct control *c = arg;
    struct fuse_pollhandle *pollers[CONTROL_OPENS_MAX];
    for (;;) {
        pthread_mutex_lock(&c->lock);
        while (!c->stopping && !c->notify_pending)
            pthread_cond_wait(&c->work, &c->lock);
        bool stopping = c->stopping;
        size_t n = take_pollers(c, pollers);
        pthread_mutex_unlock(&c->lock);
        for (size_t i = 0; i < n; i++) {
            fuse_lowlevel_notify_poll(pollers[i]);
            fuse_pollhandle_destroy(pollers[i]);
        }
        if (stopping)
            return NULL;
    }
}

/* The kernel says FUSE_INIT once: kept for the next worker before it is answered. */
static void keep_init(struct mount_shared *shared, const struct fuse_buf *b)
{
    const struct fuse_in_header *h = b->mem;
    if (b->size < sizeof(*h) || h->opcode != FUSE_INIT || b->size > sizeof(shared->control_init))
        return;
    memcpy(shared->control_init, b->mem, b->size);
    __atomic_store_n(&shared->control_init_len, (uint32_t)b->size, __ATOMIC_RELEASE);
}

static void remember_poller(struct mount_shared *shared, uint64_t fh, uint64_t kh)
{
    size_t at = CONTROL_POLLERS;
    for (size_t i = 0; i < CONTROL_POLLERS; i++) {
        if (shared->pollers[i].fh == fh) {
            at = i;
            break;
        }
        if (at == CONTROL_POLLERS && shared->pollers[i].fh == 0)
            at = i;
    }
    if (at == CONTROL_POLLERS)
        return; /* more than can be open at once */
    shared->pollers[at].kh = kh;
    shared->pollers[at].fh = fh;
}

static void forget_poller(struct mount_shared *shared, uint64_t fh)
{
    for (size_t i = 0; i < CONTROL_POLLERS; i++)
        if (shared->pollers[i].fh == fh)
            shared->pollers[i].fh = 0;
}

/* Which wake-ups the kernel waits for, so that the next worker can give them. libfuse has the
 * number, and does not tell. */
static void keep_pollers(struct mount_shared *shared, const struct fuse_buf *b)
{
    const struct fuse_in_header *h = b->mem;
    const void *arg = h + 1;
    struct fuse_poll_in poll_in;
    struct fuse_release_in release;
    if (h->opcode == FUSE_POLL && b->size >= sizeof(*h) + sizeof(poll_in)) {
        memcpy(&poll_in, arg, sizeof(poll_in));
        if (poll_in.flags & FUSE_POLL_SCHEDULE_NOTIFY)
            remember_poller(shared, poll_in.fh, poll_in.kh);
    } else if (h->opcode == FUSE_RELEASE && b->size >= sizeof(*h) + sizeof(release)) {
        memcpy(&release, arg, sizeof(release));
        forget_poller(shared, release.fh);
    }
}

/* Those who polled a former worker's files look again, and are known to this one then. */
static void wake_pollers(struct control *c)
{
    struct {
        struct fuse_out_header head;
        struct fuse_notify_poll_wakeup_out out;
    } wake = {.head = {.len = sizeof(wake), .error = FUSE_NOTIFY_POLL}};
    for (size_t i = 0; i < CONTROL_POLLERS; i++) {
        if (c->shared->pollers[i].fh == 0)
            continue;
        wake.out.kh = c->shared->pollers[i].kh;
        if (write(c->fd, &wake, sizeof(wake)) < 0 && errno != ENOENT)
            log_debug("a poller of a control file is not woken: %s", strerror(errno));
    }
}

static void *serve_main(void *arg)
{
    struct control *c = arg;
    struct fuse_buf b = {0};
    struct pollfd fds[2] = {{.fd = c->fd, .events = POLLIN}, {.fd = c->stop_fd, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[1].revents != 0)
            break;
        int n = fuse_session_receive_buf(c->se, &b);
        if (n == -EINTR || n == -EAGAIN)
            continue;
        if (n <= 0) {
            if (n < 0 && n != -ENODEV)
                log_error_code(n, "the control files' session ended");
            break;
        }
        keep_init(c->shared, &b);
        keep_pollers(c->shared, &b);
        fuse_session_process_buf(c->se, &b);
    }
    free(b.mem);
    return NULL;
}

/* A session that follows another on the connection: the first INIT again (its answer finds nobody,
 * which is no harm), then what was in flight is asked for again. */
static void replay(struct control *c)
{
    if (c->shared->control_init_len > 0) {
        uint8_t init[sizeof(c->shared->control_init)];
        memcpy(init, c->shared->control_init, c->shared->control_init_len);
        struct fuse_buf b = {.mem = init, .size = c->shared->control_init_len};
        fuse_session_process_buf(c->se, &b);
    }
    struct fuse_out_header resend = {.len = sizeof(resend), .error = NOTIFY_RESEND};
    if (write(c->fd, &resend, sizeof(resend)) < 0 && c->shared->control_init_len > 0)
        log_warn_code(-errno, "requests to the control files cannot be taken over");
    wake_pollers(c);
}

static gid_t farm_group(void)
{
    char text[4096];
    struct group g, *found = NULL;
    return getgrnam_r("farm", &g, text, sizeof(text), &found) == 0 && found != NULL ? g.gr_gid : 0;
}

static int open_session(struct control *c, int fuse_fd)
{
    char *argv[] = {"farmfs", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    c->se = fuse_session_new(&args, &control_ops, sizeof(control_ops), c);
    fuse_opt_free_args(&args);
    if (c->se == NULL)
        return -ENOMEM;
    /* the session closes its descriptor; not blocking, since a request may be withdrawn between
     * poll and read */
    int fd = fcntl(fuse_fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -errno;
    char path[32];
    snprintf(path, sizeof(path), "/dev/fd/%d", fd);
    int flags = fcntl(fd, F_GETFL);
    int err = flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
    if (err == 0 && fuse_session_mount(c->se, path) != 0)
        err = -EBADF;
    if (err < 0) {
        close(fd);
        return err;
    }
    c->fd = fd;
    return 0;
}

static int start_threads(struct control *c)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int err = -pthread_create(&c->notify, NULL, notify_main, c);
    if (err == 0) {
        err = -pthread_create(&c->serve, NULL, serve_main, c);
        if (err < 0) {
            pthread_mutex_lock(&c->lock);
            c->stopping = true;
            pthread_cond_broadcast(&c->work);
            pthread_mutex_unlock(&c->lock);
            pthread_join(c->notify, NULL);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

/* Everything but the threads. Requests that the provider still holds keep `c` itself. */
static void close_session(struct control *c)
{
    struct open_file *o;
    uint64_t key;
    for (size_t it = 0; (o = map_u64_next(&c->opens, &it, &key)) != NULL;)
        control_free_open(o);
    map_u64_fini(&c->opens);
    control_paths_fini(&c->paths);
    if (c->se != NULL)
        fuse_session_destroy(c->se);
    if (c->stop_fd >= 0)
        close(c->stop_fd);
    control_unref(c);
}

int control_start(int fuse_fd, struct mount_shared *shared, const struct control_provider *p,
                  struct control **out)
{
    struct control *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->p = p;
    c->shared = shared;
    c->gid = farm_group();
    c->refs = 1;
    c->grown_s = time(NULL);
    io_random(&c->next_fh, sizeof(c->next_fh)); /* not one that a former worker gave */
    c->next_fh |= 1ull << 63;
    control_paths_init(&c->paths, p, shared->conn);
    map_u64_init(&c->opens);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    c->stop_fd = eventfd(0, EFD_CLOEXEC);
    int err = c->stop_fd < 0 ? -errno : open_session(c, fuse_fd);
    if (err == 0) {
        replay(c);
        err = start_threads(c);
    }
    if (err < 0) {
        close_session(c);
        return err;
    }
    *out = c;
    return 0;
}

void control_stop(struct control *c)
{
    uint64_t one = 1;
    if (write(c->stop_fd, &one, sizeof(one)) < 0)
        log_warn_code(-errno, "stopping the control files");
    pthread_join(c->serve, NULL);
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->work);
    /* reads that wait are left to the kernel, for the next worker */
    struct control_request *rq;
    while ((rq = c->requests) != NULL) {
        if (rq->req != NULL)
            fuse_reply_none(rq->req);
        rq->req = NULL;
        rq->gone = true;
        control_remove_request(rq);
    }
    while (c->answering > 0)
        pthread_cond_wait(&c->work, &c->lock);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->notify, NULL);
    close_session(c);
}
