/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The receiving half of a session: reads validated frames, assembles content in the staging area,
 * verifies digests, and hands batches to the core thread in stream order. One thread per session.
 */
#ifndef SHIP_RECEIVER_H
#define SHIP_RECEIVER_H

#include "base/queue.h"
#include "store/dirty.h"
#include "store/index.h"
#include "store/nodes.h"
#include "store/staging.h"
#include "wire/msg.h"

/* Bounds of a session; more is a protocol error. */
#define RECEIVER_TRANSFERS 8u              /* open transfers */
#define RECEIVER_ITEMS 8192u               /* records in one frame */
#define RECEIVER_LEAF_BYTES (320ull << 20) /* for digest leaves of files being assembled */
/* A longer file is not held here (ITEM_NONE, logged). */
#define RECEIVER_SIZE_MAX (1ull << 40)

enum item_data {
    ITEM_NONE = 0,    /* no data belongs to this record, or the sender had none */
    ITEM_STAGED = 1,  /* assembled and verified: staging in/<staged> */
    ITEM_SAME = 2,    /* the content we hold already has this digest and size: only times changed.
                         Seen in the index; a batch of another session may come between, so the
                         core looks again and takes it as ITEM_MISSING when it no longer holds */
    ITEM_MISSING = 3, /* data was announced but base or digest did not fit: WANT has to be sent */
};

struct batch_item {
    struct record rec; /* points into the batch's payload */
    enum item_data data;
    char staged[32];
    struct handle handle; /* of the staged file */
    uint8_t *leaves;      /* digest leaves of the staged file when larger than one block; owned */
    uint64_t nleaves;
};

/* Owned by whoever holds it; batch_free discards staged files that were not consumed (staged[0] !=
 * 0). */
struct batch {
    struct qnode node;
    void *session; /* as given in receiver_env */
    uint64_t pos;
    bool boundary;
    bool resent, repair;
    size_t n;
    struct batch_item *items;
    void *payload;
};
void batch_free(struct batch *b, struct staging *st);

struct receiver_env {
    struct index *index;
    struct nodes *nodes;
    struct dirty *dirty;
    struct staging *staging;
    void *session;
    /* All on the receiver's thread; may wait (back-pressure). Negative ends the session. */
    int (*on_batch)(void *session, struct batch *b); /* takes on success */
    int (*on_ack)(void *session, const struct msg_ack *a);
    int (*on_want)(void *session, const struct msg_want *w);
    int (*on_state)(void *session, const struct msg_state *s);
    int (*on_know)(void *session, const struct msg_ack *k);
    int (*on_sum)(void *session, const struct msg_sum *m);
    /* Wait until everything handed over by on_batch has been applied and committed. */
    int (*drain)(void *session);
};

/*
 * Reads one frame (header + payload, no compression on this hop). *payload is malloced; *type 0 at
 * a clean end of the stream.
 */
FARM_MUSTUSE int receiver_read_frame(int fd, uint8_t *type, void **payload, uint32_t *len);
/* Writes one frame. */
FARM_MUSTUSE int receiver_write_frame(int fd, uint8_t type, const void *payload, uint32_t len);

/* Serves RECORDS, DATA, ACK, WANT, STATE, KNOW, SUM until the stream ends (0) or something is
 * wrong. While the file system of the staging area is full it waits, and with it the peer. A
 * transfer that was given up ends with the next content record of its inode. */
FARM_MUSTUSE int receiver_run(int fd, const struct receiver_env *env);

#endif
