/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The rows of what is kept outside the tree. */
#include "store/index_i.h"

#include <errno.h>
#include <string.h>

uint64_t index_kept_hidden_key(struct id128 nid)
{
    uint64_t h = (nid.node * 0x9e3779b97f4a7c15ull) ^ (nid.n * 0xbf58476d1ce4e5b9ull);
    h ^= h >> 29;
    return (h & (KEPT_HIDDEN_BIT - 1)) | KEPT_HIDDEN_BIT;
}

static struct key kept_key(uint8_t class, uint64_t key)
{
    struct key k = {.n = 0};
    key_raw(&k, &class, 1);
    key_u64(&k, key);
    return k;
}

static void put_head(struct buf *b, const struct rec_head *h)
{
    put_stamp(b, h->stamp);
    buf_put_u64(b, h->hlc);
}

static struct rec_head get_head(struct cur *c)
{
    struct rec_head h;
    h.stamp = get_stamp(c);
    h.hlc = cur_u64(c);
    return h;
}

int index_put_kept(struct index *ix, const struct index_kept *k)
{
    struct key key = kept_key(k->class, k->key);
    struct buf *b = row_begin(ix);

    if (k->path_len > sizeof k->path)
        return -ENAMETOOLONG;
    buf_put_u8(b, k->why);
    buf_put_u8(b, k->type);
    buf_put_u64(b, k->when_us);
    put_id(b, k->rid);
    put_id(b, k->nid);
    put_head(b, &k->version);
    put_head(b, &k->winner);
    buf_put_u64(b, k->size);
    buf_put_u64(b, (uint64_t)k->mtime_ns);
    buf_put_u32(b, k->mode);
    buf_put_u32(b, k->uid);
    buf_put_u32(b, k->gid);
    buf_put_bytes(b, k->path, k->path_len);
    return row_put(ix, T_KEPT, &key);
}

int index_del_kept(struct index *ix, uint8_t class, uint64_t key)
{
    struct key k = kept_key(class, key);
    return row_del(ix, T_KEPT, &k);
}

static int kept_decode(const MDB_val *k, const MDB_val *v, struct index_kept *out)
{
    struct cur c;
    uint32_t path_len;

    int e = k->mv_size == 9 ? row_open(T_KEPT, k, v, &c) : FARM_ECORRUPT;
    if (e)
        return e;
    out->class = *(const uint8_t *)k->mv_data;
    out->key = key_get_u64((const uint8_t *)k->mv_data + 1);
    out->why = cur_u8(&c);
    out->type = cur_u8(&c);
    out->when_us = cur_u64(&c);
    out->rid = get_id(&c);
    out->nid = get_id(&c);
    out->version = get_head(&c);
    out->winner = get_head(&c);
    out->size = cur_u64(&c);
    out->mtime_ns = (int64_t)cur_u64(&c);
    out->mode = cur_u32(&c);
    out->uid = cur_u32(&c);
    out->gid = cur_u32(&c);
    const uint8_t *path = cur_bytes(&c, sizeof out->path, &path_len);
    e = cur_done(&c);
    if (!e &&
        (out->why == 0 || out->why >= KEPT_WHYS || out->class == 0 || out->class >= KEPT_CLASSES))
        e = FARM_ECORRUPT;
    if (e)
        return e;
    out->path_len = (uint16_t)path_len;
    if (path_len)
        memcpy(out->path, path, path_len);
    return 0;
}

int kept_next(const struct index *ix, MDB_txn *txn, uint8_t class, uint64_t key,
              struct index_kept *out)
{
    struct key from = kept_key(class, key);
    MDB_val k = {from.n, from.b}, v;
    MDB_cursor *c;

    int rc = mdb_cursor_open(txn, ix->dbi[T_KEPT], &c);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    int e = index_code(rc);
    if (!e && (k.mv_size == 0 || *(const uint8_t *)k.mv_data != class))
        e = -ENOENT;
    if (!e)
        e = kept_decode(&k, &v, out);
    mdb_cursor_close(c);
    return e;
}

int index_next_kept(struct index *ix, uint8_t class, uint64_t key, struct index_kept *out)
{
    return kept_next(ix, ix->txn, class, key, out);
}

int index_last_kept(struct index *ix, uint8_t class, uint64_t *key)
{
    struct key from = kept_key((uint8_t)(class + 1), 0);
    MDB_val k = {from.n, from.b}, v;
    MDB_cursor *c;

    int rc = mdb_cursor_open(ix->txn, ix->dbi[T_KEPT], &c);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
    rc = mdb_cursor_get(c, &k, &v, rc == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
    mdb_cursor_close(c);
    if (rc && rc != MDB_NOTFOUND)
        return index_code(rc);
    bool found = !rc && k.mv_size == 9 && *(const uint8_t *)k.mv_data == class;
    *key = found ? key_get_u64((const uint8_t *)k.mv_data + 1) : 0;
    return 0;
}
