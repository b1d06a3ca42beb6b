/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Time behind a vtable, so that the simulator can own it. Microseconds. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

struct clock_source {
    uint64_t (*wall_us)(void *ctx); /* since 1970, may jump */
    uint64_t (*mono_us)(void *ctx); /* never goes back */
    void *ctx;
};

/* The machine's clocks (CLOCK_REALTIME, CLOCK_MONOTONIC). */
extern const struct clock_source clock_system;

static inline uint64_t clock_wall(const struct clock_source *c)
{
    return c->wall_us(c->ctx);
}

static inline uint64_t clock_mono(const struct clock_source *c)
{
    return c->mono_us(c->ctx);
}

#endif
