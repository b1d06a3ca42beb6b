/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What was written and not yet sealed: per lid the changed ranges, in memory, bounded
 * (DIRTY_RANGES per file, then neighbours are merged). The intent log holds enough to know after a
 * crash which files to look at again.
 */
#ifndef STORE_DIRTY_H
#define STORE_DIRTY_H

#include "store/index.h"

#define DIRTY_RANGES 128u

struct dirty;

FARM_MUSTUSE int dirty_new(struct dirty **out);
void dirty_free(struct dirty *d);
/* A FUSE thread brackets a write: begin before the system call (*first = true when the file had
 * nothing unsealed: an INTENT_DIRTY must be logged before the write), end after it with what was
 * changed. A truncation or extension to `size` counts as the range between old and new size. */
FARM_MUSTUSE int dirty_begin(struct dirty *d, uint64_t lid, bool *first);
void dirty_end(struct dirty *d, uint64_t lid, uint64_t off, uint64_t len);
/* Mark from recovery: everything may have changed. */
FARM_MUSTUSE int dirty_all(struct dirty *d, uint64_t lid);

/* The sealer. take: moves the ranges out; -EBUSY while a write is in flight, -ENOENT when clean.
 * *gen is the write generation. n is at most DIRTY_RANGES. whole: ranges are not known. */
FARM_MUSTUSE int dirty_take(struct dirty *d, uint64_t lid, struct range out[DIRTY_RANGES],
                            uint32_t *n, bool *whole, uint64_t *gen);
/* The generation of the latest write begun, 0 for a clean file. */
uint64_t dirty_gen(struct dirty *d, uint64_t lid);
/* Did anything begin to be written since generation gen? */
bool dirty_since(struct dirty *d, uint64_t lid, uint64_t gen);
/* Give ranges back (the seal did not work out). */
void dirty_back(struct dirty *d, uint64_t lid, const struct range *r, uint32_t n, bool whole);
/* Anything unsealed or being written? */
bool dirty_is(struct dirty *d, uint64_t lid);
/* Was anything in [off, off + len) written since the last dirty_take, or is any write to the file
 * in flight? len UINT64_MAX: to the end of all files. Data read before a "no" is as of that take.
 */
bool dirty_overlaps(struct dirty *d, uint64_t lid, uint64_t off, uint64_t len);
void dirty_drop(struct dirty *d, uint64_t lid);
/* Lids with unsealed writes, the latest of which is at least idle_us ago (0: all) or the first at
 * least old_us; at most max. */
size_t dirty_list(struct dirty *d, uint64_t now_mono_us, uint64_t idle_us, uint64_t old_us,
                  uint64_t *lids, size_t max);

#endif
