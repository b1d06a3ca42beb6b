/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is kept, looked through: at the start all of it, later what nothing refers to. */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- at the start ---- */

static int count_class(struct node *n, uint8_t class, struct index_kept *k)
{
    uint64_t key = 0;

    n->keep.total[class] = (struct keep_total){0, 0};
    for (;;) {
        int rc = index_next_kept(n->index, class, key, k);
        if (rc)
            return rc == -ENOENT ? 0 : rc;
        n->keep.total[class].count++;
        n->keep.total[class].bytes += k->size;
        key = k->key + 1;
        if (class != KEPT_HIDDEN && key > n->next_key)
            n->next_key = key; /* the clock was set back: no key is given twice */
    }
}

struct rowless {
    struct node *n;
    uint8_t class;
    struct index_kept *k;
    uint64_t found;
};

static int visit_file(void *arg, const char *name)
{
    struct rowless *x = arg;
    struct node *n = x->n;
    struct stat st;
    char again[40], *end;

    uint64_t key = strtoull(name, &end, 16);
    snprintf(again, sizeof again, "%016" PRIx64, key);
    if (strcmp(name, again) != 0 || key >= KEPT_HIDDEN_BIT)
        return 0; /* not ours */
    int rc = index_next_kept(n->index, x->class, key, x->k);
    if (rc == 0 && x->k->key == key)
        return 0;
    if (rc && rc != -ENOENT)
        return rc;
    if (key >= n->next_key)
        n->next_key = key + 1;
    if (fstatat(kept_dir(n->staging, x->class), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    *x->k = (struct index_kept){.key = key, .class = x->class, .why = KEPT_LEFT};
    kept_row_of_stat(n, x->k, &st);
    rc = index_put_kept(n->index, x->k);
    n->keep.total[x->class].count++;
    n->keep.total[x->class].bytes += x->k->size;
    x->found++;
    return rc;
}

int keep_open(struct node *n)
{
    struct index_kept *k = malloc(sizeof *k);
    if (!k)
        return -ENOMEM;
    struct rowless lost = {n, KEPT_CONFLICT, k, 0}, old = {n, KEPT_HISTORY, k, 0};
    int rc = txn_begin(n);
    if (rc) {
        free(k);
        return rc;
    }
    for (uint8_t class = 1; class < KEPT_CLASSES && !rc; class ++)
        rc = count_class(n, class, k);
    if (!rc)
        rc = staging_each(n->staging->conflicts, visit_file, &lost);
    if (!rc)
        rc = staging_each(n->staging->history, visit_file, &old);
    free(k);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    if (lost.found + old.found)
        events_note(n->events, "conflict",
                    "%" PRIu64 " kept files had no record (a sudden end, or an index made anew): "
                    "they are listed without their paths",
                    lost.found + old.found);
    return txn_commit(n);
}

/* ---- hidden/ ---- */

struct hidden_walk {
    struct node *n;
    unsigned dead, left;
    int rc;
};

static int visit_any(void *arg, const struct name_rec *name)
{
    int *alive = arg;
    *alive = name->alive ? 1 : *alive < 0 ? 0 : *alive;
    return name->alive;
}

/* Data that came before its name, whose names have all died since. */
static int collect_shelved(struct hidden_walk *w, const char *name, const struct index_node *row)
{
    struct node *n = w->n;
    int alive = -1; /* no name: one will come, unless all of it has been collected */

    int rc = n->records.names_of(n->records.ctx, row->rid, visit_any, &alive);
    if (rc < 0 || alive > 0)
        return rc < 0 ? rc : 0;
    struct content_rec c;
    if (alive < 0 && n->records.get_content(n->records.ctx, row->rid, &c) == 0)
        return 0;
    rc = index_journal_drop(n->index, row->rid);
    if (!rc)
        rc = index_set_todo(n->index, row->rid, TODO_DIRTY | TODO_HELD | TODO_DATA, false);
    if (!rc)
        rc = index_del_node(n->index, row->rid, false);
    if (rc)
        return rc;
    nodes_remove(n->nodes, row->lid);
    if (unlinkat(n->staging->hidden, name, 0) == 0)
        w->dead++;
    return 0;
}

static int visit_hidden(void *arg, const char *name)
{
    struct hidden_walk *w = arg;
    struct node *n = w->n;
    struct index_node row;
    struct id128 id;
    struct place pl;

    if (!staging_id_parse(name, &id))
        return 0;
    int rc = n->records.get_place(n->records.ctx, id, &pl);
    if (rc || pl.kind == PLACE_HIDDEN)
        return rc == -ENOENT ? 0 : rc;
    rc = index_get_node(n->index, id, &row);
    if (rc == 0)
        return collect_shelved(w, name, &row);
    if (rc != -ENOENT)
        return rc;
    /* Neither a hidden name nor an inode of ours: the records it belonged to are gone. */
    rc = keep_now(n, n->staging->hidden, name, "", KEPT_LEFT, false);
    w->left += rc == 0;
    return rc == -ENOENT ? 0 : rc;
}

void keep_sweep(struct node *n)
{
    struct hidden_walk w = {.n = n};

    if (txn_begin(n) < 0)
        return;
    int rc = staging_each(n->staging->hidden, visit_hidden, &w);
    if (rc)
        txn_abort(n);
    else
        rc = txn_commit(n);
    if (rc)
        log_warn_code(rc, "looking through the hidden files");
    else if (w.dead || w.left)
        log_info("%u hidden files had died and are gone, %u belonged to nothing and are conflicts",
                 w.dead, w.left);
}
