/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/replica_i.h"

#include "base/cleanup.h"

#include <errno.h>

struct id128 replica_new_id(struct replica *p)
{
    return (struct id128){p->node, p->next_id++};
}

int replica_stamp(struct replica *p, struct stamp *out)
{
    int rc = vvec_raise(&p->know, p->node, p->next_seq);

    if (rc == 0)
        rc = vvec_raise(&p->seen, p->node, p->next_seq);
    if (rc == 0)
        *out = (struct stamp){p->node, p->next_seq++};
    return rc;
}

/* The clock of a new record that follows `after`: now, or the exact value `at` where that lies
 * between the two. */
static uint64_t next_hlc(struct replica *p, uint64_t wall_us, uint64_t at, uint64_t after)
{
    if (at == 0)
        return hlc_tick(&p->clock, wall_us, after);
    if (at > hlc_from_us(wall_us))
        at = hlc_from_us(wall_us);
    return at > after ? at : after + 1;
}

/*
 * The names that claim one place: who is shown there, and those hidden.
 */
struct claims {
    const struct records *r;
    struct name_rec *n; /* [0] is the one shown, then the hidden ones, earliest first */
    size_t count, cap;
};

static int add_claim(void *arg, struct id128 nid)
{
    struct claims *c = arg;

    if (c->count == c->cap) {
        size_t more = c->cap ? c->cap * 2 : 2;
        struct name_rec *p = realloc(c->n, more * sizeof(*p));

        if (!p)
            return -ENOMEM;
        c->n = p;
        c->cap = more;
    }
    int rc = c->r->get_name(c->r->ctx, nid, &c->n[c->count]);

    if (rc == 0)
        c->count++;
    return rc;
}

static int by_head(const void *pa, const void *pb)
{
    const struct name_rec *a = pa, *b = pb;

    return head_wins(&a->h, &b->h) ? 1 : head_wins(&b->h, &a->h) ? -1 : 0;
}

/* -ENOENT when nobody is shown there. */
static int claims_at(const struct records *r, struct id128 parent, const uint8_t *name, uint8_t len,
                     struct claims *out)
{
    struct claims c = {.r = r};
    struct id128 nid;
    int rc = r->who_is_at(r->ctx, parent, name, len, &nid);

    if (rc == 0)
        rc = add_claim(&c, nid);
    if (rc == 0)
        rc = r->hidden_at(r->ctx, parent, name, len, add_claim, &c);
    if (rc < 0) {
        free(c.n);
        return rc;
    }
    if (c.count > 2)
        qsort(c.n + 1, c.count - 1, sizeof(c.n[0]), by_head);
    *out = c;
    return 0;
}

/* The latest clock of the claimants, or `after` when that is later. */
static uint64_t latest(const struct claims *c, uint64_t after)
{
    for (size_t i = 0; i < c->count; i++) {
        if (c->n[i].h.hlc > after)
            after = c->n[i].h.hlc;
    }
    return after;
}

static int get_type(const struct records *r, struct id128 rid, uint8_t *type)
{
    struct content_rec c;
    int rc = r->get_content(r->ctx, rid, &c);

    if (rc == 0)
        *type = c.type;
    return rc;
}

static int set_at(struct replica *p, struct id128 nid, enum place_kind kind, struct id128 parent,
                  const uint8_t *name, uint8_t len)
{
    struct place place = {.kind = kind, .parent = parent, .name_len = len};

    memcpy(place.name, name, len);
    return p->r->set_place(p->r->ctx, nid, &place);
}

static int set_nowhere(struct replica *p, struct id128 nid)
{
    return p->r->set_place(p->r->ctx, nid, &(struct place){.kind = PLACE_NONE});
}

/* Stamp n and put it: it follows its own last version. */
static int put_stamped(struct replica *p, struct name_rec *n, uint64_t hlc)
{
    int rc = replica_stamp(p, &n->h.stamp);

    n->h.hlc = hlc;
    return rc < 0 ? rc : p->r->put_name(p->r->ctx, n, p->node);
}

int replica_restamp(struct replica *p, uint64_t wall_us, struct name_rec *n)
{
    return put_stamped(p, n, next_hlc(p, wall_us, 0, n->h.hlc));
}

/*
 * Deleting. A tombstone says which content its deleter had seen, so that a concurrent edit wins.
 * The tombstones of other names of the same file may have seen less without any concurrency (they
 * were not the last name then); when the last living name goes they are renewed, or the latest of
 * them would bring the file back.
 */
struct siblings {
    struct id128 *nids; /* dead names that have seen less than `vv` */
    size_t n, cap;
    const struct vvec *vv;
    bool alive;
};

static int look_at_sibling(void *arg, const struct name_rec *n)
{
    struct siblings *s = arg;

    if (n->alive) {
        s->alive = true;
        return 0;
    }
    if (vvec_includes(&n->seen, s->vv))
        return 0;
    if (s->n == s->cap) {
        size_t more = s->cap ? s->cap * 2 : 4;
        struct id128 *q = realloc(s->nids, more * sizeof(*q));

        if (!q)
            return -ENOMEM;
        s->nids = q;
        s->cap = more;
    }
    s->nids[s->n++] = n->nid;
    return 0;
}

static int renew_tombstones(struct replica *p, uint64_t wall_us, struct id128 rid,
                            const struct vvec *vv)
{
    struct siblings s = {.vv = vv};
    struct name_rec n;
    int rc = p->r->names_of(p->r->ctx, rid, look_at_sibling, &s);

    for (size_t i = 0; rc == 0 && !s.alive && i < s.n; i++) {
        rc = p->r->get_name(p->r->ctx, s.nids[i], &n);
        if (rc < 0)
            break;
        rc = vvec_join(&n.seen, vv);
        if (rc == 0)
            rc = put_stamped(p, &n, hlc_tick(&p->clock, wall_us, n.h.hlc));
    }
    free(s.nids);
    return rc;
}

/* The version that those who use the file have seen. -ENOENT. */
static int seen_content(const struct records *r, struct id128 rid, struct content_rec *c)
{
    int rc = r->get_behind ? r->get_behind(r->ctx, rid, c) : -ENOENT;

    return rc == -ENOENT ? r->get_content(r->ctx, rid, c) : rc;
}

static int bury(struct replica *p, uint64_t wall_us, struct name_rec *n)
{
    struct content_rec c;
    int rc = seen_content(p->r, n->inode, &c);

    if (rc < 0)
        return rc;
    n->alive = false;
    rc = c.type == NODE_DIR ? 0 : vvec_join(&n->seen, &c.vv);
    if (rc == 0)
        rc = put_stamped(p, n, hlc_tick(&p->clock, wall_us, n->h.hlc));
    if (rc < 0 || c.type == NODE_DIR)
        return rc;
    return renew_tombstones(p, wall_us, n->inode, &c.vv);
}

/* Bury all; the tree has lost the one shown. Hidden ones keep their place until the view is asked.
 */
static int bury_claims(struct replica *p, uint64_t wall_us, struct claims *c)
{
    int rc = 0;

    for (size_t i = 0; i < c->count && rc == 0; i++)
        rc = bury(p, wall_us, &c->n[i]);
    if (rc == 0 && c->count > 0)
        rc = set_nowhere(p, c->n[0].nid);
    return rc;
}

/* Give n a new place in its register; alive from now on, if it was a revived one. */
static int put_moved(struct replica *p, struct name_rec *n, uint64_t hlc, struct id128 parent,
                     const uint8_t *name, uint8_t len)
{
    n->alive = true;
    n->seen.n = 0;
    n->parent = parent;
    n->name_len = len;
    memcpy(n->name, name, len);
    return put_stamped(p, n, hlc);
}

/* Make the cuts of cycles permanent, and alive what only the cycles held. */
static int settle_cuts(struct replica *p, uint64_t wall_us)
{
    struct claims c = {.r = p->r};
    struct place at;
    int rc = p->r->cuts(p->r->ctx, add_claim, &c);

    for (size_t i = 0; i < c.count && rc == 0; i++) {
        struct name_rec *n = &c.n[i];

        rc = p->r->get_place(p->r->ctx, n->nid, &at);
        if (rc == 0)
            rc = put_moved(p, n, hlc_tick(&p->clock, wall_us, n->h.hlc), at.parent, at.name,
                           at.name_len);
        if (rc == 0)
            rc = set_at(p, n->nid, at.kind, at.parent, at.name, at.name_len);
    }
    free(c.n);
    return rc;
}

static int add_dead(void *arg, const struct name_rec *n)
{
    return n->alive ? 0 : add_claim(arg, n->nid);
}

/* All that there is of a directory, anew: whoever has collected it gets it back. */
static int renew_dir(struct replica *p, uint64_t wall_us, struct id128 rid)
{
    struct content_rec c;
    struct attr_rec a;
    int rc = p->r->get_content(p->r->ctx, rid, &c);

    if (rc < 0 || c.type != NODE_DIR)
        return rc;
    c.base = c.h.stamp;
    c.h.hlc = hlc_tick(&p->clock, wall_us, c.h.hlc);
    rc = replica_stamp(p, &c.h.stamp);
    if (rc == 0)
        rc = p->r->put_content(p->r->ctx, &c, p->node);
    if (rc == 0)
        rc = p->r->get_attr(p->r->ctx, rid, &a);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    a.h.hlc = hlc_tick(&p->clock, wall_us, a.h.hlc);
    rc = replica_stamp(p, &a.h.stamp);
    return rc < 0 ? rc : p->r->put_attr(p->r->ctx, &a, p->node);
}

/*
 * A dead name that is shown all the same becomes alive for good: that of a file which an edit
 * brought back, when the file is edited again or gets another name, which would make it go away or
 * bring back another one instead; that of a directory which its children keep, when a child is
 * taken away, or the last `rm` inside would take the directory too. A new stamp must not change how
 * a cycle is cut.
 */
static int settle_revived(struct replica *p, uint64_t wall_us, struct id128 rid)
{
    struct claims dead = {.r = p->r};
    struct place at;
    struct name_rec n;
    int rc = p->r->names_of(p->r->ctx, rid, add_dead, &dead);

    for (size_t i = 0; i < dead.count && rc == 0; i++) {
        rc = p->r->get_place(p->r->ctx, dead.n[i].nid, &at);
        if (rc < 0 || at.kind == PLACE_NONE)
            continue;
        rc = settle_cuts(p, wall_us);
        if (rc == 0)
            rc = p->r->get_name(p->r->ctx, dead.n[i].nid, &n);
        if (rc == 0 && !n.alive)
            rc = put_moved(p, &n, hlc_tick(&p->clock, wall_us, n.h.hlc), n.parent, n.name,
                           n.name_len);
        if (rc == 0)
            rc = renew_dir(p, wall_us, rid);
    }
    free(dead.n);
    return rc;
}

struct shown {
    const struct records *r;
    struct place at;
    bool found, alive;
};

/* 1: found a place of it. */
static int look_if_shown(void *arg, const struct name_rec *n)
{
    struct shown *s = arg;
    int rc = s->r->get_place(s->r->ctx, n->nid, &s->at);

    if (rc < 0 || s->at.kind == PLACE_NONE)
        return rc == -ENOENT ? 0 : rc;
    s->found = true;
    s->alive = n->alive;
    return 1;
}

/*
 * Directories on the way to the root that are dead and shown all the same (rule 1b) become alive
 * for good before anything is done in them: it may be that they are shown here alone, until a later
 * version of what is in them comes, and that others have collected them.
 */
static int settle_up(struct replica *p, uint64_t wall_us, struct id128 dir)
{
    while (!id_eq(dir, RID_ROOT)) {
        struct shown s = {.r = p->r};
        int rc = p->r->names_of(p->r->ctx, dir, look_if_shown, &s);

        if (rc >= 0 && s.found && !s.alive)
            rc = settle_revived(p, wall_us, dir);
        if (rc < 0 || !s.found)
            return rc;
        dir = s.at.parent;
    }
    return 0;
}

struct above {
    const struct records *r;
    struct id128 *dirs;
    size_t n;
};

static int add_above(void *arg, const struct name_rec *n)
{
    struct above *a = arg;
    struct place at;
    int rc = a->r->get_place(a->r->ctx, n->nid, &at);

    if (rc < 0 || at.kind == PLACE_NONE)
        return rc == -ENOENT ? 0 : rc;
    struct id128 *q = realloc(a->dirs, (a->n + 1) * sizeof(*q));

    if (!q)
        return -ENOMEM;
    a->dirs = q;
    q[a->n++] = at.parent;
    return 0;
}

/* The same for the directories that an inode's names are in. */
static int settle_above(struct replica *p, uint64_t wall_us, struct id128 rid)
{
    struct above a = {.r = p->r};
    int rc = p->r->names_of(p->r->ctx, rid, add_above, &a);

    for (size_t i = 0; i < a.n && rc == 0; i++)
        rc = settle_up(p, wall_us, a.dirs[i]);
    free(a.dirs);
    return rc;
}

int replica_link(struct replica *p, uint64_t wall_us, uint64_t at, struct id128 rid,
                 struct id128 parent, const uint8_t *name, uint8_t len, struct id128 *nid)
{
    struct name_rec n = {.inode = rid, .parent = parent, .name_len = len, .alive = true};
    struct id128 other;
    uint8_t type = NODE_DIR;
    int rc = id_eq(parent, RID_ROOT) ? 0 : get_type(p->r, parent, &type);

    if (rc < 0)
        return rc;
    if (type != NODE_DIR)
        return -ENOENT;
    rc = p->r->who_is_at(p->r->ctx, parent, name, len, &other);
    if (rc != -ENOENT)
        return rc < 0 ? rc : -EEXIST;
    rc = settle_revived(p, wall_us, rid);
    if (rc == 0)
        rc = settle_up(p, wall_us, parent);
    if (rc < 0)
        return rc;
    n.nid = replica_new_id(p);
    memcpy(n.name, name, len);
    rc = put_stamped(p, &n, next_hlc(p, wall_us, at, 0));
    if (rc == 0)
        rc = set_at(p, n.nid, PLACE_AT, parent, name, len);
    if (rc == 0)
        *nid = n.nid;
    return rc;
}

/* settle_cuts when a directory is at this place; and it is there for good. */
static int settle_before(struct replica *p, uint64_t wall_us, struct id128 parent,
                         const uint8_t *name, uint8_t len)
{
    struct id128 nid;
    struct name_rec n;
    uint8_t type;
    int rc = p->r->who_is_at(p->r->ctx, parent, name, len, &nid);

    if (rc == 0)
        rc = p->r->get_name(p->r->ctx, nid, &n);
    if (rc == 0)
        rc = get_type(p->r, n.inode, &type);
    if (rc == 0 && type == NODE_DIR)
        rc = settle_cuts(p, wall_us);
    if (rc == 0 && type == NODE_DIR)
        rc = settle_revived(p, wall_us, n.inode);
    return rc;
}

/* The claims of a place that are about to go from it: the directories that they are in, also those
 * merged into `parent`, stay. */
static int take_claims(struct replica *p, uint64_t wall_us, struct id128 parent,
                       const uint8_t *name, uint8_t len, struct claims *out)
{
    struct claims c;
    int rc = claims_at(p->r, parent, name, len, &c);

    if (rc < 0)
        return rc;
    rc = settle_up(p, wall_us, parent);
    for (size_t i = 0; i < c.count && rc == 0; i++) {
        if (!id_eq(c.n[i].parent, parent))
            rc = settle_revived(p, wall_us, c.n[i].parent);
    }
    free(c.n);
    /* Again: settling may have put some of them. */
    return rc < 0 ? rc : claims_at(p->r, parent, name, len, out);
}

int replica_unlink(struct replica *p, uint64_t wall_us, struct id128 parent, const uint8_t *name,
                   uint8_t len)
{
    struct claims c;
    int rc = settle_before(p, wall_us, parent, name, len);

    if (rc == 0)
        rc = take_claims(p, wall_us, parent, name, len, &c);
    if (rc < 0)
        return rc;
    rc = bury_claims(p, wall_us, &c);
    free(c.n);
    return rc;
}

/*
 * All claimants go to a new place. The one shown is put first, so that peers never see a hidden one
 * win on the way, but has the latest clock, so that it stays the winner; the clocks of the hidden
 * ones keep their order. Sequence numbers and clocks need not agree.
 */
static int move_claims(struct replica *p, uint64_t wall_us, uint64_t after, struct claims *c,
                       struct id128 parent, const uint8_t *name, uint8_t len)
{
    uint64_t first = hlc_tick(&p->clock, wall_us, latest(c, after));
    uint64_t last = first;
    int rc = 0;

    for (size_t i = 1; i < c->count; i++)
        last = hlc_tick(&p->clock, wall_us, last);
    for (size_t i = 0; i < c->count && rc == 0; i++) {
        struct name_rec *n = &c->n[i];

        n->prev_parent = n->parent;
        n->prev_len = n->name_len;
        memcpy(n->prev_name, n->name, n->name_len);
        rc = put_moved(p, n, i == 0 ? last : first + i - 1, parent, name, len);
    }
    return rc;
}

/* The places of what move_claims moved. */
static int place_claims(struct replica *p, const struct claims *c, struct id128 parent,
                        const uint8_t *name, uint8_t len)
{
    int rc = 0;

    for (size_t i = 0; i < c->count && rc == 0; i++)
        rc = set_at(p, c->n[i].nid, i == 0 ? PLACE_AT : PLACE_HIDDEN, parent, name, len);
    return rc;
}

int replica_rename(struct replica *p, uint64_t wall_us, struct id128 old_parent,
                   const uint8_t *old_name, uint8_t old_len, struct id128 new_parent,
                   const uint8_t *new_name, uint8_t new_len, bool exchange)
{
    struct claims src = {0}, dst = {0};
    uint64_t after;
    int rc = settle_before(p, wall_us, old_parent, old_name, old_len);

    if (rc == 0)
        rc = settle_before(p, wall_us, new_parent, new_name, new_len);
    if (rc == -ENOENT && !exchange)
        rc = 0;
    if (rc == 0)
        rc = settle_up(p, wall_us, new_parent);
    if (rc == 0)
        rc = take_claims(p, wall_us, old_parent, old_name, old_len, &src);
    if (rc == 0)
        rc = take_claims(p, wall_us, new_parent, new_name, new_len, &dst);
    if (rc == -ENOENT && src.count > 0 && !exchange)
        rc = 0;
    if (rc < 0 || (dst.count > 0 && id_eq(src.n[0].inode, dst.n[0].inode)))
        goto out;
    after = latest(&dst, 0);
    rc = move_claims(p, wall_us, after, &src, new_parent, new_name, new_len);
    if (rc == 0 && exchange)
        rc = move_claims(p, wall_us, after, &dst, old_parent, old_name, old_len);
    else if (rc == 0)
        rc = bury_claims(p, wall_us, &dst);
    /* Whoever was at the new place leaves it before the other comes: one at a time is at a place.
     */
    if (rc == 0 && exchange)
        rc = set_nowhere(p, dst.n[0].nid);
    if (rc == 0)
        rc = place_claims(p, &src, new_parent, new_name, new_len);
    if (rc == 0 && exchange)
        rc = place_claims(p, &dst, old_parent, old_name, old_len);
out:
    free(src.n);
    free(dst.n);
    return rc;
}

int replica_content(struct replica *p, uint64_t wall_us, uint64_t at, struct content_rec *c)
{
    struct content_rec prev, on;
    int rc = c->type == NODE_DIR ? 0 : settle_revived(p, wall_us, c->rid);

    if (rc == 0)
        rc = c->type == NODE_DIR ? settle_up(p, wall_us, c->rid) : settle_above(p, wall_us, c->rid);
    if (rc < 0)
        return rc;
    rc = p->r->get_content(p->r->ctx, c->rid, &prev);
    if (rc == 0)
        rc = seen_content(p->r, c->rid, &on);
    if (rc == -ENOENT)
        prev = on = (struct content_rec){.rid = c->rid, .type = c->type};
    else if (rc < 0)
        return rc;
    if (prev.type != c->type)
        return -EINVAL;
    c->base = on.h.stamp;
    c->vv = on.vv;
    if (c->type != NODE_DIR) {
        rc = vvec_raise(&c->vv, p->node, p->next_seq);
        if (rc < 0)
            return rc;
    }
    rc = replica_stamp(p, &c->h.stamp);
    if (rc < 0)
        return rc;
    c->h.hlc = next_hlc(p, wall_us, at, prev.h.hlc);
    return p->r->put_content(p->r->ctx, c, p->node);
}

int replica_attr(struct replica *p, uint64_t wall_us, uint64_t at, struct attr_rec *a)
{
    struct attr_rec prev = {0};
    struct content_rec c = {0};
    uint64_t after = 0;
    uint8_t type;
    int rc = get_type(p->r, a->rid, &type);

    if (rc == 0 && type == NODE_DIR)
        rc = settle_up(p, wall_us, a->rid);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    rc = p->r->get_attr(p->r->ctx, a->rid, &prev);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0)
        after = prev.h.hlc;
    /* A time set after the content was sealed must be later than the content's. */
    if (a->mtime_hlc == ATTR_MTIME_SET) {
        rc = p->r->get_content(p->r->ctx, a->rid, &c);
        if (rc < 0 && rc != -ENOENT)
            return rc;
        if (rc == 0 && c.h.hlc > after)
            after = c.h.hlc;
    }
    rc = replica_stamp(p, &a->h.stamp);
    if (rc < 0)
        return rc;
    a->h.hlc = next_hlc(p, wall_us, at, after);
    if (a->mtime_hlc == ATTR_MTIME_SET)
        a->mtime_hlc = a->h.hlc;
    return p->r->put_attr(p->r->ctx, a, p->node);
}

static int merge_name(struct replica *p, const struct name_rec *n, uint64_t source,
                      enum merge_result *result)
{
    struct name_rec own;
    int rc = p->r->get_name(p->r->ctx, n->nid, &own);

    if (rc == 0 && !id_eq(own.inode, n->inode))
        return FARM_EPROTO;
    if (rc == 0 && !head_wins(&n->h, &own.h))
        return 0;
    if (rc == -ENOENT && vvec_covers(&p->know, n->h.stamp))
        return 0;
    if (rc < 0 && rc != -ENOENT)
        return rc;
    *result = MERGE_NEW;
    return p->r->put_name(p->r->ctx, n, source);
}

static int merge_content(struct replica *p, const struct content_rec *c, uint64_t source,
                         enum merge_result *result)
{
    struct content_rec own;
    bool conflict = false;
    int rc = p->r->get_content(p->r->ctx, c->rid, &own);

    if (rc == 0) {
        if (own.type != c->type)
            return FARM_EPROTO;
        conflict = content_conflicts(&own, c);
        if (!head_wins(&c->h, &own.h)) {
            *result = conflict ? MERGE_LOST : MERGE_OLD;
            return 0;
        }
    } else if (rc != -ENOENT) {
        return rc;
    } else if (vvec_covers(&p->know, c->h.stamp)) {
        return 0;
    }
    *result = conflict ? MERGE_CONFLICT : MERGE_NEW;
    return p->r->put_content(p->r->ctx, c, source);
}

static int merge_attr(struct replica *p, const struct attr_rec *a, uint64_t source,
                      enum merge_result *result)
{
    struct attr_rec own;
    int rc = p->r->get_attr(p->r->ctx, a->rid, &own);

    if (rc == 0 && !head_wins(&a->h, &own.h))
        return 0;
    if (rc == -ENOENT && vvec_covers(&p->know, a->h.stamp))
        return 0;
    if (rc < 0 && rc != -ENOENT)
        return rc;
    *result = MERGE_NEW;
    return p->r->put_attr(p->r->ctx, a, source);
}

int replica_check(const struct replica *p, const struct rec_head *h)
{
    if (h->stamp.node == 0 || h->stamp.seq == 0 || h->hlc == 0 || h->hlc > HLC_LIMIT)
        return FARM_EPROTO;
    return h->stamp.node == p->node && h->stamp.seq >= p->next_seq ? -ESTALE : 0;
}

int replica_merge(struct replica *p, uint64_t wall_us, const struct record *rec, uint64_t source,
                  enum merge_result *result, bool *skewed)
{
    const struct rec_head *h = record_head(rec);
    struct vvec seen = p->seen;
    enum merge_result res = MERGE_OLD;
    int rc = replica_check(p, h);

    if (rc == 0)
        rc = vvec_raise(&seen, h->stamp.node, h->stamp.seq);
    if (rc < 0)
        return rc;
    switch (rec->kind) {
    case REC_NAME: rc = merge_name(p, &rec->name, source, &res); break;
    case REC_CONTENT: rc = merge_content(p, &rec->content, source, &res); break;
    case REC_ATTR: rc = merge_attr(p, &rec->attr, source, &res); break;
    default: rc = FARM_EPROTO;
    }
    if (rc < 0)
        return rc;
    p->seen = seen;
    *skewed = !hlc_observe(&p->clock, wall_us, h->hlc);
    *result = res;
    return 0;
}

int replica_learn(struct replica *p, const struct vvec *know)
{
    struct vvec all = p->know, seen = p->seen;
    int rc = vvec_join(&all, know);

    if (rc == 0)
        rc = vvec_join(&seen, know);
    if (rc < 0)
        return rc;
    p->know = all;
    p->seen = seen;
    return 0;
}
