/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The page that faultshim.so maps (the file named by FARM_FAULT) and faultctl writes.
 *
 * While `pid` is that of a process, its calls that change something are counted; at call number
 * `at` it is killed, or the call fails. Who sets the page up sets `pid` last.
 */
#ifndef FAULTPAGE_H
#define FAULTPAGE_H

#include <stdatomic.h>
#include <stdint.h>

enum fault_kind {
    FAULT_COUNT = 0,
    FAULT_KILL = 1,  /* killed instead of the call */
    FAULT_AFTER = 2, /* killed after the call */
    FAULT_ERROR = 3, /* the call fails; only calls on files and directories are counted */
};

struct fault_page {
    _Atomic uint32_t pid; /* 0: nobody */
    uint32_t kind, error;
    uint32_t at; /* from 1 */
    _Atomic uint32_t count;
    _Atomic uint32_t hit;
    char call[64], thread[32], path[300]; /* of the hit */
    _Atomic int64_t clock_us;             /* added to the time of day, of every process */
};

#endif
