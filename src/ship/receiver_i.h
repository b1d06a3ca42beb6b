/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Inside the receiving half: receiver.c (frames, batches) and assemble.c (content). One thread. */
#ifndef SHIP_RECEIVER_I_H
#define SHIP_RECEIVER_I_H

#include "ship/receiver.h"

#define HANDED_BITS 65536u
#define HANDED_MAX 8192u

/* A file being put together in the staging area. */
struct assembly {
    struct id128 rid;
    uint64_t size;
    enum item_data state; /* ITEM_STAGED; MISSING, NONE: no file, what comes for it is dropped */
    char name[32];
    int fd;
    uint64_t next;   /* data comes in ascending order: none before this any more */
    uint64_t hashed; /* leaves before this one are final */
    uint64_t nleaves;
    uint8_t *leaves;
    uint8_t *stale; /* per leaf: not that of the present content */
};

struct transfer {
    uint64_t id; /* 0: free */
    struct stamp base;
    struct assembly a;
};

struct receiver {
    const struct receiver_env *env;
    int fd;
    struct index_reader *reader;
    bool starved; /* waiting for room on the file system */
    uint64_t leaf_bytes;
    struct transfer transfers[RECEIVER_TRANSFERS];
    /* Which inodes' content was handed over since the last drain: the index may not have it yet.
     * A set of hashes; too many hits cost time only. */
    uint8_t handed[HANDED_BITS / 8];
    uint32_t nhanded;
};

/* base {0,0}: from nothing. A base or a size that cannot be had is a state, not an error. */
FARM_MUSTUSE int assembly_begin(struct receiver *r, struct id128 rid, uint64_t size,
                                struct stamp base, struct assembly *a);
FARM_MUSTUSE int assembly_write(struct receiver *r, struct assembly *a, uint64_t off,
                                const uint8_t *p, uint32_t len);
/* Verifies against the record; the file and its leaves go to the item, or are dropped. */
FARM_MUSTUSE int assembly_end(struct receiver *r, struct assembly *a, struct batch_item *it);
void assembly_drop(struct receiver *r, struct assembly *a);
/* The same in one step for what fits a block. */
FARM_MUSTUSE int assemble_small(struct receiver *r, const uint8_t *p, uint32_t len,
                                struct batch_item *it);
FARM_MUSTUSE int receiver_drain(struct receiver *r);

#endif
