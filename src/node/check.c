/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * One name of the backing tree against the index. What differs was changed while nobody was looking
 * and becomes local records.
 *
 * The mount may be served and peers heard meanwhile. What is read of the tree and what the index
 * says belong together only while the name is claimed and all intents logged before have been
 * consumed. So a name is looked at twice: first freely (what is equal, is), and when it differs
 * once more under its claim.
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct look {
    struct stat st;
    struct handle h;
    struct id128 nid; /* who is at the place in the index */
    struct index_node row;
    bool there;    /* on disk */
    bool recorded; /* nid is valid */
    bool rowed;    /* row is valid */
    bool same;
};

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint8_t type_of(const struct stat *st)
{
    return S_ISREG(st->st_mode)   ? NODE_REG
           : S_ISDIR(st->st_mode) ? NODE_DIR
           : S_ISLNK(st->st_mode) ? NODE_LNK
                                  : NODE_FIFO;
}

/* A new lid for a backing inode the index does not know, or the one the mount gave it. */
static int new_lid(struct node *n, const struct handle *h, uint8_t type, uint64_t *lid)
{
    struct node_ref ref;

    int rc = nodes_new_lid(n->nodes, lid);
    if (!rc)
        rc = nodes_add(n->nodes, *lid, type, h, &ref);
    if (!rc)
        *lid = ref.lid;
    return rc;
}

/* A file that is held back is read whole when it is announced. */
static bool agrees(const struct index_node *row, const struct stat *st)
{
    return (row->flags & NODE_HELD) ||
           (row->ctime_ns == ns_of(st->st_ctim) && row->mtime_ns == ns_of(st->st_mtim) &&
            (row->type != NODE_REG || row->size == (uint64_t)st->st_size));
}

static int look_at(struct node *n, const struct check_dir *d, const char *name, struct look *l)
{
    struct name_rec rec;

    memset(l, 0, offsetof(struct look, row));
    l->rowed = l->recorded = l->same = false;
    l->there = fstatat(d->fd, name, &l->st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!l->there && errno != ENOENT)
        return -errno;
    if (l->there && S_ISSOCK(l->st.st_mode)) {
        l->same = true; /* nobody's business */
        return 0;
    }
    int rc = l->there ? handle_of_name(d->fd, name, &l->h) : 0;
    if (rc == -ENOENT)
        l->there = false, rc = 0;
    if (!rc)
        rc = n->records.who_is_at(n->records.ctx, d->rid, (const uint8_t *)name,
                                  (uint8_t)strlen(name), &l->nid);
    l->recorded = rc == 0;
    if (!rc)
        rc = n->records.get_name(n->records.ctx, l->nid, &rec);
    if (!rc)
        rc = index_get_node(n->index, rec.inode, &l->row);
    l->rowed = rc == 0;
    if (rc && rc != -ENOENT)
        return rc;
    l->same = l->there ? l->rowed && handle_eq(&l->row.handle, &l->h) && agrees(&l->row, &l->st)
                       : !l->recorded;
    return 0;
}

/* ---- dropping names ---- */

struct below {
    struct id128 *v;
    size_t n, size;
};

static int visit_below(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct below *b = arg;

    (void)name;
    (void)len;
    if (b->n == b->size) {
        size_t size = b->size ? b->size * 2 : 64;
        struct id128 *v = realloc(b->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        b->v = v;
        b->size = size;
    }
    b->v[b->n++] = nid;
    return 0;
}

static int drop_below(struct node *n, struct id128 dir)
{
    struct below b = {NULL, 0, 0};
    struct place pl;

    int rc = index_places_in(n->index, dir, visit_below, &b);
    for (size_t i = 0; i < b.n && !rc; i++) {
        rc = n->records.get_place(n->records.ctx, b.v[i], &pl);
        if (!rc && pl.kind == PLACE_AT && id_eq(pl.parent, dir))
            rc = check_drop(n, dir, pl.name, pl.name_len);
    }
    free(b.v);
    return rc;
}

int check_drop(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len)
{
    struct name_rec rec;
    struct index_node row;
    struct id128 nid;

    int rc = n->records.who_is_at(n->records.ctx, parent, name, len, &nid);
    if (!rc)
        rc = n->records.get_name(n->records.ctx, nid, &rec);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    bool have = index_get_node(n->index, rec.inode, &row) == 0;
    if (have && row.type == NODE_DIR)
        rc = drop_below(n, rec.inode);
    if (!rc)
        rc = have && (row.flags & NODE_HELD)
                 ? index_forget_name(n->index, nid)
                 : replica_unlink(&n->replica, node_wall(n), parent, name, len);
    return rc ? rc : local_lost(n, rec.inode, false);
}

/* ---- taking up ---- */

/* Read anew and recorded. One that is being written is recorded when that is over. */
static int reseal(struct node *n, uint64_t lid)
{
    int rc = dirty_all(n->dirty, lid);
    if (!rc)
        /* After a stop of the machine it may be what a peer has whole: it must not win then. */
        rc = seal_file(n, lid, n->restored ? 1 : 0);
    if (rc == -EBUSY)
        return map_u64_set(&n->to_seal, lid, n, NULL);
    return rc;
}

/* The record is ahead of the file, whose next content is on its way: what was changed here was made
 * from the old one. It is kept beside, and the file stays to be replaced. */
static int keep_stale(struct node *n, const struct check_dir *d, const char *name,
                      struct index_node *row)
{
    struct stat st;

    int rc = keep_now(n, d->fd, name, name, KEPT_LATE, true);
    if (!rc && fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        rc = -errno;
    if (rc)
        return rc;
    row->size = (uint64_t)st.st_size;
    row->mtime_ns = ns_of(st.st_mtim);
    row->ctime_ns = ns_of(st.st_ctim);
    return index_put_node(n->index, row, false);
}

/* The same inode, changed. */
static int take_changed(struct node *n, const struct check_dir *d, const char *name, struct look *l)
{
    struct index_node *row = &l->row;
    bool data = row->mtime_ns != ns_of(l->st.st_mtim) || row->size != (uint64_t)l->st.st_size;
    int rc = 0;

    if (row->type == NODE_DIR)
        rc = local_touch_dir(n, row->lid);
    else if (row->type == NODE_REG && (row->flags & NODE_NODATA))
        return data ? keep_stale(n, d, name, row) : local_stat(n, row->lid, false, 0);
    else if (row->type == NODE_REG && (data || !(row->flags & NODE_DAMAGED)))
        rc = reseal(n, row->lid); /* what is damaged is no change, and is repaired */
    bool times = row->type != NODE_REG && row->type != NODE_DIR && data;
    return rc ? rc : local_stat(n, row->lid, times, 0);
}

static int take_new(struct node *n, const struct check_dir *d, const char *name, struct look *l)
{
    struct id128 rid;
    uint64_t lid;
    bool gone;

    if (n->adopting) { /* a peer's, perhaps: walked once more when they were heard */
        n->passed = true;
        return 0;
    }
    int rc = rebuild_buried(n, d, name, &l->st, &gone);
    if (rc || gone)
        return rc;
    rc = new_lid(n, &l->h, type_of(&l->st), &lid);
    if (!rc)
        rc = local_found(n, d->rid, (const uint8_t *)name, (uint8_t)strlen(name), lid, &l->h,
                         scan_first(n), &rid);
    if (!rc && S_ISDIR(l->st.st_mode))
        rc = scan_late(n, lid);
    return rc;
}

int check_replaced(struct node *n, struct index_node *row, uint64_t lid, const struct handle *h)
{
    uint64_t was = row->lid;

    row->handle = *h;
    row->lid = lid;
    dirty_drop(n->dirty, was);
    int rc = index_put_node(n->index, row, false);
    if (!rc)
        rc = map_u64_set(&n->settle, lid, n, NULL);
    nodes_remove(n->nodes, was);
    if (row->flags & NODE_NODATA)
        return rc; /* what is awaited replaces this one too */
    if (!rc)
        rc = reseal(n, lid);
    return rc ? rc : local_stat(n, lid, false, 0);
}

struct elsewhere {
    struct node *n;
    const struct handle *handle;
    struct id128 but; /* not this name */
    bool want;        /* looking for a place that still has it (or has it no more) */
    struct place at;  /* the first such */
    bool found;
};

static int on_disk(struct node *n, const struct place *pl, const struct handle *h)
{
    char text[NAME_LEN_MAX + 1];
    struct index_node dir;
    struct node_fd *ref;
    struct handle there;
    int fd;

    memcpy(text, pl->name, pl->name_len);
    text[pl->name_len] = 0;
    if (index_get_node(n->index, pl->parent, &dir) ||
        nodes_get_fd(n->nodes, dir.lid, NODES_PATH, &ref, &fd))
        return 0;
    int same = handle_of_name(fd, text, &there) == 0 && handle_eq(&there, h);
    nodes_put_fd(n->nodes, ref);
    return same;
}

static int visit_elsewhere(void *arg, const struct name_rec *name)
{
    struct elsewhere *x = arg;
    const struct records *r = &x->n->records;

    if (id_eq(name->nid, x->but) || r->get_place(r->ctx, name->nid, &x->at) ||
        x->at.kind != PLACE_AT || on_disk(x->n, &x->at, x->handle) != x->want)
        return 0;
    x->found = true;
    return 1;
}

bool check_linked(struct node *n, const struct index_node *row, struct id128 but)
{
    struct elsewhere x = {.n = n, .handle = &row->handle, .but = but, .want = true};

    return n->records.names_of(n->records.ctx, row->rid, visit_elsewhere, &x) == 1 && x.found;
}

/* A known inode under a name that is not its: it was renamed, or linked here. */
static int take_known(struct node *n, const struct check_dir *d, const uint8_t *name, uint8_t len,
                      const struct index_node *row)
{
    struct elsewhere x = {.n = n, .handle = &row->handle};
    struct id128 nid;

    int rc = n->records.names_of(n->records.ctx, row->rid, visit_elsewhere, &x);
    if (rc < 0)
        return rc;
    if (x.found)
        rc = replica_rename(&n->replica, node_wall(n), x.at.parent, x.at.name, x.at.name_len,
                            d->rid, name, len, false);
    else
        rc = replica_link(&n->replica, node_wall(n), 0, row->rid, d->rid, name, len, &nid);
    if (!rc && row->type == NODE_DIR)
        rc = scan_late(n, row->lid);
    return rc;
}

static bool same_target(const struct check_dir *d, struct node *n, const char *name,
                        struct id128 rid)
{
    char target[TARGET_LEN_MAX + 1];
    struct content_rec c;

    ssize_t len = readlinkat(d->fd, name, target, sizeof target);
    return len > 0 && n->records.get_content(n->records.ctx, rid, &c) == 0 && c.target_len == len &&
           memcmp(c.target, target, (size_t)len) == 0;
}

/* A directory, symlink or FIFO that is another inode now and the same thing: the folder was copied,
 * or restored from a copy. */
static bool is_rehomed(struct node *n, const struct check_dir *d, const char *name,
                       const struct look *l)
{
    if (!l->rowed || l->row.type != type_of(&l->st))
        return false;
    return l->row.type == NODE_DIR || l->row.type == NODE_FIFO ||
           (l->row.type == NODE_LNK && same_target(d, n, name, l->row.rid));
}

static int take_rehomed(struct node *n, struct look *l)
{
    struct index_node *row = &l->row;
    uint64_t was = row->lid;

    row->handle = l->h;
    int rc = new_lid(n, &l->h, row->type, &row->lid);
    if (!rc)
        rc = index_put_node(n->index, row, false);
    if (!rc)
        rc = map_u64_set(&n->settle, row->lid, n, NULL);
    nodes_remove(n->nodes, was);
    if (!rc && row->type == NODE_DIR)
        rc = scan_late(n, row->lid);
    if (!rc && row->type == NODE_DIR)
        rc = local_touch_dir(n, row->lid);
    return rc ? rc : local_stat(n, row->lid, false, 0);
}

static int take(struct node *n, struct check_dir *d, const char *name, struct look *l)
{
    struct index_node known;
    const uint8_t *text = (const uint8_t *)name;
    uint8_t len = (uint8_t)strlen(name);

    if (l->rowed && handle_eq(&l->row.handle, &l->h))
        return take_changed(n, d, name, l);
    d->changed = true;
    int is_known = index_get_node_by_handle(n->index, &l->h, &known);
    if (is_known && is_known != -ENOENT)
        return is_known;
    /* Another file in the place of one: an editor's save. The inode record stays. */
    if (is_known && l->rowed && l->row.type == NODE_REG && S_ISREG(l->st.st_mode) &&
        !check_linked(n, &l->row, l->nid)) {
        uint64_t lid;
        int rc = new_lid(n, &l->h, NODE_REG, &lid);
        if (!rc && (l->row.flags & NODE_NODATA))
            rc = keep_stale(n, d, name, &l->row);
        return rc ? rc : check_replaced(n, &l->row, lid, &l->h);
    }
    if (is_known && is_rehomed(n, d, name, l))
        return take_rehomed(n, l);
    int rc = check_drop(n, d->rid, text, len);
    if (!rc)
        rc = is_known ? take_new(n, d, name, l) : take_known(n, d, text, len, &known);
    if (!rc && !is_known) {
        struct look again;
        rc = look_at(n, d, name, &again); /* it may have been written to as well */
        if (!rc && again.there && again.rowed && !again.same)
            rc = take_changed(n, d, name, &again);
    }
    return rc;
}

/* Is the inode of a name that is not there gone for good? Else it may turn up elsewhere. */
static bool is_gone(struct node *n, const struct index_node *row)
{
    struct node_fd *ref;
    struct stat st;
    int fd;

    int rc = nodes_get_fd(n->nodes, row->lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc == -ESTALE || rc == -ENOENT;
    bool gone = fstat(fd, &st) == 0 && st.st_nlink == 0;
    nodes_put_fd(n->nodes, ref);
    return gone;
}

/* Under the claim, all intents consumed. */
static int check_claimed(struct node *n, struct check_dir *d, const char *name, bool final,
                         enum checked *out)
{
    struct index_node dir;
    struct look l;

    *out = CHECK_SAME;
    int rc = index_get_node_by_lid(n->index, d->lid, &dir);
    if (rc || !id_eq(dir.rid, d->rid))
        return rc == -ENOENT ? 0 : rc; /* removed meanwhile */
    rc = look_at(n, d, name, &l);
    if (rc || l.same)
        return rc;
    *out = CHECK_TAKEN;
    if (l.there)
        return take(n, d, name, &l);
    if (!final && l.rowed && !is_gone(n, &l.row)) {
        *out = CHECK_ABSENT;
        return 0;
    }
    d->changed = true;
    return check_drop(n, d->rid, (const uint8_t *)name, (uint8_t)strlen(name));
}

int check_name(struct node *n, struct check_dir *d, const char *name, bool final, enum checked *out)
{
    struct look l;

    *out = CHECK_SAME;
    int rc = look_at(n, d, name, &l);
    if (rc || l.same)
        return rc;
    uint64_t key = claims_key(d->lid, name, (uint8_t)strlen(name));
    *out = CHECK_BUSY;
    if (!claims_try(n->claims, key, 0))
        return 0;
    uint64_t upto = intent_head(n->intents);
    rc = apply_settle(n);
    if (!rc && intent_tail(n->intents) >= upto)
        rc = check_claimed(n, d, name, final, out);
    claims_drop(n->claims, key, 0);
    return rc;
}

int check_intent(struct node *n, uint64_t dir_lid, const uint8_t *name, uint8_t len, uint64_t lid)
{
    struct index_node dir, row;
    struct name_rec rec;
    struct id128 nid;

    if (!n->scan || !lid)
        return 0;
    int rc = index_get_node_by_lid(n->index, dir_lid, &dir);
    if (!rc)
        rc = index_get_node_by_lid(n->index, lid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = n->records.who_is_at(n->records.ctx, dir.rid, name, len, &nid);
    if (!rc)
        rc = n->records.get_name(n->records.ctx, nid, &rec);
    if (!rc && id_eq(rec.inode, row.rid))
        return 0;
    if (!rc)
        rc = check_drop(n, dir.rid, name, len);
    if (rc && rc != -ENOENT)
        return rc;
    struct check_dir d = {.rid = dir.rid, .lid = dir.lid, .fd = -1};
    return take_known(n, &d, name, len, &row);
}

/* ---- what a peer's batch is about ---- */

static int check_at(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len)
{
    char text[NAME_LEN_MAX + 1];
    struct index_node row;
    struct node_fd *ref;
    struct id128 canon;
    enum checked out;
    int fd;

    int rc = view_canon(&n->records, parent, &canon);
    if (!rc)
        rc = index_get_node(n->index, canon, &row);
    if (!rc)
        rc = nodes_get_fd(n->nodes, row.lid, NODES_PATH, &ref, &fd);
    if (rc)
        return rc == -ENOENT || rc == -ESTALE ? 0 : rc;
    memcpy(text, name, len);
    text[len] = 0;
    struct check_dir d = {.rid = canon, .lid = row.lid, .fd = fd};
    rc = check_name(n, &d, text, false, &out);
    nodes_put_fd(n->nodes, ref);
    if (!rc && d.changed)
        rc = map_u64_set(&n->to_touch, d.lid, n, NULL);
    return !rc && out == CHECK_BUSY ? -EAGAIN : rc;
}

static int visit_name(void *arg, const struct name_rec *name)
{
    return visit_below(arg, NULL, 0, name->nid);
}

static int check_nids(struct node *n, const struct below *b)
{
    struct place pl;
    int rc = 0;

    for (size_t i = 0; i < b->n && !rc; i++) {
        rc = n->records.get_place(n->records.ctx, b->v[i], &pl);
        if (!rc && pl.kind == PLACE_AT)
            rc = check_at(n, pl.parent, pl.name, pl.name_len);
        else if (rc == -ENOENT)
            rc = 0;
    }
    return rc;
}

static int check_inode(struct node *n, struct id128 rid)
{
    struct below b = {NULL, 0, 0};
    struct index_node row;

    int rc = n->records.names_of(n->records.ctx, rid, visit_name, &b);
    if (!rc)
        rc = check_nids(n, &b);
    free(b.v);
    if (!rc && index_get_node(n->index, rid, &row) == 0)
        scan_verified(n, row.lid);
    return rc;
}

int check_record(struct node *n, const struct record *r)
{
    struct index_node row;
    struct place pl;

    if (r->kind != REC_NAME)
        return check_inode(n, r->kind == REC_CONTENT ? r->content.rid : r->attr.rid);
    int rc = check_at(n, r->name.parent, r->name.name, r->name.name_len);
    if (!rc && n->records.get_place(n->records.ctx, r->name.nid, &pl) == 0 && pl.kind == PLACE_AT)
        rc = check_at(n, pl.parent, pl.name, pl.name_len);
    if (rc || r->name.alive || index_get_node(n->index, r->name.inode, &row) ||
        row.type != NODE_DIR)
        return rc;
    return scan_directory(n, row.lid); /* what nobody knows of keeps its directory */
}
