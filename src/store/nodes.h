/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * lid <-> backing inode, for all threads: a bounded cache over the index plus the entries that are
 * not in the index yet (pinned until nodes_settle), and a bounded cache of open descriptors.
 */
#ifndef STORE_NODES_H
#define STORE_NODES_H

#include "store/index.h"

#include <sys/stat.h>

#define LID_ROOT 1ull
#define LID_CONTROL 2ull /* .farm: not a backing inode */
#define LID_FIRST 16ull

struct nodes;

struct node_ref {
    uint64_t lid;
    uint8_t type;
    bool orphan;
    struct handle handle;
};

/* rootfd: the backing directory (borrowed, outlives nodes). max_cached entries, max_fds
 * descriptors. */
FARM_MUSTUSE int nodes_new(struct index *ix, int rootfd, size_t max_cached, size_t max_fds,
                           struct nodes **out);
void nodes_free(struct nodes *n);

/* A fresh lid. The index must have reserved it: nodes_reserve raises the ceiling (meta.next_lid).
 * Waits for that; -ETIMEDOUT after 30 s. */
FARM_MUSTUSE int nodes_new_lid(struct nodes *n, uint64_t *lid);
/* The range of lids that may be handed out: [from, to). One that begins where the last ended
 * extends it, otherwise what is left of the last is given up. Waiting nodes_new_lid calls go on. */
void nodes_reserve(struct nodes *n, uint64_t from, uint64_t to);
/* True when fewer than a quarter of a block is left: the core should reserve more. */
bool nodes_low(const struct nodes *n);

/* Any thread. -ENOENT: unknown lid (answer ESTALE). Uses a reader of the calling thread. */
FARM_MUSTUSE int nodes_get(struct nodes *n, uint64_t lid, struct node_ref *out);
/* -ENOENT: the backing inode is not known under any lid. */
FARM_MUSTUSE int nodes_find(struct nodes *n, const struct handle *h, struct node_ref *out);
/* A new pair, pinned until settled. If the handle is known already, the existing entry is returned
 * in *out and nothing is added (two lookups raced). */
FARM_MUSTUSE int nodes_add(struct nodes *n, uint64_t lid, uint8_t type, const struct handle *h,
                           struct node_ref *out);
/* Now in the index: may be evicted. Once for each nodes_add that added, after the commit. */
void nodes_settle(struct nodes *n, uint64_t lid);
/* The inode lost its record, or another lid is to stand for it: nodes_find no longer finds this
 * one, nodes_add may give the handle to a new one. Stays in memory until nodes_remove (or a further
 * nodes_settle, when the index knows the orphan). */
void nodes_set_orphan(struct nodes *n, uint64_t lid);
/* Gone for good; its descriptors are closed. */
void nodes_remove(struct nodes *n, uint64_t lid);

/* A descriptor of the backing inode: shared, do not close, do not lseek; give back with
 * nodes_put_fd. mode: NODES_PATH (O_PATH or more, any type), NODES_READ (O_RDONLY or more, files
 * and directories), NODES_WRITE (O_RDWR, files). -ESTALE; -EISDIR, -ELOOP, -EINVAL where the type
 * cannot be opened so; -ETXTBSY. */
enum nodes_mode { NODES_PATH, NODES_READ, NODES_WRITE };
struct node_fd;
FARM_MUSTUSE int nodes_get_fd(struct nodes *n, uint64_t lid, enum nodes_mode mode,
                              struct node_fd **out, int *fd);
void nodes_put_fd(struct nodes *n, struct node_fd *f);
/* Close cached descriptors of a lid once they are given back (before an unmount, after a removal).
 */
void nodes_close_fds(struct nodes *n, uint64_t lid);

#endif
