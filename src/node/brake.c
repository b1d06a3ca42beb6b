/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The brake: when a start finds that a large part of the folder is gone (an empty directory was
 * copied over it, another disk is mounted there), the deletions are not made known: they are held
 * until somebody says that they are meant, or has the files brought back from the peers.
 */
#include "node/node.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BRAKE_LEAST 1000u /* so many names may always go ... */
#define EMPTY_LEAST 10u   /* ... unless the folder is empty, which held as many as this */

struct ids {
    struct id128 *v;
    size_t n, size;
};

static int visit_id(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    struct ids *l = arg;

    (void)name;
    (void)len;
    if (l->n == l->size) {
        size_t size = l->size ? l->size * 2 : 64;
        struct id128 *v = realloc(l->v, size * sizeof *v);
        if (!v)
            return -ENOMEM;
        l->v = v;
        l->size = size;
    }
    l->v[l->n++] = nid;
    return 0;
}

/* Every name of the index that is in the list or below what is in it, once for each: f gets the
 * names below a directory first. */
static int each_below(struct node *n, const struct id128 *nids, size_t count,
                      int (*f)(struct node *n, struct id128 nid, const struct name_rec *name,
                               const struct place *at))
{
    struct name_rec name;
    struct index_node row;
    struct place at;
    int rc = 0;

    for (size_t i = 0; i < count && !rc; i++) {
        rc = n->records.get_place(n->records.ctx, nids[i], &at);
        if (rc || at.kind != PLACE_AT) {
            rc = rc == -ENOENT ? 0 : rc;
            continue;
        }
        rc = n->records.get_name(n->records.ctx, nids[i], &name);
        if (!rc && index_get_node(n->index, name.inode, &row) == 0 && row.type == NODE_DIR) {
            struct ids below = {NULL, 0, 0};
            rc = index_places_in(n->index, name.inode, visit_id, &below);
            if (!rc)
                rc = each_below(n, below.v, below.n, f);
            free(below.v);
        }
        if (!rc)
            rc = f(n, nids[i], &name, &at);
    }
    return rc;
}

/* Is it still not there, at the place that it has now? */
static bool is_missing(struct node *n, const struct place *at)
{
    char text[NAME_LEN_MAX + 1];
    struct index_node dir;
    struct node_fd *ref;
    struct stat st;
    int fd;

    if (index_get_node(n->index, at->parent, &dir) < 0 ||
        nodes_get_fd(n->nodes, dir.lid, NODES_PATH, &ref, &fd) < 0)
        return true;
    memcpy(text, at->name, at->name_len);
    text[at->name_len] = 0;
    bool missing = fstatat(fd, text, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
    nodes_put_fd(n->nodes, ref);
    return missing;
}

static int count_lost(struct node *n, struct id128 nid, const struct name_rec *name,
                      const struct place *at)
{
    (void)nid;
    (void)name;
    n->brake.lost += is_missing(n, at);
    return 0;
}

int brake_judge(struct node *n, const struct id128 *gone, size_t count, uint64_t total)
{
    if (n->config->brake == 0 || n->brake.allowed || n->npeers == 0)
        return 0;
    n->brake.lost = 0;
    n->brake.total = total;
    int rc = each_below(n, gone, count, count_lost);
    if (rc)
        return rc;
    bool empty = n->brake.lost == total && total >= EMPTY_LEAST;
    if (!empty && (n->brake.lost < BRAKE_LEAST || n->brake.lost * 100 < total * n->config->brake))
        return 0;
    n->brake.held = true;
    events_raise(n->events, "brake",
                 "%llu of %llu names are gone from the folder since it was last served: nothing is "
                 "deleted on the other nodes until `farmctl confirm`; `farmctl confirm --reject` "
                 "brings the files back from them",
                 (unsigned long long)n->brake.lost, (unsigned long long)total);
    return 0;
}

void brake_confirm(struct node *n)
{
    if (!n->brake.held)
        return;
    n->brake.held = false;
    n->brake.allowed = true;
    events_clear(n->events, "brake", "confirmed: %llu names are deleted",
                 (unsigned long long)n->brake.lost);
}

/* The name has no place any more and the inode no file, as if they had never come: the view places
 * it anew, and what it lacks is asked for. */
static int unplace(struct node *n, struct id128 nid, const struct name_rec *name,
                   const struct place *at)
{
    const struct place nowhere = {.kind = PLACE_NONE};
    struct index_node row;

    if (!is_missing(n, at))
        return 0;
    int rc = n->records.set_place(n->records.ctx, nid, &nowhere);
    node_seed(n, nid);
    if (rc || index_get_node(n->index, name->inode, &row) < 0 ||
        (row.type != NODE_DIR && check_linked(n, &row, nid)))
        return rc;
    rc = index_del_node(n->index, name->inode, false);
    nodes_remove(n->nodes, row.lid);
    return rc == -ENOENT ? 0 : rc;
}

static int reject_before(void *arg, struct plan *p)
{
    const struct id128 *gone;
    size_t count;

    (void)arg;
    scan_gone(p->node, &gone, &count);
    return each_below(p->node, gone, count, unplace);
}

static int reject_after(void *arg)
{
    (void)arg;
    return 0;
}

void brake_reject(struct node *n)
{
    struct work w = {NULL, reject_before, reject_after};

    if (!n->brake.held)
        return;
    int rc = apply_work(n, &w);
    if (rc) {
        events_note(n->events, "brake", "the files cannot be brought back: %s", err_text(rc));
        return;
    }
    n->brake.held = false;
    events_clear(n->events, "brake", "rejected: %llu names are brought back from the peers",
                 (unsigned long long)n->brake.lost);
    apply_ask(n, NULL);
}
