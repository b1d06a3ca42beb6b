/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/clock.h"

#include <time.h>

static uint64_t read_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint64_t system_wall(void *ctx)
{
    (void)ctx;
    return read_us(CLOCK_REALTIME);
}

static uint64_t system_mono(void *ctx)
{
    (void)ctx;
    return read_us(CLOCK_MONOTONIC);
}

const struct clock_source clock_system = {.wall_us = system_wall, .mono_us = system_mono};
