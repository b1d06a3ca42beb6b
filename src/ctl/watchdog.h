/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A daemon that hangs makes every call into its mount hang, beyond the reach of signals: a thread
 * of its own says so after a while and ends the program (exit code 3). */
#ifndef CTL_WATCHDOG_H
#define CTL_WATCHDOG_H

#include <stdint.h>

/* From now on the program has `ms` milliseconds; a later call begins anew, -1 ends the watch.
 * Returns 0 or -errno. */
int watchdog_set(int64_t ms);

#endif
