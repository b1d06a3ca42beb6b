/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Small scopes, exhausted: every sequence of operations spread over 2 or 3 nodes on a small tree,
 * with every delivery of records at every point between them, on the real core. After each step and
 * at the end of each execution everything that the model promises is checked (check_node,
 * check_knowledge, check_end).
 *
 *   exhaust [--whole | --tree NAME [--nodes N] [--ops K] [--split] [--same-clock] [--down]
 * [--collect]]
 *
 * Alone: the scopes of the test run. --whole: all, for some hours. --split: records are delivered
 * one at a time, not all that the peer has. --same-clock: all wall clocks stand still, so that
 * concurrent records have equal clocks and the node decides. --down: node ids fall. --collect: what
 * all have seen deleted is collected, at every point where that may be.
 *
 * What is not walked twice, and why that loses nothing:
 *  - Equal states. A state is, per node, the set of records and their places, knowledge, counters,
 *    and what each peer will still be sent, in order; and what the checks at the end need. It has a
 *    64-bit hash; of 10^8 states two differ and are taken for one with a chance of about 10^-4.
 *  - Of 3 nodes the first to act is node 0, the second node 1: nodes differ by their ids alone, and
 *    those are tried rising and falling (--down).
 *  - With 3 nodes and 3 or more operations the deliveries after the last operation run in two
 *    orders, not in all: at every state knowledge is honest (nothing that it covers is missing), so
 *    what is delivered is the union of the sets, whatever the order; and that union is made in
 *    both directions and in two groupings from the sets themselves (check_merge).
 */
#include "base/log.h"
#include "core/collect.h"
#include "scope.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define FOUNDER 0x100u

static const struct scene scenes[] = {
    {"flat",
     "ab",
     false,
     4,
     {{-1, -1, 'a', 1}, {-1, -1, 'b', 1}, {0, -1, 'a', 0}, {1, -1, 'a', 0}}},
    {"nest",
     "ab",
     false,
     4,
     {{-1, -1, 'a', 1}, {0, -1, 'a', 1}, {-1, -1, 'b', 0}, {1, -1, 'a', 0}}},
    {"link", "ab", false, 4, {{-1, -1, 'a', 1}, {-1, -1, 'b', 0}, {0, 1, 'a', 0}, {0, -1, 'b', 0}}},
    {"ring",
     "abcf",
     true,
     4,
     {{-1, -1, 'a', 1}, {-1, -1, 'b', 1}, {-1, -1, 'c', 1}, {0, -1, 'f', 0}}},
};

static struct {
    unsigned scopes;
    double paths;
    uint64_t states;
} all;

static struct state *states; /* by depth */

/* ---- deliveries ---- */

static void merge(struct state *s, unsigned depth, unsigned to, unsigned from,
                  const struct record *rec)
{
    struct node *nd = &s->node[to];
    const struct flat_rec *own = flat_held(&nd->f, rec);
    enum merge_result result;
    bool skewed;

    if (replica_merge(&nd->rep, wall(s), rec, s->node[from].rep.node, &result, &skewed) < 0 ||
        skewed)
        fail(s, depth, "merge gave an error");
    if (result != MERGE_CONFLICT && result != MERGE_LOST)
        return;
    const struct content_rec *loser = &(result == MERGE_LOST ? rec : &own->rec)->content;

    for (unsigned i = 0; i < s->nedits; i++) {
        if (id_eq(s->edits[i].rid, loser->rid) && vvec_covers(&loser->vv, s->edits[i].stamp))
            s->kept |= (uint8_t)(1u << i);
    }
}

/* All that there is, or (split) one record. */
static void deliver(struct state *s, unsigned depth, unsigned to, unsigned from)
{
    struct node *a = &s->node[from], *b = &s->node[to];
    unsigned at;
    size_t n;

    while ((at = next_due(b, a, b->got[from])) < a->f.nlog) {
        b->got[from] = at + 1;
        merge(s, depth, to, from, &a->f.log[at]->rec);
        if (run.split)
            break;
    }
    if (next_due(b, a, b->got[from]) == a->f.nlog) {
        b->got[from] = a->f.nlog;
        if (replica_learn(&b->rep, &a->rep.know) < 0)
            fail(s, depth, "knowledge is full");
    }
    free(flat_update(&b->f, &n));
    check_node(s, depth, &b->f);
    check_knowledge(s, depth, to);
    run.n_deliveries++;
}

/* ---- collecting ---- */

/* What every node is known to hold, as node i has just heard from all; false when somebody knows
 * more than node i. */
static bool stable_at(const struct state *s, unsigned i, struct vvec *out)
{
    *out = s->node[i].rep.know;
    for (unsigned k = 0; k < run.nodes; k++) {
        if (!vvec_includes(&s->node[i].rep.know, &s->node[k].rep.know))
            return false;
        collect_meet(out, &s->node[k].rep.know);
    }
    return true;
}

/* False: there was nothing to collect. The tree must not change. */
static bool collect(struct state *s, unsigned depth, unsigned i)
{
    struct node *nd = &s->node[i];
    struct vvec stable;
    bool any = false, done;

    if (!stable_at(s, i, &stable))
        return false;
    for (unsigned k = nd->f.ncontents; k-- > 0;) {
        if (collect_inode(&nd->rep, record_id(&nd->f.contents[k]->rec), &stable, 0, &done) < 0)
            fail(s, depth, "collecting gave an error");
        any = any || done;
    }
    if (any) {
        check_node(s, depth, &nd->f);
        check_knowledge(s, depth, i);
    }
    return any;
}

/* Deliver all, from the first link to the last or against it, until nothing is left. */
static void heal(const struct state *s, unsigned depth, bool backwards)
{
    struct state *t = &states[depth + 1];
    const unsigned links = run.nodes * run.nodes;
    size_t used = flat_arena();
    bool more = true;

    copy_state(t, s);
    while (more) {
        more = false;
        for (unsigned k = 0; k < links; k++) {
            unsigned link = backwards ? links - 1 - k : k, to = link / run.nodes,
                     from = link % run.nodes;

            if (to == from || !pending(t, to, from))
                continue;
            deliver(t, depth, to, from);
            more = true;
        }
    }
    for (unsigned i = 0; i < run.nodes && run.collect; i++)
        collect(t, depth, i);
    check_end(t, depth);
    flat_arena_reset(used);
}

/* ---- the search ---- */

static double explore(unsigned depth);

static double explore_ops(unsigned depth)
{
    struct state *s = &states[depth], *t = &states[depth + 1];
    struct oplist *l = malloc(sizeof(*l));
    size_t used = flat_arena();
    double paths = 0;

    farm_assert(l != NULL);
    for (unsigned i = 0; i < run.nodes && (run.nodes == 2 || i <= s->used); i++) {
        list_ops(&s->node[i].f, l);
        for (unsigned k = 0; k < l->n; k++) {
            run.steps[depth] = (struct step){.op = l->v[k], .node = i};
            copy_state(t, s);
            operate(t, depth + 1, i, &l->v[k]);
            paths += explore(depth + 1);
            flat_arena_reset(used);
        }
    }
    free(l);
    return paths;
}

static double explore_deliveries(unsigned depth)
{
    struct state *s = &states[depth], *t = &states[depth + 1];
    size_t used = flat_arena();
    double paths = 0;

    for (unsigned to = 0; to < run.nodes; to++) {
        for (unsigned from = 0; from < run.nodes; from++) {
            if (to == from || !pending(s, to, from))
                continue;
            run.steps[depth] = (struct step){.kind = STEP_DELIVERY, .node = to, .from = from};
            copy_state(t, s);
            deliver(t, depth + 1, to, from);
            paths += explore(depth + 1);
            flat_arena_reset(used);
        }
    }
    return paths;
}

static double explore_collecting(unsigned depth)
{
    struct state *s = &states[depth], *t = &states[depth + 1];
    size_t used = flat_arena();
    double paths = 0;

    for (unsigned i = 0; i < run.nodes; i++) {
        run.steps[depth] = (struct step){.kind = STEP_COLLECT, .node = i};
        copy_state(t, s);
        if (collect(t, depth + 1, i))
            paths += explore(depth + 1);
        flat_arena_reset(used);
    }
    return paths;
}

/* How many executions begin at states[depth]. */
static double explore(unsigned depth)
{
    struct state *s = &states[depth];
    uint64_t h = hash_state(s);
    struct slot *slot = &run.visited[h >> (64 - run.cache_bits)];
    double paths;

    farm_assert(depth + 2 < DEPTH_MAX);
    if (slot->key == h)
        return slot->paths;
    run.n_states++;
    if (!run.collect) /* what was collected is not taken again, the sets differ meanwhile */
        check_merge(s, depth);
    paths = s->done < run.ops ? explore_ops(depth) : 0;
    if (s->done < run.ops || run.all_orders)
        paths += explore_deliveries(depth);
    if (run.collect)
        paths += explore_collecting(depth);
    if (s->done == run.ops && !run.all_orders) {
        heal(s, depth, false);
        heal(s, depth, true);
        paths = 2;
    } else if (paths == 0) {
        check_end(s, depth);
        paths = 1;
    }
    *slot = (struct slot){.key = h, .paths = paths};
    return paths;
}

static void plant(struct state *s)
{
    static struct node founder;
    struct id128 rid[6];
    size_t n;

    memset(s, 0, sizeof(*s));
    flat_init(&founder.f);
    founder.rep = (struct replica){.r = &founder.f.r, .node = FOUNDER, .next_seq = 1, .next_id = 2};
    for (unsigned i = 0; i < run.scene->n; i++) {
        const struct seedling *e = &run.scene->e[i];
        struct id128 nid, parent = e->parent < 0 ? RID_ROOT : rid[e->parent];

        rid[i] = e->same < 0 ? replica_new_id(&founder.rep) : rid[e->same];
        if (e->same < 0 && (write_content(s, &founder, rid[i], e->dir) < 0 ||
                            chmod_to(s, &founder, rid[i], 0755) < 0))
            fail(s, 0, "the tree to begin with");
        if (replica_link(&founder.rep, WALL_START, 0, rid[i], parent, &e->name, 1, &nid) < 0)
            fail(s, 0, "the tree to begin with");
        free(flat_update(&founder.f, &n));
    }
    flat_log_clear(&founder.f);
    for (unsigned i = 0; i < run.nodes; i++) {
        copy_node(&s->node[i], &founder);
        s->node[i].rep.node = 0x11 + (run.down ? run.nodes - 1 - i : i);
        s->node[i].rep.next_seq = 1;
        s->node[i].rep.next_id = 2;
    }
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *cache(size_t each)
{
    void *p = calloc((size_t)1 << run.cache_bits, each);

    farm_assert(p != NULL);
    return p;
}

/* One scope. */
struct scope {
    const char *tree;
    unsigned nodes, ops;
    bool split, same_clock, down, collect;
};

static int exhaust(const struct scope *x)
{
    double from = seconds();

    run.scene = NULL;
    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
        if (strcmp(scenes[i].name, x->tree) == 0)
            run.scene = &scenes[i];
    }
    if (!run.scene || x->nodes < 2 || x->nodes > NODES_MAX || x->ops < 1 || x->ops > OPS_MAX) {
        fprintf(stderr,
                "exhaust: a tree of flat, nest, link, ring; 2 or 3 nodes; 1 to 4 operations\n");
        return 2;
    }
    run.nodes = x->nodes;
    run.ops = x->ops;
    run.split = x->split;
    run.same_clock = x->same_clock;
    run.down = x->down;
    run.collect = x->collect;
    run.all_orders = run.nodes == 2 || run.ops < 3;
    run.cache_bits = run.ops < 3 ? 17 : run.ops < 4 ? 22 : 25;
    run.n_ops = run.n_deliveries = run.n_states = run.n_sets = run.n_merges = 0;
    run.visited = cache(sizeof(*run.visited));
    run.views = cache(sizeof(*run.views));
    run.merges = cache(sizeof(*run.merges));
    flat_arena_reset(0);
    plant(&states[0]);
    double paths = explore(0);

    free(run.visited);
    free(run.views);
    free(run.merges);
    printf(
        "%s, %u nodes, %u operations%s%s%s%s: %.0f executions in %llu states; %llu operations and "
        "%llu deliveries run, %llu record sets judged, %llu joined directly; %.1f s\n",
        x->tree, run.nodes, run.ops, run.split ? ", split" : "",
        run.same_clock ? ", same clock" : "", run.down ? ", down" : "",
        run.collect ? ", collect" : "", paths, (unsigned long long)run.n_states,
        (unsigned long long)run.n_ops, (unsigned long long)run.n_deliveries,
        (unsigned long long)run.n_sets, (unsigned long long)run.n_merges, seconds() - from);
    fflush(stdout);
    all.paths += paths;
    all.states += run.n_states;
    all.scopes++;
    return 0;
}

/* All trees with this many nodes and operations. */
static void exhaust_trees(struct scope x)
{
    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
        x.tree = scenes[i].name;
        (void)exhaust(&x);
    }
}

static void exhaust_all(bool whole)
{
    double from = seconds();

    for (unsigned k = 1; k <= (whole ? OPS_MAX : 2); k++)
        exhaust_trees((struct scope){.nodes = 2, .ops = k});
    for (unsigned k = 1; k <= (whole ? 3 : 2); k++) {
        exhaust_trees((struct scope){.nodes = 2, .ops = k, .same_clock = true});
        exhaust_trees((struct scope){.nodes = 2, .ops = k, .split = true});
        exhaust_trees((struct scope){.nodes = 2, .ops = k, .collect = true});
        exhaust_trees((struct scope){.nodes = 3, .ops = k});
        exhaust_trees((struct scope){.nodes = 3, .ops = k, .down = true});
    }
    exhaust_trees((struct scope){.nodes = 3, .ops = 2, .collect = true});
    if (whole) {
        exhaust_trees((struct scope){.nodes = 3, .ops = 2, .split = true});
        exhaust_trees((struct scope){.nodes = 3, .ops = 3, .same_clock = true});
        exhaust_trees((struct scope){.nodes = 3, .ops = 3, .split = true});
        exhaust_trees((struct scope){.nodes = 3, .ops = 4});
    } else {
        (void)exhaust(&(struct scope){.tree = "ring", .nodes = 3, .ops = 2, .split = true});
        (void)exhaust(&(struct scope){.tree = "link", .nodes = 2, .ops = 3});
        (void)exhaust(&(struct scope){.tree = "ring", .nodes = 2, .ops = 3});
    }
    printf("%u scopes, %.0f executions, %llu states, %.1f s: all converge\n", all.scopes, all.paths,
           (unsigned long long)all.states, seconds() - from);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"tree", required_argument, NULL, 't'},
        {"nodes", required_argument, NULL, 'n'},
        {"ops", required_argument, NULL, 'o'},
        {"split", no_argument, NULL, 's'},
        {"same-clock", no_argument, NULL, 'c'},
        {"down", no_argument, NULL, 'd'},
        {"collect", no_argument, NULL, 'g'},
        {"whole", no_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    struct scope x = {.nodes = 2, .ops = 2};
    bool whole = false;
    int o, rc = 0;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (o) {
        case 't': x.tree = optarg; break;
        case 'n': x.nodes = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'o': x.ops = (unsigned)strtoul(optarg, NULL, 0); break;
        case 's': x.split = true; break;
        case 'c': x.same_clock = true; break;
        case 'd': x.down = true; break;
        case 'g': x.collect = true; break;
        case 'w': whole = true; break;
        default: return 2;
        }
    }
    states = calloc(DEPTH_MAX, sizeof(*states));
    farm_assert(states != NULL);
    if (x.tree)
        rc = exhaust(&x);
    else
        exhaust_all(whole);
    free(states);
    return rc;
}
