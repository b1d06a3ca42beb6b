/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/dirty.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS 16u
#define RANGES_FIRST 4u

struct file {
    uint64_t gen;         /* of the latest write begun */
    uint64_t since_us;    /* monotonic: when the first unsealed write ended */
    uint64_t last_us;     /* monotonic: when the latest one ended */
    uint32_t writing;     /* begun and not ended */
    uint32_t n, size;     /* of ranges */
    struct range *ranges; /* sorted, apart from each other */
    bool whole;           /* anything may have changed; ranges is empty */
};

struct shard {
    _Alignas(64) pthread_mutex_t lock; /* guards the files */
    struct map_u64 files;
};

struct dirty {
    struct shard shards[SHARDS];
    _Atomic uint64_t gen;
    _Atomic unsigned turn; /* where dirty_list begins, so that none is always the last */
};

int dirty_new(struct dirty **out)
{
    struct dirty *d = aligned_alloc(64, sizeof(*d));
    if (d == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&d->shards[i].lock, NULL);
        map_u64_init(&d->shards[i].files);
    }
    atomic_init(&d->gen, 0);
    atomic_init(&d->turn, 0);
    *out = d;
    return 0;
}

static void file_free(struct file *f)
{
    free(f->ranges);
    free(f);
}

void dirty_free(struct dirty *d)
{
    if (d == NULL)
        return;
    for (unsigned i = 0; i < SHARDS; i++) {
        struct file *f;
        size_t it = 0;
        while ((f = map_u64_next(&d->shards[i].files, &it, NULL)) != NULL)
            file_free(f);
        map_u64_fini(&d->shards[i].files);
        pthread_mutex_destroy(&d->shards[i].lock);
    }
    free(d);
}

static struct shard *shard_lock(struct dirty *d, uint64_t lid)
{
    struct shard *s = &d->shards[lid % SHARDS];
    pthread_mutex_lock(&s->lock);
    return s;
}

static bool is_clean(const struct file *f)
{
    return f->n == 0 && !f->whole;
}

static int file_make(struct shard *s, uint64_t lid, struct file **out)
{
    struct file *f = map_u64_get(&s->files, lid);
    if (f == NULL) {
        f = calloc(1, sizeof(*f));
        if (f == NULL || map_u64_set(&s->files, lid, f, NULL) < 0) {
            free(f);
            return -ENOMEM;
        }
    }
    *out = f;
    return 0;
}

/* Nobody is interested in a file that is clean and not being written. */
static void file_settle(struct shard *s, uint64_t lid, struct file *f)
{
    if (f->writing > 0 || !is_clean(f))
        return;
    map_u64_del(&s->files, lid);
    file_free(f);
}

static void set_whole(struct file *f)
{
    f->whole = true;
    f->n = 0;
}

/* Join the two neighbours that are closest to each other. */
static void merge_closest(struct file *f)
{
    uint32_t best = 0;
    uint64_t gap = UINT64_MAX;
    for (uint32_t i = 0; i + 1 < f->n; i++) {
        uint64_t g = f->ranges[i + 1].off - (f->ranges[i].off + f->ranges[i].len);
        if (g < gap) {
            gap = g;
            best = i;
        }
    }
    struct range *r = &f->ranges[best];
    r->len = r[1].off + r[1].len - r->off;
    memmove(r + 1, r + 2, (f->n - best - 2) * sizeof(*r));
    f->n--;
}

/* Room for one more than DIRTY_RANGES, so that a new one takes part in the merge. */
static bool grow(struct file *f)
{
    if (f->n < f->size)
        return true;
    uint32_t size = f->size == 0 ? RANGES_FIRST : f->size * 2;
    size = size > DIRTY_RANGES ? DIRTY_RANGES + 1 : size;
    struct range *r = realloc(f->ranges, size * sizeof(*r));
    if (r == NULL)
        return false;
    f->ranges = r;
    f->size = size;
    return true;
}

static void add(struct file *f, uint64_t off, uint64_t len)
{
    if (is_clean(f))
        f->since_us = clock_mono(&clock_system);
    if (f->whole)
        return;
    uint64_t end = len > UINT64_MAX - off ? UINT64_MAX : off + len;
    uint32_t from = 0, to = f->n; /* by bisection: the first that ends at off or later */
    while (from < to) {
        uint32_t mid = (from + to) / 2;
        if (f->ranges[mid].off + f->ranges[mid].len < off)
            from = mid + 1;
        else
            to = mid;
    }
    while (to < f->n && f->ranges[to].off <= end) {
        uint64_t e = f->ranges[to].off + f->ranges[to].len;
        off = f->ranges[to].off < off ? f->ranges[to].off : off;
        end = e > end ? e : end;
        to++;
    }
    if (from == to && !grow(f)) {
        set_whole(f); /* no memory: less is known, nothing is lost */
        return;
    }
    memmove(&f->ranges[from + 1], &f->ranges[to], (f->n - to) * sizeof(f->ranges[0]));
    f->ranges[from] = (struct range){.off = off, .len = end - off};
    f->n = f->n - (to - from) + 1;
    if (f->n > DIRTY_RANGES)
        merge_closest(f);
}

int dirty_begin(struct dirty *d, uint64_t lid, bool *first)
{
    struct file *f;
    struct shard *s = shard_lock(d, lid);
    int r = file_make(s, lid, &f);
    if (r == 0) {
        /* a second writer of a clean file logs too: the first one's intent may not be there yet */
        *first = is_clean(f);
        f->gen = atomic_fetch_add(&d->gen, 1) + 1;
        f->writing++;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

void dirty_end(struct dirty *d, uint64_t lid, uint64_t off, uint64_t len)
{
    struct shard *s = shard_lock(d, lid);
    struct file *f = map_u64_get(&s->files, lid);
    if (f != NULL && f->writing > 0) { /* else dropped meanwhile */
        f->writing--;
        if (len > 0)
            add(f, off, len);
        f->last_us = clock_mono(&clock_system);
        file_settle(s, lid, f);
    }
    pthread_mutex_unlock(&s->lock);
}

int dirty_all(struct dirty *d, uint64_t lid)
{
    struct file *f;
    struct shard *s = shard_lock(d, lid);
    int r = file_make(s, lid, &f);
    if (r == 0) {
        if (is_clean(f))
            f->since_us = clock_mono(&clock_system);
        f->last_us = clock_mono(&clock_system); /* a writer may be at it */
        f->gen = atomic_fetch_add(&d->gen, 1) + 1;
        set_whole(f);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

int dirty_take(struct dirty *d, uint64_t lid, struct range out[DIRTY_RANGES], uint32_t *n,
               bool *whole, uint64_t *gen)
{
    int r = 0;
    struct shard *s = shard_lock(d, lid);
    struct file *f = map_u64_get(&s->files, lid);
    if (f != NULL && f->writing > 0) {
        r = -EBUSY;
    } else if (f == NULL || is_clean(f)) {
        r = -ENOENT;
    } else {
        if (f->n > 0)
            memcpy(out, f->ranges, f->n * sizeof(out[0]));
        *n = f->n;
        *whole = f->whole;
        *gen = f->gen;
        f->n = 0;
        f->whole = false;
        file_settle(s, lid, f);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

uint64_t dirty_gen(struct dirty *d, uint64_t lid)
{
    struct shard *s = shard_lock(d, lid);
    const struct file *f = map_u64_get(&s->files, lid);
    uint64_t gen = f != NULL ? f->gen : 0;
    pthread_mutex_unlock(&s->lock);
    return gen;
}

bool dirty_since(struct dirty *d, uint64_t lid, uint64_t gen)
{
    struct shard *s = shard_lock(d, lid);
    const struct file *f = map_u64_get(&s->files, lid);
    bool since = f != NULL && f->gen > gen;
    pthread_mutex_unlock(&s->lock);
    return since;
}

void dirty_back(struct dirty *d, uint64_t lid, const struct range *r, uint32_t n, bool whole)
{
    struct file *f;
    struct shard *s = shard_lock(d, lid);
    /* Going on without the mark would lose a change; the next worker finds it in the index. */
    int made = file_make(s, lid, &f);
    farm_assert(made == 0);
    if (is_clean(f))
        f->since_us = clock_mono(&clock_system);
    if (whole)
        set_whole(f);
    for (uint32_t i = 0; i < n && !f->whole; i++)
        add(f, r[i].off, r[i].len);
    file_settle(s, lid, f);
    pthread_mutex_unlock(&s->lock);
}

bool dirty_is(struct dirty *d, uint64_t lid)
{
    struct shard *s = shard_lock(d, lid);
    bool is = map_u64_get(&s->files, lid) != NULL;
    pthread_mutex_unlock(&s->lock);
    return is;
}

bool dirty_overlaps(struct dirty *d, uint64_t lid, uint64_t off, uint64_t len)
{
    uint64_t end = len > UINT64_MAX - off ? UINT64_MAX : off + len;
    struct shard *s = shard_lock(d, lid);
    const struct file *f = map_u64_get(&s->files, lid);
    bool hit = f != NULL && (f->writing > 0 || f->whole);
    for (uint32_t i = 0; f != NULL && !hit && i < f->n; i++)
        hit = f->ranges[i].off < end && off < f->ranges[i].off + f->ranges[i].len;
    pthread_mutex_unlock(&s->lock);
    return hit;
}

void dirty_drop(struct dirty *d, uint64_t lid)
{
    struct shard *s = shard_lock(d, lid);
    struct file *f = map_u64_get(&s->files, lid);
    if (f != NULL) {
        f->n = 0;
        f->whole = false;
        file_settle(s, lid, f);
    }
    pthread_mutex_unlock(&s->lock);
}

size_t dirty_list(struct dirty *d, uint64_t now_mono_us, uint64_t idle_us, uint64_t old_us,
                  uint64_t *lids, size_t max)
{
    size_t n = 0;
    unsigned turn = atomic_fetch_add(&d->turn, 1);
    for (unsigned i = 0; i < SHARDS && n < max; i++) {
        uint64_t lid;
        struct shard *s = shard_lock(d, turn + i);
        const struct file *f;
        size_t it = 0;
        while (n < max && (f = map_u64_next(&s->files, &it, &lid)) != NULL)
            if (!is_clean(f) && (idle_us == 0 || now_mono_us >= f->last_us + idle_us ||
                                 now_mono_us >= f->since_us + old_us))
                lids[n++] = lid;
        pthread_mutex_unlock(&s->lock);
    }
    return n;
}
