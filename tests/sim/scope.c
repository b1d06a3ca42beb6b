/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "scope.h"

#include <stdio.h>
#include <stdlib.h>

struct run run;

void copy_node(struct node *to, const struct node *from)
{
    to->rep = from->rep;
    memcpy(to->got, from->got, sizeof(to->got));
    flat_copy(&to->f, &from->f);
    to->rep.r = &to->f.r;
}

void copy_state(struct state *to, const struct state *from)
{
    memcpy(to, from, offsetof(struct state, node));
    for (unsigned i = 0; i < run.nodes; i++)
        copy_node(&to->node[i], &from->node[i]);
}

unsigned next_due(const struct node *to, const struct node *from, unsigned at)
{
    while (at < from->f.nlog &&
           (vvec_covers(&to->rep.know, record_head(&from->f.log[at]->rec)->stamp) ||
            !flat_live(&from->f, at)))
        at++;
    return at;
}

bool pending(const struct state *s, unsigned to, unsigned from)
{
    const struct node *a = &s->node[from], *b = &s->node[to];

    return next_due(b, a, b->got[from]) < a->f.nlog || !vvec_includes(&b->rep.know, &a->rep.know);
}

static uint64_t mix_vvec(uint64_t h, const struct vvec *v)
{
    h = flat_mix(h, v->n);
    for (unsigned k = 0; k < v->n; k++)
        h = flat_mix(flat_mix(h, v->e[k].node), v->e[k].seq);
    return h;
}

uint64_t hash_state(const struct state *s)
{
    uint64_t h = flat_mix(s->done, s->used), deaths = 0;

    h = flat_mix(h, s->kept);
    for (unsigned i = 0; i < s->ndeaths; i++)
        deaths += flat_mix(flat_mix(s->deaths[i].rid.node, s->deaths[i].rid.n), s->deaths[i].seen);
    h = flat_mix(h, deaths);
    for (unsigned i = 0; i < s->nedits; i++)
        h = flat_mix(flat_mix(h, s->edits[i].stamp.node), s->edits[i].stamp.seq);
    for (unsigned i = 0; i < run.nodes; i++) {
        const struct node *nd = &s->node[i];

        h = flat_mix(flat_mix(h, nd->f.set), nd->f.where);
        h = flat_mix(flat_mix(h, nd->rep.next_seq), nd->rep.next_id);
        h = flat_mix(h, run.same_clock ? nd->rep.clock.last : 0);
        h = mix_vvec(h, &nd->rep.know);
        h = mix_vvec(h, &nd->rep.gone);
        for (unsigned k = 0; k < run.nodes; k++) {
            const struct node *from = &s->node[k];

            h = flat_mix(h, k);
            for (unsigned at = nd->got[k]; k != i && at < from->f.nlog; at++) {
                at = next_due(nd, from, at);
                if (at < from->f.nlog)
                    h = flat_mix(h, from->f.log[at]->hash);
            }
        }
    }
    return h;
}

struct id128 at_slot(const struct flat *f, struct id128 parent, uint8_t name)
{
    struct id128 nid;

    return f->r.who_is_at(f->r.ctx, parent, &name, 1, &nid) == 0 ? nid : (struct id128){0};
}

uint64_t wall(const struct state *s)
{
    return WALL_START + (run.same_clock ? 0 : (uint64_t)(s->done + 1) * STEP_US);
}

static const char *const op_names[] = {"create", "mkdir",    "link", "remove",
                                       "rename", "exchange", "edit", "chmod"};

static void print_step(const struct step *s)
{
    const struct op *o = &s->op;

    if (s->kind == STEP_DELIVERY) {
        printf("  node %u <- node %u\n", s->node, s->from);
        return;
    }
    if (s->kind == STEP_COLLECT) {
        printf("  node %u collects\n", s->node);
        return;
    }
    printf("  node %u: %s %llx.%llu", s->node, op_names[o->type], (unsigned long long)o->inode.node,
           (unsigned long long)o->inode.n);
    if (o->name)
        printf(" at %llx.%llu/%c", (unsigned long long)o->parent.node,
               (unsigned long long)o->parent.n, o->name);
    if (o->to_name)
        printf(" to %llx.%llu/%c", (unsigned long long)o->to_parent.node,
               (unsigned long long)o->to_parent.n, o->to_name);
    printf("\n");
}

static void print_node(const struct node *nd)
{
    static const char *const kinds[] = {"nowhere", "at", "hidden at"};

    for (unsigned i = 0; i < nd->f.nnames; i++) {
        const struct name_rec *n = &nd->f.names[i]->rec.name;
        const struct flat_place *p = &nd->f.places[i];

        printf("    nid %llx.%llu inode %llx.%llu %s %llx.%llu/%c: %s %llx.%llu/%c\n",
               (unsigned long long)n->nid.node, (unsigned long long)n->nid.n,
               (unsigned long long)n->inode.node, (unsigned long long)n->inode.n,
               n->alive ? "alive" : "dead", (unsigned long long)n->parent.node,
               (unsigned long long)n->parent.n, n->name[0], kinds[p->kind],
               (unsigned long long)p->parent.node, (unsigned long long)p->parent.n,
               p->name ? p->name : '-');
    }
}

void fail(const struct state *s, unsigned depth, const char *what)
{
    printf("FAILED: %s\n tree %s, %u nodes, %u operations%s%s%s%s\n", what, run.scene->name,
           run.nodes, run.ops, run.split ? ", split" : "", run.same_clock ? ", same clock" : "",
           run.down ? ", down" : "", run.collect ? ", collect" : "");
    for (unsigned i = 0; i < depth; i++)
        print_step(&run.steps[i]);
    for (unsigned i = 0; i < run.nodes; i++) {
        printf("  node %u:\n", i);
        print_node(&s->node[i]);
    }
    exit(1);
}
