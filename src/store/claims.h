/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Claims: who is changing a name just now. A FUSE thread claims the names of a mutation while it
 * changes the backing tree and completes the intent; the core thread claims a name while it
 * installs what a peer changed there. Neither then finds the other half-way. A claim is a table
 * entry, not a lock held across the system call; only those who want the same name wait. Lock
 * order: both names of a rename are claimed in one call, in key order.
 */
#ifndef STORE_CLAIMS_H
#define STORE_CLAIMS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct claims;

FARM_MUSTUSE int claims_new(struct claims **out);
void claims_free(struct claims *c);
/* Keys: claims_key(directory lid, name). Two equal keys are one. Waits. b = 0: only a. */
uint64_t claims_key(uint64_t parent_lid, const void *name, uint8_t len);
void claims_take(struct claims *c, uint64_t a, uint64_t b);
/* Does not wait: false when one of them is taken. */
bool claims_try(struct claims *c, uint64_t a, uint64_t b);
void claims_drop(struct claims *c, uint64_t a, uint64_t b);

#endif
