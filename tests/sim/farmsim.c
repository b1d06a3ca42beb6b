/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A farm of the real core in one process: random local operations on few names, records carried in
 * log order over links that are cut and mended, and at the end a heal, after which all must be
 * equal.
 *
 *   farmsim [--seed N] [--runs N] [--steps N] [--nodes N] [--lose] [--trace]
 *
 * Without --nodes a run has 2 to 5. --lose: one node dies for good before the heal. A failure
 * prints its seed; `farmsim --seed THAT --trace` shows the run.
 *
 * What was deleted is collected on the way, each node when it has heard that all have seen it.
 * Every run is also done without that: the tree must be the same in the end.
 */
#include "base/log.h"
#include "core/collect.h"
#include "memrecords.h"
#include "oracle.h"
#include "tree.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define NODES_MAX 8u
#define NAMES "abcd"
#define EDITS_MAX 4096u
#define WALL_START (1700000000ull * 1000 * 1000)

struct version {
    struct id128 rid;
    struct stamp stamp;
    struct vvec vv;
};

struct node {
    struct memrecords m;
    struct replica rep;
    struct tree tree;
    int64_t skew_us;
    uint64_t got[NODES_MAX];      /* log position of each peer up to which all was applied */
    struct vvec heard[NODES_MAX]; /* what each member was last heard to know */
};

struct sim {
    uint64_t rng, now_us;
    uint64_t rng_collect; /* of its own: collecting does not change what happens else */
    bool collect;
    size_t collected;
    unsigned n;
    struct node node[NODES_MAX];
    bool up[NODES_MAX][NODES_MAX];
    struct version edit[EDITS_MAX], kept[EDITS_MAX]; /* all that was written; losers preserved */
    size_t nedits, nkept;
    char why[200]; /* failed, when not empty */
};

static bool trace;
static bool lose;

#define TRACE(...)               \
    do {                         \
        if (trace)               \
            printf(__VA_ARGS__); \
    } while (0)

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t rnd(struct sim *s)
{
    return splitmix64(&s->rng);
}

static unsigned below(struct sim *s, size_t n)
{
    return (unsigned)(rnd(s) % n);
}

static void fail(struct sim *s, unsigned node, const char *what)
{
    if (!s->why[0])
        snprintf(s->why, sizeof(s->why), "node %u: %s", node, what);
}

static void must(struct sim *s, unsigned i, int rc, const char *what)
{
    char text[100];

    if (rc >= 0)
        return;
    snprintf(text, sizeof(text), "%s: error %d", what, rc);
    fail(s, i, text);
}

static uint64_t wall(struct sim *s, unsigned i)
{
    return s->now_us + (uint64_t)s->node[i].skew_us;
}

static bool same_place(const struct place *a, const struct place *b)
{
    return a->kind == b->kind &&
           (a->kind == PLACE_NONE ||
            (a->cut == b->cut && id_eq(a->parent, b->parent) && a->name_len == b->name_len &&
             memcmp(a->name, b->name, a->name_len) == 0));
}

static void print_place(const struct place *p)
{
    static const char *const kinds[] = {"NONE", "AT", "HIDDEN"};

    printf("%s", kinds[p->kind]);
    if (p->kind != PLACE_NONE)
        printf(" %x.%u/%c%s", (unsigned)p->parent.node & 0xf, (unsigned)p->parent.n, p->name[0],
               p->cut ? " cut" : "");
}

static void dump(const struct memrecords *m, const struct place *should)
{
    for (size_t i = 0; i < m->nnames; i++) {
        const struct name_rec *n = &m->names[i]->rec;

        printf("  nid %x.%u inode %x.%u reg %x.%u/%c %s hlc %llx prev %x.%u/%c ",
               (unsigned)n->nid.node & 0xf, (unsigned)n->nid.n, (unsigned)n->inode.node & 0xf,
               (unsigned)n->inode.n, (unsigned)n->parent.node & 0xf, (unsigned)n->parent.n,
               n->name[0], n->alive ? "alive" : "dead", (unsigned long long)n->h.hlc,
               (unsigned)n->prev_parent.node & 0xf, (unsigned)n->prev_parent.n,
               n->prev_len ? n->prev_name[0] : '-');
        print_place(&m->names[i]->place);
        if (should && !same_place(&m->names[i]->place, &should[i])) {
            printf("  SHOULD BE ");
            print_place(&should[i]);
        }
        printf("\n");
    }
}

static void check_view(struct sim *s, unsigned i)
{
    struct memrecords *m = &s->node[i].m;
    struct place *should = oracle_places(m);
    const char *wrong = tree_check(&s->node[i].tree);
    size_t at = 0;

    for (size_t k = 0; k < m->nnames; k++) {
        if (!same_place(&m->names[k]->place, &should[k]))
            fail(s, i, "a place is not what all records say");
        at += should[k].kind == PLACE_AT;
    }
    if (wrong)
        fail(s, i, wrong);
    if (at != s->node[i].tree.n)
        fail(s, i, "the tree has more or less than the view");
    if (trace && s->why[0])
        dump(m, should);
    free(should);
}

/* After a local operation the tree may only lose what is dead: nothing may appear or move. */
static void check_local(struct sim *s, unsigned i, const struct view_change *c, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        if (c[k].to.kind == PLACE_AT &&
            (c[k].from.kind != PLACE_AT || !id_eq(c[k].from.parent, c[k].to.parent) ||
             c[k].from.name[0] != c[k].to.name[0]))
            fail(s, i, "a local operation made something appear or move");
        if (c[k].from.kind == PLACE_AT && c[k].to.kind == PLACE_HIDDEN)
            fail(s, i, "a local operation hid something");
    }
}

static void update(struct sim *s, unsigned i, bool local)
{
    struct node *nd = &s->node[i];
    size_t n;
    struct view_change *c = memrecords_update(&nd->m, &n);
    const char *wrong = tree_apply(&nd->tree, &nd->m.r, c, n);

    if (wrong)
        fail(s, i, wrong);
    for (size_t k = 0; k < n && trace; k++) {
        printf("    node %u: nid %x.%u ", i, (unsigned)c[k].nid.node & 0xf, (unsigned)c[k].nid.n);
        print_place(&c[k].from);
        printf(" -> ");
        print_place(&c[k].to);
        printf("\n");
    }
    if (local)
        check_local(s, i, c, n);
    free(c);
    if (below(s, 8) == 0 || trace)
        check_view(s, i);
}

/* ---- local operations ---- */

static void edit(struct sim *s, unsigned i, struct id128 rid, uint8_t type)
{
    struct node *nd = &s->node[i];
    struct content_rec c = {.rid = rid, .type = type, .size = 8, .mtime_ns = (int64_t)s->now_us};
    uint64_t digest = rnd(s);

    memcpy(c.digest, &digest, sizeof(digest));
    must(s, i, replica_content(&nd->rep, wall(s, i), 0, &c), "content");
    if (type != NODE_DIR && s->nedits < EDITS_MAX)
        s->edit[s->nedits++] = (struct version){rid, c.h.stamp, c.vv};
}

static void set_attr(struct sim *s, unsigned i, struct id128 rid)
{
    struct attr_rec a = {.rid = rid, .mode = below(s, 07777)};

    must(s, i, replica_attr(&s->node[i].rep, wall(s, i), 0, &a), "attr");
}

static struct id128 any_dir(struct sim *s, const struct tree *t)
{
    for (int tries = 0; tries < 4 && t->n > 0; tries++) {
        const struct entry *e = &t->e[below(s, t->n)];

        if (e->dir)
            return e->inode;
    }
    return RID_ROOT;
}

static struct entry *any_entry(struct sim *s, const struct tree *t)
{
    return t->n ? &t->e[below(s, t->n)] : NULL;
}

static uint8_t any_name(struct sim *s)
{
    return (uint8_t)NAMES[below(s, sizeof(NAMES) - 1)];
}

static void add_name(struct sim *s, unsigned i, struct id128 rid, bool dir)
{
    struct node *nd = &s->node[i];
    struct entry e = {
        .inode = rid, .dir = dir, .name = any_name(s), .parent = any_dir(s, &nd->tree)};

    if (tree_at(&nd->tree, e.parent, e.name))
        return;
    TRACE("node %u: add %x.%u at %x.%u/%c\n", i, (unsigned)rid.node & 0xf, (unsigned)rid.n,
          (unsigned)e.parent.node & 0xf, (unsigned)e.parent.n, e.name);
    must(s, i, replica_link(&nd->rep, wall(s, i), 0, rid, e.parent, &e.name, 1, &e.nid), "link");
    tree_add(&nd->tree, e);
}

static void create(struct sim *s, unsigned i, bool dir)
{
    struct id128 rid = replica_new_id(&s->node[i].rep);
    bool content_first = below(s, 2);

    if (content_first)
        edit(s, i, rid, dir ? NODE_DIR : NODE_REG);
    add_name(s, i, rid, dir);
    if (!content_first)
        edit(s, i, rid, dir ? NODE_DIR : NODE_REG);
    set_attr(s, i, rid);
}

static void remove_entry(struct sim *s, unsigned i)
{
    struct node *nd = &s->node[i];
    struct entry *e = any_entry(s, &nd->tree), was;

    if (!e || (e->dir && !tree_empty(&nd->tree, e->inode)))
        return;
    was = *e;
    TRACE("node %u: remove %x.%u/%c\n", i, (unsigned)was.parent.node & 0xf, (unsigned)was.parent.n,
          was.name);
    tree_remove(&nd->tree, e);
    must(s, i, replica_unlink(&nd->rep, wall(s, i), was.parent, &was.name, 1), "unlink");
}

static bool may_rename(const struct tree *t, const struct entry *src, const struct entry *dst,
                       struct id128 parent, bool exchange)
{
    if (dst == src || (src->dir && tree_below(t, parent, src->inode)))
        return false;
    if (!dst)
        return !exchange;
    if (exchange)
        return !dst->dir || !tree_below(t, src->parent, dst->inode);
    return src->dir == dst->dir && (!dst->dir || tree_empty(t, dst->inode));
}

static void rename_entry(struct sim *s, unsigned i, bool exchange)
{
    struct node *nd = &s->node[i];
    struct tree *t = &nd->tree;
    struct entry *src = any_entry(s, t), *dst, was;
    struct id128 parent = any_dir(s, t);
    uint8_t name = any_name(s);

    if (!src)
        return;
    dst = tree_at(t, parent, name);
    if (exchange && !dst && (dst = any_entry(s, t))) {
        parent = dst->parent;
        name = dst->name;
    }
    if (!may_rename(t, src, dst, parent, exchange))
        return;
    was = *src;
    TRACE("node %u: %s %x.%u/%c to %x.%u/%c\n", i, exchange ? "exchange" : "rename",
          (unsigned)was.parent.node & 0xf, (unsigned)was.parent.n, was.name,
          (unsigned)parent.node & 0xf, (unsigned)parent.n, name);
    if (!dst || !id_eq(src->inode, dst->inode)) {
        src->parent = parent;
        src->name = name;
        if (dst && exchange) {
            dst->parent = was.parent;
            dst->name = was.name;
        } else if (dst) {
            tree_remove(t, dst);
        }
    }
    must(s, i,
         replica_rename(&nd->rep, wall(s, i), was.parent, &was.name, 1, parent, &name, 1, exchange),
         "rename");
}

static void local_operation(struct sim *s, unsigned i)
{
    const struct entry *e = any_entry(s, &s->node[i].tree);

    switch (below(s, 16)) {
    case 0:
    case 1: create(s, i, false); break;
    case 2:
    case 3:
    case 4: create(s, i, true); break;
    case 5:
        if (e && !e->dir)
            add_name(s, i, e->inode, false);
        break;
    case 6:
    case 7:
    case 8: remove_entry(s, i); break;
    case 9:
    case 10:
    case 11:
    case 12: rename_entry(s, i, false); break;
    case 13: rename_entry(s, i, true); break;
    case 14:
        if (e)
            edit(s, i, e->inode, e->dir ? NODE_DIR : NODE_REG);
        break;
    default:
        if (e)
            set_attr(s, i, e->inode);
    }
    update(s, i, true);
}

/* ---- replication ---- */

static void merge(struct sim *s, unsigned to, unsigned from, const struct record *rec)
{
    struct node *nd = &s->node[to];
    struct content_rec own;
    struct version loser = {.rid = record_id(rec)};
    enum merge_result result;
    bool skewed;
    bool had = rec->kind == REC_CONTENT && nd->m.r.get_content(&nd->m, loser.rid, &own) == 0;
    int rc = replica_merge(&nd->rep, wall(s, to), rec, s->node[from].rep.node, &result, &skewed);

    must(s, to, rc, "merge");
    if (rc < 0 || (result != MERGE_CONFLICT && result != MERGE_LOST))
        return;
    if (!had) {
        fail(s, to, "a conflict with nothing");
        return;
    }
    loser.stamp = result == MERGE_LOST ? rec->content.h.stamp : own.h.stamp;
    loser.vv = result == MERGE_LOST ? rec->content.vv : own.vv;
    if (s->nkept < EDITS_MAX)
        s->kept[s->nkept++] = loser;
}

/* Up to `max` records of `from`'s log to `to`. Returns whether there were any. */
static bool deliver(struct sim *s, unsigned to, unsigned from, size_t max)
{
    struct node *a = &s->node[from], *b = &s->node[to];
    bool any = false;
    struct record rec;

    while (max > 0 && b->got[from] < a->m.nlog && !s->why[0]) {
        if (!memrecords_at(&a->m, ++b->got[from], &rec) ||
            vvec_covers(&b->rep.know, record_head(&rec)->stamp))
            continue;
        TRACE("node %u <- %u: %s %x.%u\n", to, from,
              rec.kind == REC_NAME      ? "name"
              : rec.kind == REC_CONTENT ? "content"
                                        : "attr",
              (unsigned)record_id(&rec).node & 0xf, (unsigned)record_id(&rec).n);
        merge(s, to, from, &rec);
        any = true;
        max--;
    }
    /* All that the peer holds is held here too, also what it knows of and no longer has. */
    if (b->got[from] == a->m.nlog)
        must(s, to, replica_learn(&b->rep, &a->rep.know), "knowledge");
    if (any)
        update(s, to, false);
    return any;
}

static void network(struct sim *s)
{
    unsigned a = below(s, s->n), b = below(s, s->n);

    if (a == b)
        return;
    if (below(s, 8) == 0)
        s->up[a][b] = s->up[b][a] = below(s, 3) > 0;
    if (s->up[a][b])
        deliver(s, a, b, 1 + below(s, below(s, 4) ? 4 : 64));
}

/* ---- collecting ---- */

/* Knowledge is honest: for what it covers there is a record, or it was collected; then no other
 * node may have it alive, ever. Here: against all the other nodes' records. */
static void check_honest(struct sim *s, unsigned i)
{
    struct node *a = &s->node[i];

    for (unsigned k = 0; k < s->n; k++) {
        const struct memrecords *m = &s->node[k].m;

        for (size_t x = 0; x < m->nnames; x++) {
            const struct name_rec *n = &m->names[x]->rec;
            struct name_rec own;

            if (!vvec_covers(&a->rep.know, n->h.stamp))
                continue;
            if (a->m.r.get_name(&a->m, n->nid, &own) == 0) {
                if (head_wins(&n->h, &own.h))
                    fail(s, i, "knows a name and holds an older version");
            } else if (n->alive || !vvec_covers(&a->rep.gone, n->h.stamp)) {
                fail(s, i, "knows a name and does not hold it");
            }
        }
    }
}

/* The content that a dead inode is collected with counts as seen to its end. */
static bool note_collected(struct sim *s, unsigned i, struct id128 rid)
{
    struct content_rec c;

    if (s->node[i].m.r.get_content(&s->node[i].m, rid, &c) < 0 || c.type == NODE_DIR)
        return false;
    if (s->nkept < EDITS_MAX)
        s->kept[s->nkept] = (struct version){rid, c.h.stamp, c.vv};
    return true;
}

static unsigned collect(struct sim *s, unsigned i)
{
    struct node *nd = &s->node[i];
    struct vvec stable = nd->rep.know;
    unsigned count = 0;
    bool done;

    for (unsigned k = 0; k < s->n; k++) {
        if (k == i)
            continue;
        if (!vvec_includes(&nd->rep.know, &nd->heard[k]))
            return 0;
        collect_meet(&stable, &nd->heard[k]);
    }
    for (size_t x = nd->m.ncontents; x-- > 0 && !s->why[0];) {
        struct id128 rid = nd->m.contents[x]->rec.rid;
        bool file = note_collected(s, i, rid);

        must(s, i, collect_inode(&nd->rep, rid, &stable, 0, &done), "collect");
        s->nkept += done && file && s->nkept < EDITS_MAX;
        count += done;
        if (done)
            TRACE("node %u: collected %x.%u\n", i, (unsigned)rid.node & 0xf, (unsigned)rid.n);
    }
    s->collected += count;
    return count;
}

static void gossip(struct sim *s)
{
    unsigned a = (unsigned)(splitmix64(&s->rng_collect) % s->n);
    unsigned b = (unsigned)(splitmix64(&s->rng_collect) % s->n);

    if (!s->collect)
        return;
    if (s->up[a][b])
        s->node[a].heard[b] = s->node[b].rep.know;
    if (splitmix64(&s->rng_collect) % 4 == 0 && collect(s, a) > 0)
        check_view(s, a);
    if (splitmix64(&s->rng_collect) % 32 == 0)
        check_honest(s, a);
}

/* All have heard of all. */
static void collect_all(struct sim *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        for (unsigned k = 0; k < s->n; k++)
            s->node[i].heard[k] = s->node[k].rep.know;
    }
    for (unsigned i = 0; i < s->n; i++)
        collect(s, i);
}

static void check_collected(struct sim *s)
{
    const struct memrecords *m = &s->node[0].m;

    for (size_t i = 0; i < m->nnames; i++) {
        bool alive = false;

        for (size_t k = 0; k < m->nnames; k++)
            alive |= id_eq(m->names[k]->rec.inode, m->names[i]->rec.inode) &&
                     (m->names[k]->rec.alive || m->names[k]->place.kind != PLACE_NONE);
        if (!alive)
            fail(s, 0, "a tombstone that all have seen was not collected");
    }
}

static void heal(struct sim *s)
{
    bool more = true;

    while (more && !s->why[0]) {
        more = false;
        for (unsigned a = 0; a < s->n; a++) {
            for (unsigned b = 0; b < s->n; b++)
                more = (a != b && deliver(s, a, b, 1 + below(s, 64))) || more;
        }
    }
}

/* ---- what must hold in the end ---- */

static bool same_vvec(const struct vvec *a, const struct vvec *b)
{
    return vvec_includes(a, b) && vvec_includes(b, a);
}

static bool same_head(const struct rec_head *a, const struct rec_head *b)
{
    return a->hlc == b->hlc && stamp_eq(a->stamp, b->stamp);
}

static bool same_names(const struct name_rec *a, const struct name_rec *b)
{
    return same_head(&a->h, &b->h) && id_eq(a->nid, b->nid) && id_eq(a->inode, b->inode) &&
           id_eq(a->parent, b->parent) && a->alive == b->alive && a->name_len == b->name_len &&
           memcmp(a->name, b->name, a->name_len) == 0 && a->prev_len == b->prev_len &&
           memcmp(a->prev_name, b->prev_name, a->prev_len) == 0 &&
           id_eq(a->prev_parent, b->prev_parent) && same_vvec(&a->seen, &b->seen);
}

static bool same_contents(const struct content_rec *a, const struct content_rec *b)
{
    return same_head(&a->h, &b->h) && a->type == b->type && a->size == b->size &&
           a->mtime_ns == b->mtime_ns && same_vvec(&a->vv, &b->vv) && stamp_eq(a->base, b->base) &&
           memcmp(a->digest, b->digest, sizeof(a->digest)) == 0;
}

static bool same_records(struct memrecords *a, struct memrecords *b)
{
    if (a->nnames != b->nnames || a->ncontents != b->ncontents || a->nattrs != b->nattrs)
        return false;
    for (size_t i = 0; i < a->nnames; i++) {
        if (!same_names(&a->names[i]->rec, &b->names[i]->rec))
            return false;
    }
    for (size_t i = 0; i < a->ncontents; i++) {
        struct content_rec c;

        if (b->r.get_content(b, a->contents[i]->rec.rid, &c) < 0 ||
            !same_contents(&a->contents[i]->rec, &c))
            return false;
    }
    for (size_t i = 0; i < a->nattrs; i++) {
        struct attr_rec x;
        const struct attr_rec *y = &a->attrs[i]->rec;

        if (b->r.get_attr(b, y->rid, &x) < 0 || !same_head(&x.h, &y->h) || x.mode != y->mode)
            return false;
    }
    return true;
}

/* Every version that was ever written is in the history of what is there, or was kept as a loser.
 */
static void check_versions(struct sim *s)
{
    struct memrecords *m = &s->node[0].m;

    for (size_t i = 0; i < s->nedits; i++) {
        const struct version *v = &s->edit[i];
        struct content_rec c;
        bool found = m->r.get_content(m, v->rid, &c) == 0 && vvec_covers(&c.vv, v->stamp);

        for (size_t k = 0; k < s->nkept && !found; k++)
            found = id_eq(s->kept[k].rid, v->rid) && vvec_covers(&s->kept[k].vv, v->stamp);
        if (!found)
            fail(s, 0, "a version was lost without being kept");
    }
}

static void check_alive(struct sim *s)
{
    const struct memrecords *m = &s->node[0].m;

    for (size_t i = 0; i < m->nnames; i++) {
        if (m->names[i]->rec.alive && m->names[i]->place.kind == PLACE_NONE)
            fail(s, 0, "a living name is nowhere");
    }
}

static void check_end(struct sim *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        check_view(s, i);
        check_honest(s, i);
        if (!same_records(&s->node[0].m, &s->node[i].m))
            fail(s, i, "the records differ from those of node 0");
        if (!tree_equal(&s->node[0].tree, &s->node[i].tree))
            fail(s, i, "the tree differs from that of node 0");
        if (!same_vvec(&s->node[0].rep.know, &s->node[i].rep.know))
            fail(s, i, "knowledge differs from that of node 0");
    }
    if (lose) /* what came from it last was perhaps not the end of its log */
        return;
    if (s->collect)
        check_collected(s);
    check_alive(s);
    check_versions(s);
}

/* ---- runs ---- */

static void start(struct sim *s, unsigned nodes)
{
    bool mad_clock = below(s, 8) == 0;

    s->n = nodes ? nodes : 2 + below(s, 4);
    s->now_us = WALL_START;
    for (unsigned i = 0; i < s->n; i++) {
        struct node *nd = &s->node[i];

        memrecords_init(&nd->m);
        nd->rep = (struct replica){
            .r = &nd->m.r, .node = ((rnd(s) | 1) << 4) + i, .next_seq = 1, .next_id = 2};
        nd->skew_us = (int64_t)below(s, 2000000) - 1000000;
        if (mad_clock && i == 0)
            nd->skew_us = (int64_t)(2 * HLC_SKEW_MAX_US);
        for (unsigned k = 0; k < s->n; k++)
            s->up[i][k] = below(s, 2);
    }
}

static bool run_once(struct sim *s, uint64_t seed, unsigned nodes, unsigned steps, bool gather)
{
    s->rng = seed;
    s->rng_collect = seed;
    s->collect = gather;
    start(s, nodes);
    for (unsigned step = 0; step < steps && !s->why[0]; step++) {
        s->now_us += below(s, 5000);
        if (below(s, 2))
            local_operation(s, below(s, s->n));
        else
            network(s);
        gossip(s);
    }
    s->n -= lose;
    heal(s);
    if (s->collect && !s->why[0])
        collect_all(s);
    if (!s->why[0])
        check_end(s);
    return !s->why[0];
}

static void end(struct sim *s)
{
    for (unsigned i = 0; i < s->n + lose; i++) {
        memrecords_fini(&s->node[i].m);
        tree_fini(&s->node[i].tree);
    }
    free(s);
}

static bool run(uint64_t seed, unsigned nodes, unsigned steps, size_t *collected)
{
    struct sim *s = calloc(1, sizeof(*s)), *all = calloc(1, sizeof(*all));

    farm_assert(s != NULL && all != NULL);
    bool ok = run_once(s, seed, nodes, steps, true);

    if (ok && !run_once(all, seed, nodes, steps, false))
        snprintf(s->why, sizeof(s->why), "with nothing collected: %.160s", all->why);
    else if (ok && !tree_equal(&s->node[0].tree, &all->node[0].tree))
        fail(s, 0, "the tree is another one when nothing is collected");
    ok = !s->why[0];
    if (!ok)
        printf("FAILED seed %llu: %s\n", (unsigned long long)seed, s->why);
    *collected += s->collected;
    end(s);
    end(all);
    return ok;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"runs", required_argument, NULL, 'r'},
        {"steps", required_argument, NULL, 't'},
        {"nodes", required_argument, NULL, 'n'},
        {"lose", no_argument, NULL, 'l'},
        {"trace", no_argument, NULL, 'v'},
        {NULL, 0, NULL, 0},
    };
    uint64_t seed = 1, runs = 1, failed = 0;
    unsigned steps = 120, nodes = 0;
    size_t collected = 0;
    int o;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (o) {
        case 's': seed = strtoull(optarg, NULL, 0); break;
        case 'r': runs = strtoull(optarg, NULL, 0); break;
        case 't': steps = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'n': nodes = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'l': lose = true; break;
        case 'v': trace = true; break;
        default: return 2;
        }
    }
    if (nodes == 1 || nodes > NODES_MAX) {
        fprintf(stderr, "farmsim: --nodes: 2 to %u\n", NODES_MAX);
        return 2;
    }
    for (uint64_t i = 0; i < runs; i++)
        failed += !run(seed + i, nodes, steps, &collected);
    printf("%zu inodes collected\n", collected);
    printf("%llu passed, %llu failed, 0 skipped\n", (unsigned long long)(runs - failed),
           (unsigned long long)failed);
    return failed > 0;
}
