/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Inside the index: its tables, shared by index*.c and nobody else. Keys are big-endian, so that
 * LMDB's byte order is the order of the numbers; every value starts with a u8 ROW_VERSION and is
 * little-endian.
 *
 *   table     key                              value (after the version)
 *   meta      "format" | "meta"                u32 INDEX_FORMAT | struct index_meta
 *   names     nid                              u64 log position (0 not in the log) | u64 source |
 *   contents  rid                              record (wire/record.h)
 *   attrs     rid
 *   names_at  parent, u8 len, name, nid        -
 *   names_of  rid, nid                         -
 *   names_in  parent, nid                      -
 *   log       u64 position                     u8 kind | id | u64 source | u64 content bytes
 *   graves    u64 log position of a dead name  id of its inode
 *   place     nid                              u8 kind | u8 cut | parent | u8 len, name
 *   slot      parent, name                     nid (who is AT that place)
 *   hidden    parent, u8 len, name, nid        - (who is HIDDEN there)
 *   cuts      nid                              - (whose place has `cut`)
 *   nodes     rid                              struct index_node without rid
 *   lids      u64 lid                          u8 orphan | u8 type | rid | handle
 *   handles   u32 type, bytes                  u64 lid | u8 type | rid
 *   leaves    rid                              n x 32 bytes
 *   journal   rid, u64 ordinal                 version | base | u32 n | n x (u64 off, u64 len)
 *   peers     u64 node                         struct index_peer without node
 *   kept      u8 class, u64 key                struct index_kept without them
 *   todo      rid                              u8 flags
 *   pending   u64 ordinal                      an effect, opaque here
 */
#ifndef STORE_INDEX_I_H
#define STORE_INDEX_I_H

#include "store/index.h"

#include "base/buf.h"

#include <lmdb.h>

#define ROW_VERSION 1u
#define INDEX_FORMAT 3u
/* A name, the longest fixed part of any row, and then some; xattrs are the longest variable part.
 */
#define ROW_MAX (XATTRS_LEN_MAX + 16384u)
#define KEY_MAX (16u + 1u + NAME_LEN_MAX + 16u)

enum table {
    T_META,
    T_NAMES,
    T_CONTENTS,
    T_ATTRS,
    T_NAMES_AT,
    T_NAMES_OF,
    T_NAMES_IN,
    T_LOG,
    T_GRAVES,
    T_PLACE,
    T_SLOT,
    T_HIDDEN,
    T_CUTS,
    T_NODES,
    T_LIDS,
    T_HANDLES,
    T_LEAVES,
    T_JOURNAL,
    T_PEERS,
    T_KEPT,
    T_TODO,
    T_PENDING,
    T_COUNT,
};

struct index {
    MDB_env *env;
    MDB_txn *txn; /* the write transaction, NULL outside of one */
    MDB_dbi dbi[T_COUNT];
    uint64_t log_head;
    uint64_t log_head_before; /* when the transaction began: what an abort goes back to */
    int failed; /* a write of this transaction did not succeed: it can't be committed */
    void (*name_put)(void *arg, struct id128 nid); /* NULL: nobody asks */
    void *name_put_arg;
    struct buf row; /* where the writer encodes */
    void *map;      /* where LMDB has the file, NULL: unknown */
};

struct key {
    size_t n;
    uint8_t b[KEY_MAX];
};

void key_raw(struct key *k, const void *p, size_t n);
void key_u64(struct key *k, uint64_t v);
void key_id(struct key *k, struct id128 id);
struct id128 key_get_id(const uint8_t *p);
uint64_t key_get_u64(const uint8_t *p);
static inline struct key key_of_id(struct id128 id)
{
    struct key k;
    k.n = 0;
    key_id(&k, id);
    return k;
}
static inline struct key key_of_u64(uint64_t v)
{
    struct key k;
    k.n = 0;
    key_u64(&k, v);
    return k;
}
static inline struct key key_of_ids(struct id128 a, struct id128 b)
{
    struct key k = key_of_id(a);
    key_id(&k, b);
    return k;
}

/* An LMDB code as one of ours. */
int index_code(int rc);

/* Reading, in the writer's or a reader's transaction. The row's version is checked and the cursor
 * set behind it; -ENOENT, FARM_EVERSION, FARM_ECORRUPT. */
FARM_MUSTUSE int row_get(const struct index *ix, MDB_txn *txn, enum table t, const struct key *k,
                         struct cur *out);
FARM_MUSTUSE int row_open(const MDB_val *v, struct cur *out);
/* Writing, in the writer's transaction. A failure other than -ENOENT dooms the transaction. */
struct buf *row_begin(struct index *ix); /* the writer's buffer, holding the version */
FARM_MUSTUSE int row_put(struct index *ix, enum table t, const struct key *k);
FARM_MUSTUSE int row_put_empty(struct index *ix, enum table t, const struct key *k);
FARM_MUSTUSE int row_put_flags(struct index *ix, enum table t, const struct key *k, MDB_val *v,
                               unsigned flags);
/* -ENOENT when there was none; row_drop does not mind. */
FARM_MUSTUSE int row_del(struct index *ix, enum table t, const struct key *k);
FARM_MUSTUSE int row_drop(struct index *ix, enum table t, const struct key *k);
/* Every row whose key begins with the prefix, in key order; stops at the first nonzero and returns
 * it. The callback does not write. */
typedef int (*row_visit)(void *arg, const MDB_val *k, const MDB_val *v);
FARM_MUSTUSE int row_scan_from(const struct index *ix, MDB_txn *txn, enum table t,
                               const struct key *from, row_visit f, void *arg); /* to the end */
FARM_MUSTUSE int row_scan(const struct index *ix, MDB_txn *txn, enum table t,
                          const struct key *prefix, row_visit f, void *arg);

void put_id(struct buf *b, struct id128 id);
void put_stamp(struct buf *b, struct stamp s);
struct id128 get_id(struct cur *c);
struct stamp get_stamp(struct cur *c);

/* What is local about a stored record. */
struct row_local {
    uint64_t pos; /* of its log entry, 0: not in the log */
    uint64_t source;
};
struct log_entry {
    enum rec_kind kind;
    struct id128 id;
    uint64_t source;
    uint64_t bytes;
};
FARM_MUSTUSE int record_row(const struct index *ix, MDB_txn *txn, enum rec_kind kind,
                            struct id128 id, struct record *out, struct row_local *local);
FARM_MUSTUSE int place_row(const struct index *ix, MDB_txn *txn, struct id128 nid,
                           struct place *out);
FARM_MUSTUSE int log_entry_decode(const MDB_val *v, struct log_entry *out);
FARM_MUSTUSE int meta_row(const struct index *ix, MDB_txn *txn, struct index_meta *m);
FARM_MUSTUSE int leaves_row(const struct index *ix, MDB_txn *txn, struct id128 rid,
                            const uint8_t **leaves, uint64_t *n);
FARM_MUSTUSE int node_row(const struct index *ix, MDB_txn *txn, struct id128 rid,
                          struct index_node *n);

/* What index_walk.c needs of a reader. */
MDB_txn *reader_txn(const struct index_reader *r);
const struct index *reader_index(const struct index_reader *r);

struct lid_row {
    bool orphan;
    uint8_t type;
    struct id128 rid;
    struct handle handle;
};
FARM_MUSTUSE int lid_row(const struct index *ix, MDB_txn *txn, uint64_t lid, struct lid_row *out);
struct handle_row {
    uint64_t lid;
    uint8_t type;
    struct id128 rid;
};
FARM_MUSTUSE int handle_row(const struct index *ix, MDB_txn *txn, const struct handle *h,
                            struct handle_row *out);
/* Sort, merge what overlaps or touches, drop what is empty, and close the narrowest gaps until at
 * most max are left. Returns how many there are. */
uint32_t ranges_tidy(struct range *r, uint32_t n, uint32_t max);
FARM_MUSTUSE int journal_union(const struct index *ix, MDB_txn *txn, struct id128 rid,
                               struct stamp from, struct stamp to, struct range *out, uint32_t max,
                               uint32_t *n);

FARM_MUSTUSE int kept_next(const struct index *ix, MDB_txn *txn, uint8_t class, uint64_t key,
                           struct index_kept *out);

#endif
