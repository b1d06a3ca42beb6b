/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What lost a conflict, was replaced or deleted, kept outside the tree: rows in the index, files in
 * the staging area. The row is committed before its file comes (by an effect), so that after a
 * crash the one finds the other; a file without a row gets one at the next start. Nothing here
 * keeps a peer's change from being installed: what cannot be kept is counted and told.
 */
#include "node/node.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVICT_MAX 256u /* in one transaction */
#define DROP_TURN_US 20000u
#define SWEEP_EVERY_US (600ull * 1000 * 1000)

struct kept_later {
    struct kept_later *next;
    struct index_kept row; /* why 0: it is to be removed */
};

/* Of the transaction: told when it is committed. */
struct kept_note {
    struct kept_note *next;
    uint64_t key;
    uint8_t why;
    char path[512];
};

static const char *const whys[KEPT_WHYS] = {
    [KEPT_EDITED] = "changed on two nodes at once",
    [KEPT_NAMED] = "something else got the name at the same time",
    [KEPT_FOUND] = "an unknown file stood where a peer's file belongs",
    [KEPT_LATE] = "written while a peer's version came in",
    [KEPT_REJOINED] = "a change that no other node had when this one rejoined",
    [KEPT_LEFT] = "found in the staging area without a record of it",
    [KEPT_REPLACED] = "replaced",
    [KEPT_DELETED] = "deleted",
    [KEPT_DAMAGED] = "differed from its digest",
};

const char *kept_why_text(uint8_t why)
{
    return why < KEPT_WHYS && whys[why] ? whys[why] : "unknown";
}

void kept_file_name(const struct index_kept *k, char out[40])
{
    if (k->class == KEPT_HIDDEN)
        staging_id_name(k->nid, out);
    else
        snprintf(out, 40, "%016" PRIx64, k->key);
}

int kept_dir(const struct staging *s, uint8_t class)
{
    return class == KEPT_HIDDEN ? s->hidden : class == KEPT_HISTORY ? s->history : s->conflicts;
}

bool keep_history(const struct node *n)
{
    return n->config->history_age_s > 0;
}

/* Of the clock as far as that is possible: ids tell the time, the oldest comes first. */
static uint64_t new_key(struct node *n)
{
    uint64_t now = node_wall(n);

    if (n->next_key < now && now < KEPT_HIDDEN_BIT)
        n->next_key = now;
    return n->next_key++;
}

/* ---- rows ---- */

static void count(struct node *n, const struct index_kept *k, bool gone)
{
    struct keep_total *t = &n->keep.total[k->class];

    t->count += gone ? UINT64_MAX : 1;
    t->bytes += gone ? -k->size : k->size;
}

static int get_row(struct node *n, uint8_t class, uint64_t key, struct index_kept *out)
{
    int rc = index_next_kept(n->index, class, key, out);
    return rc == 0 && out->key != key ? -ENOENT : rc;
}

static int put_row(struct node *n, const struct index_kept *k)
{
    struct index_kept *old = malloc(sizeof *old);
    if (!old)
        return -ENOMEM;
    int rc = get_row(n, k->class, k->key, old);
    if (rc == 0)
        count(n, old, true);
    free(old);
    if (rc && rc != -ENOENT)
        return rc;
    rc = index_put_kept(n->index, k);
    if (!rc)
        count(n, k, false);
    return rc;
}

static int drop_row(struct node *n, const struct index_kept *k)
{
    int rc = index_del_kept(n->index, k->class, k->key);
    if (!rc)
        count(n, k, true);
    return rc;
}

static void note(struct node *n, const struct index_kept *k)
{
    struct kept_note *x = malloc(sizeof *x);
    if (!x)
        return;
    *x = (struct kept_note){.next = n->keep.notes, .key = k->key, .why = k->why};
    snprintf(x->path, sizeof x->path, "%.*s", (int)k->path_len, (const char *)k->path);
    n->keep.notes = x;
}

static void tell(struct node *n, const char *path, uint8_t why, uint64_t key)
{
    events_note(n->events, why == KEPT_FOUND ? "found" : "conflict",
                "%s: %s; what lost is kept as conflict %016" PRIx64,
                path[0] ? path : "(unknown path)", kept_why_text(why), key);
}

void keep_committed(struct node *n)
{
    while (n->keep.notes) {
        struct kept_note *x = n->keep.notes;
        n->keep.notes = x->next;
        tell(n, x->path, x->why, x->key);
        free(x);
    }
}

void keep_aborted(struct node *n, const struct keep *before)
{
    while (n->keep.notes) {
        struct kept_note *x = n->keep.notes;
        n->keep.notes = x->next;
        free(x);
    }
    memcpy(n->keep.total, before->total, sizeof n->keep.total);
    n->keep.nhidden = 0;
}

static void set_path(struct node *n, struct index_kept *k, const struct keeping *what)
{
    char *path = (char *)k->path;

    if (what->name_len && !id_eq(what->parent, RID_ROOT)) {
        node_path(n, what->parent, path, sizeof k->path - NAME_LEN_MAX - 1);
        strcat(path, "/");
    } else if (!what->name_len) {
        node_path(n, what->rid, path, sizeof k->path);
    }
    size_t len = strlen(path);
    if (what->name_len)
        memcpy(path + len, what->name, what->name_len);
    k->path_len = (uint16_t)(len + what->name_len);
    if (path[0] == '(') /* no path: see node_path */
        k->path_len = 0;
}

static int make_row(struct node *n, const struct keeping *what, struct index_kept *k)
{
    struct attr_rec a;

    k->class = (uint8_t)what->class;
    k->why = (uint8_t)what->why;
    k->when_us = node_wall(n);
    k->rid = what->rid;
    k->type = NODE_REG;
    if (what->content) {
        k->type = what->content->type;
        k->version = what->content->h;
        k->size = what->content->size;
        k->mtime_ns = what->content->mtime_ns;
    }
    if (what->winner)
        k->winner = *what->winner;
    int rc = n->records.get_attr(n->records.ctx, what->rid, &a);
    if (rc == 0) {
        k->mode = a.mode;
        k->uid = a.uid;
        k->gid = a.gid;
        if (what->content)
            k->mtime_ns = record_mtime(what->content, &a);
    }
    set_path(n, k, what);
    return rc == -ENOENT ? 0 : rc;
}

int keep_row(struct node *n, const struct keeping *what, struct loc *to)
{
    struct index_kept *k = calloc(1, sizeof *k);
    if (!k)
        return -ENOMEM;
    int rc = make_row(n, what, k);
    k->key = new_key(n);
    if (!rc)
        rc = put_row(n, k);
    if (!rc && k->class == KEPT_CONFLICT)
        note(n, k);
    char name[40];
    kept_file_name(k, name);
    *to = (struct loc){.kind = k->class == KEPT_HISTORY ? LOC_HISTORY : LOC_CONFLICT,
                       .len = (uint8_t)strlen(name)};
    memcpy(to->name, name, to->len);
    free(k);
    return rc;
}

int keep_file(struct node *n, const struct keeping *what, const struct loc *from,
              const struct handle *h, bool link)
{
    struct effect e = {.op = link ? EFFECT_LINK : EFFECT_MOVE, .rid = what->rid, .handle = *h};

    e.from = *from;
    int rc = keep_row(n, what, &e.to);
    return rc ? rc : effects_add(&n->effects, &e);
}

int keep_gone(struct node *n, const struct keeping *what, const struct loc *from,
              const struct handle *h)
{
    struct content_rec c;
    struct keeping k = *what;
    struct loc to;

    if (!keep_history(n))
        return 0;
    k.class = KEPT_HISTORY;
    if (!k.content) {
        int rc = n->records.get_content(n->records.ctx, k.rid, &c);
        if (rc)
            return rc == -ENOENT ? 0 : rc;
        k.content = &c;
    }
    if (k.content->type == NODE_DIR)
        return keep_row(n, &k, &to); /* what it was like; it was empty */
    return keep_file(n, &k, from, h, true);
}

/* ---- what happens outside of a transaction ---- */

void kept_row_of_stat(struct node *n, struct index_kept *k, const struct stat *st)
{
    k->when_us = node_wall(n);
    k->type = S_ISDIR(st->st_mode)   ? NODE_DIR
              : S_ISLNK(st->st_mode) ? NODE_LNK
              : S_ISREG(st->st_mode) ? NODE_REG
                                     : NODE_FIFO;
    k->size = (uint64_t)st->st_size;
    k->mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
    k->mode = st->st_mode & 07777;
    k->uid = st->st_uid;
    k->gid = st->st_gid;
}

static void later(struct node *n, const struct index_kept *row)
{
    struct kept_later *l = malloc(sizeof *l);
    if (!l) {
        log_warn("no memory: kept file %016" PRIx64 " is listed after the next start", row->key);
        return;
    }
    l->row = *row;
    l->next = n->keep.later;
    n->keep.later = l;
}

int keep_now(struct node *n, int dirfd, const char *name, const char *path, enum kept_why why,
             bool link)
{
    struct index_kept *k = calloc(1, sizeof *k);
    struct stat st;
    char to[40];

    if (!k)
        return -ENOMEM;
    int rc = fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
    if (!rc) {
        k->class = KEPT_CONFLICT;
        k->why = (uint8_t)why;
        k->key = new_key(n);
        kept_row_of_stat(n, k, &st);
        k->path_len = (uint16_t)strnlen(path, sizeof k->path);
        memcpy(k->path, path, k->path_len);
        kept_file_name(k, to);
    }
    if (!rc && (link ? linkat(dirfd, name, n->staging->conflicts, to, 0)
                     : renameat(dirfd, name, n->staging->conflicts, to)) < 0)
        rc = -errno;
    if (!rc) {
        later(n, k);
        tell(n, path, k->why, k->key);
    }
    free(k);
    return rc;
}

void keep_lost(struct node *n, const struct loc *to, int code)
{
    struct index_kept k = {.class = to->kind == LOC_HISTORY ? KEPT_HISTORY : KEPT_CONFLICT};
    char name[256];

    memcpy(name, to->name, to->len);
    name[to->len] = 0;
    k.key = strtoull(name, NULL, 16);
    later(n, &k);
    n->keep.lost++;
    events_note(n->events, "lost", "what was to be kept as %s %s could not be: %s",
                k.class == KEPT_HISTORY ? "history" : "conflict", name, err_text(code));
}

/* In a transaction. */
static int flush_one(struct node *n, const struct index_kept *row)
{
    struct index_kept *k = malloc(sizeof *k);
    if (!k)
        return -ENOMEM;
    int rc = 0;
    if (row->why) {
        rc = put_row(n, row);
    } else {
        rc = get_row(n, row->class, row->key, k);
        rc = rc == -ENOENT ? 0 : rc ? rc : drop_row(n, k);
    }
    free(k);
    return rc;
}

static void flush(struct node *n)
{
    if (!n->keep.later || txn_begin(n) < 0)
        return;
    int rc = 0;
    for (struct kept_later *l = n->keep.later; l && !rc; l = l->next)
        rc = flush_one(n, &l->row);
    if (rc)
        txn_abort(n);
    if (rc || txn_commit(n) < 0)
        return; /* next time */
    while (n->keep.later) {
        struct kept_later *l = n->keep.later;
        n->keep.later = l->next;
        free(l);
    }
}

/* ---- names that are hidden ---- */

void keep_look(struct node *n, struct id128 nid)
{
    if (n->meta.rejoin_pos) /* what is here and what comes share their names for a while */
        return;
    if (n->keep.nhidden == n->keep.hidden_size) {
        size_t size = n->keep.hidden_size ? n->keep.hidden_size * 2 : 64;
        struct id128 *v = realloc(n->keep.hidden, size * sizeof *v);
        if (!v) {
            log_warn("no memory: a hidden name is not listed");
            return;
        }
        n->keep.hidden = v;
        n->keep.hidden_size = size;
    }
    n->keep.hidden[n->keep.nhidden++] = nid;
}

/* Is it hidden by something else than another name of its own inode? */
static int is_rival(struct node *n, struct id128 nid, const struct place *pl, struct name_rec *name)
{
    struct id128 winner;
    struct name_rec other;

    if (pl->kind != PLACE_HIDDEN)
        return -ENOENT;
    int rc = n->records.get_name(n->records.ctx, nid, name);
    if (!rc)
        rc = n->records.who_is_at(n->records.ctx, pl->parent, pl->name, pl->name_len, &winner);
    if (rc == -ENOENT)
        return 0; /* its winner's content has not arrived yet */
    if (!rc)
        rc = n->records.get_name(n->records.ctx, winner, &other);
    return rc == 0 && id_eq(other.inode, name->inode) ? -ENOENT : rc;
}

static int look_at(struct node *n, struct id128 nid, struct index_kept *k)
{
    struct content_rec c;
    struct name_rec name;
    struct place pl;

    int rc = n->records.get_place(n->records.ctx, nid, &pl);
    if (!rc)
        rc = is_rival(n, nid, &pl, &name);
    if (!rc)
        rc = n->records.get_content(n->records.ctx, name.inode, &c);
    if (rc == -ENOENT || (rc == 0 && c.type == NODE_DIR)) {
        rc = get_row(n, KEPT_HIDDEN, index_kept_hidden_key(nid), k);
        return rc == -ENOENT ? 0 : rc ? rc : drop_row(n, k);
    }
    if (rc)
        return rc;
    struct keeping what = {.class = KEPT_HIDDEN,
                           .why = KEPT_NAMED,
                           .rid = name.inode,
                           .content = &c,
                           .parent = pl.parent,
                           .name = pl.name,
                           .name_len = pl.name_len};
    uint64_t key = index_kept_hidden_key(nid);
    bool known = get_row(n, KEPT_HIDDEN, key, k) == 0;
    uint64_t when = known ? k->when_us : 0;
    memset(k, 0, sizeof *k);
    rc = make_row(n, &what, k);
    k->key = key;
    k->nid = nid;
    if (known)
        k->when_us = when;
    else
        note(n, k);
    return rc ? rc : put_row(n, k);
}

int keep_hidden(struct node *n)
{
    if (n->keep.nhidden == 0)
        return 0;
    struct index_kept *k = calloc(1, sizeof *k);
    if (!k)
        return -ENOMEM;
    int rc = 0;
    for (size_t i = 0; i < n->keep.nhidden && !rc; i++)
        rc = look_at(n, n->keep.hidden[i], k);
    n->keep.nhidden = 0;
    free(k);
    return rc;
}

/* ---- getting rid ---- */

/* Files whose rows are gone. A directory is emptied at the next start. */
static void unlink_kept(struct node *n, const struct index_kept *v, size_t count)
{
    char name[40];

    for (size_t i = 0; i < count; i++) {
        kept_file_name(&v[i], name);
        int dir = kept_dir(n->staging, v[i].class);
        if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR || renameat(dir, name, n->staging->old, name) < 0)
            log_warn_code(-errno, "removing kept file %s", name);
    }
}

struct limits {
    uint8_t class;
    uint64_t age_us, bytes; /* 0: none */
};

/* The newest is kept whatever its size, until it is too old. */
static bool too_much(const struct node *n, const struct limits *l, const struct index_kept *k)
{
    const struct keep_total *t = &n->keep.total[l->class];

    if (l->age_us && k->when_us + l->age_us < node_wall(n))
        return true;
    return l->bytes && t->bytes > l->bytes && t->count > 1;
}

/* In a transaction: rows of the oldest; *n says how many. */
static int evict_rows(struct node *n, const struct limits *l, struct index_kept *v, size_t *count)
{
    for (*count = 0; *count < EVICT_MAX; ++*count) {
        int rc = index_next_kept(n->index, l->class, 0, &v[*count]);
        if (rc)
            return rc == -ENOENT ? 0 : rc;
        if (!too_much(n, l, &v[*count]))
            return 0;
        rc = drop_row(n, &v[*count]);
        if (rc)
            return rc;
    }
    return 0;
}

static bool may_evict(struct node *n, const struct limits *l)
{
    const struct keep_total *t = &n->keep.total[l->class];
    struct index_kept *k = NULL;
    bool yes = false;

    if (t->count == 0)
        return false;
    if (l->bytes && t->bytes > l->bytes && t->count > 1)
        return true;
    if (l->age_us && (k = malloc(sizeof *k)) && index_reader_begin(n->reader) == 0) {
        yes = index_reader_next_kept(n->reader, l->class, 0, k) == 0 && too_much(n, l, k);
        index_reader_end(n->reader);
    }
    free(k);
    return yes;
}

static void evict(struct node *n, const struct limits *l)
{
    size_t count = 0;

    if (!may_evict(n, l))
        return;
    struct index_kept *v = malloc(EVICT_MAX * sizeof *v);
    if (!v || txn_begin(n) < 0) {
        free(v);
        return;
    }
    if (evict_rows(n, l, v, &count) < 0) {
        txn_abort(n);
        count = 0;
    } else if (txn_commit(n) < 0) {
        count = 0;
    }
    unlink_kept(n, v, count);
    if (count) {
        n->keep.evicted += count;
        events_note(n->events, "evicted", "%zu of the oldest kept %s dropped, by age or quota",
                    count, l->class == KEPT_HISTORY ? "history" : "conflicts");
    }
    free(v);
}

/* In a transaction: all conflicts up to a key, the oldest first. */
static int drop_rows(struct node *n, uint64_t upto, struct index_kept *v, size_t *count)
{
    for (*count = 0; *count < EVICT_MAX; ++*count) {
        int rc = index_next_kept(n->index, KEPT_CONFLICT, 0, &v[*count]);
        if (rc == -ENOENT || (rc == 0 && v[*count].key >= upto))
            return 0;
        if (!rc)
            rc = drop_row(n, &v[*count]);
        if (rc)
            return rc;
    }
    return 0;
}

/* Some of what is to be discarded: the core thread has other things to do. */
static void drop_some(struct node *n)
{
    struct index_kept *v = malloc(EVICT_MAX * sizeof *v);
    uint64_t until = node_mono(n) + DROP_TURN_US;
    size_t count = EVICT_MAX;

    while (v && count == EVICT_MAX && node_mono(n) < until) {
        if (txn_begin(n) < 0)
            break;
        if (drop_rows(n, n->keep.drop_upto, v, &count) < 0) {
            txn_abort(n);
            break;
        }
        if (txn_commit(n) < 0)
            break;
        unlink_kept(n, v, count);
        n->keep.dropped += count;
    }
    free(v);
    if (count == EVICT_MAX)
        return; /* goes on at the next turn */
    n->keep.drop_upto = 0;
    events_note(n->events, "dropped", "%zu conflicts were discarded on request", n->keep.dropped);
}

void keep_drop(struct node *n, const char *id)
{
    struct index_kept *k = NULL;

    if (strcmp(id, "all") == 0) {
        n->keep.drop_upto = new_key(n);
        n->keep.dropped = 0;
        return;
    }
    uint64_t key = strtoull(id, NULL, 16);
    k = malloc(sizeof *k);
    int rc = k ? txn_begin(n) : -ENOMEM;
    if (rc) {
        free(k);
        return;
    }
    rc = get_row(n, KEPT_CONFLICT, key, k);
    if (rc == -ENOENT)
        rc = get_row(n, KEPT_HISTORY, key, k);
    if (!rc)
        rc = drop_row(n, k);
    if (rc)
        txn_abort(n);
    else
        rc = txn_commit(n);
    if (!rc) {
        unlink_kept(n, k, 1);
        events_note(n->events, "dropped", "%016" PRIx64 " was discarded on request", key);
    }
    free(k);
}

void keep_timer(struct node *n)
{
    const struct config *c = n->config;
    const struct limits limits[] = {
        {KEPT_CONFLICT, c->conflicts_age_s * 1000000ull, c->conflicts_quota},
        {KEPT_HISTORY, c->history_age_s * 1000000ull, c->history_quota},
    };

    flush(n);
    if (n->keep.drop_upto)
        drop_some(n);
    uint64_t now = node_mono(n);
    if (now - n->keep.evict_us >= 1000000) {
        n->keep.evict_us = now;
        evict(n, &limits[0]);
        evict(n, &limits[1]);
    }
    if (now - n->keep.sweep_us >= SWEEP_EVERY_US) {
        n->keep.sweep_us = now;
        keep_sweep(n);
    }
}
