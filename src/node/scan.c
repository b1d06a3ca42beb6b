/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The walk: the whole backing tree is compared with the index, a slice at a time on the core
 * thread, while the mount is served and peers are heard.
 *
 *   directories in the order of their lids, up to the last one known at the start; those that are
 *   found on the way come in between -> names that are not there any more, which are only noted
 *   until then: they may turn up elsewhere as a rename -> inodes that no name was found for -> done
 *
 * The order by lid makes renames during the walk harmless: a directory is met wherever it stands.
 * What was changed while nobody was looking and is touched before the walk gets there is seen to at
 * that moment: by the mount (scan_touched, check_intent) and by peers (scan_batch).
 */
#include "node/node.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLICE_US 5000u       /* of a slice, at least */
#define SLICE_MAX_US 100000u /* while nobody waits for us */
#define SLICE_TAKEN 2000u    /* changes in one transaction */
#define STEP_NAMES 32u
#define STEP_LIDS 4096u
#define BUSY_TRIES 50u
#define TOLD_EVERY_US 10000000u
#define VERIFIED_MAX 262144u

struct ids {
    struct id128 *v;
    size_t n, size;
};
struct lids {
    uint64_t *v;
    size_t n, size;
};

struct scan {
    bool first;              /* nothing was recorded before: what is found is as old as it looks */
    bool recovering;         /* the last run did not stop in order */
    bool ending;             /* names that are gone are being dropped */
    bool judged;             /* how much is gone */
    bool done;               /* once this transaction is committed */
    uint64_t cursor, limit;  /* directories: lids after the first and below the second */
    struct lids late;        /* directories to be walked besides */
    struct lids begun;       /* walked in this transaction: again when it is dropped */
    struct ids gone;         /* names that were not there */
    struct ids bare;         /* inodes that lost their last name and may have another */
    struct map_u64 verified; /* lids whose row is known to agree with the file */
    struct map_u64 skip;     /* claim keys of names that cannot be compared */
    DIR *dir;                /* being walked, NULL: none; the next three are of it */
    struct check_dir at;
    uint64_t matched, tail, head; /* names that have a record; the logs when it was begun */
    uint64_t seen, total, taken, changes, started_us, told_us;
};

static int lids_add(struct lids *l, uint64_t lid)
{
    if (l->n == l->size) {
        size_t size = l->size ? l->size * 2 : 64;
        uint64_t *v = realloc(l->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        l->v = v;
        l->size = size;
    }
    l->v[l->n++] = lid;
    return 0;
}

static int ids_add(struct ids *l, struct id128 id)
{
    if (l->n == l->size) {
        size_t size = l->size ? l->size * 2 : 64;
        struct id128 *v = realloc(l->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        l->v = v;
        l->size = size;
    }
    l->v[l->n++] = id;
    return 0;
}

static bool skipped(const struct node *n, uint64_t dir, const char *name)
{
    const char *hide = n->args->hide;

    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return true;
    if (dir == LID_ROOT && (strcmp(name, ".farm") == 0 || (hide && strcmp(name, hide) == 0)))
        return true;
    return n->scan->skip.n &&
           map_u64_get(&n->scan->skip, claims_key(dir, name, (uint8_t)strlen(name)));
}

/* ---- one directory ---- */

static void dir_close(struct scan *s)
{
    if (s->dir)
        closedir(s->dir);
    s->dir = NULL;
}

/* A descriptor of its own for a directory: *dir NULL when it is not there any more. */
static int dir_stream(struct node *n, uint64_t lid, struct check_dir *at, DIR **dir)
{
    struct index_node row;
    struct node_fd *ref;
    int fd;

    *dir = NULL;
    int rc = index_get_node_by_lid(n->index, lid, &row);
    if (!rc)
        rc = nodes_get_fd(n->nodes, lid, NODES_READ, &ref, &fd);
    if (rc)
        return rc == -ENOENT || rc == -ESTALE ? 0 : rc;
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    nodes_put_fd(n->nodes, ref);
    if (own < 0)
        return errno == ENOENT ? 0 : -errno;
    *dir = fdopendir(own);
    if (!*dir) {
        rc = -errno;
        close(own);
        return rc;
    }
    *at = (struct check_dir){.rid = row.rid, .lid = lid, .fd = own};
    return 0;
}

static int dir_begin(struct node *n, uint64_t lid)
{
    struct scan *s = n->scan;

    int rc = dir_stream(n, lid, &s->at, &s->dir);
    if (rc || !s->dir)
        return rc;
    s->matched = 0;
    s->tail = intent_tail(n->intents);
    s->head = index_log_head(n->index);
    if (lid == LID_ROOT) { /* it has no name by which it could be compared */
        s->taken++;
        rc = local_stat(n, LID_ROOT, false, 0);
    }
    return rc ? rc : lids_add(&s->begun, lid);
}

/* One that is being changed just now is waited for, a little; then the directory has to come again.
 */
static int step_name(struct node *n, const char *name)
{
    struct scan *s = n->scan;
    enum checked out;

    if (skipped(n, s->at.lid, name))
        return 0;
    int rc = check_name(n, &s->at, name, false, &out);
    for (unsigned i = 0; !rc && out == CHECK_BUSY && i < BUSY_TRIES; i++) {
        usleep(100);
        rc = check_name(n, &s->at, name, false, &out);
    }
    if (rc) {
        int full =
            map_u64_set(&s->skip, claims_key(s->at.lid, name, (uint8_t)strlen(name)), s, NULL);
        events_note(n->events, "scan", "%s cannot be compared: %s", name, err_text(rc));
        return full ? full : rc;
    }
    s->seen++;
    s->matched++;
    if (out == CHECK_BUSY)
        return scan_late(n, s->at.lid);
    if (out == CHECK_TAKEN) {
        s->taken++;
        s->changes++;
    }
    return 0;
}

static int count_place(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    (void)name;
    (void)len;
    (void)nid;
    ++*(uint64_t *)arg;
    return 0;
}

static int visit_missing(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct scan *s = arg;
    char text[NAME_LEN_MAX + 1];
    struct stat st;

    memcpy(text, name, len);
    text[len] = 0;
    if (fstatat(s->at.fd, text, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    return errno == ENOENT ? ids_add(&s->gone, nid) : -errno;
}

/* Where nothing moved meanwhile and as many names are recorded as were met, none is missing. */
static int dir_end(struct node *n)
{
    struct scan *s = n->scan;
    uint64_t places = 0;

    int rc = index_places_in(n->index, s->at.rid, count_place, &places);
    if (!rc && (places != s->matched || s->at.changed || s->tail != intent_tail(n->intents) ||
                s->head != index_log_head(n->index)))
        rc = index_places_in(n->index, s->at.rid, visit_missing, s);
    if (!rc && s->at.changed) {
        s->taken++;
        rc = local_touch_dir(n, s->at.lid);
    }
    dir_close(s);
    return rc;
}

/* The walk is not to disturb: a limit may be set. */
static bool may_go(const struct node *n)
{
    uint64_t rate = n->config->compare_rate;

    return !rate || n->scan->seen < (node_mono(n) - n->scan->started_us) / 1000 * rate / 1000;
}

/* Larger transactions cost less; others come first. */
static bool slice_over(const struct node *n, uint64_t began)
{
    struct pollfd waiting = {.fd = n->epoll, .events = POLLIN};
    uint64_t took = node_mono(n) - began;

    return took >= SLICE_MAX_US || (took >= SLICE_US && poll(&waiting, 1, 0) != 0);
}

static int step_names(struct node *n)
{
    struct scan *s = n->scan;
    const struct dirent *e;
    int rc = 0;

    for (unsigned i = 0; i < STEP_NAMES && !rc && may_go(n); i++) {
        errno = 0;
        e = readdir(s->dir);
        if (!e)
            return errno ? -errno : dir_end(n);
        rc = step_name(n, e->d_name);
    }
    return rc;
}

int scan_directory(struct node *n, uint64_t lid)
{
    const struct dirent *e;
    struct check_dir at;
    enum checked out = CHECK_SAME;
    DIR *dir;

    int rc = dir_stream(n, lid, &at, &dir);
    if (rc || !dir)
        return rc;
    while (!rc && out == CHECK_SAME && (errno = 0, e = readdir(dir)))
        if (!skipped(n, lid, e->d_name))
            rc = check_name(n, &at, e->d_name, false, &out);
    closedir(dir);
    return !rc && out == CHECK_BUSY ? -EAGAIN : rc;
}

/* ---- which directory, and what comes after them ---- */

/* -ENOENT: there is none left. */
static int step_directory(struct node *n)
{
    struct scan *s = n->scan;
    uint64_t lid;

    if (s->late.n > 0)
        return dir_begin(n, s->late.v[--s->late.n]);
    if (s->cursor >= s->limit)
        return -ENOENT;
    int rc = index_next_dir(n->index, &s->cursor, STEP_LIDS, &lid);
    if (rc == -EAGAIN)
        return 0;
    if (!rc && lid < s->limit)
        return dir_begin(n, lid);
    s->cursor = s->limit;
    return rc == -ENOENT ? 0 : rc;
}

static int drop_gone(struct node *n, struct id128 nid)
{
    char text[NAME_LEN_MAX + 1];
    struct check_dir at;
    struct index_node dir;
    struct node_fd *ref;
    struct place pl;
    enum checked out;

    int rc = n->records.get_place(n->records.ctx, nid, &pl);
    if (!rc && pl.kind == PLACE_AT)
        rc = index_get_node(n->index, pl.parent, &dir);
    if (rc || pl.kind != PLACE_AT)
        return rc == -ENOENT ? 0 : rc;
    at = (struct check_dir){.rid = pl.parent, .lid = dir.lid};
    rc = nodes_get_fd(n->nodes, dir.lid, NODES_PATH, &ref, &at.fd);
    if (rc) /* the directory is gone as well, and takes its names along */
        return rc == -ENOENT || rc == -ESTALE ? 0 : rc;
    memcpy(text, pl.name, pl.name_len);
    text[pl.name_len] = 0;
    rc = check_name(n, &at, text, true, &out);
    nodes_put_fd(n->nodes, ref);
    if (!rc && at.changed)
        rc = map_u64_set(&n->to_touch, dir.lid, n, NULL);
    if (rc)
        return rc;
    if (out == CHECK_BUSY)
        return -EAGAIN;
    n->scan->taken += out == CHECK_TAKEN;
    n->scan->changes += out == CHECK_TAKEN;
    return 0;
}

static int step_end(struct node *n)
{
    struct scan *s = n->scan;
    int rc = 0;

    s->ending = true;
    if (!s->judged) {
        rc = brake_judge(n, s->gone.v, s->gone.n, s->total);
        s->judged = rc == 0;
        if (rc || n->brake.held)
            return rc;
    }
    for (unsigned i = 0; i < STEP_NAMES && s->gone.n > 0 && !rc; i++) {
        rc = drop_gone(n, s->gone.v[s->gone.n - 1]);
        s->gone.n -= rc == 0;
    }
    for (unsigned i = 0; i < STEP_NAMES && s->gone.n == 0 && s->bare.n > 0 && !rc; i++) {
        rc = local_lost(n, s->bare.v[s->bare.n - 1], false);
        s->bare.n -= rc == 0;
    }
    if (!rc && s->gone.n == 0 && s->bare.n == 0) {
        n->meta.scanned = SCANNED_ONCE;
        s->done = true;
    }
    return rc;
}

/* ---- slices ---- */

int scan_slice(struct node *n)
{
    struct scan *s = n->scan;
    uint64_t began = node_mono(n);
    int rc = 0;

    s->taken = 0;
    s->ending = false;
    while (!rc && !s->done && !n->brake.held && s->taken < SLICE_TAKEN && may_go(n) &&
           !slice_over(n, began)) {
        if (s->dir) {
            rc = step_names(n);
            continue;
        }
        rc = step_directory(n);
        if (rc == -ENOENT)
            rc = step_end(n);
    }
    return rc;
}

void scan_gone(const struct node *n, const struct id128 **nids, size_t *count)
{
    *nids = n->scan ? n->scan->gone.v : NULL;
    *count = n->scan ? n->scan->gone.n : 0;
}

bool scan_rests(const struct node *n)
{
    return !n->scan || n->brake.held || !may_go(n);
}

bool scan_idle(const struct node *n)
{
    return n->scan && n->scan->taken == 0 && !n->scan->done && n->to_seal.n == 0 &&
           n->to_stat.n == 0 && n->to_touch.n == 0 && n->to_refresh.n == 0;
}

static void tell(struct node *n)
{
    struct scan *s = n->scan;

    if (node_mono(n) - s->told_us < TOLD_EVERY_US)
        return;
    s->told_us = node_mono(n);
    char text[120];
    scan_progress(n, text, sizeof text);
    events_note(n->events, "scan", "%s", text);
}

void scan_kept(struct node *n)
{
    struct scan *s = n->scan;

    index_trim(n->index, MAPPED_MAX);
    s->begun.n = 0;
    if (s->dir && lids_add(&s->begun, s->at.lid) < 0)
        log_warn("a directory may not be compared whole: no memory");
    tell(n);
    if (!s->done)
        return;
    events_note(n->events, "scan",
                "%" PRIu64 " names compared with the index in %.1f s, %" PRIu64 " changed", s->seen,
                (double)(node_mono(n) - s->started_us) / 1e6, s->changes);
    scan_free(n);
    malloc_trim(0);
}

void scan_dropped(struct node *n)
{
    struct scan *s = n->scan;

    s->done = false;
    dir_close(s);
    for (size_t i = 0; i < s->begun.n; i++)
        if (lids_add(&s->late, s->begun.v[i]) < 0)
            log_warn("a directory is not compared: no memory");
    s->begun.n = 0;
}

/* ---- life ---- */

int scan_new(struct node *n)
{
    if (n->args->restarted && !(n->meta.scanned & SCAN_DUE) && !n->compare)
        return 0;
    struct scan *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    map_u64_init(&s->verified);
    map_u64_init(&s->skip);
    s->first = !(n->meta.scanned & SCANNED_ONCE);
    s->recovering = n->unclean && (!n->args->restarted || (n->meta.scanned & SCAN_RECOVERING));
    s->started_us = s->told_us = node_mono(n);
    /* Directories with a lid of this worker's own block (load_meta has set it aside) were found or
     * made by it; after a rebuild that is all of them. */
    s->limit = n->adopted ? n->meta.next_lid : n->meta.next_lid - LIDS_BLOCK;
    n->scan = s;
    return 0;
}

int scan_due(struct node *n)
{
    struct scan *s = n->scan;

    if (!s)
        return 0;
    n->meta.scanned = (uint8_t)((n->meta.scanned & SCANNED_ONCE) | SCAN_DUE |
                                (s->recovering ? SCAN_RECOVERING : 0));
    int rc = index_count_places(n->index, &s->total);
    return rc;
}

void scan_free(struct node *n)
{
    struct scan *s = n->scan;

    if (!s)
        return;
    dir_close(s);
    free(s->late.v);
    free(s->begun.v);
    free(s->gone.v);
    free(s->bare.v);
    map_u64_fini(&s->verified);
    map_u64_fini(&s->skip);
    free(s);
    n->scan = NULL;
}

/* ---- asked by others ---- */

bool scan_first(const struct node *n)
{
    return n->scan && n->scan->first;
}

bool scan_recovering(const struct node *n)
{
    return n->scan && n->scan->recovering;
}

int scan_late(struct node *n, uint64_t lid)
{
    return n->scan ? lids_add(&n->scan->late, lid) : 0;
}

bool scan_bare(struct node *n, struct id128 rid)
{
    struct scan *s = n->scan;

    return s && !s->ending && ids_add(&s->bare, rid) == 0;
}

bool scan_unverified(const struct node *n, uint64_t lid)
{
    return n->scan && !n->scan->first && !map_u64_get(&n->scan->verified, lid);
}

void scan_verified(struct node *n, uint64_t lid)
{
    if (n->scan && !n->scan->first && n->scan->verified.n < VERIFIED_MAX &&
        map_u64_set(&n->scan->verified, lid, n, NULL) < 0)
        log_debug("inode %" PRIu64 " is compared once more: no memory", lid);
}

int scan_touched(struct node *n, uint64_t lid)
{
    struct index_node row;

    if (!scan_unverified(n, lid) || index_get_node_by_lid(n->index, lid, &row) ||
        row.type != NODE_REG || (row.flags & (NODE_HELD | NODE_NODATA)))
        return 0;
    int rc = dirty_all(n->dirty, lid);
    if (!rc)
        rc = seal_file(n, lid, 0);
    if (rc == -EBUSY)
        rc = map_u64_set(&n->to_seal, lid, n, NULL);
    return rc == -ESTALE || rc == -ENOENT ? 0 : rc;
}

int scan_batch(struct node *n, const struct batch *b)
{
    int rc = 0;

    for (size_t i = 0; n->scan && i < b->n && !rc; i++)
        rc = check_record(n, &b->items[i].rec);
    return rc;
}

void scan_progress(const struct node *n, char *out, size_t size)
{
    const struct scan *s = n->scan;

    if (!s)
        snprintf(out, size, "all compared");
    else if (s->first)
        snprintf(out, size, "first scan: %" PRIu64 " names taken up", s->seen);
    else if (s->seen > s->total)
        snprintf(out, size, "%" PRIu64 " names compared, %" PRIu64 " changed", s->seen, s->changes);
    else
        snprintf(out, size, "%" PRIu64 " of %" PRIu64 " names compared, %" PRIu64 " changed",
                 s->seen, s->total, s->changes);
}

void scan_counts(const struct node *n, uint64_t *seen, uint64_t *total, uint64_t *changes)
{
    const struct scan *s = n->scan;

    *seen = s->seen;
    *total = s->first ? 0 : s->total;
    *changes = s->changes;
}
