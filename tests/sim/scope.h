/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The inside of `exhaust`: states of a few nodes, what can be done in them, and what must hold. A
 * failed check prints how it came to that and ends the program. One thread.
 */
#ifndef SCOPE_H
#define SCOPE_H

#include "core/replica.h"
#include "flat.h"

#define NODES_MAX 3u
#define EDITS_MAX 8u
#define DEATHS_MAX 24u
#define DEPTH_MAX 300u
#define OPS_LIST 256u
#define OPS_MAX 4u
#define WALL_START (1700000000ull * 1000 * 1000)
#define STEP_US 1000u

enum op_type { OP_CREATE, OP_MKDIR, OP_LINK, OP_REMOVE, OP_RENAME, OP_EXCHANGE, OP_EDIT, OP_CHMOD };

struct op {
    enum op_type type;
    struct id128 inode; /* of what it is done to */
    struct id128 parent, to_parent;
    uint8_t name, to_name;
};

/* A tree to begin with: `parent` is the index of an earlier entry, -1 the root; `same` that of the
 * entry whose inode it is another name of, or -1. */
struct seedling {
    int parent, same;
    uint8_t name;
    bool dir;
};

struct scene {
    const char *name, *names;
    bool moves_only; /* names are kept when something moves, and nothing is created */
    unsigned n;
    struct seedling e[6];
};

struct node {
    struct replica rep;
    unsigned got[NODES_MAX]; /* of each peer's log */
    struct flat f;
};

/* What the checks at the end go by, told by the operations and not by the records. */
struct edit {
    struct id128 rid;
    struct stamp stamp;
    uint8_t before; /* the edits of the file that it follows */
};
struct death { /* somebody removed a name of it, or put something in its place */
    struct id128 rid;
    uint8_t seen; /* the edits that were in what they removed */
};

struct state {
    unsigned done; /* operations */
    unsigned used; /* nodes that have acted */
    uint8_t nedits, ndeaths, kept;
    struct edit edits[EDITS_MAX];
    struct death deaths[DEATHS_MAX];
    struct node node[NODES_MAX];
};

struct step {
    struct op op;
    unsigned node, from;
    enum { STEP_OP, STEP_DELIVERY, STEP_COLLECT } kind;
};

/* What is remembered of a state or a set, by its hash. */
struct slot {
    uint64_t key;
    union {
        double paths;   /* executions that begin at a state */
        uint64_t where; /* places of a set */
    };
};

struct oplist {
    struct op v[OPS_LIST];
    unsigned n;
};

/* The scope that is being exhausted. */
struct run {
    const struct scene *scene;
    unsigned nodes, ops, cache_bits;
    bool split, same_clock, down, collect, all_orders;
    struct slot *visited, *views; /* 1 << cache_bits each; what falls on a slot replaces it */
    uint64_t *merges;
    uint64_t n_ops, n_deliveries, n_states, n_sets, n_merges;
    struct step steps[DEPTH_MAX]; /* how the state being looked at came about */
};
extern struct run run;

/* ---- scope.c ---- */
void copy_node(struct node *to, const struct node *from);
void copy_state(struct state *to, const struct state *from);
/* The next entry of from's log that `to` will be sent, from `at` on; nlog when there is none. */
unsigned next_due(const struct node *to, const struct node *from, unsigned at);
/* Is there anything, a record or knowledge, for `to` to get? */
bool pending(const struct state *s, unsigned to, unsigned from);
uint64_t hash_state(const struct state *s);
struct id128 at_slot(const struct flat *f, struct id128 parent, uint8_t name); /* none: free */
uint64_t wall(const struct state *s);
/* Prints the tree, steps[0..depth) and s, and exits. */
void fail(const struct state *s, unsigned depth, const char *what) __attribute__((noreturn));

/* ---- scope_ops.c ---- */
/* All that can be done in this tree. */
void list_ops(const struct flat *f, struct oplist *l);
int write_content(struct state *s, struct node *nd, struct id128 rid, bool dir);
int chmod_to(struct state *s, struct node *nd, struct id128 rid, uint32_t mode);
/* Do it at node i, and check that it did that and no more. */
void operate(struct state *s, unsigned depth, unsigned i, const struct op *o);

/* ---- scope_check.c ---- */
/* The places are what all records say at once, and a tree: a function of the set, whatever came
 * when. Sets that were judged are remembered. */
void check_node(const struct state *s, unsigned depth, const struct flat *f);
/* What node i says it knows, it has, or something later, or it has collected it. */
void check_knowledge(const struct state *s, unsigned depth, unsigned i);
/* After a local operation: it did what a file system does, and nothing else appeared or moved. */
void check_local(const struct state *s, unsigned depth, const struct flat *before,
                 const struct flat *after, const struct op *o);
/* The nodes' sets themselves, without logs and knowledge: merging is commutative, associative,
 * idempotent. */
void check_merge(const struct state *s, unsigned depth);
/* All is delivered: equal records, trees, knowledge; nothing lost, nothing back. */
void check_end(const struct state *s, unsigned depth);

#endif
