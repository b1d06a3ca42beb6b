/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A reader's walks over all inodes and their names: what the scrub looks at. */
#include "store/index_i.h"

#include "base/digest.h"

#include <errno.h>

int index_reader_inodes(struct index_reader *r, struct id128 from, inode_visit f, void *arg)
{
    struct key key = key_of_id(from);
    MDB_val k = {key.n, key.b}, v;
    MDB_cursor *c;
    int e = 0;

    int rc = mdb_cursor_open(reader_txn(r), reader_index(r)->dbi[T_CONTENTS], &c);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    while (!rc && !e) {
        e = k.mv_size == 16 ? f(arg, key_get_id(k.mv_data)) : FARM_ECORRUPT;
        if (!e)
            rc = mdb_cursor_get(c, &k, &v, MDB_NEXT);
    }
    mdb_cursor_close(c);
    if (e)
        return e;
    return rc == MDB_NOTFOUND ? 0 : index_code(rc);
}

struct walk_names {
    struct index_reader *r;
    name_place_visit f;
    void *arg;
};

static int on_name(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct walk_names *w = arg;
    const struct index *ix = reader_index(w->r);
    struct row_local local;
    struct record rec;
    struct place place;

    (void)v;
    if (k->mv_size != 32)
        return FARM_ECORRUPT;
    struct id128 nid = key_get_id((const uint8_t *)k->mv_data + 16);
    int e = record_row(ix, reader_txn(w->r), REC_NAME, nid, &rec, &local);
    if (e)
        return e == -ENOENT ? FARM_ECORRUPT : e;
    e = place_row(ix, reader_txn(w->r), nid, &place);
    if (e == -ENOENT) {
        memset(&place, 0, sizeof place);
        e = 0;
    }
    return e ? e : w->f(w->arg, &rec.name, &place);
}

int index_reader_names(struct index_reader *r, struct id128 rid, name_place_visit f, void *arg)
{
    struct walk_names w = {r, f, arg};
    struct key k = key_of_id(rid);
    return row_scan(reader_index(r), reader_txn(r), T_NAMES_OF, &k, on_name, &w);
}

/* ---- sums ---- */

struct summing {
    struct index_reader *r;
    struct id128 last;
    const struct vvec *known;
    struct index_sum *out;
    struct buf all, one; /* of the range; of the inode at hand */
    bool alive;
};

static void sum_head(struct summing *x, struct buf *b, enum rec_kind kind, struct id128 id,
                     const struct rec_head *h)
{
    x->out->fresh = x->out->fresh || !vvec_covers(x->known, h->stamp);
    buf_put_u8(b, (uint8_t)kind);
    put_id(b, id);
    put_stamp(b, h->stamp);
    buf_put_u64(b, h->hlc);
}

static int sum_name(void *arg, const struct name_rec *n, const struct place *place)
{
    struct summing *x = arg;
    struct buf none;

    (void)place;
    buf_init(&none, 128);
    sum_head(x, n->alive ? &x->one : &none, REC_NAME, n->nid, &n->h);
    buf_fini(&none);
    x->alive = x->alive || n->alive;
    return 0;
}

static int sum_record(struct summing *x, enum rec_kind kind, struct id128 rid)
{
    struct record rec;

    int e = index_reader_record(x->r, kind, rid, &rec);
    if (!e)
        sum_head(x, &x->one, kind, rid, record_head(&rec));
    return e == -ENOENT ? 0 : e;
}

static int sum_inode(void *arg, struct id128 rid)
{
    struct summing *x = arg;
    struct index_node node;

    if (id_cmp(rid, x->last) > 0 || x->out->inodes == SUM_INODES_MAX)
        return 1;
    int e = index_reader_node(x->r, rid, &node);
    if (e == 0 && (node.flags & NODE_HELD))
        return 0;
    buf_reset(&x->one);
    x->alive = id_eq(rid, RID_ROOT);
    e = e == -ENOENT ? 0 : e;
    if (!e)
        e = sum_record(x, REC_CONTENT, rid);
    if (!e)
        e = sum_record(x, REC_ATTR, rid);
    if (!e)
        e = index_reader_names(x->r, rid, sum_name, x);
    if (e || !x->alive)
        return e;
    x->out->inodes++;
    buf_put(&x->all, x->one.data, x->one.len);
    return x->one.err ? x->one.err : x->all.err;
}

int index_reader_sum(struct index_reader *r, struct id128 first, struct id128 last,
                     const struct vvec *known, struct index_sum *out)
{
    struct summing x = {.r = r, .last = last, .known = known ? known : &out->know, .out = out};
    struct index_meta meta;

    memset(out, 0, sizeof *out);
    int e = index_reader_meta(r, &meta);
    if (e)
        return e;
    out->know = meta.know;
    buf_init(&x.all, 64u << 20);
    buf_init(&x.one, 16u << 20);
    e = index_reader_inodes(r, first, sum_inode, &x);
    if (e >= 0)
        digest_leaf(x.all.data ? x.all.data : (const uint8_t *)"", x.all.len, out->digest);
    buf_fini(&x.all);
    buf_fini(&x.one);
    return e < 0 ? e : 0;
}
