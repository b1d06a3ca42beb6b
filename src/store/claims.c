/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Buckets are chosen by a key's high bits, so that key order is bucket order. A taker of two keys
 * in one bucket takes both at once; of two buckets the lower first. So whoever holds something
 * waits only for higher buckets, and there is no cycle, though a bucket's slots are bounded.
 */
#include "store/claims.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <xxhash.h>

/* The core thread claims all names of a batch at once, some 16,000 at the most (two for each of
 * 8,192 records): 16 in a bucket on average, so that a full bucket is out of the question. */
#define BUCKET_BITS 10
#define BUCKETS (1u << BUCKET_BITS)
#define SLOTS 64u

struct bucket {
    _Alignas(64) pthread_mutex_t lock; /* guards the slots */
    pthread_cond_t dropped;
    unsigned waiting;
    uint64_t taken[SLOTS]; /* 0: free */
};

struct claims {
    struct bucket buckets[BUCKETS];
};

int claims_new(struct claims **out)
{
    struct claims *c = aligned_alloc(64, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < BUCKETS; i++) {
        c->buckets[i] = (struct bucket){.waiting = 0};
        pthread_mutex_init(&c->buckets[i].lock, NULL);
        pthread_cond_init(&c->buckets[i].dropped, NULL);
    }
    *out = c;
    return 0;
}

void claims_free(struct claims *c)
{
    if (c == NULL)
        return;
    for (unsigned i = 0; i < BUCKETS; i++) {
        pthread_mutex_destroy(&c->buckets[i].lock);
        pthread_cond_destroy(&c->buckets[i].dropped);
    }
    free(c);
}

uint64_t claims_key(uint64_t parent_lid, const void *name, uint8_t len)
{
    uint64_t key = XXH3_64bits_withSeed(name, len, parent_lid * 0x9e3779b97f4a7c15u);
    return key != 0 ? key : 1;
}

static struct bucket *bucket_of(struct claims *c, uint64_t key)
{
    return &c->buckets[key >> (64 - BUCKET_BITS)];
}

/* Under the lock. Takes a and, when not 0, b; nothing when one of them is not to be had. */
static bool slots_take(struct bucket *k, uint64_t a, uint64_t b)
{
    uint64_t *free_a = NULL, *free_b = NULL;
    for (unsigned i = 0; i < SLOTS; i++) {
        uint64_t t = k->taken[i];
        if (t != 0 && (t == a || t == b))
            return false;
        if (t == 0 && free_a == NULL)
            free_a = &k->taken[i];
        else if (t == 0 && free_b == NULL)
            free_b = &k->taken[i];
    }
    if (free_a == NULL || (b != 0 && free_b == NULL))
        return false;
    *free_a = a;
    if (b != 0)
        *free_b = b;
    return true;
}

static bool bucket_take(struct bucket *k, uint64_t a, uint64_t b, bool wait)
{
    pthread_mutex_lock(&k->lock);
    bool ok = slots_take(k, a, b);
    k->waiting += !ok && wait;
    if (!ok && wait) {
        do
            pthread_cond_wait(&k->dropped, &k->lock);
        while (!slots_take(k, a, b));
        k->waiting--;
        ok = true;
    }
    pthread_mutex_unlock(&k->lock);
    return ok;
}

static void bucket_drop(struct bucket *k, uint64_t key)
{
    pthread_mutex_lock(&k->lock);
    unsigned i = 0;
    while (i < SLOTS && k->taken[i] != key)
        i++;
    farm_assert(i < SLOTS);
    k->taken[i] = 0;
    if (k->waiting > 0)
        pthread_cond_broadcast(&k->dropped);
    pthread_mutex_unlock(&k->lock);
}

static bool take(struct claims *c, uint64_t a, uint64_t b, bool wait)
{
    farm_assert(a != 0);
    if (b == a)
        b = 0;
    if (b == 0 || bucket_of(c, a) == bucket_of(c, b))
        return bucket_take(bucket_of(c, a), a, b, wait);
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    if (!bucket_take(bucket_of(c, low), low, 0, wait))
        return false;
    if (bucket_take(bucket_of(c, high), high, 0, wait))
        return true;
    bucket_drop(bucket_of(c, low), low);
    return false;
}

void claims_take(struct claims *c, uint64_t a, uint64_t b)
{
    (void)take(c, a, b, true);
}

bool claims_try(struct claims *c, uint64_t a, uint64_t b)
{
    return take(c, a, b, false);
}

void claims_drop(struct claims *c, uint64_t a, uint64_t b)
{
    bucket_drop(bucket_of(c, a), a);
    if (b != 0 && b != a)
        bucket_drop(bucket_of(c, b), b);
}
