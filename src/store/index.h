/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The index: LMDB, one environment in the state directory. Holds the records, the log, where things
 * are in the backing tree, what peers have, the journal of changed ranges and the block digests.
 *
 * Threads: one writer (the core thread) owns the write transaction: index_begin .. index_commit.
 * Readers (FUSE threads, senders) use a struct index_reader each, which sees committed state only.
 *
 * What is durable when: a commit is a matter of the page cache. It survives the death of the
 * process, and costs no sync. Every few seconds a state is marked (index_mark_begin, _finish):
 *   1. it is pinned: LMDB does not reuse its pages from now on;
 *   2. the caller makes durable all that it claims of the folder (syncfs of the backing tree);
 *   3. its pages are synced;
 *   4. the mark (file index.mark: which state, a copy of its meta page, the machine's boot id, a
 *      check) is written and synced;
 *   5. the state that was marked before is let go.
 * After a stop of the machine (the boot id is another) the marked state is put back, whatever else
 * had reached the disk: it is whole, and all it says about the folder is true of what was durable.
 * What came later is in the folder or not, and found by comparing; peers send theirs again.
 *
 * Every row carries a check of its content under its key: FARM_ECORRUPT, never a wrong answer.
 * index_verify looks at everything there is, pages too.
 */
#ifndef STORE_INDEX_H
#define STORE_INDEX_H

#include "core/records.h"
#include "core/replica.h"
#include "store/handle.h"

#include <stdatomic.h>
#include <stddef.h>

struct index;
struct index_reader;

/* A start of the node, and what its first stamp and log position were to be. */
#define RUNS_MAX 16u
struct index_run {
    uint64_t id; /* random */
    uint64_t seq, pos;
};

/* What the node knows of itself; one row, written in the same transaction as what it describes. */
struct index_meta {
    uint64_t folder_id;
    uint64_t node;     /* this incarnation */
    uint64_t epoch;    /* of the log: random, new whenever the index is made anew */
    uint64_t next_seq; /* as in struct replica */
    uint64_t next_id;
    uint64_t next_lid; /* lids below are used up (handed out in blocks) */
    uint64_t hlc;
    uint64_t log_head; /* position of the next log entry, from 1 */
    uint64_t conn;     /* identifies the FUSE mount the last worker served (0 none) */
    uint64_t intents;  /* every intent before this sequence number has been turned into records */
    /* 1: the last worker stopped in order and its state is on the disk. Taken away, on the disk
     * too, before a worker changes anything. */
    uint8_t clean;
    uint8_t scanned;                 /* SCANNED_ONCE ... */
    struct vvec know, seen, gone;    /* as in struct replica */
    char name[64];                   /* of the node that this state belongs to */
    struct index_run runs[RUNS_MAX]; /* the latest starts of this incarnation, oldest first */
    uint32_t nruns;
    uint64_t rejoin_pos;  /* rejoining: what lies before it in the log has not been confirmed; 0 */
    uint64_t rejoin_node; /* by this peer */
};
enum {
    SCANNED_ONCE = 1,    /* the first scan of the folder has been done */
    SCAN_DUE = 2,        /* the folder was not compared whole since it was mounted */
    SCAN_RECOVERING = 4, /* and that follows a stop that was not in order */
    SCAN_REBUILD = 8,    /* the index was lost: the peers are heard before the folder is served */
};

/* Where an inode record is in the backing tree of this node. */
struct index_node {
    struct id128 rid;
    uint64_t lid;
    uint8_t type;  /* enum node_type */
    uint8_t flags; /* NODE_HELD ... */
    struct handle handle;
    uint64_t size;    /* as sealed: what a rescan compares */
    int64_t mtime_ns; /* as sealed */
    int64_t ctime_ns; /* as of the last time records and file were known to agree */
};
enum {
    NODE_HELD = 1,    /* new regular file, not announced: its records are not in the log yet */
    NODE_DIRTY = 2,   /* its file has writes that are not sealed */
    NODE_NODATA = 4,  /* the record is ahead of the file: the content has not arrived */
    NODE_DAMAGED = 8, /* the file differs from its digest although nobody wrote it */
};

/* `dir` is the state directory; the files are index.mdb, index.mdb-lock and index.mark in it.
 * Creates them when absent; *fresh = true when there is no meta row (nothing was ever recorded).
 * FARM_ECORRUPT (an older format too: it is to be made anew), FARM_EVERSION (a newer format),
 * -errno. index_open_boot: the same, told which boot of the machine this is. */
FARM_MUSTUSE int index_open(const char *dir, size_t map_size, struct index **out, bool *fresh);
FARM_MUSTUSE int index_open_boot(const char *dir, size_t map_size, const uint8_t boot[16],
                                 struct index **out, bool *fresh);
FARM_MUSTUSE int index_boot_id(uint8_t out[16]);
void index_close(struct index *ix);

/* How the index was found when it was opened. */
enum index_found {
    INDEX_FRESH,
    INDEX_CLEAN,    /* as index_mark_clean left it */
    INDEX_LIVE,     /* a process of this boot died: nothing committed is lost */
    INDEX_RESTORED, /* the machine stopped: as of the last mark. Peers may know of later commits. */
};
enum index_found index_found(const struct index *ix);

/* Called, on whichever thread finds it out, when the index has become unusable in this process
 * because its first page could not be written. What is on disk is sound: open it again. */
void index_on_panic(struct index *ix, void (*f)(void));
FARM_MUSTUSE int index_begin(struct index *ix);
FARM_MUSTUSE int index_commit(struct index *ix);
void index_abort(struct index *ix);
/* Any thread. Pages of the index that were read count as this process's memory for as long as they
 * are mapped, though they are the kernel's cache: when more than max bytes of files are mapped and
 * in use here, the index's are given back. They stay in the cache. */
void index_trim(struct index *ix, size_t max);

/* Marking (see above). begin: the core thread, outside of a transaction; -EALREADY when nothing was
 * committed since the last mark. finish: any one thread, once for each begin that returned 0, when
 * what the state claims of the folder is durable; drop instead of finish when it is not. After an
 * error the former mark stands. */
FARM_MUSTUSE int index_mark_begin(struct index *ix);
FARM_MUSTUSE int index_mark_finish(struct index *ix);
void index_mark_drop(struct index *ix);
/* Both, and says that the index is closed in good order: nothing is committed after it. */
FARM_MUSTUSE int index_mark_clean(struct index *ix);
/* By how many bytes the file has grown since the mark: its pages cannot be reused. */
uint64_t index_unmarked(struct index *ix);

/* Has anybody met a row without its check since this was last asked? */
bool index_suspect(struct index *ix);
/*
 * Look at every page and row of the index in `dir`: structure, bounds, order, counts, that no page
 * is used twice or free and used, and every row's check. Needs no open index, and reads nothing
 * through LMDB but the snapshot it holds: damage cannot hurt. Any thread; rests rest_us after every
 * 64 pages; stop (may be NULL) ends it: -ECANCELED. FARM_ECORRUPT: `what` says where. A file that
 * another process or thread writes is looked at as of now; `ix` NULL: nobody has it open.
 */
struct index_verified {
    uint64_t pages, rows, lost_pages; /* looked at; neither used nor free */
    char what[160];
};
FARM_MUSTUSE int index_verify(struct index *ix, const char *dir, const atomic_bool *stop,
                              unsigned rest_us, struct index_verified *out);

/* Everything below without `reader` is for the core thread inside a write transaction. */
/* -ENOENT in a fresh index. */
FARM_MUSTUSE int index_get_meta(struct index *ix, struct index_meta *m);
FARM_MUSTUSE int index_put_meta(struct index *ix, const struct index_meta *m);

/* struct records over the current write transaction. put_* move the log entry and raise log_head.
 * The records of an inode that is NODE_HELD (names, content, attributes) are put without a log
 * entry: to announce it, clear the flag in the node row and put them again. A record that was
 * announced once always has its entry. */
void index_records(struct index *ix, struct records *out);
/* Called with the id of every name that is put (whoever has to ask the view about it). */
void index_watch_names(struct index *ix, void (*f)(void *arg, struct id128 nid), void *arg);
/* The current log head (next position). index_open sets it behind the last entry and not below the
 * meta row's; a put fails when it was set to one that is not behind every entry. */
uint64_t index_log_head(const struct index *ix);
void index_set_log_head(struct index *ix, uint64_t head);
/* Remove a record that was never announced (a held file that was deleted again): the name with its
 * place, -ENOENT when absent; content, attributes, leaves and journal (not the node row). */
FARM_MUSTUSE int index_forget_name(struct index *ix, struct id128 nid);
FARM_MUSTUSE int index_forget_inode(struct index *ix, struct id128 rid);

/* The first record in the log at or after from: its position. -ENOENT. */
FARM_MUSTUSE int index_next_record(struct index *ix, uint64_t from, uint64_t *pos,
                                   struct record *rec);
/* Tombstones (dead names in the log), in the order of the log: the first at or after from.
 * -ENOENT. */
FARM_MUSTUSE int index_next_tombstone(struct index *ix, uint64_t from, uint64_t *pos,
                                      struct id128 *inode);

FARM_MUSTUSE int index_get_node(struct index *ix, struct id128 rid, struct index_node *n);
FARM_MUSTUSE int index_get_node_by_lid(struct index *ix, uint64_t lid, struct index_node *n);
FARM_MUSTUSE int index_get_node_by_handle(struct index *ix, const struct handle *h,
                                          struct index_node *n);
/* Stores the row and its lid and handle orders; the rid's former lid and handle rows are removed
 * (keep_lid: the former lid row stays, marked as an orphan with its handle, until
 * index_del_orphan). */
FARM_MUSTUSE int index_put_node(struct index *ix, const struct index_node *n, bool keep_lid);
FARM_MUSTUSE int index_del_node(struct index *ix, struct id128 rid, bool keep_lid);
/* An inode without a record that the kernel may still refer to: found by lid alone, not by handle.
 * Its type and rid stay what the lid's row said, else they are 0. */
FARM_MUSTUSE int index_put_orphan(struct index *ix, uint64_t lid, const struct handle *h);
FARM_MUSTUSE int index_del_orphan(struct index *ix, uint64_t lid);

/* Inodes with something left to do, kept over a restart: flags of each. */
enum {
    TODO_DIRTY = 1, /* has writes that are not sealed */
    TODO_HELD = 4,  /* not announced: its records are not in the log */
    TODO_DATA = 2,  /* its record is ahead of the file: the content has not arrived */
};
FARM_MUSTUSE int index_set_todo(struct index *ix, struct id128 rid, uint8_t flags, bool on);
/* While an inode has TODO_DATA: the content record of what its file holds (none when it has no
 * file). Goes with the flag. -ENOENT. */
FARM_MUSTUSE int index_put_behind(struct index *ix, const struct content_rec *c);
FARM_MUSTUSE int index_get_behind(struct index *ix, struct id128 rid, struct content_rec *out);
typedef int (*todo_visit)(void *arg, struct id128 rid, uint8_t flags);
FARM_MUSTUSE int index_each_todo(struct index *ix, todo_visit f, void *arg);

/* Steps that are to follow the commit of the records (a redo log), in order. Opaque here. */
FARM_MUSTUSE int index_put_pending(struct index *ix, uint64_t ordinal, const void *p, size_t n);
FARM_MUSTUSE int index_clear_pending(struct index *ix);
typedef int (*pending_visit)(void *arg, const void *data, size_t len);
FARM_MUSTUSE int index_each_pending(struct index *ix, pending_visit f, void *arg);

/* Names placed in a directory (what is in the backing tree), in order of name. */
typedef int (*place_visit)(void *arg, const uint8_t *name, uint8_t len, struct id128 nid);
FARM_MUSTUSE int index_places_in(struct index *ix, struct id128 parent, place_visit f, void *arg);

/* How many there are in all. */
FARM_MUSTUSE int index_count_places(struct index *ix, uint64_t *n);
/* The first directory whose lid is greater than *after, which is set to what was looked at; at most
 * max lids are. -EAGAIN: none among these, -ENOENT: none at all. */
FARM_MUSTUSE int index_next_dir(struct index *ix, uint64_t *after, unsigned max, uint64_t *lid);

/* Leaves of the digest tree of the current content (files of more than one block), in the index's
 * memory until the next put; put copies (not from there), n = 0 removes. */
FARM_MUSTUSE int index_get_leaves(struct index *ix, struct id128 rid, const uint8_t **leaves,
                                  uint64_t *n);
FARM_MUSTUSE int index_put_leaves(struct index *ix, struct id128 rid, const uint8_t *leaves,
                                  uint64_t n);

/*
 * The journal: for a content version the ranges in which it differs from its base. At most
 * JOURNAL_VERSIONS per inode and JOURNAL_RANGES per version are kept (older ones are dropped,
 * ranges are merged; they may be given in any order); a peer with an older version gets the whole
 * file.
 */
#define JOURNAL_VERSIONS 16u
#define JOURNAL_RANGES 256u
struct range {
    uint64_t off, len;
};
FARM_MUSTUSE int index_journal_put(struct index *ix, struct id128 rid, struct stamp version,
                                   struct stamp base, const struct range *r, uint32_t n);
FARM_MUSTUSE int index_journal_drop(struct index *ix, struct id128 rid);

/* Peers, by node id. */
struct index_peer {
    uint64_t node;
    char name[64];
    uint64_t epoch;         /* of its log */
    uint64_t applied;       /* how far we have applied that log */
    struct vvec know;       /* the latest we heard that it holds */
    uint64_t seen_us;       /* wall time of last contact */
    uint64_t run, run_seen; /* its greatest stamp in records that it sent itself, and in which run
                               of it */
};
FARM_MUSTUSE int index_get_peer(struct index *ix, uint64_t node, struct index_peer *p);
FARM_MUSTUSE int index_put_peer(struct index *ix, const struct index_peer *p);
typedef int (*peer_visit)(void *arg, const struct index_peer *p);
FARM_MUSTUSE int index_peers(struct index *ix, peer_visit f, void *arg);

/*
 * What is kept outside the tree. Where its file is, in the staging area, follows from the class:
 * conflicts/<key>, hidden/<nid>, history/<key>. Keys rise with time, but for hidden names, whose
 * key follows from their nid (index_kept_hidden_key).
 */
enum kept_class {
    KEPT_CONFLICT = 1, /* lost to another change */
    KEPT_HIDDEN = 2,   /* a name that lost its place: still part of the folder */
    KEPT_HISTORY = 3,  /* replaced or deleted in the ordinary way */
    KEPT_CLASSES,
};
enum kept_why {
    KEPT_EDITED = 1, /* changed on two nodes at once */
    KEPT_NAMED,      /* something else got the name at the same time */
    KEPT_FOUND,      /* nobody knew of it, and it stood where a peer's file belongs */
    KEPT_LATE,       /* written while a peer's version came in */
    KEPT_REJOINED,   /* a change of this node that nobody had when it rejoined */
    KEPT_LEFT,       /* lay in the staging area without a row */
    KEPT_REPLACED,
    KEPT_DELETED,
    KEPT_DAMAGED, /* differed from its digest although nobody wrote it */
    KEPT_WHYS,
};
#define KEPT_HIDDEN_BIT (1ull << 61)
struct index_kept {
    uint64_t key;             /* below 1 << 62 */
    uint8_t class, why, type; /* type: enum node_type */
    uint64_t when_us;
    struct id128 rid, nid;   /* nid: KEPT_HIDDEN */
    struct rec_head version; /* of the content that is kept; zeros: unknown */
    struct rec_head winner;  /* what it lost to, was replaced or deleted by; zeros: unknown */
    uint64_t size;
    int64_t mtime_ns;
    uint32_t mode, uid, gid;
    uint16_t path_len; /* 0: unknown; never begins with '/' */
    uint8_t path[4096];
};
uint64_t index_kept_hidden_key(struct id128 nid);
FARM_MUSTUSE int index_put_kept(struct index *ix, const struct index_kept *k);
/* -ENOENT when there is none. */
FARM_MUSTUSE int index_del_kept(struct index *ix, uint8_t class, uint64_t key);
/* The first row of a class whose key is at least `key`; -ENOENT at the end of the class. */
FARM_MUSTUSE int index_next_kept(struct index *ix, uint8_t class, uint64_t key,
                                 struct index_kept *out);
/* The greatest key of a class that is no hidden name's, 0: none. */
FARM_MUSTUSE int index_last_kept(struct index *ix, uint8_t class, uint64_t *key);

/* Readers: open once per thread; each begin sees the latest commit; pointers handed out are valid
 * until the end. */
FARM_MUSTUSE int index_reader_new(struct index *ix, struct index_reader **out);
void index_reader_free(struct index_reader *r);
FARM_MUSTUSE int index_reader_begin(struct index_reader *r);
void index_reader_end(struct index_reader *r);
FARM_MUSTUSE int index_reader_meta(struct index_reader *r, struct index_meta *m);
/* For the mount: -ENOENT when the index does not know it. orphan: no record any more. */
FARM_MUSTUSE int index_reader_by_lid(struct index_reader *r, uint64_t lid, struct handle *h,
                                     uint8_t *type, struct id128 *rid, bool *orphan);
FARM_MUSTUSE int index_reader_by_handle(struct index_reader *r, const struct handle *h,
                                        uint64_t *lid, uint8_t *type);
FARM_MUSTUSE int index_reader_node(struct index_reader *r, struct id128 rid, struct index_node *n);
FARM_MUSTUSE int index_reader_record(struct index_reader *r, enum rec_kind kind, struct id128 id,
                                     struct record *out);
/* The records as a whole, to be read only, from begin to end of a reading. */
void index_reader_records(struct index_reader *r, struct records *out);
/* The position of a record's entry in the log; 0: it has none. */
FARM_MUSTUSE int index_reader_pos(struct index_reader *r, enum rec_kind kind, struct id128 id,
                                  uint64_t *pos);
FARM_MUSTUSE int index_reader_peers(struct index_reader *r, peer_visit f, void *arg);
/* As index_next_kept. */
FARM_MUSTUSE int index_reader_next_kept(struct index_reader *r, uint8_t class, uint64_t key,
                                        struct index_kept *out);
/* Leaves of the current content, as index_get_leaves; -ENOENT for files of at most one block. */
FARM_MUSTUSE int index_reader_leaves(struct index_reader *r, struct id128 rid,
                                     const uint8_t **leaves, uint64_t *n);
/* The ids of all content records from `from` on, in order; stops at the first nonzero and returns
 * it. The callback may read other rows. */
typedef int (*inode_visit)(void *arg, struct id128 rid);
FARM_MUSTUSE int index_reader_inodes(struct index_reader *r, struct id128 from, inode_visit f,
                                     void *arg);
/* Every name record of an inode, alive or dead, with the place it was put to (PLACE_NONE: none). */
typedef int (*name_place_visit)(void *arg, const struct name_rec *n, const struct place *p);
FARM_MUSTUSE int index_reader_names(struct index_reader *r, struct id128 rid, name_place_visit f,
                                    void *arg);
/*
 * What the records of the inodes from first to last amount to: of every inode with a living name,
 * and the root, (kind, id, stamp, clock) of its content, its attributes and its living names. Two
 * nodes that know the same have the same, if neither lost anything. Records that are not announced
 * do not count; nor do those of what is dead, which may have been collected on one node already.
 */
struct index_sum {
    uint64_t inodes;
    bool fresh; /* one of the records, dead ones too, is not covered by `known` */
    uint8_t digest[32];
    struct vvec know; /* of this node, in the state that was read */
};
#define SUM_INODES_MAX 8192u
/* known NULL: what this node knows. Of more than SUM_INODES_MAX inodes only the first count. */
FARM_MUSTUSE int index_reader_sum(struct index_reader *r, struct id128 first, struct id128 last,
                                  const struct vvec *known, struct index_sum *out);
/* The first log entry at or after pos: its position, the record, and the node it came from.
 * -ENOENT at the end of the log. */
FARM_MUSTUSE int index_reader_log(struct index_reader *r, uint64_t pos, uint64_t *at,
                                  struct record *rec, uint64_t *source);
/* Union of the ranges changed between two versions of an inode's content, merged and sorted, at
 * most max of them; -ENOENT when the journal does not reach back to `from`. */
FARM_MUSTUSE int index_reader_journal(struct index_reader *r, struct id128 rid, struct stamp from,
                                      struct stamp to, struct range *out, uint32_t max,
                                      uint32_t *n);
/* Entries, and bytes of content, in the log from pos on: the backlog. Bounded: counts at most
 * `limit` entries. */
FARM_MUSTUSE int index_reader_backlog(struct index_reader *r, uint64_t pos, uint64_t limit,
                                      uint64_t *entries, uint64_t *bytes);

#endif
