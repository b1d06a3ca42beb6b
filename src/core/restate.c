/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Records that are put outside of the ordinary course: by a node that goes on under a new id, and
 * by one that rejoins. */
#include "core/replica_i.h"

#include <errno.h>

static int renew_content(struct replica *p, struct content_rec c, struct stamp first)
{
    if (vvec_covers(&c.vv, first)) {
        vvec_lower(&c.vv, first);
        int rc = vvec_raise(&c.vv, p->node, p->next_seq);

        if (rc < 0)
            return rc;
    }
    if (c.base.node == first.node && c.base.seq >= first.seq)
        c.base = (struct stamp){0, 0};
    int rc = replica_stamp(p, &c.h.stamp);

    return rc < 0 ? rc : p->r->put_content(p->r->ctx, &c, p->node);
}

static int renew_name(struct replica *p, struct name_rec n, struct stamp first)
{
    if (vvec_covers(&n.seen, first)) {
        vvec_lower(&n.seen, first);
        int rc = vvec_raise(&n.seen, p->node, p->next_seq - 1);

        if (rc < 0)
            return rc;
    }
    int rc = replica_stamp(p, &n.h.stamp);

    return rc < 0 ? rc : p->r->put_name(p->r->ctx, &n, p->node);
}

int replica_renew(struct replica *p, uint64_t old, uint64_t from, const struct record *rec)
{
    const struct rec_head *h = record_head(rec);
    struct attr_rec a;
    int rc;

    if (h->stamp.node != old || h->stamp.seq < from)
        return 0;
    switch (rec->kind) {
    case REC_NAME: return renew_name(p, rec->name, (struct stamp){old, from});
    case REC_CONTENT: return renew_content(p, rec->content, (struct stamp){old, from});
    case REC_ATTR: break;
    }
    a = rec->attr;
    rc = replica_stamp(p, &a.h.stamp);
    return rc < 0 ? rc : p->r->put_attr(p->r->ctx, &a, p->node);
}

static bool same_head(const struct rec_head *a, const struct rec_head *b)
{
    return a->hlc == b->hlc && stamp_eq(a->stamp, b->stamp);
}

static int take_content(struct replica *p, const struct content_rec *c, uint64_t source,
                        enum merge_result *result)
{
    struct content_rec own;
    int rc = p->r->get_content(p->r->ctx, c->rid, &own);

    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0 && own.type != c->type)
        return FARM_EPROTO;
    *result = rc < 0                                                          ? MERGE_NEW
              : same_head(&own.h, &c->h)                                      ? MERGE_OLD
              : content_conflicts(&own, c) || !vvec_includes(&c->vv, &own.vv) ? MERGE_CONFLICT
                                                                              : MERGE_NEW;
    return p->r->put_content(p->r->ctx, c, source);
}

int replica_take(struct replica *p, const struct record *rec, uint64_t source,
                 enum merge_result *result)
{
    const struct rec_head *h = record_head(rec);
    struct name_rec n;
    struct attr_rec a;
    int rc = replica_check(p, h);

    if (rc == 0)
        rc = vvec_raise(&p->seen, h->stamp.node, h->stamp.seq);
    if (rc < 0)
        return rc;
    *result = MERGE_NEW;
    switch (rec->kind) {
    case REC_NAME:
        rc = p->r->get_name(p->r->ctx, rec->name.nid, &n);
        if (rc < 0 && rc != -ENOENT)
            return rc;
        if (rc == 0 && !id_eq(n.inode, rec->name.inode))
            return FARM_EPROTO;
        if (rc == 0 && same_head(&n.h, h))
            *result = MERGE_OLD;
        return p->r->put_name(p->r->ctx, &rec->name, source);
    case REC_CONTENT: return take_content(p, &rec->content, source, result);
    case REC_ATTR: break;
    }
    rc = p->r->get_attr(p->r->ctx, rec->attr.rid, &a);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0 && same_head(&a.h, h))
        *result = MERGE_OLD;
    return p->r->put_attr(p->r->ctx, &rec->attr, source);
}
