/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Linear probing. A slot's value is NULL (never used: a probe ends here), &deleted (a probe goes
 * on) or the caller's. Tables stay at most 3/4 used, so that a probe always finds an end.
 */
#include "base/map.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define SIZE_MIN 16
#define NONE SIZE_MAX

struct map_u64_slot {
    uint64_t key;
    void *value;
};

struct map_bytes_slot {
    uint64_t hash;
    void *key;
    size_t len;
    void *value;
};

static char deleted;

/* Keys come from peers too: without a secret seed they could choose keys that all collide. */
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;
static uint64_t seed;

static void seed_draw(void)
{
    io_random(&seed, sizeof(seed));
}

static bool is_live(const void *value)
{
    return value != NULL && value != &deleted;
}

static bool is_crowded(size_t used, size_t size)
{
    return used + 1 > size / 4 * 3;
}

/* A size for n + 1 entries that leaves it at most half full; 0 when no memory could hold it. */
static size_t size_for(size_t n, size_t slot)
{
    size_t size = SIZE_MIN;
    while (size / 2 < n + 1) {
        if (size > SIZE_MAX / 2 / slot)
            return 0;
        size *= 2;
    }
    return size;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t hash_u64(uint64_t x)
{
    x ^= seed;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void map_u64_init(struct map_u64 *m)
{
    pthread_once(&seed_once, seed_draw);
    *m = (struct map_u64){0};
}

void map_u64_fini(struct map_u64 *m)
{
    free(m->slots);
    *m = (struct map_u64){0};
}

static size_t find_u64(const struct map_u64 *m, uint64_t key)
{
    if (m->n == 0)
        return NONE;
    for (size_t i = hash_u64(key) & (m->size - 1);; i = (i + 1) & (m->size - 1)) {
        const struct map_u64_slot *s = &m->slots[i];
        if (s->value == NULL)
            return NONE;
        if (s->key == key && s->value != &deleted)
            return i;
    }
}

/* Where an absent key goes. */
static struct map_u64_slot *place_u64(struct map_u64_slot *slots, size_t size, uint64_t key)
{
    size_t i = hash_u64(key) & (size - 1);
    while (is_live(slots[i].value))
        i = (i + 1) & (size - 1);
    return &slots[i];
}

static int rehash_u64(struct map_u64 *m)
{
    size_t size = size_for(m->n, sizeof(struct map_u64_slot));
    struct map_u64_slot *slots = size > 0 ? calloc(size, sizeof(*slots)) : NULL;
    if (slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < m->size; i++)
        if (is_live(m->slots[i].value))
            *place_u64(slots, size, m->slots[i].key) = m->slots[i];
    free(m->slots);
    m->slots = slots;
    m->size = size;
    m->used = m->n;
    return 0;
}

void *map_u64_get(const struct map_u64 *m, uint64_t key)
{
    size_t i = find_u64(m, key);
    return i != NONE ? m->slots[i].value : NULL;
}

int map_u64_set(struct map_u64 *m, uint64_t key, void *value, void **old)
{
    farm_assert(value != NULL);
    size_t i = find_u64(m, key);
    if (i != NONE) {
        if (old != NULL)
            *old = m->slots[i].value;
        m->slots[i].value = value;
        return 0;
    }
    if (is_crowded(m->used, m->size)) {
        int r = rehash_u64(m);
        if (r < 0)
            return r;
    }
    struct map_u64_slot *s = place_u64(m->slots, m->size, key);
    m->used += s->value == NULL;
    m->n++;
    *s = (struct map_u64_slot){.key = key, .value = value};
    if (old != NULL)
        *old = NULL;
    return 0;
}

void *map_u64_del(struct map_u64 *m, uint64_t key)
{
    size_t i = find_u64(m, key);
    if (i == NONE)
        return NULL;
    void *value = m->slots[i].value;
    /* the end of a probe sequence needs no mark */
    bool last = m->slots[(i + 1) & (m->size - 1)].value == NULL;
    m->slots[i].value = last ? NULL : &deleted;
    m->used -= last;
    m->n--;
    return value;
}

void *map_u64_next(const struct map_u64 *m, size_t *it, uint64_t *key)
{
    while (*it < m->size) {
        const struct map_u64_slot *s = &m->slots[(*it)++];
        if (is_live(s->value)) {
            if (key != NULL)
                *key = s->key;
            return s->value;
        }
    }
    return NULL;
}

void map_bytes_init(struct map_bytes *m)
{
    pthread_once(&seed_once, seed_draw);
    *m = (struct map_bytes){0};
}

void map_bytes_fini(struct map_bytes *m)
{
    for (size_t i = 0; i < m->size; i++)
        if (is_live(m->slots[i].value))
            free(m->slots[i].key);
    free(m->slots);
    *m = (struct map_bytes){0};
}

static uint64_t hash_bytes(const void *key, size_t len)
{
    return XXH3_64bits_withSeed(key, len, seed);
}

static size_t find_bytes(const struct map_bytes *m, uint64_t hash, const void *key, size_t len)
{
    if (m->n == 0)
        return NONE;
    for (size_t i = hash & (m->size - 1);; i = (i + 1) & (m->size - 1)) {
        const struct map_bytes_slot *s = &m->slots[i];
        if (s->value == NULL)
            return NONE;
        if (s->hash == hash && s->value != &deleted && s->len == len &&
            (len == 0 || memcmp(s->key, key, len) == 0))
            return i;
    }
}

static struct map_bytes_slot *place_bytes(struct map_bytes_slot *slots, size_t size, uint64_t hash)
{
    size_t i = hash & (size - 1);
    while (is_live(slots[i].value))
        i = (i + 1) & (size - 1);
    return &slots[i];
}

static int rehash_bytes(struct map_bytes *m)
{
    size_t size = size_for(m->n, sizeof(struct map_bytes_slot));
    struct map_bytes_slot *slots = size > 0 ? calloc(size, sizeof(*slots)) : NULL;
    if (slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < m->size; i++)
        if (is_live(m->slots[i].value))
            *place_bytes(slots, size, m->slots[i].hash) = m->slots[i];
    free(m->slots);
    m->slots = slots;
    m->size = size;
    m->used = m->n;
    return 0;
}

void *map_bytes_get(const struct map_bytes *m, const void *key, size_t len)
{
    size_t i = find_bytes(m, hash_bytes(key, len), key, len);
    return i != NONE ? m->slots[i].value : NULL;
}

int map_bytes_set(struct map_bytes *m, const void *key, size_t len, void *value, void **old)
{
    farm_assert(value != NULL);
    uint64_t hash = hash_bytes(key, len);
    size_t i = find_bytes(m, hash, key, len);
    if (i != NONE) {
        if (old != NULL)
            *old = m->slots[i].value;
        m->slots[i].value = value;
        return 0;
    }
    if (is_crowded(m->used, m->size)) {
        int r = rehash_bytes(m);
        if (r < 0)
            return r;
    }
    void *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL)
        return -ENOMEM;
    if (len > 0)
        memcpy(copy, key, len);
    struct map_bytes_slot *s = place_bytes(m->slots, m->size, hash);
    m->used += s->value == NULL;
    m->n++;
    *s = (struct map_bytes_slot){.hash = hash, .key = copy, .len = len, .value = value};
    if (old != NULL)
        *old = NULL;
    return 0;
}

void *map_bytes_del(struct map_bytes *m, const void *key, size_t len)
{
    size_t i = find_bytes(m, hash_bytes(key, len), key, len);
    if (i == NONE)
        return NULL;
    void *value = m->slots[i].value;
    free(m->slots[i].key);
    bool last = m->slots[(i + 1) & (m->size - 1)].value == NULL;
    m->slots[i] = (struct map_bytes_slot){.value = last ? NULL : &deleted};
    m->used -= last;
    m->n--;
    return value;
}

void *map_bytes_next(const struct map_bytes *m, size_t *it, const void **key, size_t *len)
{
    while (*it < m->size) {
        const struct map_bytes_slot *s = &m->slots[(*it)++];
        if (is_live(s->value)) {
            if (key != NULL)
                *key = s->key;
            if (len != NULL)
                *len = s->len;
            return s->value;
        }
    }
    return NULL;
}
