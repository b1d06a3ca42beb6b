/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * struct records as a value, for exhaustive searches: a struct flat is copied to go back to it
 * later (flat_copy). Record versions live in an arena that is used like a stack: a search that goes
 * back resets it to where it was. Every set of records, and the places of its names, has a 64-bit
 * hash that does not depend on the order in which they were put. Names are one letter. One thread.
 */
#ifndef FLAT_H
#define FLAT_H

#include "core/records.h"

#include <stddef.h>

#define FLAT_NAMES 20u
#define FLAT_INODES 16u
#define FLAT_LOG 160u

/* One version of a record; never changes. */
struct flat_rec {
    uint64_t hash;
    struct record rec;
};

struct flat_place {
    struct id128 parent;
    uint8_t kind, name;
    bool cut;
};

struct flat {
    struct records r; /* what is handed to the core; ctx is this flat */
    unsigned nnames, ncontents, nattrs, nlog, seeded;
    uint64_t set;                             /* hash of the records */
    uint64_t where;                           /* hash of the places */
    const struct flat_rec *names[FLAT_NAMES]; /* in order of nid */
    struct flat_place places[FLAT_NAMES];     /* of names[] */
    const struct flat_rec *contents[FLAT_INODES], *attrs[FLAT_INODES];
    const struct flat_rec *log[FLAT_LOG]; /* in the order they were put; see flat_live */
};

uint64_t flat_mix(uint64_t h, uint64_t v);

void flat_init(struct flat *f);
void flat_copy(struct flat *to, const struct flat *from);
/* How far the arena is used, and back to there. */
size_t flat_arena(void);
void flat_arena_reset(size_t used);

/* The version that is held of the record with the id of rec; NULL: none. */
const struct flat_rec *flat_held(const struct flat *f, const struct record *rec);
/* Is log[i] the current version of its record? (Entries that are superseded are skipped.) */
bool flat_live(const struct flat *f, unsigned i);
/* Forget what was logged until now: everybody has it. */
void flat_log_clear(struct flat *f);
/* Run view_changes for what was put since the last call and set the places. Returns the changes,
 * malloced. */
struct view_change *flat_update(struct flat *f, size_t *n);

#endif
