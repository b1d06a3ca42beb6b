/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Inside the scrub: scrub.c (its thread and its rounds), scrub_look.c (one inode), scrub_show.c. */
#ifndef NODE_SCRUB_I_H
#define NODE_SCRUB_I_H

#include "node/node.h"

#define SUSPECTS_MAX 1024u

struct round {
    bool running, full;
    struct id128 pos;    /* the next inode to be looked at */
    uint64_t started_us; /* wall */
    uint64_t inodes, bytes, all_inodes, all_bytes;
};

struct suspect {
    struct id128 rid;
    uint64_t due_us;
};

struct scrub {
    struct node *n;
    pthread_t thread;
    struct index_reader *reader;
    /* The thread's. */
    struct suspect suspects[SUSPECTS_MAX]; /* a ring */
    size_t first, count;
    uint64_t next_us; /* when it may read again (mono) */
    uint64_t saved_us;
    bool at_end;
    struct id128 frontier; /* up to here records were compared with the peers */
    uint64_t token;        /* of the last sum asked about */
    bool again;            /* what is looked at was looked at before in this round */
    unsigned told;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wake;
    bool stop, allowed, restart;
    unsigned dealt; /* finds the core is done with */
    struct round round;
    struct {
        uint64_t started_us, ended_us, inodes, bytes; /* of the last whole round */
    } last;
    uint64_t asked, answered; /* rounds asked for; those that a whole round has followed */
    uint64_t asked_before;    /* as it was when this round began */
    uint64_t counts[COUNT_COUNT];
    size_t open;
    /* The sum under way: which; up to which the core has asked; who has not answered. */
    uint64_t asking, said;
    unsigned awaited;
    enum sum_step answers[CONFIG_PEERS_MAX]; /* 0: not connected */
};

/* What was read is paid for with time. True: stop, or begin anew. */
bool scrub_pay(struct scrub *s, uint64_t bytes);
/* Bytes a second, just now. Any thread. */
uint64_t scrub_rate(struct scrub *s);

/* Sleeps at most so long; true when the thread is to stop or to begin anew. */
bool scrub_pause(struct scrub *s, uint64_t us);

/* Compares the records of the inodes from the frontier on with the peers, and moves it.
 * -ECANCELED: stop, or begin anew. */
FARM_MUSTUSE int scrub_compare(struct scrub *s);

/* Looks at an inode. find->kind 0: nothing is wrong, or it cannot be told now. -ECANCELED: stop, or
 * begin anew. */
FARM_MUSTUSE int scrub_inspect(struct scrub *s, struct id128 rid, struct scrub_find *find);

#endif
