/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Shared by replica.c and restate.c. */
#ifndef CORE_REPLICA_I_H
#define CORE_REPLICA_I_H

#include "core/replica.h"

/* The stamp of the next record; known from now on. */
FARM_MUSTUSE int replica_stamp(struct replica *p, struct stamp *out);
/* The fields that no honest peer gets wrong. FARM_EPROTO, -ESTALE. */
FARM_MUSTUSE int replica_check(const struct replica *p, const struct rec_head *h);

#endif
