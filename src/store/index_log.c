/* SPDX-License-Identifier: GPL-3.0-or-later */
/* struct records on disk: the three kinds, their orders, their places, and the log. */
#include "store/index_i.h"

#include "base/log.h"
#include "wire/record.h"

#include <errno.h>
#include <string.h>

static enum table table_of(enum rec_kind kind)
{
    switch (kind) {
    case REC_NAME: return T_NAMES;
    case REC_CONTENT: return T_CONTENTS;
    case REC_ATTR: break;
    }
    return T_ATTRS;
}

/* ---- one record ---- */

static void get_local(struct cur *c, struct row_local *local)
{
    local->pos = cur_u64(c);
    local->source = cur_u64(c);
}

int record_row(const struct index *ix, MDB_txn *txn, enum rec_kind kind, struct id128 id,
               struct record *out, struct row_local *local)
{
    struct key k = key_of_id(id);
    struct cur c;

    int e = row_get(ix, txn, table_of(kind), &k, &c);
    if (e)
        return e;
    get_local(&c, local);
    e = record_decode(&c, out);
    if (!e)
        e = cur_done(&c);
    if (!e && (out->kind != kind || !id_eq(record_id(out), id)))
        e = FARM_ECORRUPT;
    return e;
}

/* Only what is local, without decoding the record. -ENOENT. */
static int local_row(struct index *ix, enum rec_kind kind, struct id128 id, struct row_local *local)
{
    struct key k = key_of_id(id);
    struct cur c;

    int e = row_get(ix, ix->txn, table_of(kind), &k, &c);
    if (e)
        return e;
    get_local(&c, local);
    return c.err;
}

static uint64_t content_bytes(const struct record *r)
{
    return r->kind == REC_CONTENT && r->content.type == NODE_REG ? r->content.size : 0;
}

int log_entry_decode(const MDB_val *v, struct log_entry *out)
{
    struct log_entry l;
    struct cur c;

    row_payload(v, &c);
    uint8_t kind = cur_u8(&c);
    l.kind = (enum rec_kind)kind;
    l.id = get_id(&c);
    l.source = cur_u64(&c);
    l.bytes = cur_u64(&c);
    int e = cur_done(&c);
    if (!e && (kind < REC_NAME || kind > REC_ATTR))
        e = FARM_ECORRUPT;
    if (!e)
        *out = l;
    return e;
}

/* An entry at the head. Appending refuses a head that is not behind every entry: nothing is ever
 * overwritten by a wrong position. */
static int log_append(struct index *ix, const struct record *r, uint64_t source)
{
    struct key k = key_of_u64(ix->log_head);
    struct buf *b = row_begin(ix);

    buf_put_u8(b, (uint8_t)r->kind);
    put_id(b, record_id(r));
    buf_put_u64(b, source);
    buf_put_u64(b, content_bytes(r));
    MDB_val v = {b->len, b->data};
    int e = b->err ? b->err : row_put_flags(ix, T_LOG, &k, &v, MDB_APPEND);
    if (!e)
        ix->log_head++;
    return e;
}

static int log_remove(struct index *ix, uint64_t pos)
{
    struct key k = key_of_u64(pos);
    return pos ? row_drop(ix, T_LOG, &k) : 0;
}

/* was_pos: of the row that is replaced, 0 for none. The row is written before the log entries: what
 * it points to may lie in a page that the next write moves. */
static int put_record(struct index *ix, const struct record *r, uint64_t source, uint64_t was_pos,
                      bool held)
{
    struct key k = key_of_id(record_id(r));
    struct buf *b = row_begin(ix);

    buf_put_u64(b, held ? 0 : ix->log_head);
    buf_put_u64(b, source);
    record_encode(b, r);
    int e = row_put(ix, table_of(r->kind), &k);
    if (!e)
        e = log_remove(ix, was_pos);
    if (!e && !held)
        e = log_append(ix, r, source);
    return e;
}

/* ---- tombstones ---- */

static int drop_grave(struct index *ix, uint64_t pos)
{
    struct key k = key_of_u64(pos);
    return pos ? row_drop(ix, T_GRAVES, &k) : 0;
}

/* was_pos: of the dead name that is replaced, 0 for none; now_pos: of the one that is put. */
static int move_grave(struct index *ix, uint64_t was_pos, const struct name_rec *now,
                      uint64_t now_pos)
{
    struct key k = key_of_u64(now_pos);

    int e = drop_grave(ix, was_pos);
    if (e || now->alive || !now_pos)
        return e;
    put_id(row_begin(ix), now->inode);
    return row_put(ix, T_GRAVES, &k);
}

int index_next_record(struct index *ix, uint64_t from, uint64_t *pos, struct record *rec)
{
    struct key want = key_of_u64(from);
    MDB_val k = {want.n, want.b}, v;
    struct row_local local;
    struct log_entry l;
    MDB_cursor *cursor;

    farm_assert(ix->txn);
    int rc = mdb_cursor_open(ix->txn, ix->dbi[T_LOG], &cursor);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    mdb_cursor_close(cursor);
    if (rc)
        return index_code(rc);
    int e = k.mv_size == 8 ? log_entry_decode(&v, &l) : FARM_ECORRUPT;
    if (e)
        return e;
    uint64_t at = key_get_u64(k.mv_data);
    e = record_row(ix, ix->txn, l.kind, l.id, rec, &local);
    if (!e)
        *pos = at;
    return e == -ENOENT ? FARM_ECORRUPT : e;
}

int index_next_tombstone(struct index *ix, uint64_t from, uint64_t *pos, struct id128 *inode)
{
    struct key want = key_of_u64(from);
    MDB_val k = {want.n, want.b}, v;
    MDB_cursor *cursor;
    struct id128 id;
    struct cur c;

    farm_assert(ix->txn);
    int rc = mdb_cursor_open(ix->txn, ix->dbi[T_GRAVES], &cursor);
    if (rc)
        return index_code(rc);
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    mdb_cursor_close(cursor);
    if (rc)
        return index_code(rc);
    int e = k.mv_size == 8 ? row_open(T_GRAVES, &k, &v, &c) : FARM_ECORRUPT;
    if (e)
        return e;
    id = get_id(&c);
    e = cur_done(&c);
    if (e)
        return e;
    *pos = key_get_u64(k.mv_data);
    *inode = id;
    return 0;
}

/* ---- names and their orders ---- */

static struct key at_prefix(struct id128 parent, const uint8_t *name, uint8_t len)
{
    struct key k = key_of_id(parent);
    key_raw(&k, &len, 1);
    key_raw(&k, name, len);
    return k;
}

static struct key at_key(struct id128 parent, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct key k = at_prefix(parent, name, len);
    key_id(&k, nid);
    return k;
}

static int add_orders(struct index *ix, const struct name_rec *n)
{
    struct key at = at_key(n->parent, n->name, n->name_len, n->nid);
    struct key of = key_of_ids(n->inode, n->nid);
    struct key in = key_of_ids(n->parent, n->nid);

    int e = row_put_empty(ix, T_NAMES_AT, &at);
    if (!e)
        e = row_put_empty(ix, T_NAMES_OF, &of);
    return e ? e : row_put_empty(ix, T_NAMES_IN, &in);
}

static int drop_orders(struct index *ix, const struct name_rec *n)
{
    struct key at = at_key(n->parent, n->name, n->name_len, n->nid);
    struct key of = key_of_ids(n->inode, n->nid);
    struct key in = key_of_ids(n->parent, n->nid);

    int e = row_drop(ix, T_NAMES_AT, &at);
    if (!e)
        e = row_drop(ix, T_NAMES_OF, &of);
    return e ? e : row_drop(ix, T_NAMES_IN, &in);
}

static bool same_orders(const struct name_rec *a, const struct name_rec *b)
{
    return id_eq(a->parent, b->parent) && id_eq(a->inode, b->inode) && a->name_len == b->name_len &&
           memcmp(a->name, b->name, a->name_len) == 0;
}

static int node_is_held(struct index *ix, struct id128 rid, bool *held)
{
    struct index_node n;

    int e = node_row(ix, ix->txn, rid, &n);
    if (e && e != -ENOENT)
        return e;
    *held = !e && (n.flags & NODE_HELD);
    return 0;
}

static int do_put_name(void *ctx, const struct name_rec *n, uint64_t source)
{
    struct index *ix = ctx;
    struct record was, now = {.kind = REC_NAME, .name = *n};
    struct row_local local = {0, 0};
    bool held;

    int found = record_row(ix, ix->txn, REC_NAME, n->nid, &was, &local);
    if (found && found != -ENOENT)
        return found;
    int e = node_is_held(ix, n->inode, &held);
    /* What has been announced once stays announced. */
    bool logged = !held || local.pos;
    uint64_t pos = logged ? ix->log_head : 0;
    if (!e)
        e = put_record(ix, &now, source, local.pos, !logged);
    if (!e)
        e = move_grave(ix, !found && !was.name.alive ? local.pos : 0, n, pos);
    if (!e && ix->name_put)
        ix->name_put(ix->name_put_arg, n->nid);
    if (e || (!found && same_orders(&was.name, n)))
        return e;
    if (!found)
        e = drop_orders(ix, &was.name);
    return e ? e : add_orders(ix, n);
}

static int put_plain(struct index *ix, const struct record *r, uint64_t source)
{
    struct row_local local = {0, 0};
    bool held;

    int e = local_row(ix, r->kind, record_id(r), &local);
    if (e && e != -ENOENT)
        return e;
    e = node_is_held(ix, record_id(r), &held);
    return e ? e : put_record(ix, r, source, local.pos, held && !local.pos);
}

static int do_put_content(void *ctx, const struct content_rec *c, uint64_t source)
{
    struct record r = {.kind = REC_CONTENT, .content = *c};
    return put_plain(ctx, &r, source);
}

static int do_put_attr(void *ctx, const struct attr_rec *a, uint64_t source)
{
    struct record r = {.kind = REC_ATTR, .attr = *a};
    return put_plain(ctx, &r, source);
}

static int do_get_name(void *ctx, struct id128 nid, struct name_rec *out)
{
    struct index *ix = ctx;
    struct row_local local;
    struct record r;

    int e = record_row(ix, ix->txn, REC_NAME, nid, &r, &local);
    if (!e)
        *out = r.name;
    return e;
}

static int do_get_content(void *ctx, struct id128 rid, struct content_rec *out)
{
    struct index *ix = ctx;
    struct row_local local;
    struct record r;

    int e = record_row(ix, ix->txn, REC_CONTENT, rid, &r, &local);
    if (!e)
        *out = r.content;
    return e;
}

static int do_get_behind(void *ctx, struct id128 rid, struct content_rec *out)
{
    return index_get_behind(ctx, rid, out);
}

static int do_get_attr(void *ctx, struct id128 rid, struct attr_rec *out)
{
    struct index *ix = ctx;
    struct row_local local;
    struct record r;

    int e = record_row(ix, ix->txn, REC_ATTR, rid, &r, &local);
    if (!e)
        *out = r.attr;
    return e;
}

struct name_scan {
    struct index *ix;
    size_t key_len;
    name_visit f;
    void *arg;
};

/* Keys of all three orders end in the nid. An order without its record is damage. */
static int on_name(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct name_scan *s = arg;
    struct name_rec n;

    (void)v;
    if (k->mv_size != s->key_len)
        return FARM_ECORRUPT;
    const uint8_t *nid = (const uint8_t *)k->mv_data + k->mv_size - 16;
    int e = do_get_name(s->ix, key_get_id(nid), &n);
    if (e)
        return e == -ENOENT ? FARM_ECORRUPT : e;
    return s->f(s->arg, &n);
}

static int scan_names(struct index *ix, enum table t, const struct key *prefix, name_visit f,
                      void *arg)
{
    struct name_scan s = {ix, prefix->n + 16, f, arg};
    return row_scan(ix, ix->txn, t, prefix, on_name, &s);
}

static int do_names_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                       name_visit f, void *arg)
{
    struct key k = at_prefix(parent, name, len);
    return scan_names(ctx, T_NAMES_AT, &k, f, arg);
}

static int do_names_of(void *ctx, struct id128 rid, name_visit f, void *arg)
{
    struct key k = key_of_id(rid);
    return scan_names(ctx, T_NAMES_OF, &k, f, arg);
}

static int do_names_in(void *ctx, struct id128 parent, name_visit f, void *arg)
{
    struct key k = key_of_id(parent);
    return scan_names(ctx, T_NAMES_IN, &k, f, arg);
}

/* ---- places ---- */

int place_row(const struct index *ix, MDB_txn *txn, struct id128 nid, struct place *out)
{
    struct key k = key_of_id(nid);
    struct place p;
    struct cur c;

    int e = row_get(ix, txn, T_PLACE, &k, &c);
    if (e)
        return e;
    uint8_t kind = cur_u8(&c);
    uint8_t cut = cur_u8(&c);
    p.kind = (enum place_kind)kind;
    p.cut = cut != 0;
    p.parent = get_id(&c);
    p.name_len = cur_u8(&c);
    const uint8_t *name = cur_raw(&c, p.name_len);
    e = cur_done(&c);
    if (!e && (kind > PLACE_HIDDEN || cut > 1 || p.name_len == 0))
        e = FARM_ECORRUPT;
    if (e)
        return e;
    memcpy(p.name, name, p.name_len);
    *out = p;
    return 0;
}

static struct key slot_key(struct id128 parent, const uint8_t *name, uint8_t len)
{
    struct key k = key_of_id(parent);
    key_raw(&k, name, len);
    return k;
}

static int slot_decode(struct cur *c, struct id128 *nid)
{
    struct id128 id = get_id(c);
    int e = cur_done(c);
    if (!e)
        *nid = id;
    return e;
}

static int do_who_is_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                        struct id128 *nid)
{
    struct index *ix = ctx;
    struct key k = slot_key(parent, name, len);
    struct cur c;

    int e = row_get(ix, ix->txn, T_SLOT, &k, &c);
    return e ? e : slot_decode(&c, nid);
}

static int do_get_place(void *ctx, struct id128 nid, struct place *out)
{
    struct index *ix = ctx;

    int e = place_row(ix, ix->txn, nid, out);
    if (e != -ENOENT)
        return e;
    memset(out, 0, sizeof *out);
    return 0;
}

/* A slot may have gone to another name by now (places are set one after the other, and two names
 * can swap): then it is not ours to empty. */
static int leave_slot(struct index *ix, struct id128 nid, const struct place *was)
{
    struct id128 holder;

    int e = do_who_is_at(ix, was->parent, was->name, was->name_len, &holder);
    if (e || !id_eq(holder, nid))
        return e == -ENOENT ? 0 : e;
    struct key k = slot_key(was->parent, was->name, was->name_len);
    return row_drop(ix, T_SLOT, &k);
}

static int leave_place(struct index *ix, struct id128 nid)
{
    struct key k = key_of_id(nid);
    struct place was;

    int e = place_row(ix, ix->txn, nid, &was);
    if (e)
        return e == -ENOENT ? 0 : e;
    if (was.kind == PLACE_AT) {
        e = leave_slot(ix, nid, &was);
    } else {
        struct key at = at_key(was.parent, was.name, was.name_len, nid);
        e = row_drop(ix, T_HIDDEN, &at);
    }
    if (!e && was.cut)
        e = row_drop(ix, T_CUTS, &k);
    return e ? e : row_drop(ix, T_PLACE, &k);
}

static int enter_place(struct index *ix, struct id128 nid, const struct place *p)
{
    if (p->kind == PLACE_AT) {
        struct key slot = slot_key(p->parent, p->name, p->name_len);
        put_id(row_begin(ix), nid);
        return row_put(ix, T_SLOT, &slot);
    }
    struct key at = at_key(p->parent, p->name, p->name_len, nid);
    return row_put_empty(ix, T_HIDDEN, &at);
}

static int do_set_place(void *ctx, struct id128 nid, const struct place *p)
{
    struct index *ix = ctx;
    struct key k = key_of_id(nid);

    if (p->kind != PLACE_NONE && p->name_len == 0)
        return -EINVAL;
    int e = leave_place(ix, nid);
    if (e || p->kind == PLACE_NONE)
        return e;
    struct buf *b = row_begin(ix);
    buf_put_u8(b, (uint8_t)p->kind);
    buf_put_u8(b, p->cut);
    put_id(b, p->parent);
    buf_put_u8(b, p->name_len);
    buf_put(b, p->name, p->name_len);
    e = row_put(ix, T_PLACE, &k);
    if (!e && p->cut)
        e = row_put_empty(ix, T_CUTS, &k);
    return e ? e : enter_place(ix, nid, p);
}

struct id_scan {
    size_t key_len;
    id_visit f;
    void *arg;
};

static int on_id(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct id_scan *s = arg;

    (void)v;
    if (k->mv_size != s->key_len)
        return FARM_ECORRUPT;
    return s->f(s->arg, key_get_id((const uint8_t *)k->mv_data + k->mv_size - 16));
}

static int scan_ids(struct index *ix, enum table t, const struct key *prefix, id_visit f, void *arg)
{
    struct id_scan s = {prefix->n + 16, f, arg};
    return row_scan(ix, ix->txn, t, prefix, on_id, &s);
}

static int do_hidden_at(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                        id_visit f, void *arg)
{
    struct key k = at_prefix(parent, name, len);
    return scan_ids(ctx, T_HIDDEN, &k, f, arg);
}

static int do_cuts(void *ctx, id_visit f, void *arg)
{
    struct key all = {.n = 0};
    return scan_ids(ctx, T_CUTS, &all, f, arg);
}

struct place_scan {
    place_visit f;
    void *arg;
};

static int on_place(void *arg, const MDB_val *k, const MDB_val *v)
{
    struct place_scan *s = arg;
    struct id128 nid;
    struct cur c;

    row_payload(v, &c);
    int e = slot_decode(&c, &nid);
    if (!e && (k->mv_size <= 16 || k->mv_size > 16 + NAME_LEN_MAX))
        e = FARM_ECORRUPT;
    if (e)
        return e;
    return s->f(s->arg, (const uint8_t *)k->mv_data + 16, (uint8_t)(k->mv_size - 16), nid);
}

int index_places_in(struct index *ix, struct id128 parent, place_visit f, void *arg)
{
    struct key k = key_of_id(parent);
    struct place_scan s = {f, arg};
    return row_scan(ix, ix->txn, T_SLOT, &k, on_place, &s);
}

int index_count_places(struct index *ix, uint64_t *n)
{
    MDB_stat st;

    int rc = mdb_stat(ix->txn, ix->dbi[T_SLOT], &st);
    if (!rc)
        *n = st.ms_entries;
    return index_code(rc);
}

/* ---- forgetting ---- */

static int do_forget_name(void *ctx, struct id128 nid)
{
    return index_forget_name(ctx, nid);
}

static int do_forget_inode(void *ctx, struct id128 rid)
{
    return index_forget_inode(ctx, rid);
}

/* ---- the whole ---- */

void index_watch_names(struct index *ix, void (*f)(void *arg, struct id128 nid), void *arg)
{
    ix->name_put = f;
    ix->name_put_arg = arg;
}

void index_records(struct index *ix, struct records *out)
{
    *out = (struct records){
        .ctx = ix,
        .get_name = do_get_name,
        .get_content = do_get_content,
        .get_attr = do_get_attr,
        .put_name = do_put_name,
        .put_content = do_put_content,
        .put_attr = do_put_attr,
        .names_at = do_names_at,
        .names_of = do_names_of,
        .names_in = do_names_in,
        .get_place = do_get_place,
        .set_place = do_set_place,
        .who_is_at = do_who_is_at,
        .hidden_at = do_hidden_at,
        .cuts = do_cuts,
        .forget_name = do_forget_name,
        .forget_inode = do_forget_inode,
        .get_behind = do_get_behind,
    };
}

uint64_t index_log_head(const struct index *ix)
{
    return ix->log_head;
}

void index_set_log_head(struct index *ix, uint64_t head)
{
    ix->log_head = head;
}

int index_forget_name(struct index *ix, struct id128 nid)
{
    static const struct place nowhere = {.kind = PLACE_NONE};
    struct key k = key_of_id(nid);
    struct row_local local;
    struct record was;

    int e = record_row(ix, ix->txn, REC_NAME, nid, &was, &local);
    if (!e)
        e = drop_orders(ix, &was.name);
    if (!e)
        e = log_remove(ix, local.pos);
    if (!e && !was.name.alive)
        e = drop_grave(ix, local.pos);
    if (!e)
        e = do_set_place(ix, nid, &nowhere);
    return e ? e : row_drop(ix, T_NAMES, &k);
}

static int forget_plain(struct index *ix, enum rec_kind kind, struct id128 rid)
{
    struct key k = key_of_id(rid);
    struct row_local local;

    int e = local_row(ix, kind, rid, &local);
    if (e)
        return e == -ENOENT ? 0 : e;
    e = log_remove(ix, local.pos);
    return e ? e : row_drop(ix, table_of(kind), &k);
}

int index_forget_inode(struct index *ix, struct id128 rid)
{
    int e = forget_plain(ix, REC_CONTENT, rid);
    if (!e)
        e = forget_plain(ix, REC_ATTR, rid);
    if (!e)
        e = index_put_leaves(ix, rid, NULL, 0);
    return e ? e : index_journal_drop(ix, rid);
}
