/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The kernel's side of the mount, and libfuse: requests of applications wait for the worker's
 * threads, survive the worker, and are sent again to its successor; names are cached until the
 * worker says otherwise; directories are locked while a name in them changes or is looked up.
 */
#define FUSE_USE_VERSION 314
#include "whole.h"

#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESENT (1ull << 63)
#define ROOT_INO 3ull /* what the worker calls the folder's root */

struct fuse_req {
    struct fuse_req *next;
    struct machine *machine;
    void *user;
    uint64_t unique;
    uint32_t opcode;
    uint64_t ino, ino2;
    char name[256], name2[256];
    mode_t mode;
    unsigned flags;
    struct stat attr;
    const void *in;
    void *out;
    size_t n;
    uint64_t off;
    bool one_way;
    /* The answer. */
    bool done;
    int err;
    struct fuse_entry_param entry;
    struct stat st;
    size_t got;
};

struct fuse_session {
    struct machine *machine;
    struct fuse_lowlevel_ops ops;
    void *user;
};

static void list_add(struct fuse_req **l, struct fuse_req *r)
{
    while (*l)
        l = &(*l)->next;
    r->next = NULL;
    *l = r;
}

static bool list_take(struct fuse_req **l, const struct fuse_req *r)
{
    for (; *l; l = &(*l)->next) {
        if (*l != r)
            continue;
        *l = r->next;
        return true;
    }
    return false;
}

/* ---- lids ---- */

int __real_nodes_add(struct nodes *n, uint64_t lid, uint8_t type, const struct handle *h,
                     struct node_ref *out);
int __wrap_nodes_add(struct nodes *n, uint64_t lid, uint8_t type, const struct handle *h,
                     struct node_ref *out);
int __wrap_nodes_add(struct nodes *n, uint64_t lid, uint8_t type, const struct handle *h,
                     struct node_ref *out)
{
    int e = __real_nodes_add(n, lid, type, h, out);
    struct machine *m = here();

    if (e || !m || out->lid > 10000000)
        return e;
    if (out->lid >= m->nlids) {
        size_t more = out->lid * 2 + 64;
        m->lid_ino = realloc(m->lid_ino, more * sizeof *m->lid_ino);
        if (!m->lid_ino)
            abort();
        memset(m->lid_ino + m->nlids, 0, (more - m->nlids) * sizeof *m->lid_ino);
        m->nlids = more;
    }
    memcpy(&m->lid_ino[out->lid], h->bytes, 8);
    return 0;
}

struct inode *inode_of_lid(struct machine *m, uint64_t lid)
{
    if (lid == LID_ROOT || lid == ROOT_INO)
        return m->tree;
    return lid < m->nlids ? disk_by_ino(m, m->lid_ino[lid]) : NULL;
}

/* ---- the worker's end ---- */

struct fuse_session *fuse_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *op,
                                      size_t size, void *user)
{
    struct fuse_session *s = calloc(1, sizeof *s);

    (void)args;
    if (!s || size != sizeof s->ops)
        abort();
    s->ops = *op;
    s->user = user;
    s->machine = here();
    return s;
}

int fuse_session_custom_io(struct fuse_session *se, const struct fuse_custom_io *io, int fd)
{
    (void)se;
    (void)io;
    desc_close(fd);
    return 0;
}

void fuse_session_destroy(struct fuse_session *se)
{
    free(se);
}

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *b)
{
    struct machine *m = se->machine;
    struct kernel *k = &m->k;
    struct {
        struct fuse_in_header h;
        uint8_t body[128];
    } * mem;

    point();
    b->mem = b->mem ? b->mem : calloc(1, sizeof *mem);
    mem = b->mem;
    memset(mem, 0, sizeof *mem);
    b->size = sizeof *mem;
    if (!k->init_sent) {
        k->init_sent = true;
        mem->h.opcode = FUSE_INIT;
        return (int)sizeof *mem;
    }
    while (!k->pending)
        if (!fiber_wait(&k->pending, 0))
            return -EINTR;
    struct fuse_req *r = k->pending;
    k->pending = r->next;
    mem->h.opcode = r->opcode;
    mem->h.unique = r->unique;
    if (r->opcode == FUSE_SETATTR)
        ((struct fuse_setattr_in *)mem->body)->valid = r->flags | FATTR_FH;
    r->unique &= ~RESENT;
    list_add(&k->processing, r);
    return (int)sizeof *mem;
}

static void dispatch(struct fuse_session *se, struct fuse_req *r)
{
    const struct fuse_lowlevel_ops *o = &se->ops;
    struct fuse_file_info fi = {0};
    uint64_t ino = r->ino;

    r->user = se->user;
    switch (r->opcode) {
    case FUSE_LOOKUP: o->lookup(r, ino, r->name); break;
    case FUSE_CREATE:
        fi.flags = (int)r->flags;
        o->create(r, ino, r->name, r->mode, &fi);
        break;
    case FUSE_MKDIR: o->mkdir(r, ino, r->name, r->mode); break;
    case FUSE_SYMLINK: o->symlink(r, r->name2, ino, r->name); break;
    case FUSE_LINK: o->link(r, r->ino2, ino, r->name); break;
    case FUSE_UNLINK: o->unlink(r, ino, r->name); break;
    case FUSE_RMDIR: o->rmdir(r, ino, r->name); break;
    case FUSE_RENAME2: o->rename(r, ino, r->name, r->ino2, r->name2, r->flags); break;
    case FUSE_WRITE: o->write(r, ino, r->in, r->n, (off_t)r->off, &fi); break;
    case FUSE_READ: o->read(r, ino, r->n, (off_t)r->off, &fi); break;
    case FUSE_GETATTR: o->getattr(r, ino, NULL); break;
    case FUSE_SETATTR: o->setattr(r, ino, &r->attr, (int)r->flags, r->mode ? &fi : NULL); break;
    case FUSE_SETXATTR: o->setxattr(r, ino, r->name, r->in, r->n, 0); break;
    case FUSE_FSYNC: o->fsync(r, ino, 0, &fi); break;
    case FUSE_FORGET: o->forget(r, ino, 1); break;
    default: abort();
    }
}

void fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *b)
{
    const struct fuse_in_header *h = b->mem;

    if (h->opcode == FUSE_INIT)
        return;
    struct fuse_req *r = se->machine->k.processing;
    while (r && r->unique != (h->unique & ~RESENT))
        r = r->next;
    if (r)
        dispatch(se, r);
}

/* ---- answers ---- */

static void cache(struct kernel *k, uint64_t dir, const char *name, uint64_t ino);

static int finish(struct fuse_req *r, int err)
{
    if (!list_take(&r->machine->k.processing, r))
        return -ENOENT;
    r->err = err;
    r->done = true;
    if (r->one_way)
        free(r);
    else
        fiber_wake(r);
    return 0;
}

int fuse_reply_err(fuse_req_t r, int err)
{
    return finish(r, -err);
}

void fuse_reply_none(fuse_req_t r)
{
    finish(r, 0);
}

int fuse_reply_entry(fuse_req_t r, const struct fuse_entry_param *e)
{
    r->entry = *e;
    cache(&r->machine->k, r->ino, r->name, e->ino);
    return finish(r, 0);
}

int fuse_reply_create(fuse_req_t r, const struct fuse_entry_param *e,
                      const struct fuse_file_info *fi)
{
    (void)fi;
    return fuse_reply_entry(r, e);
}

int fuse_reply_attr(fuse_req_t r, const struct stat *st, double timeout)
{
    (void)timeout;
    r->st = *st;
    return finish(r, 0);
}

int fuse_reply_write(fuse_req_t r, size_t n)
{
    r->got = n;
    return finish(r, 0);
}

int fuse_reply_buf(fuse_req_t r, const char *p, size_t n)
{
    if (n > r->n)
        n = r->n;
    if (n)
        memcpy(r->out, p, n);
    r->got = n;
    return finish(r, 0);
}

const struct fuse_ctx *fuse_req_ctx(fuse_req_t r)
{
    static const struct fuse_ctx root = {.pid = 1};
    (void)r;
    return &root;
}

void *fuse_req_userdata(fuse_req_t r)
{
    return r->user;
}

int fuse_req_getgroups(fuse_req_t r, int size, gid_t list[])
{
    (void)r;
    (void)size;
    (void)list;
    return 0;
}

/* ---- cached names ---- */

static struct dentry *cached(struct kernel *k, uint64_t dir, const char *name)
{
    for (size_t i = 0; i < k->n; i++)
        if (k->d[i].dir == dir && strcmp(k->d[i].name, name) == 0)
            return &k->d[i];
    return NULL;
}

static bool referred(const struct kernel *k, uint64_t ino)
{
    for (size_t i = 0; i < k->n; i++)
        if (k->d[i].ino == ino)
            return true;
    for (size_t i = 0; i < k->nopen; i++)
        if (k->open_lids[i] == ino)
            return true;
    return ino == ROOT_INO;
}

static struct fuse_req *request(struct machine *m, uint32_t opcode, uint64_t ino, const char *name)
{
    struct fuse_req *r = calloc(1, sizeof *r);

    if (!r)
        abort();
    r->machine = m;
    r->unique = ++m->k.unique * 2;
    r->opcode = opcode;
    r->ino = ino;
    snprintf(r->name, sizeof r->name, "%s", name);
    return r;
}

static void forget_maybe(struct kernel *k, uint64_t ino)
{
    struct machine *m = (struct machine *)((char *)k - offsetof(struct machine, k));

    if (!ino || referred(k, ino))
        return;
    struct fuse_req *r = request(m, FUSE_FORGET, ino, "");
    r->one_way = true;
    list_add(&k->pending, r);
    fiber_wake(&k->pending);
}

static void uncache(struct kernel *k, struct dentry *d)
{
    uint64_t ino = d->ino;

    *d = k->d[--k->n];
    forget_maybe(k, ino);
}

static void cache(struct kernel *k, uint64_t dir, const char *name, uint64_t ino)
{
    struct dentry *d = cached(k, dir, name);
    uint64_t was = d ? d->ino : 0;

    if (!d) {
        if (k->n == k->size) {
            k->size = k->size ? k->size * 2 : 64;
            k->d = realloc(k->d, k->size * sizeof *k->d);
            if (!k->d)
                abort();
        }
        d = &k->d[k->n++];
        d->dir = dir;
        snprintf(d->name, sizeof d->name, "%s", name);
    }
    d->ino = ino;
    d->expired = false;
    if (was != ino)
        forget_maybe(k, was);
}

/* A directory is locked from the request to its answer. */
static void lock_dir(struct machine *m, uint64_t dir)
{
    struct kernel *k = &m->k;

    for (size_t i = 0; i < k->nlocked; i++) {
        if (k->locked[i] == dir) {
            fiber_wait(&k->locked, 0);
            i = (size_t)-1;
        }
    }
    k->locked[k->nlocked++] = dir;
}

static void unlock_dir(struct machine *m, uint64_t dir)
{
    struct kernel *k = &m->k;

    for (size_t i = 0; i < k->nlocked; i++) {
        if (k->locked[i] == dir) {
            k->locked[i] = k->locked[--k->nlocked];
            break;
        }
    }
    fiber_wake(&k->locked);
}

int fuse_lowlevel_notify_inval_entry(struct fuse_session *se, fuse_ino_t dir, const char *name,
                                     size_t len)
{
    struct machine *m = se->machine;
    char text[256];

    snprintf(text, sizeof text, "%.*s", (int)len, name);
    point();
    lock_dir(m, dir);
    struct dentry *d = cached(&m->k, dir, text);
    if (d)
        uncache(&m->k, d);
    unlock_dir(m, dir);
    return d ? 0 : -ENOENT;
}

int fuse_lowlevel_notify_expire_entry(struct fuse_session *se, fuse_ino_t dir, const char *name,
                                      size_t len, enum fuse_expire_flags flags)
{
    struct machine *m = se->machine;
    char text[256];

    (void)flags;
    snprintf(text, sizeof text, "%.*s", (int)len, name);
    point();
    lock_dir(m, dir);
    struct dentry *d = cached(&m->k, dir, text);
    if (d)
        d->expired = true;
    unlock_dir(m, dir);
    return d ? 0 : -ENOENT;
}

int fuse_lowlevel_notify_inval_inode(struct fuse_session *se, fuse_ino_t ino, off_t off, off_t len)
{
    (void)off;
    (void)len;
    point();
    return referred(&se->machine->k, ino) ? 0 : -ENOENT;
}

void kernel_resend(struct machine *m)
{
    struct fuse_req *all = NULL;

    while (m->k.processing) {
        struct fuse_req *r = m->k.processing;
        m->k.processing = r->next;
        r->unique |= RESENT;
        list_add(&all, r);
    }
    while (m->k.pending) {
        struct fuse_req *r = m->k.pending;
        m->k.pending = r->next;
        list_add(&all, r);
    }
    m->k.pending = all;
    fiber_wake(&m->k.pending);
}

void kernel_reset(struct machine *m)
{
    struct dentry *d = m->k.d;
    size_t size = m->k.size;
    struct desc *closes = m->k.closes_desc;
    uint64_t unique = m->k.unique;

    m->k = (struct kernel){.d = d, .size = size, .closes_desc = closes, .unique = unique};
}

/* ---- system calls of applications ---- */

static int call(struct fuse_req *r)
{
    struct kernel *k = &r->machine->k;

    list_add(&k->pending, r);
    fiber_wake(&k->pending);
    while (!r->done)
        fiber_wait(r, 0);
    return r->err;
}

static int done(struct fuse_req *r, int err)
{
    free(r);
    return err;
}

static int lookup_locked(uint64_t dir, const char *name, uint64_t *ino)
{
    struct machine *m = here();
    struct dentry *d = cached(&m->k, dir, name);

    if (!d || d->expired) {
        struct fuse_req *r = request(m, FUSE_LOOKUP, dir, name);
        int e = call(r);
        uint64_t got = r->entry.ino;
        free(r);
        if (e) {
            d = cached(&m->k, dir, name);
            if (d)
                uncache(&m->k, d);
            return e;
        }
        *ino = got;
        return got ? 0 : -ENOENT;
    }
    *ino = d->ino;
    return d->ino ? 0 : -ENOENT;
}

int k_lookup(uint64_t dir, const char *name, uint64_t *ino)
{
    struct machine *m = here();

    lock_dir(m, dir);
    int e = lookup_locked(dir, name, ino);
    unlock_dir(m, dir);
    return e;
}

/* The name must be absent; the request makes it. */
static int make(struct fuse_req *r, uint64_t *ino)
{
    struct machine *m = r->machine;
    uint64_t there;

    lock_dir(m, r->ino);
    int e = lookup_locked(r->ino, r->name, &there);
    e = e == -ENOENT ? call(r) : e ? e : -EEXIST;
    if (!e && ino)
        *ino = r->entry.ino;
    struct dentry *d = e == -EEXIST || e == -ESTALE ? cached(&m->k, r->ino, r->name) : NULL;
    if (d && d->ino == 0)
        uncache(&m->k, d);
    unlock_dir(m, r->ino);
    return done(r, e);
}

int k_create(uint64_t dir, const char *name, mode_t mode, uint64_t *ino)
{
    struct fuse_req *r = request(here(), FUSE_CREATE, dir, name);
    r->mode = mode;
    return make(r, ino);
}

int k_mkdir(uint64_t dir, const char *name)
{
    struct fuse_req *r = request(here(), FUSE_MKDIR, dir, name);
    r->mode = 0755;
    return make(r, NULL);
}

int k_symlink(uint64_t dir, const char *name, const char *target)
{
    struct fuse_req *r = request(here(), FUSE_SYMLINK, dir, name);
    snprintf(r->name2, sizeof r->name2, "%s", target);
    return make(r, NULL);
}

int k_link(uint64_t ino, uint64_t dir, const char *name)
{
    struct fuse_req *r = request(here(), FUSE_LINK, dir, name);
    r->ino2 = ino;
    return make(r, NULL);
}

int k_remove(uint64_t dir, const char *name, bool rmdir)
{
    struct machine *m = here();
    uint64_t ino;

    lock_dir(m, dir);
    int e = lookup_locked(dir, name, &ino);
    if (!e) {
        struct fuse_req *r = request(m, rmdir ? FUSE_RMDIR : FUSE_UNLINK, dir, name);
        e = done(r, call(r));
        if (e == 0)
            cache(&m->k, dir, name, 0);
        struct dentry *d = e == -ENOENT ? cached(&m->k, dir, name) : NULL;
        if (d)
            uncache(&m->k, d);
    }
    unlock_dir(m, dir);
    return e;
}

static int rename_locked(struct machine *m, uint64_t dir, const char *name, uint64_t dir2,
                         const char *name2, unsigned flags)
{
    uint64_t from, to = 0;

    int e = lookup_locked(dir, name, &from);
    if (e)
        return e;
    e = lookup_locked(dir2, name2, &to);
    if (e && (e != -ENOENT || flags & RENAME_EXCHANGE))
        return e;
    if (!e && flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (from == to)
        return 0;
    struct fuse_req *r = request(m, FUSE_RENAME2, dir, name);
    r->ino2 = dir2;
    r->flags = flags;
    snprintf(r->name2, sizeof r->name2, "%s", name2);
    e = done(r, call(r));
    if (e == -ENOENT || e == -ESTALE) {
        struct dentry *d = cached(&m->k, dir, name);
        if (d)
            uncache(&m->k, d);
        d = cached(&m->k, dir2, name2);
        if (d)
            uncache(&m->k, d);
    }
    if (e)
        return e;
    cache(&m->k, dir2, name2, from);
    cache(&m->k, dir, name, flags & RENAME_EXCHANGE ? to : 0);
    return 0;
}

int k_rename(uint64_t dir, const char *name, uint64_t dir2, const char *name2, unsigned flags)
{
    struct machine *m = here();

    lock_dir(m, UINT64_MAX); /* s_vfs_rename_mutex: one rename between directories at a time */
    lock_dir(m, dir < dir2 ? dir : dir2);
    if (dir != dir2)
        lock_dir(m, dir < dir2 ? dir2 : dir);
    int e = rename_locked(m, dir, name, dir2, name2, flags);
    if (dir != dir2)
        unlock_dir(m, dir2);
    unlock_dir(m, dir);
    unlock_dir(m, UINT64_MAX);
    return e;
}

int k_write(uint64_t ino, const void *p, size_t n, uint64_t off)
{
    struct fuse_req *r = request(here(), FUSE_WRITE, ino, "");
    r->in = p;
    r->n = n;
    r->off = off;
    int e = call(r);
    if (!e)
        e = (int)r->got;
    return done(r, e);
}

int k_read(uint64_t ino, void *p, size_t n, uint64_t off)
{
    struct fuse_req *r = request(here(), FUSE_READ, ino, "");
    r->out = p;
    r->n = n;
    r->off = off;
    int e = call(r);
    if (!e)
        e = (int)r->got;
    return done(r, e);
}

int k_size(uint64_t ino, uint64_t *size, mode_t *mode)
{
    struct fuse_req *r = request(here(), FUSE_GETATTR, ino, "");
    int e = call(r);
    *size = (uint64_t)r->st.st_size;
    *mode = r->st.st_mode;
    return done(r, e);
}

int k_truncate(uint64_t ino, uint64_t size, bool open)
{
    struct fuse_req *r = request(here(), FUSE_SETATTR, ino, "");
    r->flags = FUSE_SET_ATTR_SIZE;
    r->attr.st_size = (off_t)size;
    r->mode = open;
    return done(r, call(r));
}

int k_chmod(uint64_t ino, mode_t mode)
{
    struct fuse_req *r = request(here(), FUSE_SETATTR, ino, "");
    r->flags = FUSE_SET_ATTR_MODE;
    r->attr.st_mode = mode;
    return done(r, call(r));
}

int k_utime(uint64_t ino, int64_t mtime_ns)
{
    struct fuse_req *r = request(here(), FUSE_SETATTR, ino, "");
    r->flags = FUSE_SET_ATTR_MTIME;
    r->attr.st_mtim = (struct timespec){mtime_ns / 1000000000, mtime_ns % 1000000000};
    return done(r, call(r));
}

int k_setxattr(uint64_t ino, const char *name, const char *value)
{
    struct fuse_req *r = request(here(), FUSE_SETXATTR, ino, name);
    r->in = value;
    r->n = strlen(value);
    return done(r, call(r));
}

int k_fsync(uint64_t ino)
{
    struct fuse_req *r = request(here(), FUSE_FSYNC, ino, "");
    return done(r, call(r));
}

void k_open(uint64_t ino)
{
    struct kernel *k = &here()->k;

    if (k->nopen == 64)
        abort();
    k->open_lids[k->nopen++] = ino;
}

void k_close(uint64_t ino, bool written)
{
    struct machine *m = here();
    struct kernel *k = &m->k;

    if (written) {
        if (k->ncloses == k->closes_size) {
            k->closes_size = k->closes_size ? k->closes_size * 2 : 64;
            k->closes = realloc(k->closes, k->closes_size * sizeof *k->closes);
            if (!k->closes)
                abort();
        }
        k->closes[k->ncloses++] = ino;
        desc_signal(k->closes_desc);
    }
    for (size_t i = 0; i < k->nopen; i++) {
        if (k->open_lids[i] == ino) {
            k->open_lids[i] = k->open_lids[--k->nopen];
            break;
        }
    }
    forget_maybe(k, ino);
}

void kernel_check(struct machine *m)
{
    const struct kernel *k = &m->k;

    for (size_t i = 0; i < k->n; i++) {
        const struct dentry *d = &k->d[i];
        const struct inode *dir = inode_of_lid(m, d->dir);
        if (d->expired || !dir || dir->nlink == 0 || !inode_below(dir, m->tree))
            continue;
        const struct inode *is = dir_find(dir, d->name);
        const struct inode *was = d->ino ? inode_of_lid(m, d->ino) : NULL;
        if (is != was)
            fail("m%u: the kernel goes on showing %s at %s (in directory %llu)", m->i,
                 was ? "another file" : "nothing", d->name, (unsigned long long)d->dir);
    }
}

/* Not used by the main mount's code as it runs here; the control files' session is never begun. */
int fuse_reply_xattr(fuse_req_t r, size_t n)
{
    r->got = n;
    return finish(r, 0);
}

int fuse_reply_readlink(fuse_req_t r, const char *target)
{
    (void)target;
    return finish(r, 0);
}

int fuse_reply_statfs(fuse_req_t r, const struct statvfs *s)
{
    (void)s;
    return finish(r, 0);
}

int fuse_reply_lseek(fuse_req_t r, off_t off)
{
    r->got = (size_t)off;
    return finish(r, 0);
}
