/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Where the control files of a folder are. */
#ifndef LIB_FIND_H
#define LIB_FIND_H

#include "farmfs/farm.h"

#include <stdio.h>

/* From a directory upwards: *fd is the folder's `.farm` (O_PATH; the caller closes), *folder its
 * path (the caller frees). Codes as of farm_open. */
FARM_MUSTUSE_ int find_above(int dirfd, int *fd, char **folder);
/* The only mount point named .farm in a mountinfo file: the folder's path (the caller frees). */
FARM_MUSTUSE_ int find_mounted(FILE *mountinfo, char **folder);

#endif
