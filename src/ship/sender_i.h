/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Inside the sending half, shared by sender.c (life, loop, frames), plan.c (the log) and content.c
 * (file data). A round: plan_fill copies log entries out of a read transaction, content_put turns
 * each into an item of the RECORDS frame under construction, sender_flush sends that frame.
 */
#ifndef SHIP_SENDER_I_H
#define SHIP_SENDER_I_H

#include "ship/deferred.h"
#include "ship/sender.h"
#include "ship/sent.h"

#include <pthread.h>

#define PLAN_MAX 128u        /* log entries taken in one read transaction */
#define SCAN_MAX 4096u       /* entries looked at in one */
#define FRAME_ITEMS 4096u    /* records in a frame; a receiver takes RECEIVER_ITEMS */
#define CHUNK (256u * 1024u) /* content bytes in a DATA frame */
#define INLINE_RANGES (1024u * 1024u)
#define WANTS_MAX 1024u
#define STATES_MAX 64u
#define LINKS_MAX 64u
#define SUMS_MAX 8u
#define RANGES_MAX 8u

struct plan_item {
    struct record rec; /* its xattrs or target are in `owned` */
    uint64_t pos;
    bool deferred; /* an entry that had been left to another node */
    bool data;     /* a regular file that should be here */
    bool again;    /* answers a WANT: whole, and checked before it is sent */
    bool delta;    /* what `ranges` say, on top of `base` */
    uint64_t lid;
    struct stamp base;
    uint32_t nranges;
    struct range *ranges; /* within the size; in `owned` */
    void *owned;
};

struct inode_range {
    struct id128 first, last;
};

struct state_slot {
    uint64_t node;
    void *payload; /* NULL: free */
    uint32_t len;
};

struct sender {
    struct sender_env env;
    int fd;
    uint64_t peer;

    pthread_mutex_t lock; /* guards the fields up to stats */
    pthread_cond_t wake;
    bool stop, woken, acked, relinked, ack_due;
    struct vvec know; /* the peer's, as last heard */
    uint64_t links[LINKS_MAX];
    size_t nlinks;
    struct msg_ack ack;
    struct state_slot states[STATES_MAX];
    size_t nstates; /* slots in use */
    struct msg_want wants[WANTS_MAX];
    size_t want_first, nwants;
    struct msg_want asks[WANTS_MAX]; /* ours, to be sent */
    size_t nasks;
    struct msg_sum sums[SUMS_MAX]; /* to be sent */
    size_t nsums;
    struct inode_range ranges[RANGES_MAX]; /* whose records are to be sent */
    size_t nranges;
    struct sender_stats stats;

    /* The sender's thread alone. */
    struct index_reader *reader;
    uint64_t cursor; /* where the log is read next */
    uint64_t done;   /* every entry before it is sent, in the frame, skipped or deferred */
    uint64_t told;   /* the position last told to the peer */
    bool end;        /* the log's end was met */
    struct vvec end_know, told_know; /* what this node knew there; as last told to the peer */
    struct vvec known;
    struct vvec held; /* contents that the peer has, whatever its knowledge says */
    uint64_t linked[LINKS_MAX];
    size_t nlinked;
    bool release; /* deferred entries may have lost who sends them */
    struct deferred deferred;
    struct sent *sent;
    struct plan_item *plan; /* PLAN_MAX */
    size_t nplan;
    struct buf frame; /* RECORDS under construction */
    uint32_t count;   /* its items */
    bool resent;      /* it answers a WANT, */
    bool repair;      /* or is sent for a difference */
    bool open;        /* the peer has not been told a boundary since the last RECORDS */
    struct buf data;  /* a DATA frame */
    uint8_t *chunk;   /* CHUNK */
    uint64_t transfer;
};

/* plan.c: log entries from the cursor on (and deferred ones that are due) into the plan; *end when
 * the log's end was reached. */
FARM_MUSTUSE int plan_fill(struct sender *s, bool *end);
/* The current content record of an inode; the plan stays empty when there is none. */
FARM_MUSTUSE int plan_again(struct sender *s, struct id128 rid);
/* All records of inodes from r->first on, which is moved behind them; *more: some are left. */
FARM_MUSTUSE int plan_inodes(struct sender *s, struct inode_range *r, bool *more);
void plan_clear(struct sender *s);

/* content.c: put an item into the frame with its data; a transfer goes out before it. Negative when
 * the stream or the frame failed; a file that cannot be read is DATA_NONE. */
FARM_MUSTUSE int content_put(struct sender *s, const struct plan_item *it);

/* sender.c */
/* -ECANCELED once stopped. What waits for a gap between frames goes out first. */
FARM_MUSTUSE int sender_send(struct sender *s, uint8_t type, const struct buf *payload);
FARM_MUSTUSE int sender_between(struct sender *s);
FARM_MUSTUSE int sender_flush(struct sender *s, bool boundary);

#endif
