/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The session: FUSE_INIT or its replay, the threads that receive requests, start and stop. */
#include "base/log.h"
#include "mount/mount_i.h"

#include <errno.h>
#include <grp.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Newer than some systems' linux/fuse.h (Linux 6.9). */
#define UNIQUE_RESEND (1ull << 63)
#define NOTIFY_RESEND 7

#define WAKE_SIGNAL SIGUSR2 /* ends a blocking read of /dev/fuse */
#define BACKGROUND_MAX 64u

_Thread_local struct mount_thread *mount_self;

static void op_init(void *user, struct fuse_conn_info *c)
{
    (void)user;
    const unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_DONT_MASK |
                          FUSE_CAP_POSIX_ACL | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
                          FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT |
                          FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO;
    c->want = want & c->capable;
    c->max_write = MOUNT_IO_MAX;
    c->max_background = BACKGROUND_MAX;
    c->congestion_threshold = BACKGROUND_MAX * 3 / 4;
    c->time_gran = 1;
}

/* libfuse cannot ask for this one: without it every write() asks for security.capability. */
static void patch_init(struct iovec *iov, int count)
{
    if (count < 2 || iov[1].iov_len < offsetof(struct fuse_init_out, flags) + sizeof(uint32_t))
        return;
    struct fuse_init_out *out = iov[1].iov_base;
    out->flags |= FUSE_HANDLE_KILLPRIV_V2;
}

static ssize_t fuse_writev(int fd, struct iovec *iov, int count, void *user)
{
    struct mount *m = user;
    if (m->initialising)
        patch_init(iov, count);
    return writev(fd, iov, count);
}

static ssize_t fuse_read(int fd, void *p, size_t n, void *user)
{
    (void)user;
    return read(fd, p, n);
}

/* A SETATTR of nothing is what is left of one that was to drop set-id bits: of a chown that changes
 * no owner, or before a write. */
static bool setattr_kills(uint32_t valid)
{
    return valid & FATTR_KILL_SUIDGID || (valid & ~(uint32_t)(FATTR_FH | FATTR_LOCKOWNER)) == 0;
}

/* What libfuse does not pass on. */
static void peek(struct mount_thread *t, const struct fuse_buf *b)
{
    const struct fuse_in_header *h = b->mem;
    const void *body = h + 1;
    t->unique = h->unique & ~UNIQUE_RESEND;
    t->resent = h->unique & UNIQUE_RESEND;
    t->kill_priv = false;
    if (h->opcode == FUSE_WRITE && b->size >= sizeof(*h) + sizeof(struct fuse_write_in))
        t->kill_priv = ((const struct fuse_write_in *)body)->write_flags & FUSE_WRITE_KILL_SUIDGID;
    else if (h->opcode == FUSE_SETATTR && b->size >= sizeof(*h) + sizeof(struct fuse_setattr_in))
        t->kill_priv = setattr_kills(((const struct fuse_setattr_in *)body)->valid);
}

static void ended(struct mount *m)
{
    const uint64_t one = 1;
    atomic_store(&m->ended, true);
    if (write(m->ended_fd, &one, sizeof(one)) < 0)
        log_warn_code(-errno, "eventfd");
}

static void *fuse_main(void *arg)
{
    struct mount_thread *t = arg;
    struct mount *m = t->m;
    struct fuse_buf b = {0};
    mount_self = t;
    prctl(PR_SET_NAME, "fuse");
    int r = creds_start(t);
    if (r < 0) {
        log_error_code(r, "a FUSE thread cannot take on other owners");
        abort(); /* files would belong to root */
    }
    while (!atomic_load(&m->stopping)) {
        r = fuse_session_receive_buf(m->se, &b);
        if (r == -EINTR || r == -EAGAIN)
            continue;
        if (r <= 0) {
            if (r < 0)
                log_error_code(r, "reading requests");
            ended(m);
            break;
        }
        peek(t, &b);
        fuse_session_process_buf(m->se, &b);
    }
    free(b.mem);
    return NULL;
}

static void resend(struct mount *m)
{
    struct fuse_out_header h = {.len = sizeof(h), .error = NOTIFY_RESEND};
    if (write(m->env.fuse_fd, &h, sizeof(h)) < 0 && errno != EINVAL)
        log_warn_code(-errno, "requests in flight cannot be had again");
}

/* The connection's one FUSE_INIT: kept for the workers to come, then answered. */
static int init_first(struct mount *m)
{
    struct mount_shared *s = m->env.shared;
    struct fuse_buf b = {0};
    int r;
    resend(m); /* a worker may have died over it */
    do
        r = fuse_session_receive_buf(m->se, &b);
    while (r == -EINTR);
    if (r > (int)sizeof(s->init))
        r = -EPROTO;
    if (r > 0) {
        memcpy(s->init, b.mem, (size_t)r);
        __atomic_store_n(&s->init_len, (uint32_t)r, __ATOMIC_RELEASE);
        m->initialising = true;
        fuse_session_process_buf(m->se, &b);
        m->initialising = false;
    }
    free(b.mem);
    return r > 0 ? 0 : r < 0 ? r : -ENODEV;
}

/* The reply carries a number that the kernel has forgotten, or, when the former worker died before
 * it answered, still waits for: right either way. */
static void init_replay(struct mount *m)
{
    uint8_t copy[sizeof(m->env.shared->init)];
    struct fuse_buf b = {.size = m->env.shared->init_len, .mem = copy};
    memcpy(copy, m->env.shared->init, sizeof(copy));
    m->initialising = true;
    fuse_session_process_buf(m->se, &b);
    m->initialising = false;
    resend(m);
}

static void woken(int sig)
{
    (void)sig;
}

static int session_new(struct mount *m)
{
    static const struct fuse_custom_io io = {.writev = fuse_writev, .read = fuse_read};
    struct fuse_lowlevel_ops ops = {.init = op_init};
    char name[] = "farmfs";
    char *argv[] = {name, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    ops_name_set(&ops);
    ops_data_set(&ops);
    ops_attr_set(&ops);
    ops_dir_set(&ops);
    int fd = dup(m->env.fuse_fd); /* the session closes it */
    if (fd < 0)
        return -errno;
    m->se = fuse_session_new(&args, &ops, sizeof(ops), m);
    if (m->se == NULL || fuse_session_custom_io(m->se, &io, fd) < 0) {
        close(fd);
        return -EINVAL;
    }
    return m->env.shared->init_len == 0 ? init_first(m) : (init_replay(m), 0);
}

static int threads_start(struct mount *m)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = m->env.threads != 0 ? m->env.threads : (unsigned)(cpus < 2 ? 2 : cpus);
    if (n > MOUNT_THREADS_MAX)
        n = MOUNT_THREADS_MAX;
    for (; m->nthreads < n; m->nthreads++) {
        struct mount_thread *t = &m->threads[m->nthreads];
        t->m = m;
        t->io = malloc(MOUNT_IO_MAX);
        int r = t->io == NULL ? -ENOMEM : -pthread_create(&t->id, NULL, fuse_main, t);
        if (r < 0) {
            free(t->io);
            return r;
        }
    }
    return 0;
}

static void threads_stop(struct mount *m)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    for (unsigned i = 0; i < m->nthreads; i++) {
        struct mount_thread *t = &m->threads[i];
        /* A signal may come just before the read: so again until the thread has seen it. */
        while (pthread_tryjoin_np(t->id, NULL) == EBUSY) {
            pthread_kill(t->id, WAKE_SIGNAL);
            nanosleep(&pause, NULL);
        }
        free(t->io);
    }
}

static void mount_free(struct mount *m)
{
    if (m->se != NULL)
        fuse_session_destroy(m->se);
    if (m->ended_fd >= 0)
        close(m->ended_fd);
    if (m->stop_fd >= 0)
        close(m->stop_fd);
    departed_fini(&m->departed);
    pthread_mutex_destroy(&m->ack_lock);
    pthread_cond_destroy(&m->ack_idle);
    free(m);
}

static void stop_begin(struct mount *m)
{
    const uint64_t one = 1;
    atomic_store(&m->stopping, true);
    if (write(m->stop_fd, &one, sizeof(one)) < 0)
        log_warn_code(-errno, "eventfd");
}

static int start_threads(struct mount *m)
{
    int r = notify_start(m);
    if (r < 0)
        return r;
    r = threads_start(m);
    if (r == 0)
        r = closes_start(m);
    if (r < 0) {
        stop_begin(m);
        threads_stop(m);
        notify_stop(m);
    }
    return r;
}

static int group_of_farm(struct mount *m)
{
    struct group g, *found = NULL;
    char text[4096];
    if (getgrnam_r("farm", &g, text, sizeof(text), &found) == 0 && found != NULL)
        m->farm_gid = g.gr_gid;
    return departed_init(m);
}

int mount_start(const struct mount_env *env, struct mount **out)
{
    struct sigaction wake = {.sa_handler = woken};
    struct mount *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return -ENOMEM;
    m->env = *env;
    pthread_mutex_init(&m->ack_lock, NULL);
    pthread_cond_init(&m->ack_idle, NULL);
    m->ended_fd = eventfd(0, EFD_CLOEXEC);
    m->stop_fd = eventfd(0, EFD_CLOEXEC);
    int r = group_of_farm(m);
    if (r == 0 && (m->ended_fd < 0 || m->stop_fd < 0 || sigaction(WAKE_SIGNAL, &wake, NULL) < 0))
        r = -errno;
    if (r == 0)
        r = session_new(m);
    if (r == 0)
        r = start_threads(m);
    if (r < 0) {
        mount_free(m);
        return r;
    }
    *out = m;
    return 0;
}

void mount_stop(struct mount *m)
{
    stop_begin(m);
    threads_stop(m);
    closes_stop(m);
    pthread_mutex_lock(&m->ack_lock);
    while (m->acks > 0)
        pthread_cond_wait(&m->ack_idle, &m->ack_lock);
    pthread_mutex_unlock(&m->ack_lock);
    notify_stop(m);
    mount_free(m);
}

bool mount_ended(const struct mount *m)
{
    return atomic_load(&m->ended);
}

int mount_ended_fd(const struct mount *m)
{
    return m->ended_fd;
}
