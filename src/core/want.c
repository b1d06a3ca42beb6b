/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/want.h"

#include "base/cleanup.h"

#include <errno.h>

void want_init(struct want *w, const struct records *r)
{
    *w = (struct want){.r = r};
    map_bytes_init(&w->dirs);
}

void want_fini(struct want *w)
{
    for (struct want_dir *d = w->all, *next; d; d = next) {
        next = d->next;
        free(d);
    }
    map_bytes_fini(&w->dirs);
    free(w->cuts);
}

void *want_room(void *array, size_t n, size_t *cap, size_t each)
{
    if (n < *cap)
        return array;
    size_t more = *cap ? *cap * 2 : 16;
    void *p = realloc(array, more * each);

    if (p)
        *cap = more;
    return p;
}

int want_add_cut(struct want *w, struct id128 nid)
{
    struct id128 *p = want_room(w->cuts, w->ncuts, &w->capcuts, sizeof(*p));

    if (!p)
        return -ENOMEM;
    w->cuts = p;
    w->cuts[w->ncuts++] = nid;
    return 0;
}

static int pick_name(void *arg, const struct name_rec *n)
{
    struct want_dir *d = arg;

    if (d->named && (d->alive != n->alive ? d->alive : head_wins(&d->h, &n->h)))
        return 0;
    d->named = true;
    d->alive = n->alive;
    d->h = n->h;
    d->nid = n->nid;
    d->parent = n->parent;
    return 0;
}

int want_dir_of(struct want *w, struct id128 rid, struct want_dir **out)
{
    struct want_dir *d = map_bytes_get(&w->dirs, &rid, sizeof(rid));

    if (!d) {
        d = calloc(1, sizeof(*d));
        if (!d)
            return -ENOMEM;
        d->rid = rid;
        int rc = id_eq(rid, RID_ROOT) ? 0 : w->r->names_of(w->r->ctx, rid, pick_name, d);

        if (rc == 0)
            rc = map_bytes_set(&w->dirs, &rid, sizeof(rid), d, NULL);
        if (rc < 0) {
            free(d);
            return rc;
        }
        d->next = w->all;
        w->all = d;
    }
    *out = d;
    return 0;
}

/* Rule 1a: is a dead name of a file the one that a concurrent edit brings back? */
struct revival {
    const struct content_rec *content;
    const struct name_rec *name;
    bool no; /* another name lives, or a later tombstone is brought back instead */
};

static int look_at_sibling(void *arg, const struct name_rec *n)
{
    struct revival *v = arg;

    if (id_eq(n->nid, v->name->nid))
        return 0;
    if (n->alive || (!vvec_includes(&n->seen, &v->content->vv) && head_wins(&n->h, &v->name->h)))
        v->no = true;
    return v->no;
}

static int file_revives(struct want *w, const struct name_rec *n, const struct content_rec *c,
                        bool *yes)
{
    struct revival v = {.content = c, .name = n};

    if (vvec_includes(&n->seen, &c->vv)) {
        *yes = false;
        return 0;
    }
    int rc = w->r->names_of(w->r->ctx, n->inode, look_at_sibling, &v);

    if (rc < 0)
        return rc;
    *yes = !v.no;
    return 0;
}

/* Rule 1b: a search, wide rather than deep, from a dead directory down through dead directories for
 * a name that is wanted by itself. A ring of dead directories alone is thus not wanted. */
struct descent {
    struct want *w;
    struct want_dir **queue;
    size_t n, cap;
};

static int descend_to(struct descent *s, struct want_dir *d)
{
    if (d->search == s->w->search)
        return 0;
    struct want_dir **q = want_room(s->queue, s->n, &s->cap, sizeof(struct want_dir *));

    if (!q)
        return -ENOMEM;
    s->queue = q;
    s->queue[s->n++] = d;
    d->search = s->w->search;
    return 0;
}

/* 1: wanted by itself, 0: not, negative: error. Dead directories are queued. */
static int look_at_child(void *arg, const struct name_rec *n)
{
    struct descent *s = arg;
    struct want *w = s->w;
    struct content_rec c;
    struct want_dir *d;
    bool yes;
    int rc = w->r->get_content(w->r->ctx, n->inode, &c);

    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    if (c.type != NODE_DIR) {
        if (n->alive)
            return 1;
        rc = file_revives(w, n, &c, &yes);
        return rc < 0 ? rc : yes;
    }
    rc = want_dir_of(w, n->inode, &d);
    if (rc < 0 || !d->named || !id_eq(d->nid, n->nid))
        return rc;
    if (n->alive || (d->asked && d->wanted))
        return 1;
    return d->asked ? 0 : descend_to(s, d);
}

static int dead_dir_revives(struct want *w, struct want_dir *d, bool *yes)
{
    struct descent s = {.w = w};
    int rc;

    w->search++;
    rc = descend_to(&s, d);
    for (size_t i = 0; rc == 0 && i < s.n; i++)
        rc = w->r->names_in(w->r->ctx, s.queue[i]->rid, look_at_child, &s);
    /* The search found nothing: then nothing that it passed is wanted either. */
    for (size_t i = 0; rc == 0 && i < s.n; i++)
        s.queue[i]->asked = true;
    free(s.queue);
    if (rc < 0)
        return rc;
    *yes = rc > 0;
    return 0;
}

/* Is there a directory of this id (not: is it in the tree)? */
static int is_dir(struct want *w, struct id128 rid, bool *yes)
{
    struct content_rec c;

    if (id_eq(rid, RID_ROOT)) {
        *yes = true;
        return 0;
    }
    int rc = w->r->get_content(w->r->ctx, rid, &c);

    if (rc < 0 && rc != -ENOENT)
        return rc;
    *yes = rc == 0 && c.type == NODE_DIR;
    return 0;
}

static int want_dir_name(struct want *w, const struct name_rec *n, bool *wanted)
{
    struct want_dir *d;
    bool yes = true;
    int rc = want_dir_of(w, n->inode, &d);

    if (rc < 0)
        return rc;
    if (!d->named || !id_eq(d->nid, n->nid)) {
        *wanted = false;
        return 0;
    }
    if (!d->asked) {
        rc = n->alive ? 0 : dead_dir_revives(w, d, &yes);
        if (rc < 0)
            return rc;
        d->wanted = yes;
        d->asked = true;
    }
    *wanted = d->wanted;
    return 0;
}

int want_name(struct want *w, const struct name_rec *n, bool *dir, bool *wanted)
{
    struct content_rec c;
    bool parent_ok;
    int rc = w->r->get_content(w->r->ctx, n->inode, &c);

    if (rc < 0 && rc != -ENOENT)
        return rc;
    *dir = rc == 0 && c.type == NODE_DIR;
    *wanted = false;
    if (rc == -ENOENT || id_eq(n->inode, RID_ROOT))
        return 0;
    rc = is_dir(w, n->parent, &parent_ok);
    if (rc < 0 || !parent_ok)
        return rc;
    if (*dir)
        return want_dir_name(w, n, wanted);
    if (!n->alive)
        return file_revives(w, n, &c, wanted);
    *wanted = true;
    return 0;
}

/* path[from..n) is a cycle: its latest name is cut, its dead ones hang on the cut one's register.
 */
static int cut_cycle(struct want *w, struct want_dir **path, size_t from, size_t n)
{
    struct want_dir *latest = path[from];
    int rc = 0;

    for (size_t i = from + 1; i < n; i++) {
        if (head_wins(&path[i]->h, &latest->h))
            latest = path[i];
    }
    latest->cut = true;
    for (size_t i = from; i < n && rc == 0; i++) {
        path[i]->held = !path[i]->alive;
        if (path[i]->cut || path[i]->held)
            rc = want_add_cut(w, path[i]->nid);
    }
    return rc;
}

/* One step up: CHAIN_WALKING when it goes on, else how it ends at d. */
static int chain_step(struct want *w, struct want_dir *d, enum want_chain *end)
{
    struct name_rec n;
    bool dir, wanted;

    if (id_eq(d->rid, RID_ROOT)) {
        *end = CHAIN_ROOT;
        return 0;
    }
    if (!d->named) {
        *end = CHAIN_NOWHERE;
        return 0;
    }
    int rc = w->r->get_name(w->r->ctx, d->nid, &n);

    if (rc == 0)
        rc = want_name(w, &n, &dir, &wanted);
    if (rc < 0)
        return rc;
    *end = dir && wanted ? CHAIN_WALKING : CHAIN_NOWHERE;
    return 0;
}

/* Fill in d->chain, and that of all above it. */
static int walk_up(struct want *w, struct want_dir *d)
{
    CLEANUP_FREE struct want_dir **path = NULL;
    size_t n = 0, cap = 0;
    enum want_chain end = CHAIN_WALKING;
    int rc = 0;

    while (end == CHAIN_WALKING) {
        if (d->chain == CHAIN_WALKING) {
            size_t from = n;

            while (path[from - 1] != d)
                from--;
            rc = cut_cycle(w, path, from - 1, n);
            end = CHAIN_CYCLE;
            break;
        }
        if (d->chain != CHAIN_UNKNOWN) {
            end = d->chain;
            break;
        }
        struct want_dir **p = want_room(path, n, &cap, sizeof(struct want_dir *));

        if (!p)
            return -ENOMEM;
        path = p;
        path[n++] = d;
        rc = chain_step(w, d, &end);
        if (rc == 0 && end == CHAIN_WALKING) {
            d->chain = CHAIN_WALKING;
            rc = want_dir_of(w, d->parent, &d);
        }
        if (rc < 0)
            return rc;
    }
    for (size_t i = 0; i < n; i++)
        path[i]->chain = end;
    return rc;
}

static void put_at(struct place *p, struct id128 parent, const uint8_t *name, uint8_t len, bool cut)
{
    *p = (struct place){.kind = PLACE_AT, .cut = cut, .parent = parent, .name_len = len};
    memcpy(p->name, name, len);
}

int want_where(struct want *w, const struct name_rec *n, struct place *out)
{
    struct want_dir *d, *prev;
    int rc = want_dir_of(w, n->inode, &d);

    if (rc == 0)
        rc = walk_up(w, d);
    if (rc < 0)
        return rc;
    if (!d->cut) {
        put_at(out, n->parent, n->name, n->name_len, d->held);
        return 0;
    }
    if (n->prev_len > 0) {
        rc = want_dir_of(w, n->prev_parent, &prev);
        if (rc == 0)
            rc = walk_up(w, prev);
        if (rc < 0)
            return rc;
        if (prev->chain == CHAIN_ROOT) {
            put_at(out, n->prev_parent, n->prev_name, n->prev_len, true);
            return 0;
        }
    }
    put_at(out, RID_ROOT, n->name, n->name_len, true);
    return 0;
}
