/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"
#include "scope.h"

#include <stdlib.h>

static bool is_dir(const struct flat *f, struct id128 rid)
{
    struct content_rec c;

    return f->r.get_content(f->r.ctx, rid, &c) == 0 && c.type == NODE_DIR;
}

static bool is_empty(const struct flat *f, struct id128 dir)
{
    for (unsigned i = 0; i < f->nnames; i++) {
        if (f->places[i].kind == PLACE_AT && id_eq(f->places[i].parent, dir))
            return false;
    }
    return true;
}

/* Is dir `top`, or below it? The tree is one. */
static bool is_below(const struct flat *f, struct id128 dir, struct id128 top)
{
    while (!id_eq(dir, top)) {
        unsigned i = 0;

        if (id_eq(dir, RID_ROOT))
            return false;
        while (f->places[i].kind != PLACE_AT || !id_eq(f->names[i]->rec.name.inode, dir))
            i++;
        dir = f->places[i].parent;
    }
    return true;
}

static void add_op(struct oplist *l, struct op o)
{
    farm_assert(l->n < OPS_LIST);
    l->v[l->n++] = o;
}

/* Index of the first name of its inode that is in the tree? */
static bool first_name(const struct flat *f, unsigned i)
{
    for (unsigned k = 0; k < i; k++) {
        if (f->places[k].kind == PLACE_AT &&
            id_eq(f->names[k]->rec.name.inode, f->names[i]->rec.name.inode))
            return false;
    }
    return true;
}

static void list_moves(const struct flat *f, unsigned i, struct id128 dir, uint8_t name,
                       struct oplist *l)
{
    const struct flat_place *from = &f->places[i];
    struct op o = {.type = OP_RENAME,
                   .inode = f->names[i]->rec.name.inode,
                   .parent = from->parent,
                   .name = from->name,
                   .to_parent = dir,
                   .to_name = name};
    struct id128 nid = at_slot(f, dir, name);
    bool moves_dir = is_dir(f, o.inode);
    unsigned k = 0;

    if (run.scene->moves_only && name != from->name)
        return;
    if ((name == from->name && id_eq(dir, from->parent)) ||
        (moves_dir && is_below(f, dir, o.inode)))
        return;
    if (id_none(nid)) {
        add_op(l, o);
        return;
    }
    while (!id_eq(f->names[k]->rec.name.nid, nid))
        k++;
    struct id128 other = f->names[k]->rec.name.inode;
    bool over_dir = is_dir(f, other);

    if (moves_dir == over_dir && (!over_dir || is_empty(f, other)))
        add_op(l, o);
}

static void list_exchanges(const struct flat *f, unsigned i, struct oplist *l)
{
    for (unsigned k = i + 1; k < f->nnames; k++) {
        struct op o = {.type = OP_EXCHANGE,
                       .inode = f->names[i]->rec.name.inode,
                       .parent = f->places[i].parent,
                       .name = f->places[i].name,
                       .to_parent = f->places[k].parent,
                       .to_name = f->places[k].name};
        struct id128 other = f->names[k]->rec.name.inode;

        if (f->places[k].kind != PLACE_AT ||
            (is_dir(f, o.inode) && is_below(f, o.to_parent, o.inode)) ||
            (is_dir(f, other) && is_below(f, o.parent, other)))
            continue;
        add_op(l, o);
    }
}

/* What can be done at one free or taken place. */
static void list_at(const struct flat *f, struct id128 dir, uint8_t name, struct oplist *l)
{
    bool taken = !id_none(at_slot(f, dir, name));

    if (!taken && !run.scene->moves_only) {
        add_op(l, (struct op){.type = OP_CREATE, .to_parent = dir, .to_name = name});
        add_op(l, (struct op){.type = OP_MKDIR, .to_parent = dir, .to_name = name});
    }
    for (unsigned i = 0; i < f->nnames; i++) {
        struct id128 rid = f->names[i]->rec.name.inode;

        if (f->places[i].kind != PLACE_AT)
            continue;
        if (!taken && !run.scene->moves_only && !is_dir(f, rid) && first_name(f, i))
            add_op(l,
                   (struct op){.type = OP_LINK, .inode = rid, .to_parent = dir, .to_name = name});
        list_moves(f, i, dir, name, l);
    }
}

void list_ops(const struct flat *f, struct oplist *l)
{
    l->n = 0;
    for (const char *c = run.scene->names; *c; c++)
        list_at(f, RID_ROOT, (uint8_t)*c, l);
    for (unsigned i = 0; i < f->nnames; i++) {
        const struct flat_place *p = &f->places[i];
        struct op o = {.inode = f->names[i]->rec.name.inode, .parent = p->parent, .name = p->name};
        bool dir = is_dir(f, o.inode);

        if (p->kind != PLACE_AT)
            continue;
        for (const char *c = run.scene->names; *c && dir; c++)
            list_at(f, o.inode, (uint8_t)*c, l);
        list_exchanges(f, i, l);
        o.type = OP_REMOVE;
        if (!dir || is_empty(f, o.inode))
            add_op(l, o);
        o.type = OP_EDIT;
        if (!dir && first_name(f, i))
            add_op(l, o);
        o.type = OP_CHMOD;
        if (p->name == 'a')
            add_op(l, o);
    }
}

int write_content(struct state *s, struct node *nd, struct id128 rid, bool dir)
{
    struct content_rec c = {.rid = rid, .type = dir ? NODE_DIR : NODE_REG, .size = 8}, old;
    uint64_t digest = flat_mix(nd->rep.node, nd->rep.next_seq);
    struct edit e = {.rid = rid};

    if (dir)
        return replica_content(&nd->rep, wall(s), 0, &c);
    if (nd->f.r.get_content(&nd->f, rid, &old) == 0) {
        for (unsigned i = 0; i < s->nedits; i++) {
            if (id_eq(s->edits[i].rid, rid) && vvec_covers(&old.vv, s->edits[i].stamp))
                e.before |= (uint8_t)(1u << i);
        }
    }
    memcpy(c.digest, &digest, sizeof(digest));
    int rc = replica_content(&nd->rep, wall(s), 0, &c);

    e.stamp = c.h.stamp;
    farm_assert(s->nedits < EDITS_MAX);
    s->edits[s->nedits++] = e;
    return rc;
}

int chmod_to(struct state *s, struct node *nd, struct id128 rid, uint32_t mode)
{
    struct attr_rec a = {.rid = rid, .mode = mode};

    return replica_attr(&nd->rep, wall(s), 0, &a);
}

struct dying {
    struct state *s;
    const struct flat *f;
};

static int note_death(void *arg, struct id128 nid)
{
    struct dying *d = arg;
    struct name_rec n;
    struct content_rec c;
    struct death *x = &d->s->deaths[d->s->ndeaths];

    if (d->f->r.get_name(d->f->r.ctx, nid, &n) < 0 ||
        d->f->r.get_content(d->f->r.ctx, n.inode, &c) < 0 || c.type == NODE_DIR)
        return 0;
    farm_assert(d->s->ndeaths < DEATHS_MAX);
    *x = (struct death){.rid = n.inode};
    for (unsigned i = 0; i < d->s->nedits; i++) {
        if (id_eq(d->s->edits[i].rid, n.inode) && vvec_covers(&c.vv, d->s->edits[i].stamp))
            x->seen |= (uint8_t)(1u << i);
    }
    d->s->ndeaths++;
    return 0;
}

/* All that claims this place is about to be removed. */
static void note_deaths(struct state *s, const struct flat *f, struct id128 parent, uint8_t name)
{
    struct dying d = {s, f};
    struct id128 nid = at_slot(f, parent, name);

    if (id_none(nid))
        return;
    note_death(&d, nid);
    f->r.hidden_at(f->r.ctx, parent, &name, 1, note_death, &d);
}

static int run_op(struct state *s, struct node *nd, struct op o)
{
    struct id128 rid = o.inode, nid;
    int rc = 0;

    switch (o.type) {
    case OP_CREATE:
    case OP_MKDIR: rid = replica_new_id(&nd->rep); break;
    case OP_LINK: break;
    case OP_REMOVE:
        note_deaths(s, &nd->f, o.parent, o.name);
        return replica_unlink(&nd->rep, wall(s), o.parent, &o.name, 1);
    case OP_RENAME:
        note_deaths(s, &nd->f, o.to_parent, o.to_name);
        /* fall through */
    case OP_EXCHANGE:
        return replica_rename(&nd->rep, wall(s), o.parent, &o.name, 1, o.to_parent, &o.to_name, 1,
                              o.type == OP_EXCHANGE);
    case OP_EDIT: return write_content(s, nd, rid, false);
    case OP_CHMOD: return chmod_to(s, nd, rid, 0600 + s->done);
    }
    rc = replica_link(&nd->rep, wall(s), 0, rid, o.to_parent, &o.to_name, 1, &nid);
    if (rc == 0 && o.type != OP_LINK)
        rc = write_content(s, nd, rid, o.type == OP_MKDIR);
    if (rc == 0 && o.type != OP_LINK)
        rc = chmod_to(s, nd, rid, 0644);
    return rc;
}

void operate(struct state *s, unsigned depth, unsigned i, const struct op *o)
{
    static struct flat before;
    struct node *nd = &s->node[i];
    size_t n;

    flat_copy(&before, &nd->f);
    if (run_op(s, nd, *o) < 0)
        fail(s, depth, "an operation gave an error");
    free(flat_update(&nd->f, &n));
    check_local(s, depth, &before, &nd->f, o);
    check_node(s, depth, &nd->f);
    s->done++;
    if (i >= s->used)
        s->used = i + 1;
    run.n_ops++;
}
