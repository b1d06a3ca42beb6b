/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Why the file alone is enough, at whatever instruction the process dies:
 *  - Entries are written under a mutex, so that only the last one can be torn. It is part of the
 * log once `head` has passed it; before that intent_begin had not returned, so nothing was done.
 *  - Completing writes the second half of an entry (`done`), which counts only after `state` says
 * so. Torn, it is not looked at: the entry is still open.
 *  - `oldest` moves before what it leaves behind is overwritten.
 * A kill stops a thread between two instructions and memory keeps every store made until then: it
 * is enough that the compiler keeps the order (signal fences).
 */
#include "store/intent.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

#define FILE_NAME "intents"
#define FILE_NAME_NEW "intents.new"
#define FILE_MAGIC 0x31746e49746e6546ull
#define FILE_FORMAT 1u
#define HEAD_BYTES 4096u
#define SIZE_LEAST (64u * 1024u)
#define SIZE_MOST (1u << 30)
#define ALIGN 64u
#define ENTRY_MAGIC 0x4e544e49u

/* Far apart, so that no flipped bit makes one of another. */
enum {
    STATE_OPEN = 0x4e45504f,
    STATE_DONE = 0x21a3f0d7,
    STATE_VOID = 0x5c96c3a8,
    STATE_PAD = 0x3b5daa12,
};

struct file_head {
    uint64_t magic;
    uint32_t format;
    uint32_t zero;
    uint64_t size; /* of the ring */
    uint64_t salt; /* of every checksum: an entry of another file, or one made up, is none */
    uint64_t check;
    /* Positions count bytes ever appended; position % size is the place in the ring. */
    _Alignas(64) _Atomic uint64_t oldest; /* the first entry that is still whole */
    _Atomic uint64_t head;                /* where the next one goes */
    _Atomic uint64_t consumed;            /* sequence number: all before have been consumed */
};

/* struct intent without its names. */
struct fixed {
    uint16_t op, flags;
    int32_t result;
    uint64_t unique, conn, wall_us, parent, parent2, lid, lid2, off, len;
    uint32_t mode;
    int32_t handle_type;
    uint8_t handle[HANDLE_BYTES_MAX];
    uint8_t handle_len, name1_len, name2_len, zero[5];
};

struct entry {
    uint32_t magic;
    uint32_t len; /* of all, to the next entry */
    uint64_t seq; /* a pad has that of the entry it makes way for */
    _Atomic uint32_t state;
    uint32_t check;      /* of position, seq, len, begun, names */
    uint32_t done_check; /* of position, seq, len, done */
    uint32_t zero;
    struct fixed done; /* not yet written in STATE_OPEN */
    struct fixed begun;
    uint8_t names[];
};

_Static_assert(sizeof(struct file_head) <= HEAD_BYTES, "the head fits its page");
_Static_assert(sizeof(struct fixed) == 128, "no padding");
_Static_assert(offsetof(struct entry, names) == 288, "no padding");
_Static_assert(offsetof(struct entry, done) <= ALIGN, "a pad fits the least room");

struct intent_log {
    struct file_head *file; /* the mapping: HEAD_BYTES, then the ring */
    uint8_t *ring;
    uint64_t size;
    int eventfd;

    pthread_mutex_t lock; /* append and reuse: guards the file's oldest, what follows, and the ring
                             outside [limit, head) */
    pthread_cond_t room;
    uint64_t limit; /* position: what is before may be overwritten; moved by the consumer */
    bool stopped;

    _Atomic uint64_t next_seq; /* of the next append; changed under the lock */
    _Atomic uint64_t tail_seq; /* of what intent_next looks at next */
    uint64_t next;             /* the consumer's: position of that */
    uint64_t limit_seq;        /* the consumer's: first sequence number at limit */
    _Atomic bool armed;        /* the consumer wants the eventfd at the next completion */
};

static struct entry *entry_at(const struct intent_log *l, uint64_t pos)
{
    return (struct entry *)(void *)(l->ring + pos % l->size);
}

static uint64_t entry_seed(const struct intent_log *l, uint64_t pos, const struct entry *e)
{
    const uint64_t key[4] = {l->file->salt, pos, e->seq, e->len};
    return XXH3_64bits(key, sizeof(key));
}

static uint32_t begun_check(const struct intent_log *l, uint64_t pos, const struct entry *e)
{
    size_t n = sizeof(e->begun) + e->begun.name1_len + e->begun.name2_len;
    return (uint32_t)XXH3_64bits_withSeed(&e->begun, n, entry_seed(l, pos, e));
}

static uint32_t pad_check(const struct intent_log *l, uint64_t pos, const struct entry *e)
{
    return (uint32_t)XXH3_64bits_withSeed("pad", 3, entry_seed(l, pos, e));
}

static uint32_t done_check(const struct intent_log *l, uint64_t pos, const struct entry *e)
{
    return (uint32_t)XXH3_64bits_withSeed(&e->done, sizeof(e->done), entry_seed(l, pos, e) + 1);
}

static void fixed_put(struct fixed *f, const struct intent *in)
{
    *f = (struct fixed){
        .op = in->op,
        .flags = in->flags,
        .result = in->result,
        .unique = in->unique,
        .conn = in->conn,
        .wall_us = in->wall_us,
        .parent = in->parent,
        .parent2 = in->parent2,
        .lid = in->lid,
        .lid2 = in->lid2,
        .off = in->off,
        .len = in->len,
        .mode = in->mode,
        .handle_type = in->handle.type,
        .handle_len = in->handle.len,
        .name1_len = in->name1_len,
        .name2_len = in->name2_len,
    };
    memcpy(f->handle, in->handle.bytes, in->handle.len);
}

/* `f` is one half of the checked entry `e`; the names are as begun. */
static void fixed_get(const struct entry *e, const struct fixed *f, struct intent *out)
{
    *out = (struct intent){
        .op = f->op,
        .flags = f->flags,
        .result = f->result,
        .unique = f->unique,
        .conn = f->conn,
        .wall_us = f->wall_us,
        .parent = f->parent,
        .parent2 = f->parent2,
        .lid = f->lid,
        .lid2 = f->lid2,
        .off = f->off,
        .len = f->len,
        .mode = f->mode,
        .handle = {.type = f->handle_type, .len = f->handle_len},
        .name1_len = e->begun.name1_len,
        .name2_len = e->begun.name2_len,
    };
    memcpy(out->handle.bytes, f->handle, f->handle_len);
    memcpy(out->name1, e->names, e->begun.name1_len);
    memcpy(out->name2, e->names + e->begun.name1_len, e->begun.name2_len);
}

static uint32_t entry_len(const struct intent *in)
{
    size_t n = offsetof(struct entry, names) + in->name1_len + in->name2_len;
    return (uint32_t)((n + ALIGN - 1) / ALIGN * ALIGN);
}

/* Is there a whole entry at pos? Nothing in it is believed before it has been checked. */
static bool entry_valid(const struct intent_log *l, uint64_t pos)
{
    const struct entry *e = entry_at(l, pos);
    uint64_t left = l->size - pos % l->size;
    if (e->magic != ENTRY_MAGIC || e->len < ALIGN || e->len % ALIGN != 0 || e->len > left)
        return false;
    uint32_t state = atomic_load(&e->state);
    if (state == STATE_PAD)
        return e->len == left && e->check == pad_check(l, pos, e);
    size_t need = offsetof(struct entry, names);
    if (e->len < need || e->len < need + e->begun.name1_len + e->begun.name2_len ||
        e->begun.handle_len > HANDLE_BYTES_MAX || e->check != begun_check(l, pos, e))
        return false;
    if (state == STATE_OPEN)
        return true;
    return (state == STATE_DONE || state == STATE_VOID) && e->done_check == done_check(l, pos, e) &&
           e->done.handle_len <= HANDLE_BYTES_MAX;
}

/* Find the end of the log. `head` may be one entry behind it: that one is taken along (its appender
 * did not get to hear of it). Whatever else does not fit means that the file was damaged. */
static int log_walk(struct intent_log *l)
{
    uint64_t oldest = atomic_load(&l->file->oldest), head = atomic_load(&l->file->head);
    if (oldest % ALIGN != 0 || head < oldest || head - oldest > l->size)
        return FARM_ECORRUPT;
    uint64_t end = oldest, seq = 0, beyond = 0;
    for (uint64_t pos = oldest; pos - oldest < l->size;) {
        const struct entry *e = entry_at(l, pos);
        if (!entry_valid(l, pos) || (seq != 0 && e->seq != seq) || e->seq == 0)
            break;
        bool pad = atomic_load(&e->state) == STATE_PAD;
        beyond += !pad && pos >= head;
        pos += e->len;
        seq = e->seq + !pad;
        if (!pad || pos <= head)
            end = pos;
    }
    if (end < head || beyond > 1)
        return FARM_ECORRUPT;
    atomic_store(&l->file->head, end);
    l->next = l->limit = oldest;
    uint64_t first = end > oldest ? entry_at(l, oldest)->seq : 1;
    atomic_init(&l->tail_seq, first);
    l->limit_seq = first;
    atomic_init(&l->next_seq, end > oldest ? seq : 1);
    return atomic_load(&l->file->consumed) <= atomic_load(&l->next_seq) || end == oldest
               ? 0
               : FARM_ECORRUPT;
}

static uint64_t head_check(const struct file_head *h)
{
    return XXH3_64bits(h, offsetof(struct file_head, check));
}

static int file_create(int dirfd, size_t size)
{
    uint64_t ring = size < SIZE_LEAST ? SIZE_LEAST : size;
    if (ring > SIZE_MOST)
        return -EINVAL;
    ring = (ring + HEAD_BYTES - 1) / HEAD_BYTES * HEAD_BYTES;
    CLEANUP_FD int fd =
        openat(dirfd, FILE_NAME_NEW, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int r = -posix_fallocate(fd, 0, (off_t)(HEAD_BYTES + ring));
    struct file_head h = {.magic = FILE_MAGIC, .format = FILE_FORMAT, .size = ring};
    io_random(&h.salt, sizeof(h.salt));
    h.check = head_check(&h);
    if (r == 0)
        r = io_pwrite(fd, &h, sizeof(h), 0);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (r == 0 && (renameat(dirfd, FILE_NAME_NEW, dirfd, FILE_NAME) < 0 || fsync(dirfd) < 0))
        r = -errno;
    if (r < 0)
        unlinkat(dirfd, FILE_NAME_NEW, 0);
    return r;
}

static int file_map(struct intent_log *l, int fd)
{
    struct stat st;
    struct file_head h;
    size_t got = 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    int r = io_pread(fd, &h, sizeof(h), 0, &got);
    if (r < 0)
        return r;
    if (got < sizeof(h) || h.magic != FILE_MAGIC)
        return FARM_ECORRUPT;
    if (h.format != FILE_FORMAT)
        return FARM_EVERSION;
    if (h.check != head_check(&h) || h.size < SIZE_LEAST || h.size > SIZE_MOST ||
        h.size % HEAD_BYTES != 0 || (uint64_t)st.st_size != HEAD_BYTES + h.size)
        return FARM_ECORRUPT;
    void *p = mmap(NULL, HEAD_BYTES + h.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    l->file = p;
    l->ring = (uint8_t *)p + HEAD_BYTES;
    l->size = h.size;
    return 0;
}

static int file_open(struct intent_log *l, const char *dir, size_t size, bool create_anew)
{
    CLEANUP_FD int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return -errno;
    int r = create_anew ? file_create(dirfd, size) : 0;
    if (r < 0)
        return r;
    CLEANUP_FD int fd = openat(dirfd, FILE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        r = file_create(dirfd, size);
        if (r < 0)
            return r;
        fd = openat(dirfd, FILE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    }
    return fd < 0 ? -errno : file_map(l, fd);
}

int intent_open(const char *dir, size_t size, bool create_anew, struct intent_log **out)
{
    struct intent_log *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return -ENOMEM;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->room, NULL);
    l->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int r = l->eventfd < 0 ? -errno : file_open(l, dir, size, create_anew);
    if (r == 0)
        r = log_walk(l);
    if (r < 0) {
        intent_close(l);
        return r;
    }
    *out = l;
    return 0;
}

void intent_close(struct intent_log *l)
{
    if (l == NULL)
        return;
    if (l->file != NULL)
        munmap(l->file, HEAD_BYTES + l->size);
    if (l->eventfd >= 0)
        close(l->eventfd);
    pthread_cond_destroy(&l->room);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static void wake(struct intent_log *l)
{
    if (atomic_exchange(&l->armed, false))
        eventfd_write(l->eventfd, 1);
}

/* Under the lock. Let the oldest entries go, so that bytes up to `end` may be written. */
static void oldest_advance(struct intent_log *l, uint64_t end)
{
    uint64_t oldest = atomic_load(&l->file->oldest);
    while (end - oldest > l->size)
        oldest += entry_at(l, oldest)->len;
    atomic_store(&l->file->oldest, oldest);
    atomic_signal_fence(memory_order_seq_cst);
}

/* Under the lock. Waits until there is room; *pad bytes are to be skipped first. At most three
 * quarters of the ring wait to be consumed: the rest is for intent_find. */
static int room_wait(struct intent_log *l, uint32_t len, uint64_t *at, uint64_t *pad)
{
    for (;;) {
        uint64_t head = atomic_load(&l->file->head);
        uint64_t left = l->size - head % l->size;
        *pad = left < len ? left : 0;
        *at = head + *pad;
        if (l->stopped)
            return FARM_ECLOSED;
        if (*at + len - l->limit <= l->size / 4 * 3)
            return 0;
        pthread_cond_wait(&l->room, &l->lock);
    }
}

static void pad_write(struct intent_log *l, uint64_t pos, uint64_t len, uint64_t seq)
{
    struct entry *e = entry_at(l, pos);
    atomic_store(&e->state, 0);
    e->magic = ENTRY_MAGIC;
    e->len = (uint32_t)len;
    e->seq = seq;
    e->check = pad_check(l, pos, e);
    atomic_store(&e->state, STATE_PAD);
}

static void entry_write(struct intent_log *l, uint64_t pos, uint32_t len, uint64_t seq,
                        const struct intent *in, bool done)
{
    struct entry *e = entry_at(l, pos);
    atomic_store(&e->state, 0);
    e->magic = ENTRY_MAGIC;
    e->len = len;
    e->seq = seq;
    e->zero = 0;
    fixed_put(&e->begun, in);
    memcpy(e->names, in->name1, in->name1_len);
    memcpy(e->names + in->name1_len, in->name2, in->name2_len);
    e->check = begun_check(l, pos, e);
    if (done) {
        e->done = e->begun;
        e->done_check = done_check(l, pos, e);
    }
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store(&e->state, !done ? STATE_OPEN : in->result < 0 ? STATE_VOID : STATE_DONE);
}

static int append(struct intent_log *l, const struct intent *in, bool done, uint64_t *ref)
{
    farm_assert(in->handle.len <= HANDLE_BYTES_MAX);
    uint32_t len = entry_len(in);
    uint64_t pos = 0, pad = 0;
    pthread_mutex_lock(&l->lock);
    int r = room_wait(l, len, &pos, &pad);
    if (r == 0) {
        uint64_t seq = atomic_load(&l->next_seq);
        oldest_advance(l, pos + len);
        if (pad > 0)
            pad_write(l, pos - pad, pad, seq);
        entry_write(l, pos, len, seq, in, done);
        atomic_signal_fence(memory_order_seq_cst);
        atomic_store(&l->file->head, pos + len);
        atomic_store(&l->next_seq, seq + 1);
        *ref = pos;
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}

int intent_begin(struct intent_log *l, const struct intent *in, uint64_t *ref)
{
    return append(l, in, false, ref);
}

/* The entry is open: nobody else writes it, and nobody reads its `done` half. */
static void entry_complete(struct intent_log *l, uint64_t pos, const struct intent *in)
{
    struct entry *e = entry_at(l, pos);
    farm_assert(in->handle.len <= HANDLE_BYTES_MAX);
    fixed_put(&e->done, in);
    e->done.name1_len = e->begun.name1_len;
    e->done.name2_len = e->begun.name2_len;
    e->done_check = done_check(l, pos, e);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store(&e->state, in->result < 0 ? STATE_VOID : STATE_DONE);
}

void intent_complete(struct intent_log *l, uint64_t ref, const struct intent *in)
{
    farm_assert(atomic_load(&entry_at(l, ref)->state) == STATE_OPEN);
    entry_complete(l, ref, in);
    wake(l);
}

int intent_add(struct intent_log *l, const struct intent *in)
{
    uint64_t ref;
    int r = append(l, in, true, &ref);
    if (r == 0)
        wake(l);
    return r;
}

/* The consumer's. Everything before `pos`, whose first sequence number is `seq`, may be reused. */
static void limit_set(struct intent_log *l, uint64_t pos, uint64_t seq)
{
    pthread_mutex_lock(&l->lock);
    l->limit = pos;
    l->limit_seq = seq;
    atomic_store(&l->file->consumed, seq);
    pthread_cond_broadcast(&l->room);
    pthread_mutex_unlock(&l->lock);
}

/* State of the entry that intent_next looks at; 0: there is none. */
static uint32_t next_state(const struct intent_log *l)
{
    if (l->next == atomic_load(&l->file->head))
        return 0;
    return atomic_load(&entry_at(l, l->next)->state);
}

/* Nothing to hand out: ask to be woken, and look once more for what came in between. */
static uint32_t arm(struct intent_log *l)
{
    if (!atomic_load(&l->armed)) {
        eventfd_t n;
        (void)eventfd_read(l->eventfd, &n);
        atomic_store(&l->armed, true);
    }
    return next_state(l);
}

int intent_next(struct intent_log *l, struct intent *out, uint64_t *seq)
{
    for (;;) {
        uint32_t state = next_state(l);
        if (state == 0 || state == STATE_OPEN)
            state = arm(l);
        if (state == 0 || state == STATE_OPEN)
            return -EAGAIN;
        if (!entry_valid(l, l->next))
            return FARM_ECORRUPT;
        const struct entry *e = entry_at(l, l->next);
        uint64_t pos = l->next, eseq = e->seq;
        if (state != STATE_PAD && eseq != atomic_load(&l->tail_seq))
            return FARM_ECORRUPT;
        l->next += e->len;
        if (state != STATE_PAD)
            atomic_store(&l->tail_seq, eseq + 1);
        if (state == STATE_DONE) {
            fixed_get(e, &e->done, out);
            *seq = eseq;
            return 0;
        }
        /* nobody will say that a pad or a void entry was consumed */
        if (l->limit == pos)
            limit_set(l, l->next, atomic_load(&l->tail_seq));
    }
}

void intent_consumed(struct intent_log *l, uint64_t seq)
{
    uint64_t pos = l->limit, first = 0;
    while (pos < l->next) {
        const struct entry *e = entry_at(l, pos);
        if (e->seq > seq && atomic_load(&e->state) == STATE_DONE)
            break;
        pos += e->len;
        first = e->seq + (atomic_load(&e->state) != STATE_PAD);
    }
    if (pos != l->limit)
        limit_set(l, pos, first);
}

void intent_rewind(struct intent_log *l)
{
    l->next = l->limit;
    atomic_store(&l->tail_seq, l->limit_seq); /* the file's `consumed` may be of a former worker */
    atomic_store(&l->armed, false);
}

int intent_eventfd(const struct intent_log *l)
{
    return l->eventfd;
}

uint64_t intent_head(const struct intent_log *l)
{
    return atomic_load(&l->next_seq);
}

uint64_t intent_tail(const struct intent_log *l)
{
    return atomic_load(&l->tail_seq);
}

/* Move the consumer to the first entry that is not before `consumed`. */
static int consumer_seek(struct intent_log *l, uint64_t consumed)
{
    uint64_t head = atomic_load(&l->file->head), next_seq = atomic_load(&l->next_seq);
    if (consumed == 0) /* an index that has not counted yet: numbers begin at 1 */
        consumed = 1;
    if (l->next == head) { /* nothing was ever logged here: numbers go on where they were */
        if (consumed > next_seq)
            atomic_store(&l->next_seq, consumed);
        l->limit_seq = atomic_load(&l->next_seq);
        atomic_store(&l->tail_seq, l->limit_seq);
        return 0;
    }
    /* void entries may be gone though the index, which never hears of them, lags behind */
    uint64_t known = atomic_load(&l->file->consumed);
    if (consumed > next_seq || entry_at(l, l->next)->seq > (known > consumed ? known : consumed))
        return FARM_ECORRUPT;
    while (l->next < head && entry_at(l, l->next)->seq < consumed)
        l->next += entry_at(l, l->next)->len;
    l->limit = l->next;
    l->limit_seq = l->next < head ? entry_at(l, l->next)->seq : next_seq;
    atomic_store(&l->tail_seq, l->limit_seq);
    return 0;
}

int intent_recover(struct intent_log *l, uint64_t consumed, intent_judge f, void *arg)
{
    return intent_recover_with(l, consumed, NULL, f, arg);
}

int intent_recover_with(struct intent_log *l, uint64_t consumed, intent_judge done, intent_judge f,
                        void *arg)
{
    int r = consumer_seek(l, consumed);
    if (r < 0)
        return r;
    uint64_t head = atomic_load(&l->file->head);
    for (uint64_t pos = l->next; pos < head; pos += entry_at(l, pos)->len) {
        struct entry *e = entry_at(l, pos);
        uint32_t state = atomic_load(&e->state);
        struct intent in;
        if (state == STATE_DONE && done != NULL) {
            if (!entry_valid(l, pos))
                return FARM_ECORRUPT;
            fixed_get(e, &e->done, &in);
            done(arg, &in);
        }
        if (state != STATE_OPEN)
            continue;
        fixed_get(e, &e->begun, &in);
        f(arg, &in);
        entry_complete(l, pos, &in);
    }
    eventfd_write(l->eventfd, 1);
    return 0;
}

int intent_find(struct intent_log *l, uint64_t conn, uint64_t unique, struct intent *out)
{
    int r = -ENOENT;
    pthread_mutex_lock(&l->lock);
    uint64_t head = atomic_load(&l->file->head);
    for (uint64_t pos = atomic_load(&l->file->oldest); pos < head; pos += entry_at(l, pos)->len) {
        const struct entry *e = entry_at(l, pos);
        uint32_t state = atomic_load(&e->state);
        if (state == STATE_PAD || e->begun.unique != unique || e->begun.conn != conn)
            continue;
        if (!entry_valid(l, pos)) {
            r = FARM_ECORRUPT;
            break;
        }
        if (state == STATE_OPEN)
            continue;
        fixed_get(e, &e->done, out); /* a request done anew is there twice: the later counts */
        r = 0;
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}

void intent_stop(struct intent_log *l)
{
    pthread_mutex_lock(&l->lock);
    l->stopped = true;
    pthread_cond_broadcast(&l->room);
    pthread_mutex_unlock(&l->lock);
    eventfd_write(l->eventfd, 1);
}
