/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A backing inode's file handle (name_to_handle_at): stable for the inode's life, never equal for
 * two inodes. With it the worker finds a file again after a restart, whatever its name is by then.
 */
#ifndef STORE_HANDLE_H
#define STORE_HANDLE_H

#include "base/err.h"

#include <stdint.h>

#define HANDLE_BYTES_MAX 32u

struct handle {
    uint8_t len;
    int32_t type;
    uint8_t bytes[HANDLE_BYTES_MAX];
};

/* Of an open descriptor (O_PATH will do) / of a name in an open directory (symlinks not followed).
 * -EOPNOTSUPP where the file system has none, -EOVERFLOW when it is longer than we keep. */
FARM_MUSTUSE int handle_of_fd(int fd, struct handle *out);
FARM_MUSTUSE int handle_of_name(int dirfd, const char *name, struct handle *out);
/* Open by handle; mountfd is a descriptor of anything on the file system (not O_PATH).
 * -ESTALE when the inode is gone. Close-on-exec. */
FARM_MUSTUSE int handle_open(int mountfd, const struct handle *h, int flags, int *fd);
int handle_eq(const struct handle *a, const struct handle *b);

#endif
