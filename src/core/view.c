/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The view, kept up incrementally. What single records want is in want.c; here names meet:
 * canonical directories, rivals, and who has to be looked at again.
 *
 * A *cell* is a name that was looked at, a *group* is a place (canonical parent, name) with the
 * cells that claim it. A cell is evaluated (which place does it claim?), a group is settled (who of
 * the claimants has it?), in rounds, until nothing changes. What a claim depends on is either a
 * record or the canonical directory of the parent, and parents by effective registers form a forest
 * (rule 4 looks at registers alone), so that this ends, whatever the order, in the one state that
 * the records define.
 *
 * Who is looked at again, and what it costs:
 *  - A seed, and the other names of its inode (rule 1a, one name per directory). A plain file in a
 *    plain directory ends here: a fixed number of look-ups, none of which depends on the number of
 *    names in the directory, of tombstones of that name or of levels above: the parent's stored
 * place says that it is in the tree and canonical, and the stored claimants of a place are whoever
 * is there and whoever is hidden there.
 *  - The claimants of a place that a cell came to or left.
 *  - The names in a directory whose canonical directory changed (appeared, vanished, merged,
 * parted). A directory that only moves leaves them alone.
 *  - A dead directory that a name is in, or was in (rule 1b). Only dead ones are searched.
 *  - Cycles: they can only come from a directory whose register is not where its name is placed;
 * only from such is the chain of registers walked up to the root. A local rename has set its place
 *    already, but closes no cycle (see replica_rename). Names that are cut are remembered (`cuts`,
 *    hardly ever any); while there are some, they are looked at again with every directory, and
 * every chain is walked.
 */
#include "core/view.h"

#include "core/want.h"

#include <errno.h>
#include <stdlib.h>

struct group {
    struct group *next; /* all of them, to be freed */
    struct cell *first; /* claimants */
    struct id128 parent;
    bool loaded; /* the stored claimants are cells now */
    bool dirty;
    uint8_t len;
    uint8_t name[];
};

struct spot {
    struct group *at; /* NULL: PLACE_NONE */
    bool hidden, cut;
};

struct cell {
    struct cell *next; /* all of them, to be freed */
    struct cell *peer; /* next claimant of the group */
    struct id128 nid, inode;
    struct rec_head h;
    struct spot old, now; /* as stored; as it is to be */
    struct id128 canon;   /* a directory's canonical one; none: not in the tree */
    bool dir, queued, seen;
    uint32_t depth; /* for the order of the answer; 0: not known yet */
};

struct view {
    const struct records *r;
    struct want w;
    struct map_bytes cells;  /* nid -> cell */
    struct map_bytes groups; /* parent, name -> group */
    struct cell *all;
    struct group *allg;
    struct cell **queue; /* to be evaluated */
    size_t nqueue, capqueue;
    struct group **dirty; /* to be settled */
    size_t ndirty, capdirty;
    bool cuts_loaded;
    size_t cuts_pushed; /* of w.cuts */
};

static void view_init(struct view *v, const struct records *r)
{
    *v = (struct view){.r = r};
    want_init(&v->w, r);
    map_bytes_init(&v->cells);
    map_bytes_init(&v->groups);
}

static void view_fini(struct view *v)
{
    for (struct cell *c = v->all, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    for (struct group *g = v->allg, *next; g; g = next) {
        next = g->next;
        free(g);
    }
    map_bytes_fini(&v->cells);
    map_bytes_fini(&v->groups);
    want_fini(&v->w);
    free(v->queue);
    free(v->dirty);
}

static int append_cell(struct cell ***list, size_t *n, size_t *cap, struct cell *c)
{
    struct cell **p = want_room(*list, *n, cap, sizeof(struct cell *));

    if (!p)
        return -ENOMEM;
    *list = p;
    p[(*n)++] = c;
    return 0;
}

static int group_of(struct view *v, struct id128 parent, const uint8_t *name, uint8_t len,
                    struct group **out)
{
    uint8_t key[sizeof(parent) + NAME_LEN_MAX];

    memcpy(key, &parent, sizeof(parent));
    memcpy(key + sizeof(parent), name, len);

    struct group *g = map_bytes_get(&v->groups, key, sizeof(parent) + len);

    if (!g) {
        g = calloc(1, sizeof(*g) + len);
        if (!g)
            return -ENOMEM;
        g->parent = parent;
        g->len = len;
        memcpy(g->name, name, len);
        int rc = map_bytes_set(&v->groups, key, sizeof(parent) + len, g, NULL);

        if (rc < 0) {
            free(g);
            return rc;
        }
        g->next = v->allg;
        v->allg = g;
    }
    *out = g;
    return 0;
}

static void join_group(struct cell *c, struct group *g)
{
    c->now.at = g;
    if (g) {
        c->peer = g->first;
        g->first = c;
    }
}

static void leave_group(struct cell *c)
{
    if (!c->now.at)
        return;
    struct cell **p = &c->now.at->first;

    while (*p != c)
        p = &(*p)->peer;
    *p = c->peer;
    c->now.at = NULL;
}

static int make_dirty(struct view *v, struct group *g)
{
    if (!g || g->dirty)
        return 0;
    struct group **p = want_room(v->dirty, v->ndirty, &v->capdirty, sizeof(struct group *));

    if (!p)
        return -ENOMEM;
    v->dirty = p;
    v->dirty[v->ndirty++] = g;
    g->dirty = true;
    return 0;
}

/* The canonical directory of one that is stored as hidden in g: whoever is stored there. */
static int stored_canon(struct view *v, const struct group *g, struct id128 *canon)
{
    struct id128 nid;
    struct name_rec n;
    int rc = v->r->who_is_at(v->r->ctx, g->parent, g->name, g->len, &nid);

    if (rc == 0)
        rc = v->r->get_name(v->r->ctx, nid, &n);
    if (rc == 0)
        *canon = n.inode;
    return rc == -ENOENT ? 0 : rc;
}

static int fill_cell(struct view *v, struct cell *c)
{
    struct content_rec content;
    struct place p;
    struct group *g;
    int rc = v->r->get_content(v->r->ctx, c->inode, &content);

    if (rc < 0 && rc != -ENOENT)
        return rc;
    c->dir = rc == 0 && content.type == NODE_DIR;
    rc = v->r->get_place(v->r->ctx, c->nid, &p);
    if (rc == -ENOENT || (rc == 0 && p.kind == PLACE_NONE))
        return 0;
    if (rc == 0)
        rc = group_of(v, p.parent, p.name, p.name_len, &g);
    if (rc < 0)
        return rc;
    if (c->dir && p.kind == PLACE_AT)
        c->canon = c->inode;
    else if (c->dir)
        rc = stored_canon(v, g, &c->canon);
    c->old = (struct spot){.at = g, .hidden = p.kind == PLACE_HIDDEN, .cut = p.cut};
    c->now = c->old;
    join_group(c, g);
    return rc;
}

/* -ENOENT when there is no such name record. */
static int cell_of(struct view *v, struct id128 nid, struct cell **out)
{
    struct cell *c = map_bytes_get(&v->cells, &nid, sizeof(nid));
    struct name_rec n;
    int rc;

    if (!c) {
        rc = v->r->get_name(v->r->ctx, nid, &n);
        if (rc < 0)
            return rc;
        c = calloc(1, sizeof(*c));
        if (!c)
            return -ENOMEM;
        c->nid = nid;
        c->inode = n.inode;
        c->h = n.h;
        c->next = v->all;
        v->all = c;
        rc = map_bytes_set(&v->cells, &nid, sizeof(nid), c, NULL);
        if (rc == 0)
            rc = fill_cell(v, c);
        if (rc < 0)
            return rc;
    }
    *out = c;
    return 0;
}

static int push(struct view *v, struct id128 nid)
{
    struct cell *c;
    int rc = cell_of(v, nid, &c);

    if (rc < 0 || c->queued)
        return rc == -ENOENT ? 0 : rc;
    c->queued = true;
    return append_cell(&v->queue, &v->nqueue, &v->capqueue, c);
}

static int push_id(void *arg, struct id128 nid)
{
    return push(arg, nid);
}

static int push_name(void *arg, const struct name_rec *n)
{
    return push(arg, n->nid);
}

static int note_cut(void *arg, struct id128 nid)
{
    return want_add_cut(arg, nid);
}

/* Look at the cuts again: the stored ones and those met meanwhile; all, or only the new ones. */
static int push_cuts(struct view *v, bool all)
{
    int rc = 0;

    if (!v->cuts_loaded) {
        rc = v->r->cuts(v->r->ctx, note_cut, &v->w);
        v->cuts_loaded = true;
    }
    if (all)
        v->cuts_pushed = 0;
    while (rc == 0 && v->cuts_pushed < v->w.ncuts)
        rc = push(v, v->w.cuts[v->cuts_pushed++]);
    return rc;
}

/* The canonical directory of dir as it stands now; none when it is not in the tree. */
static int canon_of(struct view *v, struct id128 dir, struct id128 *out)
{
    struct want_dir *d;
    struct cell *c;

    *out = (struct id128){0};
    if (id_eq(dir, RID_ROOT)) {
        *out = dir;
        return 0;
    }
    int rc = want_dir_of(&v->w, dir, &d);

    if (rc < 0 || !d->named)
        return rc;
    rc = cell_of(v, d->nid, &c);
    if (rc == 0)
        *out = c->canon;
    return rc;
}

/* Look again at dir, where a name is or was, if it is dead; and at the dead ones merged into it. */
static int push_dead(struct view *v, struct id128 dir, bool merged)
{
    struct want_dir *d;
    struct place p;
    int rc = want_dir_of(&v->w, dir, &d);

    if (rc < 0 || !d->named)
        return rc;
    if (!d->alive)
        rc = push(v, d->nid);
    if (rc < 0 || !merged)
        return rc;
    rc = v->r->get_place(v->r->ctx, d->nid, &p);
    if (rc == 0 && p.kind != PLACE_NONE)
        rc = v->r->hidden_at(v->r->ctx, p.parent, p.name, p.name_len, push_id, v);
    return rc == -ENOENT ? 0 : rc;
}

/* The parents that may be wanted or not for the sake of this name. */
static int push_parents(struct view *v, const struct cell *c, const struct name_rec *n)
{
    int rc = push_dead(v, n->parent, false);

    if (rc == 0 && c->old.at)
        rc = push_dead(v, c->old.at->parent, true);
    if (rc == 0 && n->prev_len > 0)
        rc = push_dead(v, n->prev_parent, true);
    return rc;
}

/* Is a directory's name stored just where its register says, and no cycle known, old or new? */
static bool at_rest(const struct view *v, const struct cell *c, const struct name_rec *n)
{
    const struct group *g = c->old.at;

    return g && v->w.ncuts == 0 && id_eq(g->parent, n->parent) && g->len == n->name_len &&
           memcmp(g->name, n->name, g->len) == 0;
}

/* Where a wanted name is to be, its parent not yet made canonical. */
static int place_wanted(struct view *v, struct cell *c, const struct name_rec *n, struct place *p)
{
    if (c->dir) {
        int rc = push_cuts(v, !c->seen);

        if (rc == 0 && !at_rest(v, c, n)) {
            rc = want_where(&v->w, n, p);
            return rc < 0 ? rc : push_cuts(v, false);
        }
        if (rc < 0)
            return rc;
    }
    *p = (struct place){.kind = PLACE_AT, .parent = n->parent, .name_len = n->name_len};
    memcpy(p->name, n->name, n->name_len);
    return 0;
}

/* Where this cell claims to be: the group, and whether it is cut. Both are left alone for nowhere.
 */
static int find_claim(struct view *v, struct cell *c, const struct name_rec *n, struct group **to,
                      bool *cut)
{
    struct place p;
    struct id128 parent;
    bool wanted;
    int rc = want_name(&v->w, n, &c->dir, &wanted);

    if (rc < 0)
        return rc;
    if (!wanted)
        return c->dir && c->old.at ? push_cuts(v, !c->seen) : 0;
    rc = place_wanted(v, c, n, &p);
    if (rc == 0)
        rc = canon_of(v, p.parent, &parent);
    if (rc < 0 || id_none(parent))
        return rc;
    *cut = p.cut;
    return group_of(v, parent, p.name, p.name_len, to);
}

/* The canonical directory of c changed: everything in it is elsewhere now. */
static int set_canon(struct view *v, struct cell *c, struct id128 canon)
{
    if (id_eq(c->canon, canon))
        return 0;
    c->canon = canon;
    int rc = v->r->names_in(v->r->ctx, c->inode, push_name, v);

    return rc < 0 ? rc : push_cuts(v, true);
}

static int evaluate(struct view *v, struct cell *c)
{
    struct name_rec n;
    struct group *to = NULL;
    bool cut = false;
    int rc = v->r->get_name(v->r->ctx, c->nid, &n);

    if (rc == 0)
        rc = find_claim(v, c, &n, &to, &cut);
    if (rc == 0 && !c->seen)
        rc = push_parents(v, c, &n);
    if (rc < 0)
        return rc;
    c->seen = true;
    c->now.cut = cut;
    if (to != c->now.at) {
        rc = make_dirty(v, c->now.at);
        leave_group(c);
        join_group(c, to);
    }
    if (rc == 0 && !to)
        rc = set_canon(v, c, (struct id128){0});
    return rc < 0 ? rc : make_dirty(v, to);
}

static int load_claimant(void *arg, struct id128 nid)
{
    struct cell *c;

    return cell_of(arg, nid, &c);
}

/* Rules 2 and 3: does b have the place before a? */
static bool cell_wins(const struct cell *b, const struct cell *a)
{
    if (b->dir != a->dir)
        return b->dir;
    return b->dir ? id_cmp(b->inode, a->inode) < 0 : head_wins(&b->h, &a->h);
}

static int settle(struct view *v, struct group *g)
{
    struct id128 nid;
    int rc = 0;

    g->dirty = false;
    if (!g->loaded) {
        g->loaded = true;
        rc = v->r->who_is_at(v->r->ctx, g->parent, g->name, g->len, &nid);
        if (rc == 0)
            rc = load_claimant(v, nid);
        if (rc == 0 || rc == -ENOENT)
            rc = v->r->hidden_at(v->r->ctx, g->parent, g->name, g->len, load_claimant, v);
        if (rc < 0)
            return rc;
    }
    const struct cell *winner = g->first;

    for (const struct cell *c = winner; c; c = c->peer) {
        if (cell_wins(c, winner))
            winner = c;
    }
    for (struct cell *c = g->first; c && rc == 0; c = c->peer) {
        c->now.hidden = c != winner;
        if (c->dir)
            rc = set_canon(v, c, winner->inode);
    }
    return rc;
}

/* Evaluate all that is queued (it may grow meanwhile), then settle what that made dirty (which
 * queues cells for the next round). With every round one more level, counted from the root, is
 * final. */
static int run_round(struct view *v)
{
    int rc = 0;

    for (size_t i = 0; i < v->nqueue && rc == 0; i++) {
        v->queue[i]->queued = false;
        rc = evaluate(v, v->queue[i]);
    }
    v->nqueue = 0;
    for (size_t i = 0; i < v->ndirty && rc == 0; i++)
        rc = settle(v, v->dirty[i]);
    v->ndirty = 0;
    return rc;
}

static int run(struct view *v, const struct id128 *seeds, size_t nseeds)
{
    struct name_rec n;
    int rc = 0;

    for (size_t i = 0; i < nseeds && rc == 0; i++) {
        rc = v->r->get_name(v->r->ctx, seeds[i], &n);
        if (rc == 0)
            rc = push(v, seeds[i]);
        if (rc == 0)
            rc = v->r->names_of(v->r->ctx, n.inode, push_name, v);
        if (rc == -ENOENT)
            rc = 0;
    }
    while (rc == 0 && v->nqueue > 0)
        rc = run_round(v);
    return rc;
}

static bool same_spot(const struct spot *a, const struct spot *b)
{
    return a->at == b->at && (!a->at || (a->hidden == b->hidden && a->cut == b->cut));
}

static void spot_place(const struct spot *s, struct place *out)
{
    *out = (struct place){.kind = PLACE_NONE};
    if (!s->at)
        return;
    out->kind = s->hidden ? PLACE_HIDDEN : PLACE_AT;
    out->cut = s->cut;
    out->parent = s->at->parent;
    out->name_len = s->at->len;
    memcpy(out->name, s->at->name, s->at->len);
}

static bool placed(const struct cell *c)
{
    return c->now.at && !c->now.hidden;
}

/* The cell of the directory that c hangs in (where it is to be, or for those that leave, where it
 * was), if that one changes in the same way; else NULL. */
static int hangs_in(struct view *v, const struct cell *c, struct cell **out)
{
    const struct group *g = placed(c) ? c->now.at : c->old.at;
    struct want_dir *d;

    *out = NULL;
    if (!g)
        return 0;
    int rc = want_dir_of(&v->w, g->parent, &d);

    if (rc < 0 || !d->named)
        return rc;
    struct cell *up = map_bytes_get(&v->cells, &d->nid, sizeof(d->nid));

    if (up && !same_spot(&up->old, &up->now) && placed(up) == placed(c))
        *out = up;
    return 0;
}

/* How many changed directories are above c: up by one loop, down by another, so that a deep tree
 * takes no deep stack. `chain` is room for as many cells as there are. */
static int find_depth(struct view *v, struct cell *c, struct cell **chain, size_t max)
{
    size_t n = 0;
    int rc = 0;

    while (rc == 0 && c && c->depth == 0 && n < max) {
        chain[n++] = c;
        rc = hangs_in(v, c, &c);
    }
    uint32_t depth = c ? c->depth : 0;

    while (rc == 0 && n > 0)
        chain[--n]->depth = ++depth;
    return rc;
}

static int by_order(const void *pa, const void *pb)
{
    const struct cell *a = *(struct cell *const *)pa, *b = *(struct cell *const *)pb;

    if (placed(a) != placed(b))
        return placed(a) ? -1 : 1;
    if (a->depth != b->depth)
        return (a->depth < b->depth) == placed(a) ? -1 : 1;
    return id_cmp(a->nid, b->nid);
}

static int answer(struct view *v, struct view_change **out, size_t *nout)
{
    struct cell **list = NULL, **chain = NULL;
    struct view_change *changes = NULL;
    size_t n = 0, cap = 0;
    int rc = 0;

    for (struct cell *c = v->all; c && rc == 0; c = c->next) {
        if (!same_spot(&c->old, &c->now))
            rc = append_cell(&list, &n, &cap, c);
    }
    if (rc == 0 && n > 0) {
        chain = calloc(n, sizeof(struct cell *));
        changes = calloc(n, sizeof(*changes));
        rc = chain && changes ? 0 : -ENOMEM;
    }
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = find_depth(v, list[i], chain, n);
    if (rc == 0 && n > 1)
        qsort(list, n, sizeof(struct cell *), by_order);
    for (size_t i = 0; i < n && rc == 0; i++) {
        changes[i] = (struct view_change){.nid = list[i]->nid, .inode = list[i]->inode};
        spot_place(&list[i]->old, &changes[i].from);
        spot_place(&list[i]->now, &changes[i].to);
    }
    free(list);
    free(chain);
    if (rc < 0) {
        free(changes);
        return rc;
    }
    *out = changes;
    *nout = n;
    return 0;
}

int view_changes(const struct records *r, const struct id128 *seeds, size_t nseeds,
                 struct view_change **out, size_t *nout)
{
    struct view v;

    view_init(&v, r);
    int rc = run(&v, seeds, nseeds);

    if (rc == 0)
        rc = answer(&v, out, nout);
    view_fini(&v);
    return rc;
}

int view_place(const struct records *r, struct id128 nid, struct place *out)
{
    struct view v;
    struct cell *c;

    view_init(&v, r);
    int rc = run(&v, &nid, 1);

    if (rc == 0)
        rc = cell_of(&v, nid, &c);
    if (rc == 0)
        spot_place(&c->now, out);
    view_fini(&v);
    return rc;
}

int view_canon(const struct records *r, struct id128 dir, struct id128 *out)
{
    struct view v;
    struct want_dir *d;
    struct id128 canon = {0};

    view_init(&v, r);
    int rc = want_dir_of(&v.w, dir, &d);

    if (rc == 0 && d->named)
        rc = run(&v, &d->nid, 1);
    if (rc == 0)
        rc = canon_of(&v, dir, &canon);
    view_fini(&v);
    if (rc == 0 && id_none(canon))
        rc = -ENOENT;
    if (rc == 0)
        *out = canon;
    return rc;
}
