/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/record.h"

bool head_wins(const struct rec_head *b, const struct rec_head *a)
{
    if (b->hlc != a->hlc)
        return b->hlc > a->hlc;
    if (b->stamp.node != a->stamp.node)
        return b->stamp.node > a->stamp.node;
    return b->stamp.seq > a->stamp.seq;
}

const struct rec_head *record_head(const struct record *r)
{
    if (r->kind == REC_NAME)
        return &r->name.h;
    return r->kind == REC_CONTENT ? &r->content.h : &r->attr.h;
}

struct id128 record_id(const struct record *r)
{
    if (r->kind == REC_NAME)
        return r->name.nid;
    return r->kind == REC_CONTENT ? r->content.rid : r->attr.rid;
}

/* Do both versions hold the same, so that either may stand for the other? */
static bool same_content(const struct content_rec *a, const struct content_rec *b)
{
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case NODE_REG:
        return a->size == b->size && memcmp(a->digest, b->digest, sizeof(a->digest)) == 0;
    case NODE_LNK:
        return a->target_len == b->target_len &&
               (a->target_len == 0 || memcmp(a->target, b->target, a->target_len) == 0);
    case NODE_CHR:
    case NODE_BLK: return a->rdev_major == b->rdev_major && a->rdev_minor == b->rdev_minor;
    default: return true;
    }
}

bool content_conflicts(const struct content_rec *a, const struct content_rec *b)
{
    if (a->type == NODE_DIR || b->type == NODE_DIR)
        return false;
    return !vvec_includes(&a->vv, &b->vv) && !vvec_includes(&b->vv, &a->vv) && !same_content(a, b);
}

int64_t record_mtime(const struct content_rec *c, const struct attr_rec *a)
{
    return a->mtime_hlc != 0 && a->mtime_hlc >= c->h.hlc ? a->mtime_ns : c->mtime_ns;
}
