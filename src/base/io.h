/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Small system-call helpers that retry EINTR and never return short. */
#ifndef BASE_IO_H
#define BASE_IO_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Exactly n bytes; FARM_ECLOSED at end of file before the first byte, FARM_ECORRUPT in the middle.
 */
FARM_MUSTUSE int io_read_full(int fd, void *p, size_t n);
FARM_MUSTUSE int io_write_full(int fd, const void *p, size_t n);
/* Up to n bytes at off; stops only at end of file; *got says how many. */
FARM_MUSTUSE int io_pread(int fd, void *p, size_t n, uint64_t off, size_t *got);
FARM_MUSTUSE int io_pwrite(int fd, const void *p, size_t n, uint64_t off);
/* Copy [off, off+len) from one file to the same place of another, holes kept where the file systems
 * tell them (SEEK_DATA), by copy_file_range with a plain copy as the fallback. Stops at the end of
 * `from`; `to` is extended to the end of what was copied. Moves the file offset of `from`. */
FARM_MUSTUSE int io_copy_range(int from, int to, uint64_t off, uint64_t len);
/* Write a small file atomically: temporary name, fsync, rename. dirfd + name. */
FARM_MUSTUSE int io_write_file_at(int dirfd, const char *name, const void *p, size_t n,
                                  mode_t mode);
/* Whole file into fresh memory (caller frees; NUL-terminated beyond *len); -EFBIG past max. */
FARM_MUSTUSE int io_read_file_at(int dirfd, const char *name, size_t max, char **data, size_t *len);
/* Send/receive one descriptor with n > 0 bytes of payload over a Unix socket. fd = -1 sends none,
 * *fd = -1 when none came. FARM_ECLOSED at the end, FARM_EPROTO when more than one came. */
FARM_MUSTUSE int io_send_fd(int sock, const void *p, size_t n, int fd);
FARM_MUSTUSE int io_recv_fd(int sock, void *p, size_t n, size_t *got, int *fd);
/* n random bytes from the kernel; never fails (panics). */
void io_random(void *p, size_t n);
void io_hex(const void *p, size_t n, char *out); /* out has 2n+1 bytes */
/* "1.2 GiB" style text of a size, for people. out has 16 bytes. */
void io_human(uint64_t bytes, char out[16]);

#endif
