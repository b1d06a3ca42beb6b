/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Which content version of an inode the peer was last given (or is known to hold): the base of the
 * next delta. A cache of SENT_MAX inodes, the least recently used of a set of four gives way; what
 * was forgotten costs bytes, never correctness. One thread.
 */
#ifndef SHIP_SENT_H
#define SHIP_SENT_H

#include "core/types.h"

#include <stddef.h>

#define SENT_MAX 8192u

struct sent;

FARM_MUSTUSE int sent_new(struct sent **out);
void sent_free(struct sent *s);
void sent_put(struct sent *s, struct id128 rid, struct stamp version);
bool sent_get(struct sent *s, struct id128 rid, struct stamp *version);

#endif
