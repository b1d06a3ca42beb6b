/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Effects: what is done to the backing tree for a peer's change. Each finds out by the handle
 * whether it has been done already, so that the list can be run again after a crash.
 */
#include "node/node.h"

#include "base/log.h"
#include "store/attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EFFECT_DONE 0x80u /* beside the op in the redo log */

int effects_add(struct effects *e, const struct effect *x)
{
    if (e->n == e->size) {
        size_t size = e->size ? e->size * 2 : 64;
        struct effect *v = realloc(e->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        e->v = v;
        e->size = size;
    }
    e->v[e->n++] = *x;
    return 0;
}

void effects_clear(struct effects *e)
{
    free(e->v);
    memset(e, 0, sizeof *e);
}

static void handle_encode(struct buf *b, const struct handle *h)
{
    buf_put_u32(b, (uint32_t)h->type);
    buf_put_u8(b, h->len);
    buf_put(b, h->bytes, h->len);
}

static void handle_decode(struct cur *c, struct handle *h)
{
    h->type = (int32_t)cur_u32(c);
    h->len = cur_u8(c);
    if (h->len > HANDLE_BYTES_MAX) {
        c->err = FARM_ECORRUPT;
        h->len = 0;
    }
    const uint8_t *p = cur_raw(c, h->len);
    if (p)
        memcpy(h->bytes, p, h->len);
}

static void loc_encode(struct buf *b, const struct loc *l)
{
    buf_put_u8(b, l->kind);
    if (l->kind == LOC_NONE)
        return;
    buf_put_u64(b, l->lid);
    buf_put_u8(b, l->len);
    buf_put(b, l->name, l->len);
    handle_encode(b, &l->dir);
}

static void loc_decode(struct cur *c, struct loc *l)
{
    memset(l, 0, sizeof *l);
    l->kind = cur_u8(c);
    if (l->kind == LOC_NONE)
        return;
    if (l->kind > LOC_HISTORY)
        c->err = FARM_ECORRUPT;
    l->lid = cur_u64(c);
    l->len = cur_u8(c);
    const uint8_t *p = cur_raw(c, l->len);
    if (p)
        memcpy(l->name, p, l->len);
    handle_decode(c, &l->dir);
}

void effect_encode(struct buf *b, const struct effect *e)
{
    buf_put_u8(b, e->done ? e->op | EFFECT_DONE : e->op);
    buf_put_u8(b, e->dir);
    loc_encode(b, &e->from);
    loc_encode(b, &e->to);
    loc_encode(b, &e->displaced);
    buf_put_u64(b, e->lid);
    buf_put_u64(b, e->old_lid);
    buf_put_u64(b, e->rid.node);
    buf_put_u64(b, e->rid.n);
    handle_encode(b, &e->handle);
}

int effect_decode(struct cur *c, struct effect *e)
{
    memset(e, 0, sizeof *e);
    e->op = cur_u8(c);
    e->done = (e->op & EFFECT_DONE) != 0;
    e->op &= (uint8_t)~EFFECT_DONE;
    e->dir = cur_u8(c) != 0;
    loc_decode(c, &e->from);
    loc_decode(c, &e->to);
    loc_decode(c, &e->displaced);
    e->lid = cur_u64(c);
    e->old_lid = cur_u64(c);
    e->rid.node = cur_u64(c);
    e->rid.n = cur_u64(c);
    handle_decode(c, &e->handle);
    if (e->op < EFFECT_MOVE || e->op > EFFECT_ATTR)
        return FARM_ECORRUPT;
    return cur_done(c);
}

uint64_t loc_key(const struct loc *l)
{
    return l->kind == LOC_DIR ? claims_key(l->lid, l->name, l->len) : 0;
}

/* The directory of a location. */
struct end {
    struct node_fd *ref;
    bool opened; /* fd is ours */
    int fd;
    char name[256];
};

/* A directory that leaves the tree has no row any more: by its handle. */
static int dir_open(struct node *n, const struct loc *l, struct end *x)
{
    int rc = nodes_get_fd(n->nodes, l->lid, NODES_PATH, &x->ref, &x->fd);
    if ((rc != -ENOENT && rc != -ESTALE) || l->dir.len == 0)
        return rc;
    rc = handle_open(n->args->rootfd, &l->dir, O_PATH | O_DIRECTORY | O_NOFOLLOW, &x->fd);
    x->opened = rc == 0;
    return rc;
}

static int end_open(struct node *n, const struct loc *l, struct end *x)
{
    memcpy(x->name, l->name, l->len);
    x->name[l->len] = 0;
    switch (l->kind) {
    case LOC_DIR: return dir_open(n, l, x);
    case LOC_IN: x->fd = n->staging->in; return 0;
    case LOC_HIDDEN: x->fd = n->staging->hidden; return 0;
    case LOC_ORPHAN: x->fd = n->staging->orphans; return 0;
    case LOC_CONFLICT: x->fd = n->staging->conflicts; return 0;
    case LOC_HISTORY: x->fd = n->staging->history; return 0;
    default: return -EINVAL;
    }
}

static void end_close(struct node *n, struct end *x)
{
    if (x->ref)
        nodes_put_fd(n->nodes, x->ref);
    if (x->opened)
        close(x->fd);
}

struct ends {
    struct end from, to, displaced;
};

static int ends_open(struct node *n, const struct effect *e, struct ends *x)
{
    memset(x, 0, sizeof *x);
    int rc = end_open(n, &e->from, &x->from);
    if (!rc && e->to.kind)
        rc = end_open(n, &e->to, &x->to);
    if (!rc && e->displaced.kind)
        rc = end_open(n, &e->displaced, &x->displaced);
    return rc;
}

static void ends_close(struct node *n, struct ends *x)
{
    end_close(n, &x->from);
    end_close(n, &x->to);
    end_close(n, &x->displaced);
}

/* The path of a name in a directory, "" when it has none. In effects_run, which has the reader. */
static void path_at(struct node *n, const struct loc *l, char *out, size_t size)
{
    struct records r;
    struct handle h;
    struct id128 dir;
    uint8_t type;
    bool orphan;

    out[0] = 0;
    index_reader_records(n->reader, &r);
    if (index_reader_by_lid(n->reader, l->lid, &h, &type, &dir, &orphan) < 0 ||
        path_of(&r, dir, out, size - l->len - 2) < 0)
        return;
    size_t len = strlen(out);
    snprintf(out + len, size - len, "%s%.*s", len ? "/" : "", (int)l->len, (const char *)l->name);
}

/* Something nobody told us of stands in the way: it is kept, never overwritten. */
static int move_aside(struct node *n, const struct effect *e, int dirfd, const char *name)
{
    char path[4096];

    path_at(n, &e->to, path, sizeof path);
    return keep_now(n, dirfd, name, path, KEPT_FOUND, false);
}

static bool is_kept(const struct loc *l)
{
    return l->kind == LOC_CONFLICT || l->kind == LOC_HISTORY;
}

static int make_room(struct node *n, const struct effect *e, const struct ends *x)
{
    struct stat st;

    if (fstatat(x->to.fd, x->to.name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!e->old_lid)
        return e->to.kind == LOC_DIR ? move_aside(n, e, x->to.fd, x->to.name) : 0;
    if (!e->displaced.kind)
        return 0;
    if (S_ISDIR(st.st_mode))
        return renameat(x->to.fd, x->to.name, x->displaced.fd, x->displaced.name) < 0 ? -errno : 0;
    /* A second name first, so that the place is never empty. */
    if (linkat(x->to.fd, x->to.name, x->displaced.fd, x->displaced.name, 0) == 0 || errno == EEXIST)
        return 0;
    if (!is_kept(&e->displaced))
        return -errno;
    keep_lost(n, &e->displaced, -errno); /* the farm goes on without the loser */
    return 0;
}

/* Another name, where something else may stand: that is replaced in one step. */
static int run_link(struct node *n, const struct ends *x)
{
    char name[32];

    if (linkat(x->from.fd, x->from.name, x->to.fd, x->to.name, 0) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    snprintf(name, sizeof name, "l%016llx", (unsigned long long)n->next_key++);
    if (linkat(x->from.fd, x->from.name, n->staging->in, name, 0) < 0)
        return -errno;
    if (renameat(n->staging->in, name, x->to.fd, x->to.name) == 0)
        return 0;
    int rc = -errno;
    unlinkat(n->staging->in, name, 0);
    return rc;
}

static bool same_loc(const struct loc *a, const struct loc *b)
{
    return a->kind == b->kind && a->lid == b->lid && a->len == b->len &&
           memcmp(a->name, b->name, a->len) == 0;
}

static int run_move(struct node *n, const struct effect *e)
{
    struct ends x;
    struct handle h;

    int rc = ends_open(n, e, &x);
    if (rc)
        goto out;
    if (handle_of_name(x.to.fd, x.to.name, &h) == 0 && handle_eq(&h, &e->handle)) {
        /* Done already. A rename between two names of one inode does nothing: drop the old one. */
        if (handle_of_name(x.from.fd, x.from.name, &h) == 0 && handle_eq(&h, &e->handle) &&
            !e->dir && e->op == EFFECT_MOVE && !same_loc(&e->from, &e->to))
            unlinkat(x.from.fd, x.from.name, 0);
        goto out;
    }
    if (handle_of_name(x.from.fd, x.from.name, &h) < 0 || !handle_eq(&h, &e->handle)) {
        rc = -ENOENT;
        goto out;
    }
    rc = make_room(n, e, &x);
    if (rc)
        goto out;
    if (e->op == EFFECT_LINK)
        rc = run_link(n, &x);
    else
        rc = renameat(x.from.fd, x.from.name, x.to.fd, x.to.name) < 0 ? -errno : 0;
out:
    ends_close(n, &x);
    return rc;
}

static int run_remove(struct node *n, const struct effect *e)
{
    struct ends x;
    struct handle h;

    int rc = ends_open(n, e, &x);
    if (!rc && handle_of_name(x.from.fd, x.from.name, &h) == 0 &&
        (!e->handle.len || handle_eq(&h, &e->handle)) &&
        unlinkat(x.from.fd, x.from.name, e->dir ? AT_REMOVEDIR : 0) < 0)
        rc = -errno;
    ends_close(n, &x);
    return rc == -ENOENT || rc == -ESTALE ? 0 : rc;
}

/* Attributes and time of an inode as its records have them. */
static int run_attr(struct node *n, const struct effect *e)
{
    struct record a, c;
    struct node_fd *ref;
    int fd;

    int rc = nodes_get_fd(n->nodes, e->lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
    if (index_reader_record(n->reader, REC_CONTENT, e->rid, &c) == 0) {
        if (index_reader_record(n->reader, REC_ATTR, e->rid, &a) == 0) {
            int64_t mtime = record_mtime(&c.content, &a.attr);
            rc = attrs_apply(fd, &a.attr, &mtime);
        } else {
            rc = attrs_set_mtime(fd, c.content.mtime_ns);
        }
    }
    nodes_put_fd(n->nodes, ref);
    if (!rc && map_u64_set(&n->to_refresh, e->lid, n, NULL) < 0)
        log_debug("an inode is compared once more at the next start: no memory");
    if (n->mount)
        mount_forget_attr(n->mount, e->lid);
    return rc;
}

static void forget_loc(struct node *n, const struct loc *l, bool dir)
{
    if (l->kind != LOC_DIR)
        return;
    mount_forget_entry(n->mount, l->lid, l->name, l->len, dir);
    mount_forget_data(n->mount, l->lid);
}

/* Which inode the kernel may go on using although it leaves the tree; 0 none. */
static uint64_t departs(const struct effect *e)
{
    if (e->old_lid && e->displaced.kind == LOC_ORPHAN)
        return e->old_lid;
    return e->op == EFFECT_MOVE && e->to.kind == LOC_ORPHAN ? e->lid : 0;
}

void effect_tell(struct node *n, const struct effect *e)
{
    uint64_t gone = departs(e);

    if (!n->mount)
        return;
    forget_loc(n, &e->from, e->dir);
    forget_loc(n, &e->to, e->dir);
    if (e->lid && (e->op == EFFECT_LINK || e->op == EFFECT_ATTR))
        mount_forget_attr(n->mount, e->lid);
    if (gone)
        mount_release_orphan(n->mount, gone);
}

static int effect_run(struct node *n, const struct effect *e)
{
    uint64_t gone = departs(e);
    int rc = 0;

    if (gone && n->mount)
        rc = mount_depart(n->mount, gone, map_u64_get(&n->replaced, gone) != NULL);
    if (rc)
        return rc;
    switch (e->op) {
    case EFFECT_MOVE:
    case EFFECT_LINK: rc = run_move(n, e); break;
    case EFFECT_REMOVE: rc = run_remove(n, e); break;
    case EFFECT_ATTR: rc = run_attr(n, e); break;
    default: break;
    }
    if (e->op != EFFECT_ATTR && !e->dir && e->to.kind == LOC_DIR) {
        if (e->from.kind == LOC_IN)
            scan_verified(n, e->lid);
        if (map_u64_set(&n->to_refresh, e->lid, n, NULL) < 0)
            log_debug("an inode is compared once more at the next start: no memory");
    }
    if (e->old_lid)
        nodes_close_fds(n->nodes, e->old_lid);
    effect_tell(n, e);
    telling_add(n, e);
    return rc;
}

/* For the log: where, in words. */
static const char *loc_text(const struct loc *l, char *out, size_t size)
{
    static const char *const kinds[] = {[LOC_NONE] = "nowhere",
                                        [LOC_IN] = "in",
                                        [LOC_HIDDEN] = "hidden",
                                        [LOC_ORPHAN] = "orphans",
                                        [LOC_CONFLICT] = "conflicts"};
    const char *name = (const char *)l->name;
    if (l->kind == LOC_DIR)
        snprintf(out, size, "directory %llu/%.*s", (unsigned long long)l->lid, l->len, name);
    else
        snprintf(out, size, "%s/%.*s",
                 l->kind < sizeof kinds / sizeof kinds[0] && kinds[l->kind] ? kinds[l->kind]
                                                                            : "history",
                 l->len, name);
    return out;
}

static void complain(struct node *n, const struct effect *e, size_t step, int rc)
{
    char path[512], from[300], to[300];

    node_path(n, e->rid, path, sizeof path);
    log_warn_code(rc, "installing %s (step %zu, %u: from %s to %s)", path, step, e->op,
                  loc_text(&e->from, from, sizeof from), loc_text(&e->to, to, sizeof to));
    events_note(n->events, "install", "%s: %s", path, err_text(rc));
}

void effects_run(struct node *n, bool again)
{
    if (n->effects.n == 0)
        return;
    if (index_reader_begin(n->reader) < 0) {
        log_error("the index cannot be read; changes of peers are installed at the next start");
        return;
    }
    for (size_t i = 0; i < n->effects.n; i++) {
        const struct effect *e = &n->effects.v[i];
        int rc = effect_run(n, e);
        /* A directory that is gone took what was to happen in it along. */
        if (rc == -ESTALE || (again && rc == -ENOENT))
            continue;
        if (rc && is_kept(&e->to)) {
            keep_lost(n, &e->to, rc);
            continue;
        }
        if (rc)
            complain(n, e, i, rc);
    }
    index_reader_end(n->reader);
    n->effects.n = 0;
    telling_flush(n);
}
