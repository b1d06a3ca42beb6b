/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Operations on content. Before the first change since the last seal the intent log says so. */
#include "mount/mount_i.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A change of content: an open backing file, and whether it is to be captured. */
struct writing {
    struct mount *m;
    uint64_t lid;
    struct node_fd *ref;
    int fd;
    bool captured; /* not an orphan: nobody will ever ship that */
};

static int writing_log(struct writing *w, uint16_t flags, uint64_t off, uint64_t len)
{
    bool first = false;
    int r = dirty_begin(w->m->env.dirty, w->lid, &first);
    if (r < 0)
        return r;
    w->captured = true;
    if (!first)
        return 0;
    r = capture_add(w->m, INTENT_DIRTY, flags, w->lid, off, len);
    if (r < 0) {
        dirty_end(w->m->env.dirty, w->lid, off, 0);
        w->captured = false;
    }
    return r;
}

static int writing_begin(struct writing *w, struct mount *m, uint64_t lid, uint16_t flags,
                         uint64_t off, uint64_t len)
{
    w->m = m;
    w->lid = lid;
    w->captured = false;
    int r = nodes_get_fd(m->env.nodes, lid, NODES_WRITE, &w->ref, &w->fd);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    if (!departed_deaf(&m->departed, lid))
        r = writing_log(w, flags, off, len);
    if (r < 0)
        nodes_put_fd(m->env.nodes, w->ref);
    return r;
}

static void writing_end(struct writing *w, uint64_t off, uint64_t len)
{
    if (w->captured)
        dirty_end(w->m->env.dirty, w->lid, off, len);
    nodes_put_fd(w->m->env.nodes, w->ref);
}

static bool listed(const char *numbers, gid_t gid)
{
    char *end;
    for (;; numbers = end) {
        unsigned long g = strtoul(numbers, &end, 10);
        if (end == numbers)
            return false;
        if (g == gid)
            return true;
    }
}

/* Asked of /proc. libfuse's fuse_req_getgroups does the same and reads beyond its buffer (3.14). */
bool data_in_group(fuse_req_t req, gid_t gid)
{
    const struct fuse_ctx *who = fuse_req_ctx(req);
    char path[40], *line = NULL;
    size_t size = 0;
    bool in = who->gid == gid;
    if (in)
        return true;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)who->pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    while (!in && getline(&line, &size, f) >= 0)
        in = strncmp(line, "Groups:", 7) == 0 && listed(line + 7, gid);
    free(line);
    fclose(f);
    return in;
}

mode_t data_setid(fuse_req_t req, const struct stat *st)
{
    mode_t drop = st->st_mode & S_ISUID;
    if (!S_ISREG(st->st_mode))
        return 0;
    if (st->st_mode & S_ISGID && (st->st_mode & S_IXGRP || !data_in_group(req, st->st_gid)))
        drop |= S_ISGID;
    return drop;
}

static int kill_priv(fuse_req_t req, uint64_t lid, int fd)
{
    struct mount *m = mount_of(req);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    mode_t drop = data_setid(req, &st);
    if (drop == 0)
        return 0;
    if (fchmod(fd, st.st_mode & 07777 & ~drop) < 0)
        return -errno;
    notify_attr_soon(m, lid);
    return departed_has(&m->departed, lid) ? 0 : capture_add(m, INTENT_ATTR, 0, lid, 0, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    struct node_fd *ref;
    size_t got = 0;
    int fd;
    (void)fi;
    if (size > MOUNT_IO_MAX)
        size = MOUNT_IO_MAX;
    int r = nodes_get_fd(m->env.nodes, lid_of(ino), NODES_READ, &ref, &fd);
    if (r == 0) {
        r = io_pread(fd, mount_self->io, size, (uint64_t)off, &got);
        nodes_put_fd(m->env.nodes, ref);
    }
    if (r < 0)
        reply_code(req, r == -ENOENT ? -ESTALE : r);
    else
        fuse_reply_buf(req, (const char *)mount_self->io, got);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    struct writing w;
    ssize_t n = 0;
    (void)fi;
    int r = writing_begin(&w, m, lid_of(ino), 0, (uint64_t)off, size);
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    if (mount_self->kill_priv)
        r = kill_priv(req, w.lid, w.fd);
    if (r == 0) {
        do
            n = pwrite(w.fd, data, size, off);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            r = -errno;
    }
    writing_end(&w, (uint64_t)off, r == 0 ? (uint64_t)n : size);
    if (r < 0)
        reply_code(req, r);
    else
        fuse_reply_write(req, (size_t)n);
}

static int resize_open(fuse_req_t req, struct writing *w, off_t size, uint64_t *from, uint64_t *len)
{
    struct stat st;
    if (fstat(w->fd, &st) < 0)
        return -errno;
    *from = (uint64_t)(st.st_size < size ? st.st_size : size);
    *len = (uint64_t)(st.st_size < size ? size - st.st_size : st.st_size - size);
    int r = mount_self->kill_priv ? kill_priv(req, w->lid, w->fd) : 0;
    if (r == 0 && ftruncate(w->fd, size) < 0)
        r = -errno;
    return r;
}

int data_resize(fuse_req_t req, uint64_t lid, off_t size, bool seal)
{
    struct mount *m = mount_of(req);
    struct writing w;
    uint64_t from = (uint64_t)size, len = 0;
    int r = writing_begin(&w, m, lid, INTENT_F_TRUNC, (uint64_t)size, 0);
    if (r < 0)
        return r;
    bool captured = w.captured;
    r = resize_open(req, &w, size, &from, &len);
    /* A truncation to the size it has still sets the time. */
    writing_end(&w, from, r == 0 && len == 0 ? 1 : len);
    if (r == 0 && seal && captured)
        r = capture_add(m, INTENT_CLOSE, 0, lid, 0, 0);
    return r;
}

/* fallocate, and which bytes may read differently afterwards. The kernel passes on no modes but
 * these: collapsing and inserting, which must not be done twice, it refuses itself. */
static int allocate(struct writing *w, int mode, off_t off, off_t len, uint64_t *from,
                    uint64_t *changed)
{
    struct stat st, now;
    *from = (uint64_t)off;
    *changed = (uint64_t)len;
    if (fstat(w->fd, &st) < 0)
        return -errno;
    if (fallocate(w->fd, mode, off, len) < 0)
        return -errno;
    if (fstat(w->fd, &now) < 0)
        return -errno;
    if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
        *from = (uint64_t)st.st_size; /* what is new reads as zeros, the rest as before */
        *changed = now.st_size > st.st_size ? (uint64_t)(now.st_size - st.st_size) : 0;
    }
    return 0;
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                         struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    struct writing w;
    uint64_t from = (uint64_t)off, changed = (uint64_t)len;
    (void)fi;
    int r = writing_begin(&w, m, lid_of(ino), INTENT_F_TRUNC, from, changed);
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    /* The kernel does not say here whether the caller may keep set-id bits. */
    if (fuse_req_ctx(req)->uid != 0)
        r = kill_priv(req, w.lid, w.fd);
    if (r == 0)
        r = allocate(&w, mode, off, len, &from, &changed);
    writing_end(&w, from, changed);
    reply_code(req, r);
}

static ssize_t copy_range(struct mount *m, uint64_t from, off_t from_off, struct writing *w,
                          off_t off, size_t len, unsigned flags)
{
    struct node_fd *ref;
    int fd;
    int r = nodes_get_fd(m->env.nodes, from, NODES_READ, &ref, &fd);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    ssize_t n = copy_file_range(fd, &from_off, w->fd, &off, len, flags);
    if (n < 0)
        n = -errno;
    nodes_put_fd(m->env.nodes, ref);
    return n;
}

static void op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off,
                               struct fuse_file_info *from_fi, fuse_ino_t to, off_t to_off,
                               struct fuse_file_info *to_fi, size_t len, int flags)
{
    struct mount *m = mount_of(req);
    struct writing w;
    ssize_t n = 0;
    (void)from_fi;
    (void)to_fi;
    int r = writing_begin(&w, m, lid_of(to), 0, (uint64_t)to_off, len);
    if (r < 0) {
        reply_code(req, r);
        return;
    }
    if (fuse_req_ctx(req)->uid != 0)
        r = kill_priv(req, w.lid, w.fd);
    if (r == 0)
        n = copy_range(m, lid_of(from), from_off, &w, to_off, len, (unsigned)flags);
    writing_end(&w, (uint64_t)to_off, n > 0 ? (uint64_t)n : 0);
    if (r < 0 || n < 0)
        reply_code(req, r < 0 ? r : (int)n);
    else
        fuse_reply_write(req, (size_t)n);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
                     struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    struct node_fd *ref;
    char path[PROC_FD_LEN];
    int fd;
    (void)fi;
    int r = nodes_get_fd(m->env.nodes, lid_of(ino), NODES_PATH, &ref, &fd);
    if (r < 0) {
        reply_code(req, r == -ENOENT ? -ESTALE : r);
        return;
    }
    proc_fd(fd, path); /* shared descriptors are not to be moved about */
    int own = open(path, O_RDONLY | O_CLOEXEC);
    off_t at = own < 0 ? -1 : lseek(own, off, whence);
    r = at < 0 ? -errno : 0;
    if (own >= 0)
        close(own);
    nodes_put_fd(m->env.nodes, ref);
    if (r < 0)
        reply_code(req, r);
    else
        fuse_reply_lseek(req, at);
}

/* An fsync that waits for other nodes: not on a FUSE thread, of which there are few. */
struct acking {
    struct mount *m;
    fuse_req_t req;
    uint64_t lid;
};

#define ACKS_MAX 256u

static void *ack_main(void *arg)
{
    struct acking a = *(struct acking *)arg;
    free(arg);
    int r = a.m->env.acknowledged(a.m->env.arg, a.lid);
    if (r == FARM_ECLOSED)
        fuse_reply_none(a.req); /* not answered: it is sent again to the next worker */
    else
        reply_code(a.req, r);
    pthread_mutex_lock(&a.m->ack_lock);
    a.m->acks--;
    pthread_cond_broadcast(&a.m->ack_idle);
    pthread_mutex_unlock(&a.m->ack_lock);
    return NULL;
}

static bool ack_apart(struct mount *m, fuse_req_t req, uint64_t lid)
{
    pthread_t id;
    pthread_mutex_lock(&m->ack_lock);
    bool room = m->acks < ACKS_MAX;
    if (room)
        m->acks++;
    pthread_mutex_unlock(&m->ack_lock);
    if (!room)
        return false;
    struct acking *a = malloc(sizeof(*a));
    if (a != NULL) {
        *a = (struct acking){m, req, lid};
        if (pthread_create(&id, NULL, ack_main, a) == 0) {
            pthread_detach(id);
            return true;
        }
        free(a);
    }
    pthread_mutex_lock(&m->ack_lock);
    m->acks--;
    pthread_mutex_unlock(&m->ack_lock);
    return false;
}

static int sync_file(struct mount *m, uint64_t lid, bool data_only)
{
    struct node_fd *ref;
    int fd;
    int r = nodes_get_fd(m->env.nodes, lid, NODES_READ, &ref, &fd);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    if ((data_only ? fdatasync(fd) : fsync(fd)) < 0)
        r = -errno;
    nodes_put_fd(m->env.nodes, ref);
    return r;
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    struct mount *m = mount_of(req);
    uint64_t lid = lid_of(ino);
    (void)fi;
    int r = sync_file(m, lid, data_only != 0);
    if (r == 0 && !departed_deaf(&m->departed, lid)) {
        if (dirty_is(m->env.dirty, lid))
            r = capture_add(m, INTENT_CLOSE, 0, lid, 0, 0);
        if (r == 0 && m->env.acknowledged != NULL && !departed_has(&m->departed, lid)) {
            if (ack_apart(m, req, lid))
                return;
            r = m->env.acknowledged(m->env.arg, lid);
        }
    }
    reply_code(req, r);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    reply_code(req, -ENOSYS); /* once: from then on the kernel does not ask */
}

void ops_data_set(struct fuse_lowlevel_ops *o)
{
    o->open = op_open;
    o->opendir = op_open;
    o->read = op_read;
    o->write = op_write;
    o->fallocate = op_fallocate;
    o->copy_file_range = op_copy_file_range;
    o->lseek = op_lseek;
    o->fsync = op_fsync;
}
