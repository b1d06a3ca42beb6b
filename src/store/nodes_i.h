/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Inside of nodes.c (lid <-> inode) and nodes_fd.c (descriptors). */
#ifndef STORE_NODES_I_H
#define STORE_NODES_I_H

#include "base/map.h"
#include "store/nodes.h"

#include <pthread.h>
#include <stdatomic.h>

#define NODES_SHARDS 16u

/* First member of all that is cached: a ring with the clock's hand ("second chance" replacement).
 */
struct clocked {
    struct clocked *next, *prev;
    uint32_t pins; /* not evicted while > 0 */
    bool used;     /* since the hand passed */
};

struct shard {
    _Alignas(64) pthread_mutex_t lock; /* guards all below and what the table holds */
    union {
        struct map_u64 by_u64;
        struct map_bytes by_bytes;
    };
    struct clocked *hand;
    size_t n, cap;
    uint64_t changes;
};

struct reader_slot;

struct nodes {
    struct shard lids[NODES_SHARDS], handles[NODES_SHARDS], fds[NODES_SHARDS];
    struct index *ix;
    int rootfd;
    struct handle root;

    pthread_mutex_t lid_lock; /* guards what follows */
    pthread_cond_t lid_room;
    uint64_t lid_next, lid_end, lid_block;
    _Atomic bool low;

    pthread_key_t reader_key;
    pthread_mutex_t reader_lock; /* guards the list: each thread's reader, freed when it ends */
    struct reader_slot *readers;
};

/* All under the shard's lock. */
void clock_add(struct shard *s, struct clocked *c);
void clock_del(struct shard *s, struct clocked *c);
/* What has to go before one more is added, NULL when there is room or (within a bounded search) all
 * is in use. */
struct clocked *clock_victim(struct shard *s);

/* Closes all that is cached; nobody uses any. */
void nodes_fd_fini(struct shard *s);

#endif
