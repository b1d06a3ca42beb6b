/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Hash maps, open addressing, not thread-safe. Keys are 64-bit numbers or byte strings (copied);
 * values are pointers the caller owns. Iteration order is unspecified: nothing that must be
 * deterministic may depend on it.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct map_u64 {
    struct map_u64_slot *slots;
    size_t n, size, used; /* n live, size slots (power of two), used live+deleted */
};

void map_u64_init(struct map_u64 *m);
/* Frees the table, not the values. */
void map_u64_fini(struct map_u64 *m);
void *map_u64_get(const struct map_u64 *m, uint64_t key);
/* Stores value (not NULL); the former value goes to *old when old is not NULL. -ENOMEM. */
FARM_MUSTUSE int map_u64_set(struct map_u64 *m, uint64_t key, void *value, void **old);
/* Removes and returns the value, NULL when absent. */
void *map_u64_del(struct map_u64 *m, uint64_t key);
/* `*it` starts at 0; returns NULL at the end. Deleting the entry just returned is allowed. */
void *map_u64_next(const struct map_u64 *m, size_t *it, uint64_t *key);

struct map_bytes {
    struct map_bytes_slot *slots;
    size_t n, size, used;
};

void map_bytes_init(struct map_bytes *m);
void map_bytes_fini(struct map_bytes *m);
void *map_bytes_get(const struct map_bytes *m, const void *key, size_t len);
FARM_MUSTUSE int map_bytes_set(struct map_bytes *m, const void *key, size_t len, void *value,
                               void **old);
void *map_bytes_del(struct map_bytes *m, const void *key, size_t len);
void *map_bytes_next(const struct map_bytes *m, size_t *it, const void **key, size_t *len);

#endif
