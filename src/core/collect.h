/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Dropping the records of what was deleted, once nobody needs to be told any more. Pure, as
 * core/replica.h.
 *
 * An inode is collected whole: all its names, its content, its attributes. It has to be dead here
 * (every name a tombstone that is in no place), and every stamp of its records covered by what
 * every member is known to hold (`stable`), where this node's knowledge includes all that it took
 * into `stable`. Then
 *  - no record of it that this node has not seen exists: whoever made one did so before it had the
 *    last tombstone, hence it is within that member's knowledge, hence within ours; and after, the
 *    file was not there to be changed (a directory may be, while a child that has moved on since
 *    holds it there: then it is made anew as a whole before anything is done in it, settle_up in
 *    replica.c);
 *  - no older record of it comes back: its stamp is known, and a known record that is absent is not
 *    taken (replica_merge);
 *  - what members drop at different times does not show: the tree has nothing of it either way.
 * Dead names of a living inode stay until that dies: they decide, together, which name an edit
 * brings back (rule 1a of core/view.h).
 */
#ifndef CORE_COLLECT_H
#define CORE_COLLECT_H

#include "core/replica.h"

/* What all of `a` and `b` cover. */
void collect_meet(struct vvec *a, const struct vvec *b);
/* Collects the inode if it may be: *done. before: its tombstones' clocks (0: none) below which
 * members that have not seen them are not waited for. Raises p->gone. */
FARM_MUSTUSE int collect_inode(struct replica *p, struct id128 rid, const struct vvec *stable,
                               uint64_t before, bool *done);

#endif
