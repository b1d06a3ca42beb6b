/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What single records want, before rivals and merged directories are looked at: rules 1 and 4 of
 * view.h. Internal to the view. Facts are remembered for the life of a struct want, in which the
 * records must not change. One thread.
 */
#ifndef CORE_WANT_H
#define CORE_WANT_H

#include "base/map.h"
#include "core/records.h"

#include <stddef.h>

/* Where going up from a directory by registers ends. */
enum want_chain { CHAIN_UNKNOWN, CHAIN_WALKING, CHAIN_ROOT, CHAIN_CYCLE, CHAIN_NOWHERE };

/* A directory's one name. */
struct want_dir {
    struct want_dir *next; /* all of them, to be freed */
    struct id128 rid;
    bool named; /* has a name record; the fields to `parent` are of that */
    bool alive;
    struct rec_head h;
    struct id128 nid;
    struct id128 parent;
    bool asked, wanted; /* wanted is known when asked */
    enum want_chain chain;
    bool cut;        /* the latest name of its cycle */
    bool held;       /* dead, on a cycle: wanted for the register of a name that may be cut */
    uint64_t search; /* the last search for living descendants that came here */
};

struct want {
    const struct records *r;
    struct map_bytes dirs; /* rid -> struct want_dir */
    struct want_dir *all;
    uint64_t search;
    struct id128 *cuts; /* names that were found to be cut, and those that were (want_add_cut) */
    size_t ncuts, capcuts;
};

void want_init(struct want *w, const struct records *r);
void want_fini(struct want *w);
/* The directory's name, if it has one; owned by w. */
FARM_MUSTUSE int want_dir_of(struct want *w, struct id128 rid, struct want_dir **out);
/* Rule 1; *dir: its inode is a directory. */
FARM_MUSTUSE int want_name(struct want *w, const struct name_rec *n, bool *dir, bool *wanted);
/* Rule 4: where a wanted directory name is to be, its parent not yet made canonical. Every cycle
 * that is met adds its cut and its held names to w->cuts. */
FARM_MUSTUSE int want_where(struct want *w, const struct name_rec *n, struct place *out);
FARM_MUSTUSE int want_add_cut(struct want *w, struct id128 nid);
/* The array (of elements of `each` bytes) with room for one more, grown when it is full; NULL, and
 * the array as it was, when out of memory. */
void *want_room(void *array, size_t n, size_t *cap, size_t each);

#endif
