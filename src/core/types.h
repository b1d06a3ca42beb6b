/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The words of the model: identifiers, stamps, clocks, version vectors. See farmfs-design(7). */
#ifndef CORE_TYPES_H
#define CORE_TYPES_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Identifier of a record: who created it, and that node's counter. Never reused. */
struct id128 {
    uint64_t node;
    uint64_t n;
};

/* The root directory's inode record: the same on every node. */
#define RID_ROOT ((struct id128){0, 1})

/* Version of a record: its last writer and that node's sequence number (from 1). */
struct stamp {
    uint64_t node;
    uint64_t seq;
};

static inline bool id_eq(struct id128 a, struct id128 b)
{
    return a.node == b.node && a.n == b.n;
}

/* Total order: by node, then by number. <0, 0, >0. */
static inline int id_cmp(struct id128 a, struct id128 b)
{
    if (a.node != b.node)
        return a.node < b.node ? -1 : 1;
    return a.n < b.n ? -1 : a.n > b.n;
}

static inline bool id_none(struct id128 a)
{
    return a.node == 0 && a.n == 0;
}

static inline bool stamp_eq(struct stamp a, struct stamp b)
{
    return a.node == b.node && a.seq == b.seq;
}

/*
 * Version vector, and knowledge: node -> highest sequence, sorted by node, absent = 0.
 * Farms are small; a vector is a value and is copied.
 */
#define VVEC_MAX 64
struct vvec {
    uint16_t n;
    struct stamp e[VVEC_MAX];
};

uint64_t vvec_get(const struct vvec *v, uint64_t node);
/* Raise node's entry to at least seq. FARM_EFULL past VVEC_MAX nodes. */
FARM_MUSTUSE int vvec_raise(struct vvec *v, uint64_t node, uint64_t seq);
/* No longer covers the stamp. */
void vvec_lower(struct vvec *v, struct stamp s);
/* Least upper bound into a. FARM_EFULL. */
FARM_MUSTUSE int vvec_join(struct vvec *a, const struct vvec *b);
/* a covers the stamp (stamp node 0 = "never written" is always covered). */
bool vvec_covers(const struct vvec *a, struct stamp s);
/* Every entry of b is <= a's. */
bool vvec_includes(const struct vvec *a, const struct vvec *b);

/*
 * Hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): microseconds since 1970
 * in the high 52 bits, a counter in the low 12. A value from a peer moves ours only when it is not
 * more than HLC_SKEW_MAX_US ahead of our wall clock.
 */
#define HLC_COUNTER_BITS 12
#define HLC_SKEW_MAX_US (300ull * 1000 * 1000)

/* No record may have a clock beyond this: there must be room to go past it. */
#define HLC_LIMIT (UINT64_MAX - (1ull << 32))

struct hlc {
    uint64_t last;
};

/* The next value: greater than every earlier one, than `after`, and not before the wall clock.
 * Where `after` is beyond the bound the value follows it, but the clock stays: one record from a
 * mad clock must not carry all later ones away. */
uint64_t hlc_tick(struct hlc *h, uint64_t wall_us, uint64_t after);
/* Take note of a peer's value; false when it is beyond the bound and was ignored. */
bool hlc_observe(struct hlc *h, uint64_t wall_us, uint64_t seen);
static inline uint64_t hlc_from_us(uint64_t us)
{
    return us << HLC_COUNTER_BITS;
}
static inline uint64_t hlc_to_us(uint64_t hlc)
{
    return hlc >> HLC_COUNTER_BITS;
}

#endif
