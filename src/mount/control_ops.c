/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What was read at open is kept for that open, since with direct I/O a reader comes back for the
 * rest; after a restart it is made again from the path. The kernel checks permissions (the mount
 * has default_permissions). All here runs on the serve thread but control_answer and control_gone.
 */
#include "mount/control_i.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SNAPSHOT_MAX (16u << 20)  /* bytes of one file */
#define SNAPSHOTS_MAX (64u << 20) /* bytes of all that are open */
#define COMMAND_MAX (64u << 10)
#define WRITE_MAX (2 * COMMAND_MAX) /* so that a command too long comes whole and is refused */

/* ---- attributes ---- */

static mode_t mode_of(const struct control_stat *st)
{
    if (st->type == CONTROL_DIR || st->type == CONTROL_PAGES)
        return S_IFDIR | 0750;
    return S_IFREG | (st->access & CONTROL_READ ? 0440u : 0) |
           (st->access & CONTROL_WRITE ? 0220u : 0);
}

static int path_stat(struct control *c, const char *path, struct control_stat *st)
{
    *st = (struct control_stat){.type = CONTROL_DIR, .access = CONTROL_READ};
    return path[0] == '\0' ? 0 : c->p->stat(c->p->ctx, path, st);
}

static void fill_attr(const struct control *c, const char *path, const struct control_stat *st,
                      struct stat *out)
{
    *out = (struct stat){
        .st_ino = control_paths_id(&c->paths, path),
        .st_mode = mode_of(st),
        .st_nlink = S_ISDIR(mode_of(st)) ? 2 : 1,
        .st_gid = c->gid,
        .st_blksize = 4096,
    };
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (st->type == CONTROL_STREAM) { /* tail -f looks at both */
        out->st_size = (off_t)st->size;
        now = (struct timespec){.tv_sec = c->grown_s, .tv_nsec = c->grown_ns};
    }
    if (st->type == CONTROL_DATA) {
        out->st_size = (off_t)st->size;
        out->st_blocks = (out->st_size + 511) / 512;
        now = (struct timespec){.tv_sec = st->mtime_ns / 1000000000,
                                .tv_nsec = st->mtime_ns % 1000000000};
        if (now.tv_nsec < 0) {
            now.tv_sec--;
            now.tv_nsec += 1000000000;
        }
    }
    out->st_atim = out->st_mtim = out->st_ctim = now;
}

static void reply_error(fuse_req_t req, int err)
{
    fuse_reply_err(req, err_to_errno(err));
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct control *c = fuse_req_userdata(req);
    const char *dir;
    char path[PATH_MAX];
    struct control_stat st;
    int err = control_paths_get(&c->paths, parent, &dir);
    if (err == 0)
        err = control_path_join(dir, name, path);
    if (err == 0)
        err = path_stat(c, path, &st);
    if (err == 0)
        err = control_paths_looked_up(&c->paths, path);
    if (err < 0) {
        reply_error(req, err);
        return;
    }
    struct fuse_entry_param e = {.ino = control_paths_id(&c->paths, path)};
    fill_attr(c, path, &st, &e.attr);
    fuse_reply_entry(req, &e);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    struct control *c = fuse_req_userdata(req);
    control_paths_forget(&c->paths, ino, nlookup);
    fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    struct control *c = fuse_req_userdata(req);
    for (size_t i = 0; i < count; i++)
        control_paths_forget(&c->paths, forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct control *c = fuse_req_userdata(req);
    const char *path;
    struct control_stat st;
    int err = control_paths_get(&c->paths, ino, &path);
    if (err == 0)
        err = path_stat(c, path, &st);
    if (err < 0) {
        reply_error(req, err);
        return;
    }
    struct stat attr;
    fill_attr(c, path, &st, &attr);
    fuse_reply_attr(req, &attr, 0);
}

/* `echo command > file` truncates, touch sets times: nothing to do. Modes and owners are fixed. */
static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int valid,
                       struct fuse_file_info *fi)
{
    (void)attr;
    if (valid & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        reply_error(req, -EPERM);
    else
        op_getattr(req, ino, fi);
}

/* ---- open files ---- */

static struct open_file *get_open(struct control *c, uint64_t fh)
{
    pthread_mutex_lock(&c->lock);
    struct open_file *o = map_u64_get(&c->opens, fh);
    pthread_mutex_unlock(&c->lock);
    return o;
}

void control_free_open(struct open_file *o)
{
    if (o->ph != NULL)
        fuse_pollhandle_destroy(o->ph);
    if (o->fd >= 0)
        close(o->fd);
    buf_fini(&o->data);
    free(o->path);
    free(o);
}

/* One entry of a listing: its type, then its name with the terminator. */
static void list_entry(void *arg, const char *name, const struct control_stat *st)
{
    struct buf *out = arg;
    if (!control_name_valid(name))
        return;
    buf_put_u32(out, mode_of(st));
    buf_put(out, name, strlen(name) + 1);
}

static int make_snapshot(struct control *c, struct open_file *o)
{
    int err = 0;
    if (o->type == CONTROL_DIR) {
        buf_put_u32(&o->data, S_IFDIR);
        buf_put(&o->data, ".", 2);
        buf_put_u32(&o->data, S_IFDIR);
        buf_put(&o->data, "..", 3);
        err = c->p->list(c->p->ctx, o->path, list_entry, &o->data);
    } else if (o->type == CONTROL_FILE) {
        err = c->p->read(c->p->ctx, o->path, &o->data);
    } else if (o->type == CONTROL_DATA) {
        err = c->p->open(c->p->ctx, o->path, &o->fd);
    }
    if (err == 0 && o->data.err != 0)
        err = o->data.err == FARM_EFULL ? -EFBIG : o->data.err;
    if (err == 0 && c->snapshot_bytes + o->data.len > SNAPSHOTS_MAX)
        err = -ENFILE;
    return err;
}

/* Opens a path under the number fh. */
static int add_open(struct control *c, const char *path, enum control_type type, uint64_t fh,
                    struct open_file **out)
{
    if (c->opens.n >= CONTROL_OPENS_MAX)
        return -ENFILE;
    struct open_file *o = calloc(1, sizeof(*o));
    if (o == NULL)
        return -ENOMEM;
    o->fh = fh;
    o->fd = -1;
    o->type = type;
    buf_init(&o->data, SNAPSHOT_MAX);
    o->path = strdup(path);
    int err = o->path != NULL ? make_snapshot(c, o) : -ENOMEM;
    if (err == 0) {
        pthread_mutex_lock(&c->lock);
        err = map_u64_set(&c->opens, fh, o, NULL);
        pthread_mutex_unlock(&c->lock);
    }
    if (err < 0) {
        control_free_open(o);
        return err;
    }
    c->snapshot_bytes += o->data.len;
    *out = o;
    return 0;
}

/* The open file of a request; one that a former worker opened is made again from its path. */
static int find_open(struct control *c, fuse_ino_t ino, uint64_t fh, struct open_file **out)
{
    *out = get_open(c, fh);
    if (*out != NULL)
        return 0;
    const char *path;
    struct control_stat st;
    int err = control_paths_get(&c->paths, ino, &path);
    if (err == 0)
        err = path_stat(c, path, &st);
    return err < 0 ? err : add_open(c, path, st.type, fh, out);
}

static int open_path(struct control *c, fuse_ino_t ino, struct fuse_file_info *fi)
{
    const char *path;
    struct control_stat st;
    int err = control_paths_get(&c->paths, ino, &path);
    if (err == 0)
        err = path_stat(c, path, &st);
    if (err < 0)
        return err;
    int how = fi->flags & O_ACCMODE;
    if ((how != O_WRONLY && !(st.access & CONTROL_READ)) ||
        (how != O_RDONLY && !(st.access & CONTROL_WRITE)))
        return -EACCES;
    struct open_file *o;
    fi->direct_io = 1;
    fi->fh = c->next_fh++;
    /* a writer needs no content, and no open file: commands go by path */
    return how == O_WRONLY ? 0 : add_open(c, path, st.type, fi->fh, &o);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int err = open_path(fuse_req_userdata(req), ino, fi);
    if (err < 0)
        reply_error(req, err);
    else
        fuse_reply_open(req, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    struct control *c = fuse_req_userdata(req);
    pthread_mutex_lock(&c->lock);
    struct open_file *o = map_u64_del(&c->opens, fi->fh);
    if (o != NULL && o->wait != NULL) {
        o->wait->gone = true;
        o->wait->fh = 0;
    }
    pthread_mutex_unlock(&c->lock);
    if (o != NULL) {
        c->snapshot_bytes -= o->type == CONTROL_WAIT ? 0 : o->data.len;
        control_free_open(o);
    }
    reply_error(req, 0);
}

static void reply_part(fuse_req_t req, const void *data, size_t len, off_t off, size_t size)
{
    size_t at = (uint64_t)off < len ? (size_t)off : len;
    size_t n = len - at < size ? len - at : size;
    fuse_reply_buf(req, n > 0 ? (const char *)data + at : NULL, n);
}

struct listing {
    fuse_req_t req;
    struct control *c;
    const char *dir;
    char *out;
    size_t used, size;
    bool full;
};

/* False: there was no room for it. */
static bool put_entry(struct listing *l, const char *name, mode_t mode, off_t next)
{
    char path[PATH_MAX];
    struct stat attr = {.st_mode = mode};
    if (control_path_join(l->dir, name, path) == 0)
        attr.st_ino = control_paths_id(&l->c->paths, path);
    size_t left = l->size - l->used;
    size_t need = fuse_add_direntry(l->req, l->out + l->used, left, name, &attr, next);
    l->full = need > left;
    if (!l->full)
        l->used += need;
    return !l->full;
}

static bool page_entry(void *arg, const char *name, const struct control_stat *st, uint64_t next)
{
    return !control_name_valid(name) || put_entry(arg, name, mode_of(st), (off_t)next);
}

/* The snapshot's entries, from the offset of one. */
static void list_snapshot(struct listing *l, const struct buf *data, off_t off)
{
    for (size_t at = (size_t)off; at < data->len;) {
        struct cur in;
        cur_init(&in, data->data + at, data->len - at);
        mode_t mode = cur_u32(&in);
        const char *name = (const char *)in.p;
        size_t len = strnlen(name, cur_left(&in));
        if (in.err != 0 || len == cur_left(&in))
            return; /* not an offset that we gave */
        at += sizeof(uint32_t) + len + 1;
        if (!put_entry(l, name, mode, (off_t)at))
            return;
    }
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    struct control *c = fuse_req_userdata(req);
    struct open_file *o;
    int err = find_open(c, ino, fi->fh, &o);
    char *out = err == 0 ? malloc(size) : NULL;
    if (out == NULL) {
        reply_error(req, err < 0 ? err : -ENOMEM);
        return;
    }
    struct listing l = {.req = req, .c = c, .dir = o->path, .out = out, .size = size};
    if (o->type == CONTROL_PAGES)
        err = c->p->page(c->p->ctx, o->path, (uint64_t)off, page_entry, &l);
    else
        list_snapshot(&l, &o->data, off);
    if (err < 0 && l.used == 0)
        reply_error(req, err);
    else
        fuse_reply_buf(req, out, l.used);
    free(out);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t n, off_t off,
                     struct fuse_file_info *fi)
{
    (void)off;
    (void)fi;
    struct control *c = fuse_req_userdata(req);
    const char *path;
    int err = n > COMMAND_MAX ? -EFBIG : control_paths_get(&c->paths, ino, &path);
    if (err == 0)
        err = c->p->write(c->p->ctx, path, data, n);
    if (err < 0)
        reply_error(req, err);
    else
        fuse_reply_write(req, n);
}

/* ---- files that are answered later ---- */

/* On the serve thread, maybe within fuse_req_interrupt_func. The request may have been answered by
 * another thread just now: it is ours only if it is still found. */
static void on_interrupt(fuse_req_t req, void *data)
{
    struct control *c = data;
    pthread_mutex_lock(&c->lock);
    struct control_request *rq = c->requests;
    while (rq != NULL && rq->req != req)
        rq = rq->next;
    if (rq != NULL) {
        struct open_file *o = map_u64_get(&c->opens, rq->fh);
        if (o != NULL && o->wait == rq)
            o->wait = NULL;
        rq->req = NULL;
        rq->gone = true;
    }
    pthread_mutex_unlock(&c->lock);
    if (rq != NULL)
        fuse_reply_err(req, EINTR);
}

/* A new request of an open file, for the provider. Under the lock. */
static struct control_request *add_request(struct control *c, struct open_file *o)
{
    struct control_request *rq = calloc(1, sizeof(*rq));
    if (rq == NULL)
        return NULL;
    rq->c = c;
    rq->fh = o->fh;
    rq->next = c->requests;
    rq->link = &c->requests;
    if (rq->next != NULL)
        rq->next->link = &rq->next;
    c->requests = rq;
    c->refs++;
    o->wait = rq;
    return rq;
}

void control_remove_request(struct control_request *rq)
{
    if (rq->link == NULL)
        return;
    *rq->link = rq->next;
    if (rq->next != NULL)
        rq->next->link = rq->link;
    rq->link = NULL;
}

/* Straight from the disk. */
static void read_data(struct open_file *o, fuse_req_t req, size_t size, off_t off)
{
    struct fuse_bufvec v = FUSE_BUFVEC_INIT(size);
    v.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    v.buf[0].fd = o->fd;
    v.buf[0].pos = off;
    fuse_reply_data(req, &v, 0);
}

static void read_wait(struct control *c, struct open_file *o, fuse_req_t req, size_t size,
                      off_t off)
{
    if (fuse_req_interrupted(req)) {
        fuse_reply_err(req, EINTR);
        return;
    }
    fuse_req_interrupt_func(req, on_interrupt, c);
    struct control_request *fresh = NULL;
    pthread_mutex_lock(&c->lock);
    bool answered = o->answered || off > 0; /* off > 0: a former worker answered */
    int err = answered ? o->err : 0;
    if (!answered) {
        if (o->wait == NULL)
            fresh = add_request(c, o);
        if (o->wait == NULL)
            err = -ENOMEM;
        else if (o->wait->req != NULL)
            err = -EBUSY; /* one reader per open */
        if (err == 0) {
            o->wait->req = req;
            o->wait->size = size;
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (err < 0)
        reply_error(req, err);
    else if (answered) /* the answer does not change any more */
        reply_part(req, o->data.data, o->data.len, off, size);
    if (fresh != NULL)
        c->p->wait(c->p->ctx, o->path, fresh);
}

void control_answer(struct control_request *rq, int err, const void *data, size_t n)
{
    struct control *c = rq->c;
    pthread_mutex_lock(&c->lock);
    fuse_req_t req = rq->req;
    c->answering += req != NULL;
    control_remove_request(rq);
    struct open_file *o = rq->fh != 0 && !c->stopping ? map_u64_get(&c->opens, rq->fh) : NULL;
    if (o != NULL && o->wait == rq) {
        o->wait = NULL;
        buf_put(&o->data, data, n);
        o->answered = true;
        o->err = err < 0 ? err : o->data.err;
        o->notify = o->ph != NULL;
        c->notify_pending = c->notify_pending || o->notify;
        pthread_cond_broadcast(&c->work);
    }
    pthread_mutex_unlock(&c->lock);
    if (req != NULL && err < 0)
        reply_error(req, err);
    else if (req != NULL)
        reply_part(req, data, n, 0, rq->size);
    if (req != NULL) {
        pthread_mutex_lock(&c->lock);
        c->answering--;
        pthread_cond_broadcast(&c->work);
        pthread_mutex_unlock(&c->lock);
    }
    free(rq);
    control_unref(c);
}

bool control_gone(const struct control_request *rq)
{
    pthread_mutex_lock(&rq->c->lock);
    bool gone = rq->gone;
    pthread_mutex_unlock(&rq->c->lock);
    return gone;
}

/* ---- reading and polling ---- */

static void read_stream(struct control *c, struct open_file *o, fuse_req_t req, size_t size,
                        off_t off)
{
    struct buf out;
    buf_init(&out, size);
    int err = c->p->stream(c->p->ctx, o->path, (uint64_t)off, size, &out);
    if (err == 0)
        err = out.err;
    if (err < 0) {
        reply_error(req, err);
    } else {
        o->pos = (uint64_t)off + out.len;
        fuse_reply_buf(req, (const char *)out.data, out.len);
    }
    buf_fini(&out);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    struct control *c = fuse_req_userdata(req);
    struct open_file *o;
    int err = find_open(c, ino, fi->fh, &o);
    if (err < 0)
        reply_error(req, err);
    else if (o->type == CONTROL_STREAM)
        read_stream(c, o, req, size, off);
    else if (o->type == CONTROL_WAIT)
        read_wait(c, o, req, size, off);
    else if (o->type == CONTROL_DATA)
        read_data(o, req, size, off);
    else
        reply_part(req, o->data.data, o->data.len, off, size);
}

static bool stream_ready(struct control *c, struct open_file *o)
{
    struct buf out;
    buf_init(&out, 1);
    int err = c->p->stream(c->p->ctx, o->path, o->pos, 1, &out);
    bool ready = err < 0 || out.len > 0; /* an error is for the read to tell */
    buf_fini(&out);
    return ready;
}

/* Polling a file that is answered later asks for the answer: the read then finds it. */
static bool wait_ready(struct control *c, struct open_file *o)
{
    pthread_mutex_lock(&c->lock);
    struct control_request *fresh = NULL;
    if (!o->answered && o->wait == NULL)
        fresh = add_request(c, o);
    bool ready = o->answered || o->wait == NULL;
    pthread_mutex_unlock(&c->lock);
    if (fresh != NULL)
        c->p->wait(c->p->ctx, o->path, fresh);
    return ready;
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                    struct fuse_pollhandle *ph)
{
    struct control *c = fuse_req_userdata(req);
    struct open_file *o;
    int err = find_open(c, ino, fi->fh, &o);
    if (err < 0) {
        if (ph != NULL)
            fuse_pollhandle_destroy(ph);
        reply_error(req, err);
        return;
    }
    if (ph != NULL) { /* before looking, so that what grows in between wakes it */
        pthread_mutex_lock(&c->lock);
        struct fuse_pollhandle *old = o->ph;
        o->ph = ph;
        pthread_mutex_unlock(&c->lock);
        if (old != NULL)
            fuse_pollhandle_destroy(old);
    }
    bool ready = o->type == CONTROL_STREAM ? stream_ready(c, o)
                 : o->type == CONTROL_WAIT ? wait_ready(c, o)
                                           : true;
    fuse_reply_poll(req, ready ? POLLIN | POLLRDNORM : 0);
}

/* ---- extended attributes: those of files of the disk ---- */

/* A descriptor of what the node stands for; -ENODATA when it is no such file. */
static int data_fd(struct control *c, fuse_ino_t ino, int *fd)
{
    const char *path;
    struct control_stat st;
    int err = control_paths_get(&c->paths, ino, &path);
    if (err == 0)
        err = path_stat(c, path, &st);
    if (err == 0 && st.type != CONTROL_DATA)
        err = -ENODATA;
    return err < 0 ? err : c->p->open(c->p->ctx, path, fd);
}

/* size 0: how much there is. */
static void reply_xattr(fuse_req_t req, ssize_t n, size_t size, const char *data)
{
    if (n < 0)
        fuse_reply_err(req, errno);
    else if (size == 0)
        fuse_reply_xattr(req, (size_t)n);
    else
        fuse_reply_buf(req, data, (size_t)n);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    int fd = -1, err = data_fd(fuse_req_userdata(req), ino, &fd);
    char *data = err == 0 && size > 0 ? malloc(size) : NULL;
    if (err < 0 || (size > 0 && data == NULL))
        reply_error(req, err < 0 ? err : -ENOMEM);
    else
        reply_xattr(req, fgetxattr(fd, name, data, size), size, data);
    if (fd >= 0)
        close(fd);
    free(data);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    int fd = -1, err = data_fd(fuse_req_userdata(req), ino, &fd);
    char *data = err == 0 && size > 0 ? malloc(size) : NULL;
    if (err == -ENODATA)
        reply_xattr(req, 0, size, "");
    else if (err < 0 || (size > 0 && data == NULL))
        reply_error(req, err < 0 ? err : -ENOMEM);
    else
        reply_xattr(req, flistxattr(fd, data, size), size, data);
    if (fd >= 0)
        close(fd);
    free(data);
}

/* ---- what is not possible here ---- */

static void op_refuse_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                             struct fuse_file_info *fi)
{
    (void)parent, (void)name, (void)mode, (void)fi;
    reply_error(req, -EPERM);
}

static void op_refuse_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                            dev_t rdev)
{
    (void)parent, (void)name, (void)mode, (void)rdev;
    reply_error(req, -EPERM);
}

static void op_refuse_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    (void)parent, (void)name, (void)mode;
    reply_error(req, -EPERM);
}

static void op_refuse_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    (void)parent, (void)name;
    reply_error(req, -EPERM);
}

static void op_refuse_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
                             fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
    (void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
    reply_error(req, -EPERM);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                              FUSE_CAP_AUTO_INVAL_DATA);
    conn->max_write = WRITE_MAX;
}

const struct fuse_lowlevel_ops control_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .poll = op_poll,
    .release = op_release,
    .opendir = op_open,
    .readdir = op_readdir,
    .releasedir = op_release,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .create = op_refuse_create,
    .mknod = op_refuse_mknod,
    .mkdir = op_refuse_mkdir,
    .unlink = op_refuse_unlink,
    .rmdir = op_refuse_unlink,
    .rename = op_refuse_rename,
};
