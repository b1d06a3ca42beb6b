/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Log entries left to another node: it is connected to the peer and sends them itself. They are
 * positions in ascending order; as long as one is here, the peer is not told a position beyond it.
 * One thread.
 */
#ifndef SHIP_DEFERRED_H
#define SHIP_DEFERRED_H

#include "core/types.h"

#include <stddef.h>

struct deferred_entry {
    uint64_t pos;
    uint64_t source; /* who sends it; 0: done with */
    struct stamp stamp;
};

struct deferred {
    struct deferred_entry *e;
    size_t n, size;
};

void deferred_init(struct deferred *d);
void deferred_fini(struct deferred *d);
/* At the end (pos is greater than all). FARM_EFULL at SENDER_DEFERRED, -ENOMEM: send it instead. */
FARM_MUSTUSE int deferred_add(struct deferred *d, struct deferred_entry e);
/* Done with: sent from here, or no longer in the log. It goes with the next deferred_tidy. */
void deferred_done(struct deferred *d, uint64_t pos);
/* Take out what is done with or covered by the peer's knowledge. */
void deferred_tidy(struct deferred *d, const struct vvec *know);

#endif
