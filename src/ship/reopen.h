/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A descriptor of a backing file with a file offset of its own (looking for holes moves it). */
#ifndef SHIP_REOPEN_H
#define SHIP_REOPEN_H

#include "store/nodes.h"

/* O_RDONLY; the caller closes. As nodes_get_fd. Any thread. */
FARM_MUSTUSE int reopen_read(struct nodes *n, uint64_t lid, int *fd);

#endif
