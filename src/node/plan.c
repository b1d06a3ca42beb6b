/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Planning: what the view says differs from what the tree has; which effects make them equal.
 * Places and node rows are set as if the effects had been run; the transaction that holds them is
 * committed before they are. Parents are placed before children, things go away after others have
 * come.
 */
#include "node/node.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "store/attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int plan_one(struct plan *p, size_t i);

/* ---- locations ---- */

static void loc_set(struct loc *l, enum loc_kind kind, const void *name, size_t len)
{
    memset(l, 0, sizeof *l);
    l->kind = (uint8_t)kind;
    l->len = (uint8_t)len;
    memcpy(l->name, name, len);
}

static void loc_str(struct loc *l, enum loc_kind kind, const char *name)
{
    loc_set(l, kind, name, strlen(name));
}

static void loc_orphan(struct loc *l, uint64_t lid)
{
    char name[40];
    staging_orphan_name(lid, name);
    loc_str(l, LOC_ORPHAN, name);
}

static void loc_hidden(struct loc *l, struct id128 nid)
{
    char name[40];
    staging_id_name(nid, name);
    loc_str(l, LOC_HIDDEN, name);
}

/* Directories whose time has to be set again once all is done. */
static int touch(struct plan *p, uint64_t lid)
{
    return map_u64_set(&p->touched, lid, p, NULL);
}

/* Where a place is in the backing tree; parent directories have a row by now. */
static int loc_of_place(struct plan *p, struct id128 nid, const struct place *pl, struct loc *l)
{
    struct index_node dir;

    if (pl->kind == PLACE_HIDDEN) {
        loc_hidden(l, nid);
        return 0;
    }
    if (pl->kind != PLACE_AT)
        return -ENOENT;
    int rc = index_get_node(p->node->index, pl->parent, &dir);
    if (rc)
        return rc;
    loc_set(l, LOC_DIR, pl->name, pl->name_len);
    l->lid = dir.lid;
    l->dir = dir.handle;
    return touch(p, dir.lid);
}

static const struct place nowhere = {.kind = PLACE_NONE};

/* What is hidden is listed among the conflicts. */
static int place_name(struct node *n, struct id128 nid, const struct place *pl)
{
    if (pl->kind == PLACE_HIDDEN || n->keep.total[KEPT_HIDDEN].count > 0)
        keep_look(n, nid);
    return n->records.set_place(n->records.ctx, nid, pl);
}

/* The name a file went away under, and why: into the history, if there is one. */
static int plan_history(struct plan *p, const struct view_change *c, const struct place *now,
                        const struct index_node *row, const struct loc *from, enum kept_why why)
{
    struct node *n = p->node;
    struct name_rec name;

    if (!keep_history(n))
        return 0;
    int rc = n->records.get_name(n->records.ctx, c->nid, &name);
    struct keeping what = {.why = why,
                           .rid = row->rid,
                           .winner = &name.h,
                           .parent = now->parent,
                           .name = now->name,
                           .name_len = now->name_len};
    return rc ? rc : keep_gone(n, &what, from, &row->handle);
}

/* ---- what is at hand ---- */

static struct staged *staged_of(struct plan *p, struct id128 rid)
{
    for (size_t i = 0; i < p->nstaged; i++)
        if (p->staged[i].name[0] && id_eq(p->staged[i].rid, rid))
            return &p->staged[i];
    return NULL;
}

static struct view_change *change_of(struct plan *p, struct id128 nid, size_t *at)
{
    for (size_t i = 0; i < p->nchanges; i++) {
        if (id_eq(p->changes[i].nid, nid)) {
            *at = i;
            return &p->changes[i];
        }
    }
    return NULL;
}

struct elsewhere {
    struct plan *p;
    struct id128 not_this;
    struct id128 nid;
    struct place place;
    unsigned count;
};

static int visit_elsewhere(void *arg, const struct name_rec *name)
{
    struct elsewhere *e = arg;
    struct place pl;

    if (id_eq(name->nid, e->not_this))
        return 0;
    const struct records *r = &e->p->node->records;
    int rc = r->get_place(r->ctx, name->nid, &pl);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0 && pl.kind != PLACE_NONE) {
        if (!e->count || pl.kind == PLACE_AT) {
            e->nid = name->nid;
            e->place = pl;
        }
        e->count++;
    }
    return 0;
}

/* Other places of the inode that have its file just now. */
static int find_elsewhere(struct plan *p, struct id128 rid, struct id128 nid, struct elsewhere *e)
{
    const struct records *r = &p->node->records;

    *e = (struct elsewhere){.p = p, .not_this = nid};
    return r->names_of(r->ctx, rid, visit_elsewhere, e);
}

/* A directory, symlink, FIFO or device, made in the staging area with its attributes. */
static int make_special(struct node *n, const struct content_rec *c, const char *name)
{
    char target[TARGET_LEN_MAX + 1];
    int in = n->staging->in, rc;

    switch (c->type) {
    case NODE_DIR: rc = mkdirat(in, name, 0700); break;
    case NODE_LNK:
        memcpy(target, c->target, c->target_len);
        target[c->target_len] = 0;
        rc = symlinkat(target, in, name);
        break;
    case NODE_FIFO: rc = mknodat(in, name, S_IFIFO | 0600, 0); break;
    case NODE_CHR:
    case NODE_BLK:
    case NODE_SOCK: return -EPERM; /* not from peers: see farmfs.conf(5) */
    default: return -EINVAL;
    }
    return rc < 0 ? -errno : 0;
}

static int stage_attrs(struct node *n, int fd, struct id128 rid, const struct content_rec *c)
{
    struct attr_rec a;

    int rc = n->records.get_attr(n->records.ctx, rid, &a);
    if (rc == -ENOENT)
        return attrs_set_mtime(fd, c->mtime_ns);
    if (rc)
        return rc;
    int64_t mtime = record_mtime(c, &a);
    return attrs_apply(fd, &a, &mtime);
}

int plan_stage_special(struct plan *p, const struct content_rec *c, struct staged **out)
{
    struct node *n = p->node;
    struct staged *v = realloc(p->staged, (p->nstaged + 1) * sizeof *v);
    if (!v)
        return -ENOMEM;
    p->staged = v;
    struct staged *s = &v[p->nstaged];
    memset(s, 0, sizeof *s);
    s->rid = c->rid;
    s->type = c->type;
    snprintf(s->name, sizeof s->name, "s%016llx", (unsigned long long)n->next_key++);
    int rc = make_special(n, c, s->name);
    if (rc)
        return rc;
    CLEANUP_FD int fd = openat(n->staging->in, s->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    rc = stage_attrs(n, fd, c->rid, c);
    if (!rc)
        rc = handle_of_fd(fd, &s->handle);
    if (!rc)
        rc = nodes_new_lid(n->nodes, &s->lid);
    struct node_ref ref;
    if (!rc)
        rc = nodes_add(n->nodes, s->lid, c->type, &s->handle, &ref);
    struct index_node row = {.rid = c->rid, .lid = s->lid, .type = c->type, .handle = s->handle};
    if (!rc)
        rc = index_put_node(n->index, &row, false);
    if (!rc)
        rc = map_u64_set(&n->settle, s->lid, n, NULL);
    if (rc)
        return rc;
    p->nstaged++;
    *out = s;
    return 0;
}

/* ---- placing ---- */

/* Fill in where the thing comes from. -ENOENT: nothing to place yet (its content has not arrived).
 */
static int plan_source(struct plan *p, const struct view_change *c, const struct place *now,
                       struct effect *e)
{
    struct node *n = p->node;
    struct index_node row;
    struct content_rec content;
    struct elsewhere other;

    int rc = n->records.get_content(n->records.ctx, c->inode, &content);
    if (rc)
        return rc;
    e->dir = content.type == NODE_DIR;
    int have = index_get_node(n->index, c->inode, &row);
    if (have && have != -ENOENT)
        return have;
    struct staged *s = staged_of(p, c->inode);
    /* What was hidden from the start may have no file yet: see plan_hide_new. */
    if (!s && !have && now->kind != PLACE_NONE && !(e->dir && now->kind == PLACE_HIDDEN)) {
        e->handle = row.handle;
        e->lid = row.lid;
        return loc_of_place(p, c->nid, now, &e->from);
    }
    rc = find_elsewhere(p, c->inode, c->nid, &other);
    /* Made anew from its record, unless there is one to be linked. */
    if (!rc && !s && content.type != NODE_REG && (have || e->dir || other.count == 0))
        rc = plan_stage_special(p, &content, &s);
    if (rc)
        return rc;
    if (s) {
        loc_str(&e->from, LOC_IN, s->name);
        e->handle = s->handle;
        e->lid = s->lid;
        s->name[0] = 0;
        s->nid = c->nid;
        return 0;
    }
    rc = have;
    if (!rc && other.count == 0) {
        loc_hidden(&e->from, c->inode); /* its data came before its name */
    } else if (!rc) {
        rc = loc_of_place(p, other.nid, &other.place, &e->from);
        e->op = EFFECT_LINK;
    }
    if (rc)
        return rc;
    e->handle = row.handle;
    e->lid = row.lid;
    return 0;
}

/* The inode has no place left: its row goes, the kernel may still hold on to it. */
static int plan_gone(struct plan *p, const struct index_node *row)
{
    struct node *n = p->node;

    int rc = map_u64_set(&n->leaving, row->lid, n, NULL);
    if (!rc)
        rc = index_journal_drop(n->index, row->rid);
    if (!rc)
        rc = index_set_todo(n->index, row->rid, TODO_DIRTY | TODO_HELD | TODO_DATA, false);
    return rc ? rc : index_del_node(n->index, row->rid, row->type != NODE_DIR);
}

static int displaced_history(struct plan *p, const struct view_change *c,
                             const struct index_node *row)
{
    struct place now;
    struct loc from;

    int rc = p->node->records.get_place(p->node->records.ctx, c->nid, &now);
    if (!rc)
        rc = loc_of_place(p, c->nid, &now, &from);
    return rc ? rc : plan_history(p, c, &now, row, &from, KEPT_REPLACED);
}

/* The one at the place we want goes away by being replaced, so that readers find one or the other.
 */
static int plan_displace(struct plan *p, size_t at, struct effect *e)
{
    struct node *n = p->node;
    struct view_change *c = &p->changes[at];
    struct index_node row;
    struct elsewhere other;

    int rc = index_get_node(n->index, c->inode, &row);
    if (rc)
        return rc;
    e->old_lid = row.lid;
    if (c->to.kind == PLACE_HIDDEN) {
        loc_hidden(&e->displaced, c->nid);
    } else {
        rc = find_elsewhere(p, c->inode, c->nid, &other);
        if (rc)
            return rc;
        if (other.count == 0) {
            loc_orphan(&e->displaced, row.lid);
            rc = displaced_history(p, c, &row);
            if (!rc)
                rc = plan_gone(p, &row);
        }
    }
    if (!rc)
        rc = place_name(n, c->nid, c->to.kind == PLACE_HIDDEN ? &c->to : &nowhere);
    p->done[at] = 2;
    return rc;
}

/* It has to leave first, but where it goes is being waited for by us: park it. */
static int plan_park(struct plan *p, size_t at)
{
    struct node *n = p->node;
    struct view_change *c = &p->changes[at];
    struct effect e = {.op = EFFECT_MOVE, .rid = c->inode};
    struct index_node row;
    struct place now, parked;

    int rc = n->records.get_place(n->records.ctx, c->nid, &now);
    if (!rc)
        rc = index_get_node(n->index, c->inode, &row);
    if (!rc)
        rc = loc_of_place(p, c->nid, &now, &e.from);
    if (rc)
        return rc;
    e.dir = row.type == NODE_DIR;
    e.handle = row.handle;
    e.lid = row.lid;
    loc_hidden(&e.to, c->nid);
    parked = now;
    parked.kind = PLACE_HIDDEN;
    rc = effects_add(&n->effects, &e);
    return rc ? rc : n->records.set_place(n->records.ctx, c->nid, &parked);
}

static int make_way(struct plan *p, const struct view_change *c, struct effect *e)
{
    struct node *n = p->node;
    struct id128 occupant;
    struct content_rec there;
    size_t at;

    int rc =
        n->records.who_is_at(n->records.ctx, c->to.parent, c->to.name, c->to.name_len, &occupant);
    if (rc == -ENOENT || (rc == 0 && id_eq(occupant, c->nid)))
        return 0;
    if (rc)
        return rc;
    const struct view_change *o = change_of(p, occupant, &at);
    if (!o) {
        log_error("two names want one place and the view says both may have it");
        return FARM_ECORRUPT;
    }
    if (o->to.kind == PLACE_AT) {
        if (p->done[at] == 0)
            return plan_one(p, at);
        return plan_park(p, at);
    }
    rc = n->records.get_content(n->records.ctx, o->inode, &there);
    if (rc)
        return rc;
    if (there.type == NODE_DIR || e->dir)
        return plan_park(p, at); /* its removal comes later in the list */
    return plan_displace(p, at, e);
}

/* A name without a file: whoever has the content is asked for it. */
static int plan_ask(struct plan *p, struct id128 rid)
{
    struct content_rec c;

    int rc = p->node->records.get_content(p->node->records.ctx, rid, &c);
    if (rc || c.type != NODE_REG)
        return rc == -ENOENT ? 0 : rc;
    return apply_want(p->node, rid, c.h.stamp, NULL);
}

/* The directory it goes to must be there first; making way for something else may have brought its
 * turn forward. */
static int place_parent(struct plan *p, struct id128 dir)
{
    struct index_node row;

    int rc = index_get_node(p->node->index, dir, &row);
    if (rc != -ENOENT)
        return rc;
    for (size_t i = 0; i < p->nchanges; i++)
        if (id_eq(p->changes[i].inode, dir) && p->changes[i].to.kind == PLACE_AT && !p->done[i])
            return plan_one(p, i);
    return 0;
}

static int place_now(struct node *n, struct id128 nid, struct place *now)
{
    int rc = n->records.get_place(n->records.ctx, nid, now);
    if (rc == -ENOENT)
        *now = nowhere;
    return rc == -ENOENT ? 0 : rc;
}

/* While way was made it may have been parked itself, or the name that it is linked from. */
static int source_again(struct plan *p, const struct view_change *c, struct effect *e)
{
    struct elsewhere other;
    struct place now;

    if (e->from.kind != LOC_DIR)
        return 0;
    if (e->op == EFFECT_LINK) {
        int rc = find_elsewhere(p, c->inode, c->nid, &other);
        return rc || !other.count ? rc : loc_of_place(p, other.nid, &other.place, &e->from);
    }
    int rc = place_now(p->node, c->nid, &now);
    if (!rc && now.kind == PLACE_HIDDEN)
        loc_hidden(&e->from, c->nid);
    return rc;
}

static int plan_at(struct plan *p, size_t i)
{
    struct node *n = p->node;
    const struct view_change *c = &p->changes[i];
    struct effect e = {.op = EFFECT_MOVE, .rid = c->inode};
    struct place now;

    p->done[i] = 1;
    int rc = place_now(n, c->nid, &now);
    bool adopted = false;
    if (!rc && now.kind == PLACE_NONE)
        rc = rebuild_adopt(p, &p->changes[i], &adopted);
    if (!rc && adopted) {
        struct staged *s = staged_of(p, e.rid);
        if (s) /* not needed: the batch discards it */
            s->name[0] = 0;
        p->done[i] = 2;
        return place_name(n, c->nid, &c->to);
    }
    if (!rc)
        rc = plan_source(p, c, &now, &e);
    if (rc == -ENOENT) {
        p->done[i] = 2; /* placed when it comes */
        return plan_ask(p, e.rid);
    }
    if (!rc)
        rc = place_parent(p, c->to.parent);
    if (!rc)
        rc = make_way(p, c, &e);
    if (!rc)
        rc = source_again(p, c, &e);
    if (!rc)
        rc = loc_of_place(p, c->nid, &c->to, &e.to);
    if (!rc)
        rc = effects_add(&n->effects, &e);
    if (!rc)
        rc = place_name(n, c->nid, &c->to);
    p->done[i] = 2;
    return rc;
}

/* ---- going away ---- */

static int plan_away(struct plan *p, size_t i)
{
    struct node *n = p->node;
    struct view_change *c = &p->changes[i];
    struct effect e = {.op = EFFECT_REMOVE, .rid = c->inode};
    struct index_node row;
    struct place now;
    struct elsewhere other;

    p->done[i] = 2;
    int rc = n->records.get_place(n->records.ctx, c->nid, &now);
    if (rc == -ENOENT || (rc == 0 && now.kind == PLACE_NONE))
        return place_name(n, c->nid, &c->to);
    if (!rc)
        rc = index_get_node(n->index, c->inode, &row);
    if (rc == -ENOENT)
        return place_name(n, c->nid, &c->to);
    if (!rc)
        rc = loc_of_place(p, c->nid, &now, &e.from);
    if (!rc)
        rc = find_elsewhere(p, c->inode, c->nid, &other);
    if (rc)
        return rc;
    e.dir = row.type == NODE_DIR;
    e.handle = row.handle;
    e.lid = row.lid;
    if (c->to.kind == PLACE_HIDDEN && !e.dir) {
        e.op = EFFECT_MOVE;
        loc_hidden(&e.to, c->nid);
    } else if (other.count == 0) {
        if (!e.dir) {
            e.op = EFFECT_MOVE;
            loc_orphan(&e.to, row.lid);
        }
        rc = plan_history(p, c, &now, &row, &e.from, KEPT_DELETED);
        if (!rc)
            rc = plan_gone(p, &row);
    }
    if (!rc)
        rc = effects_add(&n->effects, &e);
    return rc ? rc : place_name(n, c->nid, &c->to);
}

static int plan_one(struct plan *p, size_t i)
{
    return p->changes[i].to.kind == PLACE_AT ? plan_at(p, i) : plan_away(p, i);
}

/* A file that is hidden from the start: it is kept under its name record. A hidden name of a file
 * that is here always has a link of it; one whose file has not come yet gets it with the file
 * (plan_hidden_too). A directory has nothing on disk then. */
static int plan_hide_new(struct plan *p, size_t i)
{
    struct view_change *c = &p->changes[i];
    struct node *n = p->node;
    struct effect e = {.op = EFFECT_MOVE, .rid = c->inode};
    struct content_rec content;

    p->done[i] = 2;
    int rc = n->records.get_content(n->records.ctx, c->inode, &content);
    if (!rc && content.type != NODE_DIR) {
        rc = plan_source(p, c, &nowhere, &e);
        loc_hidden(&e.to, c->nid);
        if (!rc)
            rc = effects_add(&n->effects, &e);
    }
    /* Without data it has no place yet, or what looks for the file would believe that it is there;
     * when the data comes, the view is asked again. */
    if (rc == -ENOENT)
        return plan_ask(p, c->inode);
    return rc ? rc : place_name(n, c->nid, &c->to);
}

int plan_changes(struct plan *p, struct view_change *changes, size_t n)
{
    free(p->changes);
    free(p->done);
    p->changes = changes;
    p->nchanges = n;
    p->done = calloc(n ? n : 1, 1);
    if (!p->done)
        return -ENOMEM;
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++)
        if (!p->done[i] && changes[i].to.kind == PLACE_AT)
            rc = plan_at(p, i);
    for (size_t i = 0; i < n && !rc; i++) { /* these come children first */
        if (p->done[i])
            continue;
        if (changes[i].to.kind == PLACE_HIDDEN && changes[i].from.kind == PLACE_NONE)
            rc = plan_hide_new(p, i);
        else
            rc = plan_away(p, i);
    }
    return rc;
}

/* ---- content ---- */

struct places {
    struct plan *p;
    struct id128 nids[64];
    struct place at[64];
    size_t n;
};

static int visit_place(void *arg, const struct name_rec *name)
{
    struct places *x = arg;
    const struct records *r = &x->p->node->records;

    if (x->n == 64)
        return 0;
    int rc = r->get_place(r->ctx, name->nid, &x->at[x->n]);
    if (rc == -ENOENT || (rc == 0 && x->at[x->n].kind == PLACE_NONE))
        return 0;
    if (rc)
        return rc;
    x->nids[x->n++] = name->nid;
    return 0;
}

/* What lost against what the records say now. */
static int content_winner(struct node *n, struct id128 rid, struct content_rec *c)
{
    int rc = n->records.get_content(n->records.ctx, rid, c);
    if (rc == -ENOENT)
        memset(c, 0, sizeof *c);
    return rc == -ENOENT ? 0 : rc;
}

int plan_keep(struct plan *p, const char *staged, const struct content_rec *c, enum kept_why why)
{
    struct node *n = p->node;
    struct content_rec winner;
    struct handle h;
    struct loc from;

    loc_str(&from, LOC_IN, staged);
    CLEANUP_FD int fd = openat(n->staging->in, staged, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = stage_attrs(n, fd, c->rid, c); /* its own: they are decided apart */
    if (!rc)
        rc = handle_of_fd(fd, &h);
    if (!rc)
        rc = content_winner(n, c->rid, &winner);
    struct keeping what = {
        .class = KEPT_CONFLICT, .why = why, .rid = c->rid, .content = c, .winner = &winner.h};
    return rc ? rc : keep_file(n, &what, &from, &h, false);
}

int plan_keep_place(struct plan *p, struct id128 nid, const struct place *now,
                    const struct content_rec *c, enum kept_why why)
{
    struct keeping what = {.class = KEPT_CONFLICT,
                           .why = why,
                           .rid = c->rid,
                           .content = c,
                           .parent = now->parent,
                           .name = now->name,
                           .name_len = now->name_len};
    struct index_node row;
    struct loc from;

    int rc = index_get_node(p->node->index, c->rid, &row);
    if (!rc && row.type == NODE_REG)
        rc = loc_of_place(p, nid, now, &from);
    if (rc || row.type != NODE_REG)
        return rc == -ENOENT ? 0 : rc;
    return keep_file(p->node, &what, &from, &row.handle, true);
}

/* What the new content takes the place of: kept as a loser, or in the history, or on its way out.
 */
static int plan_replaced(struct plan *p, struct effect *e, const struct index_node *old,
                         enum kept_why why, const struct content_rec *before,
                         const struct places *x)
{
    struct node *n = p->node;
    struct content_rec winner;
    struct loc from;

    int rc = content_winner(n, old->rid, &winner);
    struct keeping what = {.class = KEPT_CONFLICT,
                           .why = why,
                           .rid = old->rid,
                           .content = before,
                           .winner = &winner.h};
    if (!rc && why != KEPT_REPLACED)
        return keep_row(n, &what, &e->displaced);
    loc_orphan(&e->displaced, old->lid);
    if (rc || x->n == 0)
        return rc;
    rc = loc_of_place(p, x->nids[0], &x->at[0], &from);
    return rc ? rc : keep_gone(n, &what, &from, &old->handle);
}

int plan_content(struct plan *p, struct staged *s, const struct index_node *old, enum kept_why why,
                 const struct content_rec *loser)
{
    struct node *n = p->node;
    struct places *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    x->p = p;
    int rc = n->records.names_of(n->records.ctx, s->rid, visit_place, x);
    struct effect e = {.op = EFFECT_MOVE, .rid = s->rid, .handle = s->handle, .lid = s->lid};
    e.old_lid = old->lid;
    loc_str(&e.from, LOC_IN, s->name);
    if (!rc)
        rc = plan_replaced(p, &e, old, why, loser, x);
    for (size_t i = 0; i < x->n && !rc; i++) {
        if (i > 0) { /* the other hard links: a link to the first, renamed over the old one */
            struct effect link = {
                .op = EFFECT_LINK, .rid = s->rid, .handle = s->handle, .lid = s->lid};
            char name[32];
            snprintf(name, sizeof name, "l%016llx", (unsigned long long)n->next_key++);
            link.from = e.to;
            loc_str(&link.to, LOC_IN, name);
            rc = effects_add(&n->effects, &link);
            e.from = link.to;
            e.displaced.kind = LOC_NONE;
        }
        if (!rc)
            rc = loc_of_place(p, x->nids[i], &x->at[i], &e.to);
        if (!rc)
            rc = effects_add(&n->effects, &e);
    }
    if (x->n > 0)
        s->name[0] = 0;
    free(x);
    return rc;
}

int plan_attr(struct plan *p, struct id128 rid)
{
    struct index_node row;
    struct effect e = {.op = EFFECT_ATTR, .rid = rid};

    int rc = index_get_node(p->node->index, rid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (row.type == NODE_DIR)
        return touch(p, row.lid); /* once, after its names have changed */
    e.lid = row.lid;
    return effects_add(&p->node->effects, &e);
}

/* Names that were hidden before their file came get links of it: of the one that got the file, or
 * else of the first. */
static int plan_hidden_too(struct plan *p, struct staged *s, struct places *x)
{
    struct node *n = p->node;
    struct effect e = {.op = EFFECT_LINK, .rid = s->rid, .handle = s->handle, .lid = s->lid};
    int rc = 0;

    for (size_t i = 0; i < x->n && !rc && !s->name[0]; i++)
        if (id_eq(x->nids[i], s->nid))
            rc = loc_of_place(p, s->nid, &x->at[i], &e.from);
    for (size_t i = 0; i < x->n && !rc; i++) {
        if (x->at[i].kind != PLACE_HIDDEN || id_eq(x->nids[i], s->nid))
            continue;
        loc_hidden(&e.to, x->nids[i]);
        if (s->name[0]) {
            struct effect first = e;
            first.op = EFFECT_MOVE;
            loc_str(&first.from, LOC_IN, s->name);
            s->name[0] = 0;
            e.from = e.to;
            rc = effects_add(&n->effects, &first);
        } else if (e.from.kind) {
            rc = effects_add(&n->effects, &e);
        }
    }
    return rc;
}

/* Data whose name has not come yet (the frame ended between the two) waits under its inode's id. */
static int plan_shelve(struct plan *p)
{
    struct places *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    x->p = p;
    int rc = 0;
    for (size_t i = 0; i < p->nstaged && !rc; i++) {
        struct staged *s = &p->staged[i];
        if (s->type != NODE_REG || (!s->name[0] && id_none(s->nid)))
            continue;
        x->n = 0;
        rc = p->node->records.names_of(p->node->records.ctx, s->rid, visit_place, x);
        if (!rc)
            rc = plan_hidden_too(p, s, x);
        if (rc || !s->name[0])
            continue;
        struct effect e = {.op = EFFECT_MOVE, .rid = s->rid, .handle = s->handle, .lid = s->lid};
        loc_str(&e.from, LOC_IN, s->name);
        loc_hidden(&e.to, s->rid);
        s->name[0] = 0;
        rc = effects_add(&p->node->effects, &e);
    }
    free(x);
    return rc;
}

int plan_finish(struct plan *p)
{
    struct node *n = p->node;
    size_t it = 0;
    uint64_t lid;

    int rc = plan_shelve(p);
    if (!rc)
        rc = keep_hidden(n);
    while (!rc && map_u64_next(&p->touched, &it, &lid)) {
        struct index_node row;
        rc = index_get_node_by_lid(n->index, lid, &row);
        if (rc == -ENOENT) {
            rc = 0;
            continue;
        }
        struct effect e = {.op = EFFECT_ATTR, .rid = row.rid, .lid = lid, .dir = true};
        if (!rc)
            rc = effects_add(&n->effects, &e);
    }
    return rc;
}

void plan_fini(struct plan *p)
{
    for (size_t i = 0; i < p->nstaged; i++)
        if (p->staged[i].name[0] && p->staged[i].name[0] == 's' && p->staged[i].type != NODE_REG)
            unlinkat(p->node->staging->in, p->staged[i].name,
                     p->staged[i].type == NODE_DIR ? AT_REMOVEDIR : 0);
    free(p->staged);
    free(p->changes);
    free(p->done);
    map_u64_fini(&p->touched);
}
