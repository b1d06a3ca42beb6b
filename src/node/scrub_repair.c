/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What the scrub found, dealt with by the core thread, which looks once more inside a transaction
 * in which all that was done through the mount is in the records.
 *
 *   bytes differ, nobody wrote    -> asked of the peers; what is here is kept when it is replaced
 *   a name is gone                -> linked again, made again, or asked of the peers
 *   something else has the name,
 *   written behind the mount      -> taken up as a local change, as the scan before serving would
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_US (5ull * 1000 * 1000) /* then it is said that nobody has it */
#define RAISED_MAX 100u                  /* events for single files; the rest is counted */
#define PLACES_MAX 64u

struct scrub_repair {
    struct id128 rid;
    uint64_t since_us; /* mono */
    bool missing, told;
    char path[256];
};

struct deal {
    const struct scrub_find *f;
    bool wanted;               /* asked of the peers */
    bool missing;              /* because it is not there at all */
    bool made;                 /* put back without the peers */
    bool taken;                /* a change behind the mount, now a local one */
    bool moved;                /* a directory that is elsewhere: left alone */
    uint64_t gone[PLACES_MAX]; /* lids that stand for nothing any more */
    size_t ngone;
    uint64_t dirs[PLACES_MAX]; /* entries the kernel may have wrong */
    char names[PLACES_MAX][NAME_LEN_MAX + 1];
    size_t nnames;
    char path[256];
};

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* ---- bytes ---- */

/* Is the file just as it was when it was looked at? */
static bool untouched(struct node *n, const struct scrub_find *f)
{
    struct node_fd *ref;
    struct stat st;
    int fd;

    if (dirty_is(n->dirty, f->lid) || nodes_get_fd(n->nodes, f->lid, NODES_PATH, &ref, &fd) < 0)
        return false;
    bool same = fstat(fd, &st) == 0 && (uint64_t)st.st_size == f->size &&
                ns_of(st.st_mtim) == f->mtime_ns && ns_of(st.st_ctim) == f->ctime_ns;
    nodes_put_fd(n->nodes, ref);
    return same;
}

static int deal_damaged(struct node *n, struct deal *d)
{
    if (!untouched(n, d->f))
        return 0;
    d->wanted = true;
    return apply_want_damaged(n, d->f->rid, d->f->stamp);
}

static int deal_changed(struct node *n, struct deal *d)
{
    uint64_t lid = d->f->lid, head = index_log_head(n->index);

    if (!untouched(n, d->f))
        return 0;
    int rc = 0;
    if (d->f->kind == SCRUB_WRITTEN) {
        rc = dirty_all(n->dirty, lid);
        if (!rc)
            rc = seal_file(n, lid, 0);
        if (rc == -EBUSY)
            return 0; /* it is sealed when its writer pauses */
    }
    if (!rc)
        rc = local_stat(n, lid, false, 0);
    d->taken = index_log_head(n->index) != head;
    return rc;
}

/* ---- names ---- */

struct at {
    struct node *n;
    struct id128 nids[PLACES_MAX];
    struct place places[PLACES_MAX];
    size_t count;
};

static int visit_at(void *arg, const struct name_rec *name)
{
    struct at *x = arg;

    if (x->count == PLACES_MAX)
        return 0;
    int rc = x->n->records.get_place(x->n->records.ctx, name->nid, &x->places[x->count]);
    if (rc || x->places[x->count].kind != PLACE_AT)
        return rc == -ENOENT ? 0 : rc;
    x->nids[x->count++] = name->nid;
    return 0;
}

enum here { HERE, ABSENT, OTHER, BUSY };

/* What is at a place? Nobody is changing it, and all that was done there is recorded: else BUSY. */
static int what_is_at(struct node *n, const struct place *p, const struct index_node *row,
                      enum here *out)
{
    struct index_node dir;
    struct node_fd *ref;
    struct handle h;
    char name[NAME_LEN_MAX + 1];
    int fd;

    *out = ABSENT;
    int rc = index_get_node(n->index, p->parent, &dir);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    uint64_t key = claims_key(dir.lid, p->name, p->name_len), before = intent_head(n->intents);
    *out = BUSY;
    if (!claims_try(n->claims, key, 0))
        return 0;
    bool drained =
        intent_tail(n->intents) >= intent_head(n->intents) && before == intent_head(n->intents);
    memcpy(name, p->name, p->name_len);
    name[p->name_len] = 0;
    rc = nodes_get_fd(n->nodes, dir.lid, NODES_PATH, &ref, &fd);
    if (!rc) {
        rc = handle_of_name(fd, name, &h);
        nodes_put_fd(n->nodes, ref);
    }
    claims_drop(n->claims, key, 0);
    if (!drained)
        return 0;
    if (!rc)
        *out = handle_eq(&h, &row->handle) ? HERE : OTHER;
    else if (rc == -ENOENT || rc == -ESTALE)
        *out = ABSENT;
    else
        return rc;
    return 0;
}

static bool is_alive(struct node *n, uint64_t lid)
{
    struct node_fd *ref;
    struct stat st;
    int fd;

    if (nodes_get_fd(n->nodes, lid, NODES_PATH, &ref, &fd) < 0)
        return false;
    bool alive = fstat(fd, &st) == 0 && st.st_nlink > 0;
    nodes_put_fd(n->nodes, ref);
    return alive;
}

/* What the kernel has of it is to be forgotten. */
static void note_entry(struct node *n, struct deal *d, const struct place *p)
{
    struct index_node dir;

    if (d->nnames == PLACES_MAX || index_get_node(n->index, p->parent, &dir) != 0)
        return;
    d->dirs[d->nnames] = dir.lid;
    memcpy(d->names[d->nnames], p->name, p->name_len);
    d->names[d->nnames++][p->name_len] = 0;
}

/* As if it had never been put there: the view puts it there again. */
static int unplace(struct node *n, struct deal *d, struct id128 nid, const struct place *p)
{
    struct place none = {.kind = PLACE_NONE};

    note_entry(n, d, p);
    int rc = n->records.set_place(n->records.ctx, nid, &none);
    if (!rc)
        node_seed(n, nid);
    return rc;
}

/* The directories above, where they are gone too: from the top down, which the view sees to. */
static int restore_parents(struct node *n, struct deal *d, struct id128 rid)
{
    for (unsigned depth = 0; !id_eq(rid, RID_ROOT) && depth < 4096; depth++) {
        struct index_node row;
        struct at *x;
        int rc = index_get_node(n->index, rid, &row);
        if (rc || is_alive(n, row.lid))
            return rc == -ENOENT ? 0 : rc;
        x = calloc(1, sizeof *x);
        if (!x)
            return -ENOMEM;
        x->n = n;
        rc = n->records.names_of(n->records.ctx, rid, visit_at, x);
        for (size_t i = 0; i < x->count && !rc; i++)
            rc = unplace(n, d, x->nids[i], &x->places[i]);
        if (!rc && d->ngone < PLACES_MAX)
            d->gone[d->ngone++] = row.lid;
        bool placed = x->count > 0;
        rid = x->places[0].parent;
        free(x);
        if (rc || !placed)
            return rc;
        d->made = true;
    }
    return 0;
}

static int take_up(struct node *n, struct deal *d, const struct place *p)
{
    uint64_t head = index_log_head(n->index);
    struct check_dir dir;
    struct index_node row;
    struct node_fd *ref;
    enum checked out;
    char name[NAME_LEN_MAX + 1];

    int rc = index_get_node(n->index, p->parent, &row);
    dir = (struct check_dir){.rid = p->parent, .lid = row.lid};
    if (!rc)
        rc = nodes_get_fd(n->nodes, row.lid, NODES_PATH, &ref, &dir.fd);
    if (rc)
        return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
    memcpy(name, p->name, p->name_len);
    name[p->name_len] = 0;
    rc = check_name(n, &dir, name, false, &out);
    nodes_put_fd(n->nodes, ref);
    if (!rc && dir.changed)
        rc = local_touch_dir(n, row.lid);
    d->taken = d->taken || index_log_head(n->index) != head;
    note_entry(n, d, p);
    return rc;
}

static int deal_absent(struct node *n, struct deal *d, const struct index_node *row,
                       const struct at *x, const enum here *here, bool any_here)
{
    int rc = 0;

    if (row->type == NODE_DIR && is_alive(n, row->lid)) {
        d->moved = true;
        return 0;
    }
    for (size_t i = 0; i < x->count && !rc; i++) {
        if (here[i] != ABSENT)
            continue;
        rc = restore_parents(n, d, x->places[i].parent);
        /* A file that is under another name of its is linked; anything else is made anew. */
        if (!rc && (row->type != NODE_REG || any_here)) {
            rc = unplace(n, d, x->nids[i], &x->places[i]);
            d->made = true;
        }
    }
    if (rc || row->type == NODE_REG)
        d->wanted = !rc && !any_here;
    else if (!any_here && d->ngone < PLACES_MAX)
        d->gone[d->ngone++] = row->lid;
    d->missing = true;
    return rc || !d->wanted ? rc : apply_want(n, row->rid, d->f->stamp, NULL);
}

static int deal_names(struct node *n, struct deal *d, const struct index_node *row, struct at *x)
{
    enum here here[PLACES_MAX];
    bool any_here = false, any_absent = false;

    int rc = n->records.names_of(n->records.ctx, row->rid, visit_at, x);
    for (size_t i = 0; i < x->count && !rc; i++) {
        rc = what_is_at(n, &x->places[i], row, &here[i]);
        if (!rc && here[i] == BUSY)
            return 0; /* the next round sees */
        any_here |= here[i] == HERE;
        any_absent |= here[i] == ABSENT;
    }
    for (size_t i = 0; i < x->count && !rc; i++)
        if (here[i] == OTHER)
            rc = take_up(n, d, &x->places[i]);
    return rc || !any_absent ? rc : deal_absent(n, d, row, x, here, any_here);
}

/* ---- in the transaction ---- */

static int deal_in(struct plan *p, void *arg)
{
    struct node *n = p->node;
    struct deal *d = arg;
    const struct scrub_find *f = d->f;
    struct index_node row;
    struct content_rec c;

    *d = (struct deal){.f = f}; /* it may be called again */
    int rc = index_get_node(n->index, f->rid, &row);
    if (!rc)
        rc = n->records.get_content(n->records.ctx, f->rid, &c);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (row.lid != f->lid || !stamp_eq(c.h.stamp, f->stamp) || apply_is_wanted(n, f->rid))
        return 0; /* another one by now */
    node_path(n, f->rid, d->path, sizeof d->path);
    switch (f->kind) {
    case SCRUB_DAMAGED: return deal_damaged(n, d);
    case SCRUB_WRITTEN:
    case SCRUB_ATTRS: return deal_changed(n, d);
    case SCRUB_MISSING: break;
    }
    struct at *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    x->n = n;
    rc = deal_names(n, d, &row, x);
    free(x);
    return rc;
}

/* ---- after it ---- */

static void event_name(struct id128 rid, char out[64])
{
    snprintf(out, 64, "scrub-%llx.%llu", (unsigned long long)rid.node, (unsigned long long)rid.n);
}

static void repair_add(struct node *n, const struct deal *d)
{
    struct scrub_repair *v = realloc(n->repairs, (n->nrepairs + 1) * sizeof *v);
    char name[64];

    if (!v) {
        log_error("%s is damaged and repaired without being counted: no memory", d->path);
        return;
    }
    n->repairs = v;
    struct scrub_repair *r = &v[n->nrepairs++];
    *r = (struct scrub_repair){.rid = d->f->rid, .since_us = node_mono(n), .missing = d->missing};
    memcpy(r->path, d->path, sizeof r->path);
    event_name(r->rid, name);
    if (n->nrepairs > RAISED_MAX)
        events_raise(n->events, "scrub", "more than %u files are damaged or missing", RAISED_MAX);
    else if (d->missing)
        events_raise(n->events, name, "%s was removed behind the mount: its peers are asked for it",
                     r->path);
    else
        events_raise(n->events, name,
                     "%s differs from its digest although nobody wrote it: its peers are asked for "
                     "it",
                     r->path);
}

/* What the kernel still takes for the tree. */
static void forget(struct node *n, const struct deal *d)
{
    for (size_t i = 0; i < d->ngone; i++) {
        nodes_set_orphan(n->nodes, d->gone[i]);
        nodes_remove(n->nodes, d->gone[i]);
    }
    for (size_t i = 0; n->mount && i < d->nnames; i++)
        mount_forget_entry(n->mount, d->dirs[i], (const uint8_t *)d->names[i],
                           (uint8_t)strlen(d->names[i]), false);
    if (n->mount && d->taken)
        mount_forget_data(n->mount, d->f->lid);
}

void scrub_found(struct node *n, struct scrub_find *f)
{
    struct deal *d = calloc(1, sizeof *d);

    if (d)
        d->f = f;
    int rc = d ? apply_with(n, deal_in, d) : -ENOMEM;
    if (rc) {
        log_warn_code(rc, "what the scrub found cannot be repaired; the next round finds it again");
    } else {
        forget(n, d);
        if (d->wanted || d->made)
            scrub_counted(n, COUNT_FOUND);
        if (d->wanted) {
            repair_add(n, d);
            apply_ask(n, NULL);
        } else if (d->made) {
            scrub_counted(n, COUNT_REPAIRED);
            events_note(n->events, "scrub", "%s was removed behind the mount: it was put back",
                        d->path);
        }
        if (d->taken) {
            scrub_counted(n, COUNT_TAKEN);
            events_note(n->events, "scrub",
                        "%s was changed behind the mount: taken up as a change made here", d->path);
        }
        if (d->moved)
            events_note(n->events, "scrub",
                        "%s was moved behind the mount: the next start finds out where to",
                        d->path);
    }
    free(d);
    free(f);
    scrub_dealt(n);
}

/* 1: repaired, 0: gone. */
static bool is_repaired(struct node *n, struct id128 rid)
{
    struct index_node row;

    if (index_reader_begin(n->reader) < 0)
        return false;
    bool good =
        index_reader_node(n->reader, rid, &row) == 0 && !(row.flags & (NODE_DAMAGED | NODE_NODATA));
    index_reader_end(n->reader);
    return good;
}

static size_t connected(const struct node *n)
{
    size_t count = 0;

    for (size_t i = 0; i < n->npeers; i++)
        count += n->peers[i].session != NULL;
    return count;
}

static void repair_end(struct node *n, const struct scrub_repair *r)
{
    char name[64];

    event_name(r->rid, name);
    if (is_repaired(n, r->rid)) {
        scrub_counted(n, COUNT_REPAIRED);
        events_clear(n->events, name, "%s was repaired", r->path);
    } else {
        events_clear(n->events, name, "%s was deleted meanwhile", r->path);
    }
}

void scrub_review(struct node *n)
{
    uint64_t now = node_mono(n);
    char name[64];

    for (size_t i = n->nrepairs; i-- > 0;) {
        struct scrub_repair *r = &n->repairs[i];
        if (!apply_is_wanted(n, r->rid)) {
            repair_end(n, r);
            *r = n->repairs[--n->nrepairs];
        } else if (!r->told && now - r->since_us > PATIENCE_US) {
            r->told = true;
            event_name(r->rid, name);
            events_note(n->events, name,
                        "%s is %s here and none of the %zu connected peers has it: restore it, or "
                        "connect a node that has it",
                        r->path, r->missing ? "missing" : "damaged", connected(n));
        }
    }
    if (n->nrepairs == 0)
        events_clear(n->events, "scrub", "what was damaged or missing is repaired");
}
