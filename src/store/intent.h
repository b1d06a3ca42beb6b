/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The intent log: a mapped ring file in the state directory. A FUSE thread appends an intent before
 * it changes the backing tree and completes it afterwards; the core thread consumes completed
 * intents in order and turns them into records. It is thus also the queue between them, and it
 * survives the death of the process: a new worker re-examines what was begun and not completed
 * (intent_recover), processes the rest as if nothing had happened, and recognises requests that had
 * been carried out but not answered (intent_find).
 *
 * The file: a page with the head (format, ring size, salt; positions of the oldest entry and of the
 * end), then the ring. Entries are 64-byte aligned, in the machine's byte order, never across the
 * end of the ring (a pad fills it): u32 magic | u32 total length | u64 seq | u32 state | u32 check
 * | u32 done_check | u32 zero | fixed part as completed | fixed part as begun | name1 | name2
 * Checks are XXH3 low halves, seeded with salt, position, seq and length. Completing never touches
 * what begin wrote: an entry torn by a kill while it was completed is still open.
 * Threads: any number append/complete; one consumes. Full: append waits for the consumer, so
 * neither the consumer nor a thread that has an intent open may append while the ring could be
 * full.
 */
#ifndef STORE_INTENT_H
#define STORE_INTENT_H

#include "store/handle.h"

#include <stdbool.h>
#include <stddef.h>

struct intent_log;

enum intent_op {
    INTENT_NONE = 0,
    INTENT_CREATE =
        1, /* regular file, fifo, device, symlink, directory: parent, name1, lid, handle */
    INTENT_LINK = 2,    /* parent, name1, lid */
    INTENT_UNLINK = 3,  /* parent, name1, lid of what was there; flag ORPHAN: kept as an orphan */
    INTENT_RMDIR = 4,   /* parent, name1, lid */
    INTENT_RENAME = 5,  /* parent, name1 -> parent2, name2; lid moved, lid2 replaced or exchanged */
    INTENT_ATTR = 6,    /* lid: mode, owner, times or xattrs changed (re-read) */
    INTENT_DIRTY = 7,   /* lid: first write since the last seal, or a range far from the last */
    INTENT_CLOSE = 8,   /* lid: a writer closed it (off: the generation of the latest write then,
                           plus 1: another writer that has begun since will close it, too), or
                           wants it sealed (off 0) */
    INTENT_FOUND = 9,   /* parent, name1, lid, handle: seen by a lookup, unknown to the index */
    INTENT_FORGET = 10, /* lid: an orphan the kernel no longer refers to */
    INTENT_WAKE = 11,   /* nothing: wakes the consumer */
};
enum {
    INTENT_F_ORPHAN = 1,    /* lid kept as an orphan */
    INTENT_F_ORPHAN2 = 2,   /* lid2 (replaced by a rename) kept as an orphan */
    INTENT_F_EXCHANGE = 4,  /* RENAME_EXCHANGE */
    INTENT_F_TRUNC = 8,     /* DIRTY: the size changed */
    INTENT_F_EXPLICIT = 16, /* ATTR: times were set by the caller */
    INTENT_F_UNLOGGED = 32, /* name1 is excluded from replication (not used yet: 0) */
};

struct intent {
    uint16_t op;
    uint16_t flags;
    int32_t result;  /* set by complete: 0 or -errno; what the caller was or will be told */
    uint64_t unique; /* FUSE request number without the resend bit; 0: not a request */
    uint64_t conn;   /* which mount the request number belongs to */
    uint64_t wall_us;
    uint64_t parent, parent2, lid, lid2;
    uint64_t off, len; /* DIRTY */
    uint32_t mode;     /* CREATE: st_mode */
    struct handle handle;
    uint8_t name1_len, name2_len;
    uint8_t name1[255], name2[255];
};

/* Opens or creates `dir`/intents of `size` bytes (64 KiB .. 1 GiB, rounded up; an existing one
 * keeps its size; fully allocated, so that a full disk is found here and not by SIGBUS).
 * FARM_EVERSION, FARM_ECORRUPT (the caller makes a new one and rescans), -errno. */
FARM_MUSTUSE int intent_open(const char *dir, size_t size, bool create_anew,
                             struct intent_log **out);
void intent_close(struct intent_log *l);

/* Append in state open (`begun`); *ref identifies it for intent_complete. Waits while the ring is
 * full; FARM_ECLOSED after intent_stop. */
FARM_MUSTUSE int intent_begin(struct intent_log *l, const struct intent *in, uint64_t *ref);
/* Completes it: result, lids, handle, flags may have been filled in since begin (names stay as
 * begun). A result < 0 makes it void. Wakes the consumer. */
void intent_complete(struct intent_log *l, uint64_t ref, const struct intent *in);
/* Both at once, for what needs no "before": ATTR, CLOSE, FOUND, FORGET. */
FARM_MUSTUSE int intent_add(struct intent_log *l, const struct intent *in);

/* The consumer: the next completed entry in order (void ones are skipped). -EAGAIN: the oldest is
 * still open or there is none; the eventfd has been cleared and will tell. FARM_ECORRUPT. */
FARM_MUSTUSE int intent_next(struct intent_log *l, struct intent *out, uint64_t *seq);
/* Everything up to and including seq is in the index: its room may be used again (but stays
 * readable for intent_find until overwritten). */
void intent_consumed(struct intent_log *l, uint64_t seq);
/* The consumer: what was handed out and not said to be consumed is handed out again by the next
 * intent_next (its transaction was dropped). The eventfd does not tell of these. */
void intent_rewind(struct intent_log *l);
/* eventfd that becomes readable when there may be something for intent_next. */
int intent_eventfd(const struct intent_log *l);
/* Sequence number the next append will get. */
uint64_t intent_head(const struct intent_log *l);
/* Sequence number intent_next stands at: all before were handed out or void. When this reaches a
 * former intent_head and what was handed out is in the index, all begun until then is. */
uint64_t intent_tail(const struct intent_log *l);

/* At start, before any append: entries still open from a former worker. The callback decides what
 * became of it by looking at the backing tree, and returns the entry completed (result and fields
 * set; -EAGAIN: not carried out, a resent request may do it again). `consumed` (from the index) is
 * where consumption goes on; in a new log numbering goes on there. The callback may be asked again
 * about the same entry if the process dies meanwhile. */
typedef void (*intent_judge)(void *arg, struct intent *in);
FARM_MUSTUSE int intent_recover(struct intent_log *l, uint64_t consumed, intent_judge f, void *arg);
/* The same; completed entries are shown to `done` first, in their order among the open ones: what
 * was made just before may be needed to judge what follows. */
FARM_MUSTUSE int intent_recover_with(struct intent_log *l, uint64_t consumed, intent_judge done,
                                     intent_judge f, void *arg);
/* A request number seen before on this mount: its completed entry. -ENOENT. Looks at everything
 * still in the ring; meant for resent requests only. */
FARM_MUSTUSE int intent_find(struct intent_log *l, uint64_t conn, uint64_t unique,
                             struct intent *out);
void intent_stop(struct intent_log *l);

#endif
