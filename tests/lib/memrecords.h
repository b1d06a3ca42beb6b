/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * struct records in memory, for tests: small sets, linear scans, strict. It panics when two names
 * are put at one place. Not thread-safe.
 */
#ifndef MEMRECORDS_H
#define MEMRECORDS_H

#include "core/records.h"

#include <stddef.h>

struct mem_name {
    struct name_rec rec;
    struct place place;
    uint64_t pos;
};

struct mem_content {
    struct content_rec rec; /* target is owned */
    uint64_t pos;
};

struct mem_attr {
    struct attr_rec rec; /* xattrs is owned */
    uint64_t pos;
};

struct mem_log {
    enum rec_kind kind;
    struct id128 id;
    uint64_t source;
};

struct memrecords {
    struct records r;        /* what is handed to the core */
    struct mem_name **names; /* in order of nid */
    struct mem_content **contents;
    struct mem_attr **attrs;
    size_t nnames, ncontents, nattrs;
    struct mem_log *log; /* position p is log[p - 1]; superseded entries stay, see memrecords_at */
    size_t nlog;
    size_t seeded;    /* the log up to here was given out by memrecords_seeds */
    uint64_t lookups; /* calls and names visited, for tests of cost */
};

void memrecords_init(struct memrecords *m);
void memrecords_fini(struct memrecords *m);
/* The record whose log position is pos (1..nlog); false when it has been superseded. The record
 * points into m. */
bool memrecords_at(const struct memrecords *m, uint64_t pos, struct record *out);
/* What view_changes is to start from: names put, and names of inodes whose content was put, since
 * the last call. malloced. */
struct id128 *memrecords_seeds(struct memrecords *m, size_t *n);
/* Run view_changes on these seeds and set the places. Returns the changes, malloced. */
struct view_change *memrecords_update(struct memrecords *m, size_t *n);

#endif
