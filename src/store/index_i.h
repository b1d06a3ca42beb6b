/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Inside the index: its tables, shared by index*.c and nobody else. Keys are big-endian, so that
 * LMDB's byte order is the order of the numbers; every value is little-endian and starts with a
 * head: u8 ROW_VERSION | u32 check. The check is the low half of XXH3 over what follows, seeded
 * with the table and the key: a row that was damaged, or is read under another key, is none.
 *
 *   table     key                              value (after the head)
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
 *   behind    rid                              record: what the file holds while TODO_DATA is set
 *   pending   u64 ordinal                      an effect, opaque here
 */
#ifndef STORE_INDEX_I_H
#define STORE_INDEX_I_H

#include "store/index.h"

#include "base/buf.h"

#include <lmdb.h>
#include <stdatomic.h>

#define INDEX_FILE "index.mdb"
#define ROW_VERSION 2u /* 1: rows without a check */
#define ROW_HEAD 5u
#define INDEX_FORMAT 5u
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
    T_BEHIND,
    T_PENDING,
    T_COUNT,
};

extern const char *const table_names[T_COUNT];

/* ---- index_mark.c: see index.h, "What is durable when" ---- */

/*
 * The file index.mark: two slots of MARK_SLOT bytes, written in turn, so that one is always whole;
 * the valid one with the greater count is the mark. In the machine's byte order:
 * u64 magic | u32 format | u32 flags | u64 count | u64 txn | boot id | u32 page size | u32 zero |
 * LMDB's meta page of that transaction (its first META_BYTES) | u64 check (XXH3 of all before)
 */
#define MARK_FILE "index.mark"
#define MARK_SLOT 4096u
#define META_BYTES 152u /* page header and struct MDB_meta of LMDB 0.9, on 64 bit machines */
#define BOOT_BYTES 16u

struct mark_slot {
    uint64_t magic;
    uint32_t format, flags;
    uint64_t count;
    uint64_t txn;
    uint8_t boot[BOOT_BYTES];
    uint32_t psize, zero;
    uint8_t meta[META_BYTES];
    uint64_t check;
};
enum { MARK_CLEAN = 1 };

struct mark {
    int fd;       /* index.mark */
    int index_fd; /* LMDB's, borrowed */
    bool have;    /* `last` is valid */
    struct mark_slot last;
    struct mark_slot next; /* between index_mark_begin and index_mark_finish */
    MDB_txn *pin;          /* reads `last`: LMDB must not reuse its pages */
    MDB_txn *next_pin;
    bool failed; /* a sync failed: what is in the page cache may not be what is on the disk */
};

/* Opens index.mark in dirfd (made when absent) and reads it. */
FARM_MUSTUSE int mark_open(struct mark *m, int dirfd);
/* Before LMDB opens the file `fd`: put the marked state back. */
FARM_MUSTUSE int mark_restore(const struct mark *m, int fd);
/* The newest meta page of an index file. FARM_ECORRUPT */
FARM_MUSTUSE int meta_read(int fd, uint8_t meta[META_BYTES], uint32_t *psize, uint64_t *txn);
/* After LMDB has opened it, before the first commit: `last` is this boot's from now on, and pinned.
 * live: LMDB may be ahead of the mark. */
FARM_MUSTUSE int mark_attach(struct index *ix, const uint8_t boot[BOOT_BYTES], bool live);
void mark_close(struct mark *m);
/* No state is known to be whole: the index file is gone. */
FARM_MUSTUSE int mark_forget(struct mark *m);

/* ---- index_verify.c ---- */
FARM_MUSTUSE int verify_file(int fd, const uint8_t meta[META_BYTES], const atomic_bool *stop,
                             unsigned rest_us, struct index_verified *out);

struct index {
    MDB_env *env;
    struct mark mark;
    enum index_found found;
    atomic_bool *suspect; /* a row did not have its check; any thread sets it */
    MDB_txn *txn;         /* the write transaction, NULL outside of one */
    MDB_dbi dbi[T_COUNT];
    uint64_t log_head;
    uint64_t log_head_before; /* when the transaction began: what an abort goes back to */
    int failed; /* a write of this transaction did not succeed: it can't be committed */
    void (*name_put)(void *arg, struct id128 nid); /* NULL: nobody asks */
    void *name_put_arg;
    void (*panic)(void); /* see index_on_panic; NULL: an error like others */
    struct buf row;      /* where the writer encodes */
    void *map;           /* where LMDB has the file, NULL: unknown */
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

/* To be told every code of beginning a transaction. */
void index_panicked(const struct index *ix, int rc);
/* An LMDB code as one of ours. */
int index_code(int rc);

/* Reading, in the writer's or a reader's transaction. The row's head is checked and the cursor set
 * behind it; -ENOENT, FARM_ECORRUPT. */
FARM_MUSTUSE int row_get(const struct index *ix, MDB_txn *txn, enum table t, const struct key *k,
                         struct cur *out);
FARM_MUSTUSE int row_open(enum table t, const MDB_val *k, const MDB_val *v, struct cur *out);
/* The same of a row whose head was checked already: what a row_visit is given. */
void row_payload(const MDB_val *v, struct cur *out);
/* Writes the head of a row of n bytes (head included) whose payload is in place. */
void row_seal(enum table t, const struct key *k, uint8_t *row, size_t n);
/* Writing, in the writer's transaction. A failure other than -ENOENT dooms the transaction. */
struct buf *row_begin(struct index *ix); /* the writer's buffer, with room for the head */
FARM_MUSTUSE int row_put(struct index *ix, enum table t, const struct key *k);
FARM_MUSTUSE int row_put_empty(struct index *ix, enum table t, const struct key *k);
/* v: a whole row, sealed here; with MDB_RESERVE the caller fills and seals it. */
FARM_MUSTUSE int row_put_flags(struct index *ix, enum table t, const struct key *k, MDB_val *v,
                               unsigned flags);
/* -ENOENT when there was none; row_drop does not mind. */
FARM_MUSTUSE int row_del(struct index *ix, enum table t, const struct key *k);
FARM_MUSTUSE int row_drop(struct index *ix, enum table t, const struct key *k);
/* Every row whose key begins with the prefix, in key order; stops at the first nonzero and returns
 * it. The heads are checked. The callback does not write. */
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
