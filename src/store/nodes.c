/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Three sharded tables, each under its shard's lock, no two locks at once, none held across a
 * system or index call: by lid:    lid -> type, handle, orphan. The truth where it has an entry,
 * else the index. by handle: handle -> lid. A hint, verified by lid each time, except that a pinned
 * row is what keeps two lookups from giving two lids to one inode. fds:       (lid, mode) -> open
 * descriptor, pinned while in use. What was read from the index without the lock may be outdated
 * when it is to be cached: each shard counts its changes, and what was read before one of them is
 * not cached.
 */
#include "base/cleanup.h"
#include "base/log.h"
#include "store/nodes_i.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#define SWEEP_MAX 64u
#define LID_WAIT_S 30
#define HANDLE_KEY_MAX (4u + HANDLE_BYTES_MAX)

struct node {
    struct clocked c;
    struct node_ref ref;
};

struct by_handle {
    struct clocked c;
    uint64_t lid;
    size_t key_len;
    uint8_t key[HANDLE_KEY_MAX];
};

struct reader_slot {
    struct nodes *owner;
    struct reader_slot *next, **link;
    struct index_reader *reader;
};

/* ---- the clock ---- */

void clock_add(struct shard *s, struct clocked *c)
{
    c->used = true;
    if (s->hand == NULL) {
        s->hand = c->next = c->prev = c;
    } else { /* behind the hand: it comes here last */
        c->next = s->hand;
        c->prev = s->hand->prev;
        c->prev->next = c->next->prev = c;
    }
    s->n++;
}

void clock_del(struct shard *s, struct clocked *c)
{
    if (s->hand == c)
        s->hand = c->next != c ? c->next : NULL;
    c->prev->next = c->next;
    c->next->prev = c->prev;
    s->n--;
}

struct clocked *clock_victim(struct shard *s)
{
    if (s->n < s->cap)
        return NULL;
    for (unsigned i = 0; i < SWEEP_MAX; i++) {
        struct clocked *c = s->hand;
        s->hand = c->next;
        if (c->pins == 0 && !c->used)
            return c;
        c->used = false;
    }
    return NULL;
}

/* ---- index readers, one per thread ---- */

static void reader_end(void *p)
{
    struct reader_slot *slot = p;
    struct nodes *n = slot->owner;
    pthread_mutex_lock(&n->reader_lock);
    *slot->link = slot->next;
    if (slot->next != NULL)
        slot->next->link = slot->link;
    pthread_mutex_unlock(&n->reader_lock);
    index_reader_free(slot->reader);
    free(slot);
}

static int reader_get(struct nodes *n, struct index_reader **out)
{
    struct reader_slot *slot = pthread_getspecific(n->reader_key);
    if (slot == NULL) {
        slot = calloc(1, sizeof(*slot));
        if (slot == NULL)
            return -ENOMEM;
        slot->owner = n;
        int r = index_reader_new(n->ix, &slot->reader);
        if (r == 0)
            r = -pthread_setspecific(n->reader_key, slot);
        if (r < 0) {
            if (slot->reader != NULL)
                index_reader_free(slot->reader);
            free(slot);
            return r;
        }
        pthread_mutex_lock(&n->reader_lock);
        slot->next = n->readers;
        slot->link = &n->readers;
        if (slot->next != NULL)
            slot->next->link = &slot->next;
        n->readers = slot;
        pthread_mutex_unlock(&n->reader_lock);
    }
    *out = slot->reader;
    return 0;
}

/* An orphan's row may not say what it is. */
static int type_ask(struct nodes *n, struct node_ref *ref)
{
    static const uint8_t types[] = {
        [S_IFREG >> 12] = NODE_REG,   [S_IFDIR >> 12] = NODE_DIR, [S_IFLNK >> 12] = NODE_LNK,
        [S_IFIFO >> 12] = NODE_FIFO,  [S_IFCHR >> 12] = NODE_CHR, [S_IFBLK >> 12] = NODE_BLK,
        [S_IFSOCK >> 12] = NODE_SOCK,
    };
    CLEANUP_FD int fd = -1;
    struct stat st;
    int r = handle_open(n->rootfd, &ref->handle, O_PATH | O_NOFOLLOW, &fd);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return -errno;
    ref->type = types[(st.st_mode & S_IFMT) >> 12];
    return 0;
}

static int index_by_lid(struct nodes *n, uint64_t lid, struct node_ref *out)
{
    struct index_reader *rd;
    struct id128 rid;
    struct node_ref ref = {.lid = lid};
    int r = reader_get(n, &rd);
    if (r == 0)
        r = index_reader_begin(rd);
    if (r < 0)
        return r;
    r = index_reader_by_lid(rd, lid, &ref.handle, &ref.type, &rid, &ref.orphan);
    index_reader_end(rd);
    if (r == 0 && ref.type == 0)
        r = type_ask(n, &ref);
    if (r == 0)
        *out = ref;
    return r;
}

static int index_by_handle(struct nodes *n, const struct handle *h, struct node_ref *out)
{
    struct index_reader *rd;
    struct node_ref ref = {.handle = *h};
    int r = reader_get(n, &rd);
    if (r == 0)
        r = index_reader_begin(rd);
    if (r < 0)
        return r;
    r = index_reader_by_handle(rd, h, &ref.lid, &ref.type);
    index_reader_end(rd);
    if (r == 0)
        *out = ref;
    return r;
}

/* ---- by lid ---- */

static struct shard *lid_shard(struct nodes *n, uint64_t lid)
{
    return &n->lids[lid % NODES_SHARDS];
}

/* Under the lock. */
static void node_free(struct shard *s, struct node *e)
{
    map_u64_del(&s->by_u64, e->ref.lid);
    clock_del(s, &e->c);
    free(e);
}

/* Under the lock. Nothing is there under this lid. NULL: no memory. */
static struct node *node_insert(struct shard *s, const struct node_ref *ref)
{
    for (unsigned i = 0; i < 2; i++) { /* two, so that what pins kept beyond the cap goes away */
        struct node *victim = (struct node *)(void *)clock_victim(s);
        if (victim == NULL)
            break;
        node_free(s, victim);
    }
    struct node *e = calloc(1, sizeof(*e));
    if (e == NULL || map_u64_set(&s->by_u64, ref->lid, e, NULL) < 0) {
        free(e);
        return NULL;
    }
    e->ref = *ref;
    clock_add(s, &e->c);
    return e;
}

int nodes_get(struct nodes *n, uint64_t lid, struct node_ref *out)
{
    if (lid == LID_CONTROL)
        return -ENOENT;
    struct shard *s = lid_shard(n, lid);
    pthread_mutex_lock(&s->lock);
    uint64_t changes = s->changes;
    struct node *e = map_u64_get(&s->by_u64, lid);
    if (e != NULL) {
        e->c.used = true;
        *out = e->ref;
    }
    pthread_mutex_unlock(&s->lock);
    if (e != NULL)
        return 0;

    struct node_ref ref;
    int r = index_by_lid(n, lid, &ref);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    e = map_u64_get(&s->by_u64, lid);
    if (e != NULL)
        ref = e->ref;
    else if (s->changes == changes)
        (void)node_insert(s, &ref);
    pthread_mutex_unlock(&s->lock);
    *out = ref;
    return 0;
}

/* A new lid, pinned. */
static int node_add(struct nodes *n, const struct node_ref *ref)
{
    struct shard *s = lid_shard(n, ref->lid);
    pthread_mutex_lock(&s->lock);
    s->changes++;
    struct node *e = map_u64_get(&s->by_u64, ref->lid);
    if (e == NULL)
        e = node_insert(s, ref);
    if (e != NULL)
        e->c.pins++;
    pthread_mutex_unlock(&s->lock);
    return e != NULL ? 0 : -ENOMEM;
}

/* Take node_add back: nobody has heard of this lid, unless the pair was known before. */
static void node_unadd(struct nodes *n, uint64_t lid, bool known)
{
    struct shard *s = lid_shard(n, lid);
    pthread_mutex_lock(&s->lock);
    struct node *e = map_u64_get(&s->by_u64, lid);
    if (e != NULL && --e->c.pins == 0 && !known)
        node_free(s, e);
    pthread_mutex_unlock(&s->lock);
}

/* ---- by handle ---- */

static size_t handle_key(const struct handle *h, uint8_t key[HANDLE_KEY_MAX])
{
    memcpy(key, &h->type, sizeof(h->type));
    memcpy(key + sizeof(h->type), h->bytes, h->len);
    return sizeof(h->type) + h->len;
}

static struct shard *handle_shard(struct nodes *n, const uint8_t *key, size_t len)
{
    return &n->handles[XXH3_64bits(key, len) % NODES_SHARDS];
}

/* Under the lock. */
static void row_free(struct shard *s, struct by_handle *row)
{
    map_bytes_del(&s->by_bytes, row->key, row->key_len);
    clock_del(s, &row->c);
    free(row);
}

/* Under the lock. Nothing is there under this handle. */
static int row_insert(struct shard *s, const uint8_t *key, size_t len, uint64_t lid, bool pinned)
{
    for (unsigned i = 0; i < 2; i++) {
        struct by_handle *victim = (struct by_handle *)(void *)clock_victim(s);
        if (victim == NULL)
            break;
        row_free(s, victim);
    }
    struct by_handle *row = calloc(1, sizeof(*row));
    if (row == NULL || map_bytes_set(&s->by_bytes, key, len, row, NULL) < 0) {
        free(row);
        return -ENOMEM;
    }
    memcpy(row->key, key, len);
    row->key_len = len;
    row->lid = lid;
    row->c.pins = pinned;
    clock_add(s, &row->c);
    return 0;
}

/* Forget that the handle means this lid. */
static void row_drop(struct nodes *n, const struct handle *h, uint64_t lid)
{
    uint8_t key[HANDLE_KEY_MAX];
    size_t len = handle_key(h, key);
    struct shard *s = handle_shard(n, key, len);
    pthread_mutex_lock(&s->lock);
    s->changes++;
    struct by_handle *row = map_bytes_get(&s->by_bytes, key, len);
    if (row != NULL && row->lid == lid)
        row_free(s, row);
    pthread_mutex_unlock(&s->lock);
}

static void row_unpin(struct nodes *n, const struct handle *h, uint64_t lid)
{
    uint8_t key[HANDLE_KEY_MAX];
    size_t len = handle_key(h, key);
    struct shard *s = handle_shard(n, key, len);
    pthread_mutex_lock(&s->lock);
    s->changes++;
    struct by_handle *row = map_bytes_get(&s->by_bytes, key, len);
    if (row != NULL && row->lid == lid)
        row->c.pins = 0;
    pthread_mutex_unlock(&s->lock);
}

/* The lid that the table has for a handle, 0: none; and the shard's changes so far. */
static uint64_t row_lid(struct shard *s, const uint8_t *key, size_t len, uint64_t *changes)
{
    pthread_mutex_lock(&s->lock);
    struct by_handle *row = map_bytes_get(&s->by_bytes, key, len);
    uint64_t lid = row != NULL ? row->lid : 0;
    if (row != NULL)
        row->c.used = true;
    *changes = s->changes;
    pthread_mutex_unlock(&s->lock);
    return lid;
}

/* Does the lid still stand for this inode? A file that became an orphan has given its handle up. */
static int row_verify(struct nodes *n, uint64_t lid, const struct handle *h, struct node_ref *out)
{
    struct node_ref ref;
    int r = nodes_get(n, lid, &ref);
    if (r == 0 && (ref.orphan || !handle_eq(&ref.handle, h)))
        r = -ENOENT;
    if (r == 0)
        *out = ref;
    return r;
}

int nodes_find(struct nodes *n, const struct handle *h, struct node_ref *out)
{
    if (handle_eq(h, &n->root))
        return nodes_get(n, LID_ROOT, out);
    uint8_t key[HANDLE_KEY_MAX];
    size_t len = handle_key(h, key);
    struct shard *s = handle_shard(n, key, len);
    uint64_t changes, lid = row_lid(s, key, len, &changes);
    if (lid != 0) {
        int r = row_verify(n, lid, h, out);
        if (r != -ENOENT)
            return r;
        row_drop(n, h, lid);
        lid = row_lid(s, key, len, &changes);
    }
    struct node_ref ref;
    int r = index_by_handle(n, h, &ref);
    if (r == 0)
        r = nodes_get(n, ref.lid, &ref); /* knows of orphans that the index does not know yet */
    if (r < 0)
        return r;
    if (!ref.orphan) {
        pthread_mutex_lock(&s->lock);
        if (s->changes == changes && map_bytes_get(&s->by_bytes, key, len) == NULL)
            (void)row_insert(s, key, len, ref.lid, false);
        pthread_mutex_unlock(&s->lock);
    }
    *out = ref;
    return 0;
}

/* Is the handle known? 1: as *out; 0: no. *changes: the answer holds while the shard's are these.
 */
static int row_known(struct nodes *n, struct shard *s, const struct handle *h, struct node_ref *out,
                     uint64_t *changes)
{
    uint8_t key[HANDLE_KEY_MAX];
    size_t len = handle_key(h, key);
    uint64_t lid;
    while ((lid = row_lid(s, key, len, changes)) != 0) {
        int r = row_verify(n, lid, h, out);
        if (r != -ENOENT)
            return r < 0 ? r : 1;
        row_drop(n, h, lid);
    }
    struct node_ref ref;
    int r = index_by_handle(n, h, &ref);
    if (r == 0)
        r = row_verify(n, ref.lid, h, out);
    return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

/* 1: the handle was known already, *out says as what. 0: added. */
static int row_add(struct nodes *n, uint64_t lid, const struct handle *h, struct node_ref *out)
{
    uint8_t key[HANDLE_KEY_MAX];
    size_t len = handle_key(h, key);
    struct shard *s = handle_shard(n, key, len);
    for (;;) {
        uint64_t changes;
        int r = row_known(n, s, h, out, &changes);
        if (r != 0)
            return r;
        /* whoever added and settled it since has counted a change */
        r = 1;
        pthread_mutex_lock(&s->lock);
        if (s->changes == changes && map_bytes_get(&s->by_bytes, key, len) == NULL)
            r = row_insert(s, key, len, lid, true);
        pthread_mutex_unlock(&s->lock);
        if (r <= 0)
            return r;
    }
}

int nodes_add(struct nodes *n, uint64_t lid, uint8_t type, const struct handle *h,
              struct node_ref *out)
{
    struct node_ref ref = {.lid = lid, .type = type, .handle = *h};
    struct node_ref known = ref;
    int r = node_add(n, &ref);
    if (r < 0)
        return r;
    r = row_add(n, lid, h, &known);
    if (r != 0)
        node_unadd(n, lid, r > 0 && known.lid == lid);
    if (r >= 0)
        *out = known;
    return r < 0 ? r : 0;
}

void nodes_settle(struct nodes *n, uint64_t lid)
{
    struct shard *s = lid_shard(n, lid);
    struct handle h = {0};
    pthread_mutex_lock(&s->lock);
    s->changes++;
    struct node *e = map_u64_get(&s->by_u64, lid);
    bool settled = e != NULL && e->c.pins > 0 && --e->c.pins == 0;
    if (settled)
        h = e->ref.handle;
    pthread_mutex_unlock(&s->lock);
    if (settled)
        row_unpin(n, &h, lid);
}

void nodes_set_orphan(struct nodes *n, uint64_t lid)
{
    struct node_ref ref;
    if (nodes_get(n, lid, &ref) < 0)
        return;
    struct shard *s = lid_shard(n, lid);
    pthread_mutex_lock(&s->lock);
    struct node *e = map_u64_get(&s->by_u64, lid);
    if (e == NULL)
        e = node_insert(s, &ref);
    farm_assert(e !=
                NULL); /* a name would come back from the dead; the next worker has the intent */
    s->changes++;
    if (!e->ref.orphan) {
        e->ref.orphan = true;
        e->c.pins++; /* the index does not know yet */
    }
    pthread_mutex_unlock(&s->lock);
    row_drop(n, &ref.handle, lid);
}

void nodes_remove(struct nodes *n, uint64_t lid)
{
    struct shard *s = lid_shard(n, lid);
    struct handle h = {0};
    pthread_mutex_lock(&s->lock);
    s->changes++;
    struct node *e = map_u64_get(&s->by_u64, lid);
    if (e != NULL) {
        h = e->ref.handle;
        node_free(s, e);
    }
    pthread_mutex_unlock(&s->lock);
    if (e != NULL)
        row_drop(n, &h, lid);
    nodes_close_fds(n, lid);
}

/* ---- lids ---- */

int nodes_new_lid(struct nodes *n, uint64_t *lid)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += LID_WAIT_S;
    int r = 0;
    pthread_mutex_lock(&n->lid_lock);
    while (n->lid_next >= n->lid_end && r == 0)
        r = -pthread_cond_timedwait(&n->lid_room, &n->lid_lock, &until);
    if (n->lid_next < n->lid_end) {
        *lid = n->lid_next++;
        r = 0;
    }
    atomic_store(&n->low, n->lid_end - n->lid_next < n->lid_block / 4);
    pthread_mutex_unlock(&n->lid_lock);
    return r;
}

void nodes_reserve(struct nodes *n, uint64_t from, uint64_t to)
{
    pthread_mutex_lock(&n->lid_lock);
    if (from < LID_FIRST)
        from = LID_FIRST;
    if (from != n->lid_end && from > n->lid_next)
        n->lid_next = from;
    if (to > n->lid_end)
        n->lid_end = to;
    n->lid_block = to > from ? to - from : 0;
    atomic_store(&n->low, n->lid_end - n->lid_next < n->lid_block / 4);
    pthread_cond_broadcast(&n->lid_room);
    pthread_mutex_unlock(&n->lid_lock);
}

bool nodes_low(const struct nodes *n)
{
    return atomic_load(&n->low);
}

/* ---- life ---- */

static void shard_init(struct shard *s, size_t cap, bool bytes)
{
    *s = (struct shard){.cap = cap > NODES_SHARDS ? cap / NODES_SHARDS : 1};
    pthread_mutex_init(&s->lock, NULL);
    if (bytes)
        map_bytes_init(&s->by_bytes);
    else
        map_u64_init(&s->by_u64);
}

static void shards_init(struct nodes *n, size_t max_cached, size_t max_fds)
{
    for (unsigned i = 0; i < NODES_SHARDS; i++) {
        shard_init(&n->lids[i], max_cached, false);
        shard_init(&n->handles[i], max_cached, true);
        shard_init(&n->fds[i], max_fds, false);
    }
}

int nodes_new(struct index *ix, int rootfd, size_t max_cached, size_t max_fds, struct nodes **out)
{
    struct nodes *n = aligned_alloc(64, sizeof(*n));
    if (n == NULL)
        return -ENOMEM;
    memset(n, 0, sizeof(*n));
    n->ix = ix;
    n->rootfd = rootfd;
    int r = handle_of_fd(rootfd, &n->root);
    if (r == 0)
        r = -pthread_key_create(&n->reader_key, reader_end);
    if (r < 0) {
        free(n);
        return r;
    }
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&n->lid_room, &mono);
    pthread_condattr_destroy(&mono);
    pthread_mutex_init(&n->lid_lock, NULL);
    pthread_mutex_init(&n->reader_lock, NULL);
    atomic_init(&n->low, true);
    shards_init(n, max_cached, max_fds);
    r = node_add(n, &(struct node_ref){.lid = LID_ROOT, .type = NODE_DIR, .handle = n->root});
    if (r < 0) {
        nodes_free(n);
        return r;
    }
    *out = n;
    return 0;
}

/* What is in these tables is freed as such. */
static void shard_clear(struct shard *s)
{
    while (s->hand != NULL) {
        struct clocked *c = s->hand;
        clock_del(s, c);
        free(c);
    }
}

void nodes_free(struct nodes *n)
{
    if (n == NULL)
        return;
    pthread_key_delete(n->reader_key);
    while (n->readers != NULL)
        reader_end(n->readers);
    for (unsigned i = 0; i < NODES_SHARDS; i++) {
        shard_clear(&n->lids[i]);
        shard_clear(&n->handles[i]);
        nodes_fd_fini(&n->fds[i]);
        map_u64_fini(&n->lids[i].by_u64);
        map_bytes_fini(&n->handles[i].by_bytes);
        map_u64_fini(&n->fds[i].by_u64);
        pthread_mutex_destroy(&n->lids[i].lock);
        pthread_mutex_destroy(&n->handles[i].lock);
        pthread_mutex_destroy(&n->fds[i].lock);
    }
    pthread_cond_destroy(&n->lid_room);
    pthread_mutex_destroy(&n->lid_lock);
    pthread_mutex_destroy(&n->reader_lock);
    free(n);
}
