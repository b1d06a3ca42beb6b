/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "wire/record.h"

#include <endian.h>
#include <string.h>

#define XATTR_VALUE_MAX 65536u /* the kernel's XATTR_SIZE_MAX */

static void put_id(struct buf *b, struct id128 id)
{
    buf_put_u64(b, id.node);
    buf_put_u64(b, id.n);
}

static void put_stamp(struct buf *b, struct stamp s)
{
    buf_put_u64(b, s.node);
    buf_put_u64(b, s.seq);
}

static void put_short(struct buf *b, const uint8_t *p, uint8_t len)
{
    buf_put_u8(b, len);
    buf_put(b, p, len);
}

static struct id128 get_id(struct cur *c)
{
    struct id128 id;
    id.node = cur_u64(c);
    id.n = cur_u64(c);
    return id;
}

static struct stamp get_stamp(struct cur *c)
{
    struct stamp s;
    s.node = cur_u64(c);
    s.seq = cur_u64(c);
    return s;
}

static void fail_unless(struct cur *c, bool ok)
{
    if (!ok)
        c->err = FARM_ECORRUPT;
}

bool name_valid(const uint8_t *name, size_t len)
{
    if (len == 0 || len > NAME_LEN_MAX || memchr(name, 0, len) || memchr(name, '/', len))
        return false;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

bool xattrs_valid(const uint8_t *p, size_t len)
{
    const uint8_t *last = NULL;
    size_t last_len = 0;

    if (len > XATTRS_LEN_MAX)
        return false;
    while (len) {
        size_t nlen = *p++;
        len--;
        if (nlen == 0 || len < nlen + 4 || memchr(p, 0, nlen))
            return false;
        const uint8_t *name = p;
        uint32_t vlen;
        memcpy(&vlen, p + nlen, sizeof vlen);
        vlen = le32toh(vlen);
        p += nlen + 4;
        len -= nlen + 4;
        if (vlen > XATTR_VALUE_MAX || vlen > len)
            return false;
        p += vlen;
        len -= vlen;
        if (last) {
            int d = memcmp(last, name, last_len < nlen ? last_len : nlen);
            if (d > 0 || (d == 0 && last_len >= nlen))
                return false;
        }
        last = name;
        last_len = nlen;
    }
    return true;
}

void vvec_encode(struct buf *b, const struct vvec *v)
{
    buf_put_u16(b, v->n);
    for (uint16_t i = 0; i < v->n; i++)
        put_stamp(b, v->e[i]);
}

int vvec_decode(struct cur *c, struct vvec *out)
{
    uint16_t n = cur_u16(c);

    fail_unless(c, n <= VVEC_MAX);
    out->n = 0;
    for (uint16_t i = 0; i < n && !c->err; i++) {
        struct stamp s = get_stamp(c);
        fail_unless(c, s.seq >= 1 && (i == 0 || s.node > out->e[i - 1].node));
        out->e[out->n++] = s;
    }
    if (c->err)
        out->n = 0;
    return c->err;
}

static void name_encode(struct buf *b, const struct name_rec *r)
{
    put_id(b, r->inode);
    put_id(b, r->parent);
    buf_put_u8(b, r->alive);
    put_short(b, r->name, r->name_len);
    buf_put_u8(b, r->prev_len);
    if (r->prev_len) {
        put_id(b, r->prev_parent);
        buf_put(b, r->prev_name, r->prev_len);
    }
    vvec_encode(b, &r->seen);
}

static void name_bytes(struct cur *c, uint8_t len, uint8_t out[NAME_LEN_MAX])
{
    const uint8_t *p = cur_raw(c, len);

    if (p && name_valid(p, len))
        memcpy(out, p, len);
    else
        c->err = FARM_ECORRUPT;
}

static void name_decode(struct cur *c, struct name_rec *r)
{
    r->inode = get_id(c);
    r->parent = get_id(c);
    uint8_t alive = cur_u8(c);
    r->alive = alive != 0;
    r->name_len = cur_u8(c);
    name_bytes(c, r->name_len, r->name);
    r->prev_len = cur_u8(c);
    r->prev_parent = (struct id128){0, 0};
    if (r->prev_len) {
        r->prev_parent = get_id(c);
        name_bytes(c, r->prev_len, r->prev_name);
        fail_unless(c, !id_none(r->prev_parent));
    }
    fail_unless(c, alive <= 1 && !id_none(r->nid) && !id_none(r->parent));
    /* Nothing can hold the root: it would make every path a cycle. */
    fail_unless(c, !id_none(r->inode) && !id_eq(r->inode, RID_ROOT));
    if (!c->err)
        c->err = vvec_decode(c, &r->seen);
}

static void content_encode(struct buf *b, const struct content_rec *r)
{
    buf_put_u8(b, r->type);
    buf_put_u64(b, r->size);
    buf_put_u64(b, (uint64_t)r->mtime_ns);
    vvec_encode(b, &r->vv);
    put_stamp(b, r->base);
    switch (r->type) {
    case NODE_REG: buf_put(b, r->digest, sizeof r->digest); break;
    case NODE_LNK:
        buf_put_u16(b, r->target_len);
        buf_put(b, r->target, r->target_len);
        break;
    case NODE_CHR:
    case NODE_BLK:
        buf_put_u32(b, r->rdev_major);
        buf_put_u32(b, r->rdev_minor);
        break;
    default: break;
    }
}

static void content_decode(struct cur *c, struct content_rec *r)
{
    const uint8_t *p;

    r->type = cur_u8(c);
    r->size = cur_u64(c);
    r->mtime_ns = (int64_t)cur_u64(c);
    if (vvec_decode(c, &r->vv))
        return;
    r->base = get_stamp(c);
    memset(r->digest, 0, sizeof r->digest);
    r->rdev_major = r->rdev_minor = 0;
    r->target_len = 0;
    r->target = NULL;
    fail_unless(c, r->type >= NODE_REG && r->type <= NODE_SOCK && r->size <= SIZE_MAX_FILE);
    fail_unless(c, !id_none(r->rid) && (!id_eq(r->rid, RID_ROOT) || r->type == NODE_DIR));
    switch (r->type) {
    case NODE_REG:
        p = cur_raw(c, sizeof r->digest);
        if (p)
            memcpy(r->digest, p, sizeof r->digest);
        break;
    case NODE_LNK:
        r->target_len = cur_u16(c);
        fail_unless(c, r->target_len >= 1 && r->target_len <= TARGET_LEN_MAX);
        r->target = cur_raw(c, r->target_len);
        fail_unless(c, r->target && !memchr(r->target, 0, r->target_len));
        break;
    case NODE_CHR:
    case NODE_BLK:
        r->rdev_major = cur_u32(c);
        r->rdev_minor = cur_u32(c);
        break;
    default: break;
    }
}

static void attr_encode(struct buf *b, const struct attr_rec *r)
{
    buf_put_u32(b, r->mode);
    buf_put_u32(b, r->uid);
    buf_put_u32(b, r->gid);
    put_short(b, r->owner, r->owner_len);
    put_short(b, r->group, r->group_len);
    buf_put_u64(b, (uint64_t)r->mtime_ns);
    buf_put_u64(b, r->mtime_hlc);
    buf_put_bytes(b, r->xattrs, r->xattrs_len);
}

/* An account name goes into lookups and logs: no control bytes, and not passwd(5)'s separator. */
static uint8_t owner_bytes(struct cur *c, uint8_t out[OWNER_LEN_MAX])
{
    uint8_t len = cur_u8(c);

    fail_unless(c, len <= OWNER_LEN_MAX);
    const uint8_t *p = cur_raw(c, len);
    if (!p)
        return 0;
    for (uint8_t i = 0; i < len; i++)
        fail_unless(c, p[i] >= 0x20 && p[i] != 0x7f && p[i] != ':');
    if (len)
        memcpy(out, p, len);
    return c->err ? 0 : len;
}

static void attr_decode(struct cur *c, struct attr_rec *r)
{
    r->mode = cur_u32(c);
    r->uid = cur_u32(c);
    r->gid = cur_u32(c);
    r->owner_len = owner_bytes(c, r->owner);
    r->group_len = owner_bytes(c, r->group);
    r->mtime_ns = (int64_t)cur_u64(c);
    r->mtime_hlc = cur_u64(c);
    r->xattrs = cur_bytes(c, XATTRS_LEN_MAX, &r->xattrs_len);
    if (c->err)
        return;
    fail_unless(c, !id_none(r->rid) && r->mode <= 07777);
    /* (uid_t)-1 would tell chown(2) to change nothing. */
    fail_unless(c, r->uid != UINT32_MAX && r->gid != UINT32_MAX);
    fail_unless(c, r->xattrs_len == 0 || xattrs_valid(r->xattrs, r->xattrs_len));
}

void record_encode(struct buf *b, const struct record *r)
{
    const struct rec_head *h = record_head(r);

    buf_put_u8(b, (uint8_t)r->kind);
    put_stamp(b, h->stamp);
    buf_put_u64(b, h->hlc);
    put_id(b, record_id(r));
    switch (r->kind) {
    case REC_NAME: name_encode(b, &r->name); break;
    case REC_CONTENT: content_encode(b, &r->content); break;
    case REC_ATTR: attr_encode(b, &r->attr); break;
    }
}

int record_decode(struct cur *c, struct record *out)
{
    uint8_t kind = cur_u8(c);
    struct rec_head h;

    h.stamp = get_stamp(c);
    h.hlc = cur_u64(c);
    struct id128 id = get_id(c);
    if (c->err)
        return c->err;
    switch (kind) {
    case REC_NAME:
        out->kind = REC_NAME;
        out->name.h = h;
        out->name.nid = id;
        name_decode(c, &out->name);
        break;
    case REC_CONTENT:
        out->kind = REC_CONTENT;
        out->content.h = h;
        out->content.rid = id;
        content_decode(c, &out->content);
        break;
    case REC_ATTR:
        out->kind = REC_ATTR;
        out->attr.h = h;
        out->attr.rid = id;
        attr_decode(c, &out->attr);
        break;
    default: c->err = FARM_ECORRUPT;
    }
    return c->err;
}
