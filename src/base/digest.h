/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Content digest: SHA-256 in a tree over blocks of DIGEST_BLOCK bytes, so that changing 4 KiB of a
 * 1 GiB file hashes one block and the list of leaves, not the file.
 *   leaf  = SHA256(0x00 || block bytes)            (the last block may be short; a hole reads as
 * zeros) root  = SHA256(0x01 || u64le size || leaf 0 || leaf 1 || ...) XXH3 is never used to decide
 * identity (it can be made to collide by who writes the content).
 */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define DIGEST_LEN 32
#define DIGEST_BLOCK (128u * 1024u)

/* Number of leaves of a file of `size` bytes (0 for an empty file). */
static inline uint64_t digest_leaves(uint64_t size)
{
    return (size + DIGEST_BLOCK - 1) / DIGEST_BLOCK;
}

void digest_leaf(const void *block, size_t len, uint8_t out[DIGEST_LEN]);
void digest_root(uint64_t size, const uint8_t *leaves, uint64_t n, uint8_t out[DIGEST_LEN]);
/* Both for a small file in memory, len <= DIGEST_BLOCK. */
void digest_small(const void *data, size_t len, uint8_t out[DIGEST_LEN]);
/* Leaves [first, last) of an open file of `size` bytes, by pread; leaves has room for last-first.
 * A file shorter than size reads as zeros beyond its end. Moves the descriptor's file offset (to
 * look for holes). 0 or -errno. */
FARM_MUSTUSE int digest_file_leaves(int fd, uint64_t size, uint64_t first, uint64_t last,
                                    uint8_t *leaves);
/* The checksum of frames and on-disk entries: XXH3-64. Not for identity. */
uint64_t digest_guard(const void *data, size_t len);

#endif
