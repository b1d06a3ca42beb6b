/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"
#include "oracle.h"
#include "scope.h"

#include <stdlib.h>

/* ---- what must hold always ---- */

static void check_tree(const struct state *s, unsigned depth, const struct flat *f)
{
    for (unsigned i = 0; i < f->nnames; i++) {
        struct id128 dir = f->places[i].parent;
        unsigned up = 0;

        if (f->places[i].kind != PLACE_AT)
            continue;
        for (; !id_eq(dir, RID_ROOT) && up <= f->nnames; up++) {
            unsigned k = 0;

            while (k < f->nnames &&
                   !(f->places[k].kind == PLACE_AT && id_eq(f->names[k]->rec.name.inode, dir)))
                k++;
            if (k == f->nnames)
                fail(s, depth, "an entry without its directory");
            dir = f->places[k].parent;
        }
        if (up > f->nnames)
            fail(s, depth, "a directory inside itself");
    }
}

void check_node(const struct state *s, unsigned depth, const struct flat *f)
{
    const struct name_rec *names[FLAT_NAMES];
    const struct content_rec *contents[FLAT_INODES];
    struct place should[FLAT_NAMES];
    size_t slot = f->set >> (64 - run.cache_bits);

    if (run.views[slot].key == f->set) {
        if (run.views[slot].where != f->where)
            fail(s, depth, "equal records, other places");
        return;
    }
    run.n_sets++;
    for (unsigned i = 0; i < f->nnames; i++)
        names[i] = &f->names[i]->rec.name;
    for (unsigned i = 0; i < f->ncontents; i++)
        contents[i] = &f->contents[i]->rec.content;
    oracle_places_of(names, f->nnames, contents, f->ncontents, should);
    for (unsigned i = 0; i < f->nnames; i++) {
        const struct flat_place *is = &f->places[i];

        if (is->kind != should[i].kind ||
            (is->kind != PLACE_NONE && (is->cut != should[i].cut || is->name != should[i].name[0] ||
                                        !id_eq(is->parent, should[i].parent))))
            fail(s, depth, "a place is not what all records say");
    }
    check_tree(s, depth, f);
    run.views[slot].key = f->set;
    run.views[slot].where = f->where;
}

void check_knowledge(const struct state *s, unsigned depth, unsigned i)
{
    const struct node *nd = &s->node[i];

    for (unsigned j = 0; j < run.nodes; j++) {
        const struct flat *f = &s->node[j].f;

        for (unsigned at = 0; at < f->nlog && j != i; at++) {
            const struct record *rec = &f->log[at]->rec;

            if (!vvec_covers(&nd->rep.know, record_head(rec)->stamp) || !flat_live(f, at))
                continue;
            const struct flat_rec *own = flat_held(&nd->f, rec);

            if (own && head_wins(record_head(rec), record_head(&own->rec)))
                fail(s, depth, "knowledge of what is not held");
            if (own || vvec_covers(&nd->rep.gone, record_head(rec)->stamp))
                continue;
            fail(s, depth, "knowledge of what is not there");
        }
    }
}

void check_local(const struct state *s, unsigned depth, const struct flat *before,
                 const struct flat *after, const struct op *o)
{
    struct id128 src = at_slot(before, o->parent, o->name), gone = {0}, moved = {0}, swapped = {0};
    struct id128 dst = o->to_name ? at_slot(before, o->to_parent, o->to_name) : gone;

    if (o->type == OP_REMOVE)
        gone = src;
    if (o->type == OP_EXCHANGE)
        swapped = dst;
    if (o->type == OP_RENAME || o->type == OP_EXCHANGE) {
        moved = src;
        for (unsigned i = 0; i < before->nnames && !id_none(dst); i++) {
            /* two names of one inode: nothing happens */
            if (id_eq(before->names[i]->rec.name.nid, dst) &&
                id_eq(before->names[i]->rec.name.inode, o->inode))
                moved = swapped = dst = (struct id128){0};
        }
        if (o->type == OP_RENAME)
            gone = dst;
    }
    for (unsigned i = 0, k = 0; i < after->nnames; i++) {
        struct id128 nid = after->names[i]->rec.name.nid;
        struct flat_place should = {.kind = PLACE_NONE};
        const struct flat_place *is = &after->places[i];

        if (k < before->nnames && id_eq(before->names[k]->rec.name.nid, nid))
            should = before->places[k++];
        else
            should = (struct flat_place){o->to_parent, PLACE_AT, o->to_name, false};
        if (should.kind != PLACE_AT) {
            if (is->kind == PLACE_AT)
                fail(s, depth, "an operation uncovered something");
            continue;
        }
        if (id_eq(nid, gone) && is->kind == PLACE_NONE)
            continue;
        if (id_eq(nid, moved))
            should = (struct flat_place){o->to_parent, PLACE_AT, o->to_name, false};
        if (id_eq(nid, swapped))
            should = (struct flat_place){o->parent, PLACE_AT, o->name, false};
        /* A dead directory that was there for its last child's sake goes, as a revived name does
         * when another one lives; nothing else may go. */
        if (is->kind == PLACE_NONE && !after->names[i]->rec.name.alive)
            continue;
        if (is->kind != PLACE_AT || is->name != should.name || !id_eq(is->parent, should.parent))
            fail(s, depth, "an operation did something else");
    }
}

/* Every record of b into a, in the order of b's arrays or against it. */
static void join_set(const struct state *s, unsigned depth, struct node *a, const struct flat *b,
                     bool backwards, bool old)
{
    const unsigned n = b->nnames + b->ncontents + b->nattrs;

    for (unsigned k = 0; k < n; k++) {
        unsigned i = backwards ? n - 1 - k : k;
        const struct flat_rec *v = i < b->nnames ? b->names[i]
                                   : i < b->nnames + b->ncontents
                                       ? b->contents[i - b->nnames]
                                       : b->attrs[i - b->nnames - b->ncontents];
        enum merge_result result;
        bool skewed;

        if (replica_merge(&a->rep, WALL_START + s->done * STEP_US, &v->rec, 0, &result, &skewed) <
            0)
            fail(s, depth, "merge of a set");
        if (old && result != MERGE_OLD && result != MERGE_LOST)
            fail(s, depth, "merging the same again changed something");
    }
    size_t nchanges;

    free(flat_update(&a->f, &nchanges));
    if (old && nchanges > 0)
        fail(s, depth, "merging the same again moved something");
    check_node(s, depth, &a->f);
}

void check_merge(const struct state *s, unsigned depth)
{
    static struct node x, y;
    uint64_t key = 1;
    size_t used = flat_arena();

    for (unsigned i = 0; i < run.nodes; i++)
        key = flat_mix(key, s->node[i].f.set);
    uint64_t *slot = &run.merges[key >> (64 - run.cache_bits)];

    if (*slot == key)
        return;
    *slot = key;
    run.n_merges++;
    /* As a stranger: a node refuses records of its own that it has not made. */
    copy_node(&x, &s->node[0]);
    copy_node(&y, &s->node[run.nodes - 1]);
    flat_log_clear(&x.f);
    flat_log_clear(&y.f);
    x.rep.node = y.rep.node = 1;
    for (unsigned i = 1; i < run.nodes; i++) {
        join_set(s, depth, &x, &s->node[i].f, false, false);
        join_set(s, depth, &y, &s->node[run.nodes - 1 - i].f, true, false);
    }
    if (x.f.set != y.f.set || x.f.where != y.f.where)
        fail(s, depth, "the order of merging shows");
    for (unsigned i = 0; i < run.nodes; i++)
        join_set(s, depth, &x, &s->node[i].f, true, true);
    if (x.f.set != y.f.set)
        fail(s, depth, "merging the same again changed something");
    flat_arena_reset(used);
}

/* ---- what must hold in the end ---- */

static void check_file(const struct state *s, unsigned depth, struct id128 rid)
{
    const struct flat *f = &s->node[0].f;
    struct content_rec c;
    bool shown = false, alive = false, concurrent = false;
    uint8_t seen = 0, followed = 0, held = s->kept, of = 0;

    bool collected = f->r.get_content(f->r.ctx, rid, &c) < 0;

    if (collected && !run.collect)
        fail(s, depth, "a file without content");
    for (unsigned i = 0; i < f->nnames; i++) {
        if (!id_eq(f->names[i]->rec.name.inode, rid))
            continue;
        shown = shown || f->places[i].kind != PLACE_NONE;
        alive = alive || f->names[i]->rec.name.alive;
    }
    for (unsigned i = 0; i < s->nedits; i++) {
        if (!id_eq(s->edits[i].rid, rid))
            continue;
        of |= (uint8_t)(1u << i);
        followed |= s->edits[i].before;
        if (!collected && vvec_covers(&c.vv, s->edits[i].stamp))
            held |= (uint8_t)(1u << i);
    }
    for (unsigned i = 0; i < s->ndeaths; i++) {
        if (!id_eq(s->deaths[i].rid, rid))
            continue;
        seen |= s->deaths[i].seen;
        concurrent = concurrent || (of & ~s->deaths[i].seen) != 0;
    }
    if (!collected && (of & ~held))
        fail(s, depth, "a version was lost without being kept");
    /* An edit that lost to another one, which was deleted, is kept as a loser. */
    if (!shown && (of & ~followed & ~seen & ~s->kept))
        fail(s, depth, "a file is gone that nobody deleted who had seen its last edit");
    if (shown && !alive && !concurrent)
        fail(s, depth, "a deleted file is back, and nobody edited it meanwhile");
    if (alive && !shown)
        fail(s, depth, "a living name is nowhere");
}

void check_end(const struct state *s, unsigned depth)
{
    const struct flat *f = &s->node[0].f;

    for (unsigned i = 1; i < run.nodes; i++) {
        if (s->node[i].f.set != f->set)
            fail(s, depth, "the records differ");
        if (s->node[i].f.where != f->where)
            fail(s, depth, "the trees differ");
        if (!vvec_includes(&s->node[i].rep.know, &s->node[0].rep.know) ||
            !vvec_includes(&s->node[0].rep.know, &s->node[i].rep.know))
            fail(s, depth, "knowledge differs");
    }
    for (unsigned i = 0; i < f->nnames; i++) {
        if (f->names[i]->rec.name.alive && f->places[i].kind == PLACE_NONE)
            fail(s, depth, "a living name is nowhere");
    }
    for (unsigned i = 0; i < s->nedits; i++)
        check_file(s, depth, s->edits[i].rid);
}
