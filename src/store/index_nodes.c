/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Where things are in the backing tree: node rows with their lid and handle orders, and the block
 * digests of their content. */
#include "store/index_i.h"

#include "base/digest.h"

#include <errno.h>
#include <string.h>

static void put_handle(struct buf *b, const struct handle *h)
{
    buf_put_u8(b, h->len);
    buf_put_u32(b, (uint32_t)h->type);
    buf_put(b, h->bytes, h->len);
}

static void get_handle(struct cur *c, struct handle *h)
{
    memset(h, 0, sizeof *h);
    uint8_t len = cur_u8(c);
    h->type = (int32_t)cur_u32(c);
    const uint8_t *p = cur_raw(c, len);
    if (!p || len > HANDLE_BYTES_MAX) {
        c->err = FARM_ECORRUPT;
        return;
    }
    h->len = len;
    memcpy(h->bytes, p, len);
}

static struct key handle_key(const struct handle *h)
{
    struct key k = {.n = 0};
    uint8_t type[4];

    for (int i = 0; i < 4; i++)
        type[i] = (uint8_t)((uint32_t)h->type >> (24 - 8 * i));
    key_raw(&k, type, sizeof type);
    key_raw(&k, h->bytes, h->len);
    return k;
}

int node_row(const struct index *ix, MDB_txn *txn, struct id128 rid, struct index_node *n)
{
    struct key k = key_of_id(rid);
    struct index_node r = {.rid = rid};
    struct cur c;

    int e = row_get(ix, txn, T_NODES, &k, &c);
    if (e)
        return e;
    r.lid = cur_u64(&c);
    r.type = cur_u8(&c);
    r.flags = cur_u8(&c);
    r.size = cur_u64(&c);
    r.mtime_ns = (int64_t)cur_u64(&c);
    r.ctime_ns = (int64_t)cur_u64(&c);
    get_handle(&c, &r.handle);
    e = cur_done(&c);
    if (!e)
        *n = r;
    return e;
}

int lid_row(const struct index *ix, MDB_txn *txn, uint64_t lid, struct lid_row *out)
{
    struct key k = key_of_u64(lid);
    struct lid_row r;
    struct cur c;

    int e = row_get(ix, txn, T_LIDS, &k, &c);
    if (e)
        return e;
    r.orphan = cur_u8(&c) != 0;
    r.type = cur_u8(&c);
    r.rid = get_id(&c);
    get_handle(&c, &r.handle);
    e = cur_done(&c);
    if (!e)
        *out = r;
    return e;
}

int handle_row(const struct index *ix, MDB_txn *txn, const struct handle *h, struct handle_row *out)
{
    struct key k = handle_key(h);
    struct handle_row r;
    struct cur c;

    int e = row_get(ix, txn, T_HANDLES, &k, &c);
    if (e)
        return e;
    r.lid = cur_u64(&c);
    r.type = cur_u8(&c);
    r.rid = get_id(&c);
    e = cur_done(&c);
    if (!e)
        *out = r;
    return e;
}

static int put_lid_row(struct index *ix, uint64_t lid, const struct lid_row *r)
{
    struct key k = key_of_u64(lid);
    struct buf *b = row_begin(ix);

    buf_put_u8(b, r->orphan);
    buf_put_u8(b, r->type);
    put_id(b, r->rid);
    put_handle(b, &r->handle);
    return row_put(ix, T_LIDS, &k);
}

static int put_handle_row(struct index *ix, const struct index_node *n)
{
    struct key k = handle_key(&n->handle);
    struct buf *b = row_begin(ix);

    buf_put_u64(b, n->lid);
    buf_put_u8(b, n->type);
    put_id(b, n->rid);
    return row_put(ix, T_HANDLES, &k);
}

/* Take the lid out of the order, or leave it as an orphan. A lid that was given to another inode
 * meanwhile is not ours to touch. */
static int release_lid(struct index *ix, const struct index_node *was, bool keep_lid)
{
    struct key k = key_of_u64(was->lid);
    struct lid_row r;

    int e = lid_row(ix, ix->txn, was->lid, &r);
    if (e == -ENOENT || (!e && !id_eq(r.rid, was->rid)))
        return 0;
    if (e)
        return e;
    if (!keep_lid)
        return row_drop(ix, T_LIDS, &k);
    r.orphan = true;
    return put_lid_row(ix, was->lid, &r);
}

static int release_handle(struct index *ix, const struct index_node *was)
{
    struct key k = handle_key(&was->handle);
    struct handle_row r;

    int e = handle_row(ix, ix->txn, &was->handle, &r);
    if (e == -ENOENT || (!e && !id_eq(r.rid, was->rid)))
        return 0;
    return e ? e : row_drop(ix, T_HANDLES, &k);
}

int index_get_node(struct index *ix, struct id128 rid, struct index_node *n)
{
    return node_row(ix, ix->txn, rid, n);
}

int index_get_node_by_lid(struct index *ix, uint64_t lid, struct index_node *n)
{
    struct lid_row r;

    int e = lid_row(ix, ix->txn, lid, &r);
    if (!e && r.orphan)
        return -ENOENT;
    return e ? e : node_row(ix, ix->txn, r.rid, n);
}

int index_get_node_by_handle(struct index *ix, const struct handle *h, struct index_node *n)
{
    struct handle_row r;

    int e = handle_row(ix, ix->txn, h, &r);
    return e ? e : node_row(ix, ix->txn, r.rid, n);
}

int index_put_node(struct index *ix, const struct index_node *n, bool keep_lid)
{
    struct key k = key_of_id(n->rid);
    struct index_node was;

    int e = node_row(ix, ix->txn, n->rid, &was);
    if (e && e != -ENOENT)
        return e;
    bool moved = !e && was.lid != n->lid;
    bool other = !e && !handle_eq(&was.handle, &n->handle);
    bool orders = e == -ENOENT || moved || other || was.type != n->type;
    e = moved ? release_lid(ix, &was, keep_lid) : 0;
    if (!e && other)
        e = release_handle(ix, &was);
    struct buf *b = row_begin(ix);
    buf_put_u64(b, n->lid);
    buf_put_u8(b, n->type);
    buf_put_u8(b, n->flags);
    buf_put_u64(b, n->size);
    buf_put_u64(b, (uint64_t)n->mtime_ns);
    buf_put_u64(b, (uint64_t)n->ctime_ns);
    put_handle(b, &n->handle);
    if (!e)
        e = row_put(ix, T_NODES, &k);
    if (e || !orders)
        return e;
    struct lid_row lid = {.type = n->type, .rid = n->rid, .handle = n->handle};
    e = put_lid_row(ix, n->lid, &lid);
    return e ? e : put_handle_row(ix, n);
}

int index_del_node(struct index *ix, struct id128 rid, bool keep_lid)
{
    struct key k = key_of_id(rid);
    struct index_node was;

    int e = node_row(ix, ix->txn, rid, &was);
    if (!e)
        e = release_lid(ix, &was, keep_lid);
    if (!e)
        e = release_handle(ix, &was);
    return e ? e : row_drop(ix, T_NODES, &k);
}

int index_put_orphan(struct index *ix, uint64_t lid, const struct handle *h)
{
    struct lid_row r;

    /* Type and rid stay what they were, where the lid is known. */
    int e = lid_row(ix, ix->txn, lid, &r);
    if (e && e != -ENOENT)
        return e;
    if (e)
        r = (struct lid_row){.type = 0};
    r.orphan = true;
    r.handle = *h;
    return put_lid_row(ix, lid, &r);
}

int index_del_orphan(struct index *ix, uint64_t lid)
{
    struct key k = key_of_u64(lid);
    struct lid_row r;

    int e = lid_row(ix, ix->txn, lid, &r);
    if (!e && !r.orphan)
        return -ENOENT;
    return e ? e : row_drop(ix, T_LIDS, &k);
}

struct dir_scan {
    uint64_t after, lid;
    unsigned left;
};

static int visit_dir(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct dir_scan *s = arg;
    struct cur c;

    row_payload(v, &c);
    bool orphan = cur_u8(&c) != 0;
    uint8_t type = cur_u8(&c);
    if (c.err || k->mv_size != 8)
        return FARM_ECORRUPT;
    s->after = key_get_u64(k->mv_data);
    if (type != NODE_DIR || orphan)
        return --s->left == 0 ? -EAGAIN : 0;
    s->lid = s->after;
    return 1;
}

int index_next_dir(struct index *ix, uint64_t *after, unsigned max, uint64_t *lid)
{
    struct dir_scan s = {.after = *after, .left = max};
    struct key from = key_of_u64(*after + 1);

    int e = row_scan_from(ix, ix->txn, T_LIDS, &from, visit_dir, &s);
    if (e < 0 && e != -EAGAIN)
        return e;
    *after = s.after;
    if (e == 1)
        *lid = s.lid;
    return e == 1 ? 0 : e ? e : -ENOENT;
}

/* ---- leaves ---- */

int leaves_row(const struct index *ix, MDB_txn *txn, struct id128 rid, const uint8_t **leaves,
               uint64_t *n)
{
    struct key k = key_of_id(rid);
    struct cur c;

    int e = row_get(ix, txn, T_LEAVES, &k, &c);
    if (e)
        return e;
    size_t left = cur_left(&c);
    if (left % DIGEST_LEN)
        return FARM_ECORRUPT;
    *leaves = c.p;
    *n = left / DIGEST_LEN;
    return 0;
}

int index_get_leaves(struct index *ix, struct id128 rid, const uint8_t **leaves, uint64_t *n)
{
    return leaves_row(ix, ix->txn, rid, leaves, n);
}

int index_put_leaves(struct index *ix, struct id128 rid, const uint8_t *leaves, uint64_t n)
{
    struct key k = key_of_id(rid);

    if (n == 0)
        return row_drop(ix, T_LEAVES, &k);
    if (n > (UINT32_MAX - ROW_HEAD) / DIGEST_LEN) /* LMDB's longest value */
        return FARM_EFULL;
    MDB_val v = {ROW_HEAD + (size_t)n * DIGEST_LEN, NULL};
    int e = row_put_flags(ix, T_LEAVES, &k, &v, MDB_RESERVE);
    if (e)
        return e;
    uint8_t *p = v.mv_data;
    memcpy(p + ROW_HEAD, leaves, (size_t)n * DIGEST_LEN);
    row_seal(T_LEAVES, &k, p, v.mv_size);
    return 0;
}
