/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The scan: backing tree against index, before anything is served. What changed while nobody was
 * looking becomes local records; at the first start that is everything.
 *
 * Directory by directory, the stack holds their lids. A name that is gone is only noted, and dealt
 * with at the end: it may turn up elsewhere as a rename.
 */
#include "node/node.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TXN_CHANGES 500u
#define PROGRESS_US 1000000u
#define EMPTY_LEAST 10u /* names below which an empty folder is believed */

struct gone {
    struct id128 parent;
    struct id128 nid;
    uint8_t len;
    uint8_t name[NAME_LEN_MAX];
};

struct scan {
    struct node *n;
    uint64_t *stack; /* directories to look into: lids */
    size_t depth, size;
    struct gone *gone;
    size_t ngone, gone_size;
    uint64_t seen, changes, since_commit, told_us;
    size_t root_entries;
};

struct dir {
    struct scan *s;
    struct id128 rid;
    uint64_t lid;
    int fd;
    bool changed;
};

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int push(struct scan *s, uint64_t lid)
{
    if (s->depth == s->size) {
        size_t size = s->size ? s->size * 2 : 256;
        uint64_t *v = realloc(s->stack, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        s->stack = v;
        s->size = size;
    }
    s->stack[s->depth++] = lid;
    return 0;
}

/* A new lid for a backing inode the index does not know. */
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

static uint8_t type_of(const struct stat *st)
{
    return S_ISREG(st->st_mode)   ? NODE_REG
           : S_ISDIR(st->st_mode) ? NODE_DIR
           : S_ISLNK(st->st_mode) ? NODE_LNK
                                  : NODE_FIFO;
}

/* ---- one entry ---- */

static int reseal(struct node *n, uint64_t lid)
{
    int rc = dirty_all(n->dirty, lid);
    if (!rc)
        rc = seal_file(n, lid, 0);
    return rc;
}

/* The same inode at the same name: was it changed? */
static int entry_same(struct dir *d, struct index_node *row, const struct stat *st)
{
    struct node *n = d->s->n;

    if (row->ctime_ns == ns_of(st->st_ctim) && row->mtime_ns == ns_of(st->st_mtim) &&
        (row->type != NODE_REG || row->size == (uint64_t)st->st_size))
        return 0;
    d->s->since_commit++;
    if (row->type == NODE_DIR) {
        int rc = local_touch_dir(n, row->lid);
        return rc ? rc : local_stat(n, row->lid, false, 0);
    }
    bool times = row->mtime_ns != ns_of(st->st_mtim);
    if (row->type == NODE_REG) {
        int rc = reseal(n, row->lid);
        if (rc)
            return rc;
        times = false; /* the content's time */
    }
    return local_stat(n, row->lid, times, 0);
}

static int entry_new(struct dir *d, const char *name, const struct handle *h, const struct stat *st)
{
    struct node *n = d->s->n;
    struct id128 rid;
    uint64_t lid;

    int rc = new_lid(n, h, type_of(st), &lid);
    if (!rc)
        rc = local_found(n, d->rid, (const uint8_t *)name, (uint8_t)strlen(name), lid, h,
                         !n->meta.scanned, &rid);
    d->changed = true;
    d->s->changes++;
    d->s->since_commit += 4;
    return rc;
}

/* A file was put in the place of another: an editor's save. The inode record stays, the file behind
 * it is another one. */
static int entry_replaced(struct dir *d, struct index_node *row, const struct handle *h)
{
    struct node *n = d->s->n;

    row->handle = *h;
    int rc = new_lid(n, h, NODE_REG, &row->lid);
    if (!rc)
        rc = index_put_node(n->index, row, false);
    if (!rc)
        rc = map_u64_set(&n->settle, row->lid, n, NULL);
    if (!rc)
        rc = reseal(n, row->lid);
    if (!rc)
        rc = local_stat(n, row->lid, false, 0);
    d->changed = true;
    d->s->changes++;
    d->s->since_commit += 4;
    return rc;
}

struct still {
    struct scan *s;
    const struct handle *handle;
    struct id128 parent; /* of a place that has it no more */
    uint8_t len;
    uint8_t name[NAME_LEN_MAX];
    bool found;
};

static int on_disk(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len,
                   const struct handle *h)
{
    char text[NAME_LEN_MAX + 1];
    struct index_node dir;
    struct node_fd *ref;
    struct handle there;
    int fd;

    memcpy(text, name, len);
    text[len] = 0;
    if (index_get_node(n->index, parent, &dir) ||
        nodes_get_fd(n->nodes, dir.lid, NODES_PATH, &ref, &fd))
        return 0;
    int same = handle_of_name(fd, text, &there) == 0 && handle_eq(&there, h);
    nodes_put_fd(n->nodes, ref);
    return same;
}

static int visit_still(void *arg, const struct name_rec *name)
{
    struct still *x = arg;
    struct node *n = x->s->n;
    struct place pl;

    if (n->records.get_place(n->records.ctx, name->nid, &pl) || pl.kind != PLACE_AT)
        return 0;
    if (on_disk(n, pl.parent, pl.name, pl.name_len, x->handle))
        return 0;
    x->found = true;
    x->parent = pl.parent;
    x->len = pl.name_len;
    memcpy(x->name, pl.name, pl.name_len);
    return 1;
}

/* A known inode under a name that is not its: renamed or linked here meanwhile. */
static int entry_known(struct dir *d, const char *name, const struct index_node *row)
{
    struct node *n = d->s->n;
    struct still x = {.s = d->s, .handle = &row->handle};
    struct id128 nid;
    uint8_t len = (uint8_t)strlen(name);

    int rc = n->records.names_of(n->records.ctx, row->rid, visit_still, &x);
    if (rc < 0)
        return rc;
    if (x.found)
        rc = replica_rename(&n->replica, node_wall(n), x.parent, x.name, x.len, d->rid,
                            (const uint8_t *)name, len, false);
    else
        rc = replica_link(&n->replica, node_wall(n), 0, row->rid, d->rid, (const uint8_t *)name,
                          len, &nid);
    if (!rc)
        rc = local_stat(n, row->lid, false, 0);
    d->changed = true;
    d->s->changes++;
    d->s->since_commit += 4;
    return rc;
}

static int drop_name(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len);

static int entry(struct dir *d, const char *name)
{
    struct node *n = d->s->n;
    struct index_node row, known;
    struct name_rec rec;
    struct handle h;
    struct id128 nid;
    struct stat st;
    uint8_t len = (uint8_t)strlen(name);

    if (fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (S_ISSOCK(st.st_mode))
        return 0;
    d->s->seen++;
    int rc = handle_of_name(d->fd, name, &h);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    int is_known = index_get_node_by_handle(n->index, &h, &known);
    if (is_known && is_known != -ENOENT)
        return is_known;
    rc = n->records.who_is_at(n->records.ctx, d->rid, (const uint8_t *)name, len, &nid);
    if (rc == -ENOENT)
        return is_known == 0 ? entry_known(d, name, &known) : entry_new(d, name, &h, &st);
    if (!rc)
        rc = n->records.get_name(n->records.ctx, nid, &rec);
    if (!rc)
        rc = index_get_node(n->index, rec.inode, &row);
    if (rc)
        return rc;
    if (handle_eq(&row.handle, &h))
        return entry_same(d, &row, &st);
    if (is_known != 0 && row.type == NODE_REG && S_ISREG(st.st_mode))
        return entry_replaced(d, &row, &h);
    rc = drop_name(n, d->rid, (const uint8_t *)name, len);
    if (rc)
        return rc;
    return is_known == 0 ? entry_known(d, name, &known) : entry_new(d, name, &h, &st);
}

/* ---- one directory ---- */

struct missing {
    struct dir *d;
};

static int visit_missing(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct missing *m = arg;
    struct scan *s = m->d->s;
    char text[NAME_LEN_MAX + 1];
    struct stat st;

    memcpy(text, name, len);
    text[len] = 0;
    if (fstatat(m->d->fd, text, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    if (errno != ENOENT)
        return -errno;
    if (s->ngone == s->gone_size) {
        size_t size = s->gone_size ? s->gone_size * 2 : 64;
        struct gone *v = realloc(s->gone, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        s->gone = v;
        s->gone_size = size;
    }
    struct gone *g = &s->gone[s->ngone++];
    g->parent = m->d->rid;
    g->nid = nid;
    g->len = len;
    memcpy(g->name, name, len);
    return 0;
}

/* Records and view of what was found so far, on disk. */
static int commit(struct scan *s)
{
    struct node *n = s->n;

    int rc = local_finish(n);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    n->nseeds = 0; /* places were set as they are in the tree */
    rc = txn_commit(n);
    if (!rc)
        rc = txn_begin(n);
    s->since_commit = 0;
    return rc;
}

static int progress(struct scan *s)
{
    char text[80];

    if (node_mono(s->n) - s->told_us < PROGRESS_US)
        return 0;
    s->told_us = node_mono(s->n);
    snprintf(text, sizeof text, "%" PRIu64 " names checked, %" PRIu64 " changed", s->seen,
             s->changes);
    node_set_state(s->n, STATE_RECOVERING, text);
    log_info("comparing the folder with the index: %s", text);
    return 0;
}

static bool skipped(const struct dir *d, const char *name)
{
    const char *hide = d->s->n->args->hide;

    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return true;
    return d->lid == LID_ROOT && (strcmp(name, ".farm") == 0 || (hide && strcmp(name, hide) == 0));
}

static int scan_entries(struct dir *d)
{
    struct scan *s = d->s;
    struct dirent *de;
    int rc = 0;

    int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        rc = -errno;
        if (fd >= 0)
            close(fd);
        return rc;
    }
    while (!rc && (errno = 0, de = readdir(dir))) {
        if (skipped(d, de->d_name))
            continue;
        s->root_entries += d->lid == LID_ROOT;
        rc = entry(d, de->d_name);
        if (!rc && s->since_commit >= TXN_CHANGES)
            rc = commit(s);
        progress(s);
    }
    if (!rc && errno)
        rc = -errno;
    closedir(dir);
    return rc;
}

static int visit_subdir(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct dir *d = arg;
    struct node *n = d->s->n;
    struct name_rec rec;
    struct index_node row;

    (void)name;
    (void)len;
    if (n->records.get_name(n->records.ctx, nid, &rec) || index_get_node(n->index, rec.inode, &row))
        return 0;
    return row.type == NODE_DIR ? push(d->s, row.lid) : 0;
}

static int scan_dir(struct scan *s, uint64_t lid)
{
    struct node *n = s->n;
    struct dir d = {.s = s, .lid = lid};
    struct index_node row;
    struct node_fd *ref;

    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    d.rid = row.rid;
    rc = nodes_get_fd(n->nodes, lid, NODES_READ, &ref, &d.fd);
    if (rc)
        return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
    rc = scan_entries(&d);
    struct missing m = {&d};
    if (!rc)
        rc = index_places_in(n->index, d.rid, visit_missing, &m);
    if (!rc)
        rc = index_places_in(n->index, d.rid, visit_subdir, &d);
    nodes_put_fd(n->nodes, ref);
    if (!rc && d.changed)
        rc = local_touch_dir(n, lid);
    return rc;
}

/* ---- what is gone ---- */

struct fallen {
    struct node *n;
    struct gone *v;
    size_t count, size;
    struct id128 parent;
};

static int visit_fallen(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct fallen *f = arg;

    if (f->count == f->size) {
        size_t size = f->size ? f->size * 2 : 64;
        struct gone *v = realloc(f->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        f->v = v;
        f->size = size;
    }
    struct gone *g = &f->v[f->count++];
    g->parent = f->parent;
    g->nid = nid;
    g->len = len;
    memcpy(g->name, name, len);
    return 0;
}

/* A name that is not in the tree any more, and all below it: children first. */
static int drop_name(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len)
{
    struct name_rec rec;
    struct index_node row;
    struct id128 nid;

    int rc = n->records.who_is_at(n->records.ctx, parent, name, len, &nid);
    if (!rc)
        rc = n->records.get_name(n->records.ctx, nid, &rec);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (index_get_node(n->index, rec.inode, &row) == 0 && row.type == NODE_DIR) {
        struct fallen f = {.n = n, .parent = rec.inode};
        rc = index_places_in(n->index, rec.inode, visit_fallen, &f);
        for (size_t i = 0; i < f.count && !rc; i++)
            rc = drop_name(n, f.v[i].parent, f.v[i].name, f.v[i].len);
        free(f.v);
    }
    if (!rc)
        rc = replica_unlink(&n->replica, node_wall(n), parent, name, len);
    return rc ? rc : local_lost(n, rec.inode, false);
}

static int drop_gone(struct scan *s)
{
    struct node *n = s->n;
    struct id128 now;
    int rc = 0;

    for (size_t i = 0; i < s->ngone && !rc; i++) {
        struct gone *g = &s->gone[i];
        rc = n->records.who_is_at(n->records.ctx, g->parent, g->name, g->len, &now);
        if (rc == -ENOENT || (rc == 0 && !id_eq(now, g->nid))) {
            rc = 0; /* renamed, and found again */
            continue;
        }
        if (!rc)
            rc = drop_name(n, g->parent, g->name, g->len);
        s->changes++;
        s->since_commit += 4;
        struct index_node dir;
        if (!rc && index_get_node(n->index, g->parent, &dir) == 0)
            rc = local_touch_dir(n, dir.lid);
        if (!rc && s->since_commit >= TXN_CHANGES)
            rc = commit(s);
    }
    return rc;
}

static int count_name(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    size_t *count = arg;
    (void)name;
    (void)len;
    (void)nid;
    ++*count;
    return 0;
}

/* An empty folder that used to be full: the wrong disk, or none, is mounted there. */
static int check_empty(struct scan *s)
{
    size_t held = 0;

    int rc = index_places_in(s->n->index, RID_ROOT, count_name, &held);
    if (rc || s->root_entries > 0 || held < EMPTY_LEAST)
        return rc;
    log_error("%s is empty but held %zu names in its root: is the right file system mounted there? "
              "Nothing was deleted anywhere. To start anew, empty the state directory %s",
              s->n->config->dir, held, s->n->config->state);
    return FARM_ECHANGED;
}

int scan_tree(struct node *n)
{
    struct scan s = {.n = n, .told_us = node_mono(n)};
    uint64_t started = node_mono(n);

    int rc = push(&s, LID_ROOT);
    if (!rc)
        rc = txn_begin(n);
    if (rc) {
        free(s.stack);
        return rc;
    }
    rc = local_stat(n, LID_ROOT, false, 0);
    while (!rc && s.depth > 0)
        rc = scan_dir(&s, s.stack[--s.depth]);
    if (!rc)
        rc = check_empty(&s);
    if (!rc)
        rc = drop_gone(&s);
    n->meta.scanned = 1;
    if (!rc)
        rc = local_finish(n);
    n->nseeds = 0;
    if (rc)
        txn_abort(n);
    else
        rc = txn_commit(n);
    free(s.stack);
    free(s.gone);
    if (!rc)
        log_info("%" PRIu64 " names checked, %" PRIu64 " changed, %.1f s", s.seen, s.changes,
                 (double)(node_mono(n) - started) / 1e6);
    return rc;
}
