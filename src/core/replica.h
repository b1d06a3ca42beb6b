/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What local operations and peers' records do to the set of records. Pure: time comes in as an
 * argument, storage through struct records, no I/O of its own. One thread.
 */
#ifndef CORE_REPLICA_H
#define CORE_REPLICA_H

#include "core/records.h"
#include "core/view.h"

struct replica {
    const struct records *r;
    uint64_t node;     /* ourselves, this incarnation */
    uint64_t next_seq; /* next stamp.seq we give, from 1; the caller persists it with the records */
    uint64_t next_id;  /* next id128.n we give, from 2 */
    struct hlc clock;
    /* What this node holds; the caller persists it with the records. For every stamp it covers the
     * record is here in that version or a later one, or was collected (core/collect.h). Raised by
     * what is put here, and by replica_learn at the end of a peer's log; never by a single record
     * of a peer: what came before it in its author's log may have moved behind it since. */
    struct vvec know;
    struct vvec seen; /* the greatest stamps met in any record: covers know */
    struct vvec gone; /* the greatest stamps of records that were collected here: whose knowledge
                         does not include it lacks tombstones that nobody may have any more */
};

/* A fresh id created by this node. */
struct id128 replica_new_id(struct replica *p);

/*
 * Local operations. They follow a change that was already made in the backing tree, stamp the
 * records and put them with source = ourselves, and set the places of the names they move (the tree
 * has them there already). Afterwards, and before the next operation or merge, the caller runs
 * view_changes with all that was put as seeds: hidden rivals go, a revived directory may be
 * released. Directories are given by their canonical inode (view_canon): the one in the tree.
 *
 * wall_us: now; at: 0, or the exact clock value for what a first scan finds (its mtime), so that an
 * old copy never beats a newer one; it is lifted above the record it replaces and kept to the wall
 * clock.
 *
 * -ENOENT when the names spoken of do not exist in the records: the caller rescans the directory.
 * After an error the caller drops the transaction; sequence numbers used up are not given again.
 */
/* Bind inode rid (whose content and attr records exist or will be put next) to a new name.
 * A name that an edit brought back (rule 1a of view.h) becomes alive for good. -EEXIST when the
 * records have another name there. */
FARM_MUSTUSE int replica_link(struct replica *p, uint64_t wall_us, uint64_t at, struct id128 rid,
                              struct id128 parent, const uint8_t *name, uint8_t len,
                              struct id128 *nid);
/* Stamp a name anew as it is and put it: a name that was held back is announced now. */
FARM_MUSTUSE int replica_restamp(struct replica *p, uint64_t wall_us, struct name_rec *n);
/* Tombstone every name record that claims the place (the one shown and hidden rivals), so that
 * deleting what one sees never uncovers something else. With the last living name of a file its
 * older tombstones are renewed too: their deleters had seen less, and would bring it back. A
 * directory that is only there for its children (rule 1b) becomes alive for good when one is taken
 * away. */
FARM_MUSTUSE int replica_unlink(struct replica *p, uint64_t wall_us, struct id128 parent,
                                const uint8_t *name, uint8_t len);
/* The name at the old place gets a new register; every other record claiming the new place dies.
 * exchange: both names swap places. The move is put before the tombstones. Hidden rivals and merged
 * directories go along, in their order, so that a rename uncovers nothing and takes a merged
 * directory whole. Two names of one inode: nothing happens, as in rename(2). Moving or removing a
 * directory first makes the cuts of cycles permanent: each cut directory's register is set to where
 * it is, or the move could close a hidden cycle and be undone. */
FARM_MUSTUSE int replica_rename(struct replica *p, uint64_t wall_us, struct id128 old_parent,
                                const uint8_t *old_name, uint8_t old_len, struct id128 new_parent,
                                const uint8_t *new_name, uint8_t new_len, bool exchange);
/* A new content version: stamps, vv (previous vv + ourselves) and base are filled in here; the
 * caller sets rid, type, size, mtime, digest, target, rdev. Where the file is behind its record
 * (records.h, get_behind) the previous one is what the file held, so that the one it never held is
 * a conflict and not silently replaced. Directories have an empty vv. A name
 * that an earlier edit brought back becomes alive for good.
 * -EINVAL when the type is not that of the former version. */
FARM_MUSTUSE int replica_content(struct replica *p, uint64_t wall_us, uint64_t at,
                                 struct content_rec *c);
/* New attributes; head is filled in here, and mtime_hlc when the caller sets it to ATTR_MTIME_SET
 * (the time is set by this very change). */
#define ATTR_MTIME_SET UINT64_MAX
FARM_MUSTUSE int replica_attr(struct replica *p, uint64_t wall_us, uint64_t at, struct attr_rec *a);

enum merge_result {
    MERGE_OLD,      /* we hold it or a later one: nothing changed */
    MERGE_NEW,      /* put */
    MERGE_CONFLICT, /* put; content: what it replaced was concurrent and must be preserved */
    MERGE_LOST, /* content: concurrent and older than ours: not put; it is to be preserved if its
                   data came along */
};

/* Merge a peer's record (received from node `source`). Raises the clock within its bound (*skewed =
 * true when it was beyond it). A record that is known and not here was collected: old news.
 * FARM_EPROTO: an impossible record (no stamp, clock past HLC_LIMIT, another inode or type under a
 * known id). -ESTALE: it is ours and newer than we are: this node was rolled back or cloned. */
FARM_MUSTUSE int replica_merge(struct replica *p, uint64_t wall_us, const struct record *rec,
                               uint64_t source, enum merge_result *result, bool *skewed);
/* This node goes on under a new id, p->node: what it stamped under `old` from the number `from` on
 * was made twice (a copy of this node's state was put back, and others know what the first life
 * made of these numbers). A record that has such a stamp gets a new one. Contents before names. */
FARM_MUSTUSE int replica_renew(struct replica *p, uint64_t old, uint64_t from,
                               const struct record *rec);
/* Rejoining: the peer's record is put whatever we hold, also again when it is the same. MERGE_OLD:
 * it was the same; MERGE_CONFLICT: ours was not part of it and is to be preserved. */
FARM_MUSTUSE int replica_take(struct replica *p, const struct record *rec, uint64_t source,
                              enum merge_result *result);
/* The end of a peer's log: all records that it held when it knew this have been merged here, or
 * were known already. Its knowledge becomes ours. FARM_EFULL. */
FARM_MUSTUSE int replica_learn(struct replica *p, const struct vvec *know);

#endif
