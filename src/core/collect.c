/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/collect.h"

#include <errno.h>
#include <stdlib.h>

void collect_meet(struct vvec *a, const struct vvec *b)
{
    uint16_t n = 0;

    for (uint16_t i = 0; i < a->n; i++) {
        struct stamp e = a->e[i];
        uint64_t other = vvec_get(b, e.node);

        if (other < e.seq)
            e.seq = other;
        if (e.seq > 0)
            a->e[n++] = e;
    }
    a->n = n;
}

struct dead {
    const struct replica *p;
    struct id128 *nids;
    size_t n, cap;
    struct vvec stamps; /* of all records */
    uint64_t latest;    /* clock of the names */
};

/* 1: it is not dead, or shown all the same. */
static int look(void *arg, const struct name_rec *n)
{
    struct dead *d = arg;
    struct place at;

    if (n->alive)
        return 1;
    int rc = d->p->r->get_place(d->p->r->ctx, n->nid, &at);

    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0 && at.kind != PLACE_NONE)
        return 1;
    if (d->n == d->cap) {
        size_t more = d->cap ? d->cap * 2 : 4;
        struct id128 *q = realloc(d->nids, more * sizeof(*q));

        if (!q)
            return -ENOMEM;
        d->nids = q;
        d->cap = more;
    }
    d->nids[d->n++] = n->nid;
    if (n->h.hlc > d->latest)
        d->latest = n->h.hlc;
    return vvec_raise(&d->stamps, n->h.stamp.node, n->h.stamp.seq);
}

static int add_stamp(struct dead *d, int rc, struct stamp s)
{
    return rc == 0 ? vvec_raise(&d->stamps, s.node, s.seq) : rc == -ENOENT ? 0 : rc;
}

static int look_at_all(struct dead *d, struct id128 rid)
{
    const struct records *r = d->p->r;
    struct content_rec c;
    struct attr_rec a;
    int rc = r->names_of(r->ctx, rid, look, d);

    if (rc == 0)
        rc = add_stamp(d, r->get_content(r->ctx, rid, &c), c.h.stamp);
    if (rc == 0)
        rc = add_stamp(d, r->get_attr(r->ctx, rid, &a), a.h.stamp);
    return rc;
}

int collect_inode(struct replica *p, struct id128 rid, const struct vvec *stable, uint64_t before,
                  bool *done)
{
    struct dead d = {.p = p};
    struct vvec gone = p->gone;
    int rc = id_eq(rid, RID_ROOT) ? 1 : look_at_all(&d, rid);

    if (rc == 0 && (d.n == 0 || (!vvec_includes(stable, &d.stamps) && d.latest >= before)))
        rc = 1;
    if (rc == 0)
        rc = vvec_join(&gone, &d.stamps);
    for (size_t i = 0; rc == 0 && i < d.n; i++)
        rc = p->r->forget_name(p->r->ctx, d.nids[i]);
    if (rc == 0)
        rc = p->r->forget_inode(p->r->ctx, rid);
    if (rc == 0)
        p->gone = gone;
    free(d.nids);
    if (rc >= 0)
        *done = rc == 0;
    return rc < 0 ? rc : 0;
}
