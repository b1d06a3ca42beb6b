/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmchaos: the writers, the readers and the judge of tests/chaos.
 *
 * Every write describes itself: a file is a chain of segments, each with a header (who wrote it,
 * his count, its length, which segment it was written after) and a body that follows from these. So
 * any file that is not a chain was never written whole by anybody.
 *
 * Two areas below the folder's root:
 *   own/<writer>/   one writer only. It keeps a model of names and contents, and at the end every
 *                   node must have exactly that. What a dead node left undone is settled at once:
 * it must be as before or as after (or half a file where it was being written). shared/         all
 * writers. c*: only written through a descriptor, whose content was read through the same
 * descriptor, so that it is known what every version was built upon: at the end each is there, or
 * built upon, or kept as a loser of a conflict. n*, s*: names that come, go and move.
 *
 * The writers share a page (DIR/ctl) with the script, and each writes DIR/ledger.<writer>.
 */
#ifndef CHAOS_H
#define CHAOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define NODES_MAX 9
#define WRITERS_PER_NODE 2
#define FILES 20
#define DIRS 4
#define EMPTY_DIRS 4
#define CHAIN_MAX 8
#define SHARED_CONTENT 6
#define SHARED_NAMES 6
#define SHARED_DIRS 3
#define BODY_MAX (600u * 1024u)
#define FILE_MAX (CHAIN_MAX * (BODY_MAX + 64u))

enum area { AREA_OWN = 1, AREA_SHARED = 2 };

/* A version: who wrote it and his count. */
struct vid {
    uint32_t writer; /* node * WRITERS_PER_NODE + process; 0: none (nodes count from 1) */
    uint32_t counter;
};

struct segment {
    struct vid id, after;
    uint32_t area, len;
};

struct chain {
    unsigned n;
    bool whole; /* false: these are the first n segments, and what follows is none */
    size_t size;
    struct segment seg[CHAIN_MAX];
};

/* Written by the script, read by all. Odd: being so just now. */
struct ctl {
    volatile uint32_t stop;
    volatile uint32_t down[NODES_MAX + 1]; /* the node is killed or stopped */
    volatile uint32_t full[NODES_MAX + 1]; /* its disk is full */
    volatile uint32_t links;               /* any link is cut, or any worker stands still */
};

struct inode {
    bool used, torn;
    unsigned mode;
    struct chain chain;
};

/* What a writer's own area must be. Names point to inodes; hard links to the same one. */
struct model {
    int inode_of[FILES]; /* -1: no such name */
    struct inode inodes[FILES + 1];
    bool moved[DIRS];       /* directory i is called D<i> instead of d<i> */
    bool empty[EMPTY_DIRS]; /* e<i> is there */
};

struct args {
    const char *dir;      /* control directory */
    const char *lab;      /* mounts are lab/web<n>/www */
    unsigned node, nodes; /* from 1 */
    unsigned process;     /* 0 .. WRITERS_PER_NODE - 1 */
    uint64_t seed;
    const char *ack; /* local, one or all: what fsync promises */
};

/* ---- chaos_file.c ---- */
uint64_t chaos_random(uint64_t *state);
/* The bytes of a segment: header and body. out has room for segment_size(len). */
size_t segment_size(uint32_t len);
void segment_fill(const struct segment *s, unsigned char *out);
void chain_parse(const unsigned char *p, size_t size, struct chain *c);
bool chain_same(const struct chain *a, const struct chain *b);
/* The last segment's version; {0, 0} of an empty chain. */
struct vid chain_last(const struct chain *c);
bool vid_same(struct vid a, struct vid b);
/* Reads an open file from its start to its end into buf (FILE_MAX + 1 bytes): its size, -errno. */
long file_read(int fd, unsigned char *buf);
int64_t now_us(void);
void own_file_name(const struct model *m, int slot, char out[64]);
struct ctl *ctl_open(const char *dir, bool create);
/* A directory of a mount, -errno. */
int mount_dir(const char *lab, unsigned node, const char *sub);

/* ---- chaos_model.c ---- */
/* Compares a directory with a model; says what differs (quiet: only whether). Torn ones may be
 * anything. Returns the number of differences. */
unsigned model_compare(int dirfd, const struct model *m, bool quiet, const char *who,
                       unsigned char *buf);
/* The same for one of its files. */
unsigned model_file(int dirfd, const struct model *m, int slot, bool quiet, const char *who,
                    unsigned char *buf);

/* ---- chaos_own.c ---- */
int chaos_write(const struct args *a);

/* ---- chaos_shared.c ---- */
struct shared {
    const struct args *args;
    uint32_t writer, *counter;
    FILE *ledger;
    unsigned char *buf, *out;
    uint64_t *rng;
    int lock;
};
/* One operation below shared/ (dirfd). 0, or the errno of a call that nobody's work explains;
 * *what says which. */
int shared_step(struct shared *s, int dirfd, const char **what);
/* The files and directories it works with, once in a run. */
int shared_prepare(int dirfd);

/* ---- chaos_read.c, chaos_judge.c ---- */
int chaos_read(const struct args *a);
int chaos_judge(const char *dir, const char *lab, unsigned nodes, char **losers, int nlosers);

#endif
