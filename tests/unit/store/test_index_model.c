/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Random operations on the index and on a model in memory, which must agree. A failure prints its
 * seed; FARM_TEST_SEED replays it. */
#include "store/index.h"

#include "base/clock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NAMES 48u  /* nids */
#define INODES 12u /* rids; the first PARENTS of them are also directories */
#define PARENTS 4u
#define WORDS 5u
#define LIDS 40u
#define STEPS 20000u

static const char *const words[WORDS] = {"a", "ab", "b", "\xff", "a long one"};

struct m_name {
    bool there, alive;
    uint8_t inode, parent, word;
    uint64_t pos;
};
struct m_plain { /* content, attributes */
    bool there;
    uint32_t value; /* size, mode */
    uint64_t pos;
};
struct m_place {
    enum place_kind kind;
    bool cut;
    uint8_t parent, word;
};
struct m_node {
    bool there, held;
    uint64_t lid;
    uint8_t handle;
};
struct m_lid {
    bool there, orphan;
    uint8_t rid;
};

struct model {
    struct m_name name[NAMES];
    struct m_place place[NAMES];
    int slot[PARENTS][WORDS]; /* nid or -1 */
    struct m_plain content[INODES], attr[INODES];
    struct m_node node[INODES];
    struct m_lid lid[LIDS];
    uint64_t head;
};

struct run {
    char dir[32];
    struct index *ix;
    struct records r;
    struct model now, committed;
    uint64_t rng;
};

static uint32_t pick(struct run *t, uint32_t n)
{
    t->rng ^= t->rng << 13;
    t->rng ^= t->rng >> 7;
    t->rng ^= t->rng << 17;
    return (uint32_t)((t->rng * 0x2545f4914f6cdd1dull) >> 33) % n;
}

static void ok(int e)
{
    assert_int_equal(e, 0);
}

static struct id128 nid_of(uint32_t i)
{
    return (struct id128){i % 3 + 1, i + 1};
}

static struct id128 rid_of(uint32_t i)
{
    return (struct id128){i % 2 + 1, i + 1000};
}

static struct handle handle_of(uint8_t i)
{
    return (struct handle){.len = (uint8_t)(i % 3 + 6), .type = i % 2 ? -3 : 5, .bytes = {i, 9}};
}

/* ---- operations ---- */

/* Where a put of a record of the inode goes in the log: nowhere while it is held, except when the
 * record has been there before. */
static uint64_t log_pos(struct model *m, uint32_t inode, bool there, uint64_t was)
{
    bool held = m->node[inode].there && m->node[inode].held;
    return held && !(there && was) ? 0 : m->head++;
}

static void op_name(struct run *t)
{
    uint32_t i = pick(t, NAMES);
    struct m_name *m = &t->now.name[i];
    struct name_rec n = {.h = {{1, 1 + pick(t, 100)}, 5}, .nid = nid_of(i)};

    m->inode = m->there ? m->inode : (uint8_t)pick(t, INODES);
    m->parent = (uint8_t)pick(t, PARENTS);
    m->word = (uint8_t)pick(t, WORDS);
    m->alive = pick(t, 2);
    m->pos = log_pos(&t->now, m->inode, m->there, m->pos);
    m->there = true;
    n.inode = rid_of(m->inode);
    n.parent = rid_of(m->parent);
    n.alive = m->alive;
    n.name_len = (uint8_t)strlen(words[m->word]);
    memcpy(n.name, words[m->word], n.name_len);
    ok(t->r.put_name(t->r.ctx, &n, 1));
}

static void op_content(struct run *t)
{
    uint32_t i = pick(t, INODES);
    struct m_plain *m = &t->now.content[i];
    struct content_rec c = {.h = {{1, 1}, 5}, .rid = rid_of(i), .type = NODE_REG};

    c.size = m->value = pick(t, 1000);
    m->pos = log_pos(&t->now, i, m->there, m->pos);
    m->there = true;
    ok(t->r.put_content(t->r.ctx, &c, 1));
}

static void op_attr(struct run *t)
{
    uint32_t i = pick(t, INODES);
    struct m_plain *m = &t->now.attr[i];
    struct attr_rec a = {.h = {{1, 1}, 5}, .rid = rid_of(i)};

    a.mode = m->value = pick(t, 01000);
    m->pos = log_pos(&t->now, i, m->there, m->pos);
    m->there = true;
    ok(t->r.put_attr(t->r.ctx, &a, 1));
}

static void op_forget_inode(struct run *t)
{
    uint32_t i = pick(t, INODES);

    t->now.content[i].there = t->now.attr[i].there = false;
    ok(index_forget_inode(t->ix, rid_of(i)));
}

static void leave(struct model *m, uint32_t i)
{
    struct m_place *p = &m->place[i];
    if (p->kind == PLACE_AT && m->slot[p->parent][p->word] == (int)i)
        m->slot[p->parent][p->word] = -1;
}

static void op_place(struct run *t)
{
    uint32_t i = pick(t, NAMES);
    struct m_place *m = &t->now.place[i];
    struct place p = {.kind = PLACE_NONE};

    leave(&t->now, i);
    *m = (struct m_place){.kind = (enum place_kind)pick(t, 3), .cut = pick(t, 2)};
    m->parent = (uint8_t)pick(t, PARENTS);
    m->word = (uint8_t)pick(t, WORDS);
    p.kind = m->kind;
    p.cut = m->cut;
    p.parent = rid_of(m->parent);
    p.name_len = (uint8_t)strlen(words[m->word]);
    memcpy(p.name, words[m->word], p.name_len);
    if (m->kind == PLACE_AT)
        t->now.slot[m->parent][m->word] = (int)i;
    ok(t->r.set_place(t->r.ctx, nid_of(i), &p));
}

static void op_forget(struct run *t)
{
    uint32_t i = pick(t, NAMES);

    if (!t->now.name[i].there) {
        assert_int_equal(index_forget_name(t->ix, nid_of(i)), -ENOENT);
        return;
    }
    leave(&t->now, i);
    t->now.place[i].kind = PLACE_NONE;
    t->now.name[i].there = false;
    ok(index_forget_name(t->ix, nid_of(i)));
}

static void release_lid(struct model *m, uint64_t lid, uint32_t rid, bool keep)
{
    if (!m->lid[lid].there || m->lid[lid].rid != rid)
        return;
    m->lid[lid].orphan = keep;
    m->lid[lid].there = keep;
}

/* Handles follow the inode number and the lid, so that two inodes never share one. */
static void op_node(struct run *t)
{
    uint32_t i = pick(t, INODES), lid = pick(t, LIDS);
    struct m_node *m = &t->now.node[i];
    bool keep = pick(t, 2);

    if (t->now.lid[lid].there && (!m->there || m->lid != lid))
        return;
    if (m->there && m->lid != lid)
        release_lid(&t->now, m->lid, i, keep);
    *m = (struct m_node){true, pick(t, 2), lid, (uint8_t)(i * 8 + lid % 8)};
    t->now.lid[lid] = (struct m_lid){true, false, (uint8_t)i};
    struct index_node n = {.rid = rid_of(i), .lid = lid, .type = NODE_REG};
    n.flags = m->held ? NODE_HELD : 0;
    n.handle = handle_of(m->handle);
    ok(index_put_node(t->ix, &n, keep));
}

static void op_del_node(struct run *t)
{
    uint32_t i = pick(t, INODES);
    struct m_node *m = &t->now.node[i];
    bool keep = pick(t, 2);

    assert_int_equal(index_del_node(t->ix, rid_of(i), keep), m->there ? 0 : -ENOENT);
    if (m->there)
        release_lid(&t->now, m->lid, i, keep);
    m->there = false;
}

static void op_del_orphan(struct run *t)
{
    uint32_t lid = pick(t, LIDS);
    struct m_lid *m = &t->now.lid[lid];
    bool orphan = m->there && m->orphan;

    assert_int_equal(index_del_orphan(t->ix, lid), orphan ? 0 : -ENOENT);
    if (orphan)
        m->there = false;
}

/* ---- comparison ---- */

struct expect {
    const struct model *m;
    int next; /* the least nid (in their order) that may still come */
    uint32_t n;
    int parent, word, inode; /* -1: any */
};

static int order_of(struct id128 nid)
{
    return (int)(nid.node * 1000 + nid.n);
}

static int check_visit(void *arg, const struct name_rec *n)
{
    struct expect *x = arg;
    uint32_t i = (uint32_t)n->nid.n - 1;
    const struct m_name *m = &x->m->name[i];

    assert_true(m->there && id_eq(n->nid, nid_of(i)) && n->alive == m->alive);
    assert_true(order_of(n->nid) >= x->next);
    assert_true(x->parent < 0 || x->parent == m->parent);
    assert_true(x->word < 0 || x->word == m->word);
    assert_true(x->inode < 0 || x->inode == m->inode);
    assert_true(id_eq(n->inode, rid_of(m->inode)) && id_eq(n->parent, rid_of(m->parent)));
    x->next = order_of(n->nid) + 1;
    x->n++;
    return 0;
}

static uint32_t count(const struct expect *x)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < NAMES; i++) {
        const struct m_name *m = &x->m->name[i];
        n += m->there && (x->parent < 0 || x->parent == m->parent) &&
             (x->word < 0 || x->word == m->word) && (x->inode < 0 || x->inode == m->inode);
    }
    return n;
}

static void check_orders(struct run *t)
{
    for (int p = 0; p < (int)PARENTS; p++) {
        struct expect x = {.m = &t->now, .parent = p, .word = -1, .inode = -1};
        ok(t->r.names_in(t->r.ctx, rid_of((uint32_t)p), check_visit, &x));
        assert_int_equal(x.n, count(&x));
        for (int w = 0; w < (int)WORDS; w++) {
            struct expect y = {.m = &t->now, .parent = p, .word = w, .inode = -1};
            ok(t->r.names_at(t->r.ctx, rid_of((uint32_t)p), (const uint8_t *)words[w],
                             (uint8_t)strlen(words[w]), check_visit, &y));
            assert_int_equal(y.n, count(&y));
        }
    }
    for (int i = 0; i < (int)INODES; i++) {
        struct expect x = {.m = &t->now, .parent = -1, .word = -1, .inode = i};
        ok(t->r.names_of(t->r.ctx, rid_of((uint32_t)i), check_visit, &x));
        assert_int_equal(x.n, count(&x));
    }
}

static int count_place(void *arg, const uint8_t *name, uint8_t len, struct id128 nid)
{
    (void)name;
    (void)len;
    (void)nid;
    (*(int *)arg)++;
    return 0;
}

static int count_id(void *arg, struct id128 nid)
{
    (void)nid;
    (*(int *)arg)++;
    return 0;
}

static void check_hidden(struct run *t, uint32_t parent, uint32_t word)
{
    int want = 0, got = 0;

    for (uint32_t i = 0; i < NAMES; i++) {
        const struct m_place *m = &t->now.place[i];
        want += m->kind == PLACE_HIDDEN && m->parent == parent && m->word == word;
    }
    ok(t->r.hidden_at(t->r.ctx, rid_of(parent), (const uint8_t *)words[word],
                      (uint8_t)strlen(words[word]), count_id, &got));
    assert_int_equal(got, want);
}

static void check_places(struct run *t)
{
    int cuts = 0, want_cuts = 0;

    for (uint32_t i = 0; i < NAMES; i++) {
        struct place p;
        ok(t->r.get_place(t->r.ctx, nid_of(i), &p));
        assert_int_equal(p.kind, t->now.place[i].kind);
        want_cuts += p.kind != PLACE_NONE && t->now.place[i].cut;
        if (p.kind != PLACE_NONE)
            assert_true(p.cut == t->now.place[i].cut &&
                        id_eq(p.parent, rid_of(t->now.place[i].parent)));
    }
    for (uint32_t d = 0; d < PARENTS; d++) {
        int want = 0, got = 0;
        for (uint32_t w = 0; w < WORDS; w++) {
            int holder = t->now.slot[d][w];
            struct id128 nid;
            int e = t->r.who_is_at(t->r.ctx, rid_of(d), (const uint8_t *)words[w],
                                   (uint8_t)strlen(words[w]), &nid);
            assert_int_equal(e, holder < 0 ? -ENOENT : 0);
            if (!e)
                assert_true(id_eq(nid, nid_of((uint32_t)holder)));
            want += holder >= 0;
            check_hidden(t, d, w);
        }
        ok(index_places_in(t->ix, rid_of(d), count_place, &got));
        assert_int_equal(got, want);
    }
    ok(t->r.cuts(t->r.ctx, count_id, &cuts));
    assert_int_equal(cuts, want_cuts);
}

static void check_nodes(struct run *t)
{
    for (uint32_t i = 0; i < INODES; i++) {
        const struct m_node *m = &t->now.node[i];
        struct index_node n;
        assert_int_equal(index_get_node(t->ix, rid_of(i), &n), m->there ? 0 : -ENOENT);
        for (uint32_t j = 0; j < 8; j++) {
            struct handle h = handle_of((uint8_t)(i * 8 + j));
            bool want = m->there && m->handle == i * 8 + j;
            assert_int_equal(index_get_node_by_handle(t->ix, &h, &n), want ? 0 : -ENOENT);
            if (want)
                assert_true(id_eq(n.rid, rid_of(i)) && n.lid == m->lid);
        }
    }
    for (uint32_t lid = 0; lid < LIDS; lid++) {
        const struct m_lid *m = &t->now.lid[lid];
        struct index_node n;
        int e = index_get_node_by_lid(t->ix, lid, &n);
        assert_int_equal(e, m->there && !m->orphan ? 0 : -ENOENT);
        if (!e)
            assert_true(id_eq(n.rid, rid_of(m->rid)));
    }
}

static void check_plain(const struct m_plain *m, uint64_t value, uint64_t at)
{
    assert_true(m->there);
    assert_int_equal(m->pos, at);
    assert_int_equal(m->value, value);
}

/* What is not in the log is found all the same. */
static void check_plains(struct run *t)
{
    for (uint32_t i = 0; i < INODES; i++) {
        const struct m_plain *mc = &t->now.content[i], *ma = &t->now.attr[i];
        struct content_rec c = {.size = 0};
        struct attr_rec a = {.mode = 0};
        int e = t->r.get_content(t->r.ctx, rid_of(i), &c);
        assert_int_equal(e, mc->there ? 0 : -ENOENT);
        assert_true(e || c.size == mc->value);
        e = t->r.get_attr(t->r.ctx, rid_of(i), &a);
        assert_int_equal(e, ma->there ? 0 : -ENOENT);
        assert_true(e || a.mode == ma->value);
    }
}

/* The log, through a reader: exactly the entries of the committed model, each at its position. */
static void check_log(struct run *t)
{
    const struct model *m = &t->committed;
    struct index_reader *r;
    struct record rec;
    uint64_t at = 0, source, n = 0, want = 0;
    int e;

    ok(index_reader_new(t->ix, &r));
    ok(index_reader_begin(r));
    while ((e = index_reader_log(r, at + 1, &at, &rec, &source)) == 0) {
        if (rec.kind == REC_NAME)
            assert_int_equal(m->name[rec.name.nid.n - 1].pos, at);
        else if (rec.kind == REC_CONTENT)
            check_plain(&m->content[rec.content.rid.n - 1000], rec.content.size, at);
        else
            check_plain(&m->attr[rec.attr.rid.n - 1000], rec.attr.mode, at);
        n++;
    }
    assert_int_equal(e, -ENOENT);
    for (uint32_t i = 0; i < NAMES; i++)
        want += m->name[i].there && m->name[i].pos;
    for (uint32_t i = 0; i < INODES; i++) {
        want += m->content[i].there && m->content[i].pos;
        want += m->attr[i].there && m->attr[i].pos;
    }
    assert_int_equal(n, want);
    for (uint32_t lid = 0; lid < LIDS; lid++) {
        struct handle h;
        struct id128 rid;
        uint8_t type;
        bool orphan;
        e = index_reader_by_lid(r, lid, &h, &type, &rid, &orphan);
        assert_int_equal(e, m->lid[lid].there ? 0 : -ENOENT);
        if (!e)
            assert_true(orphan == m->lid[lid].orphan && id_eq(rid, rid_of(m->lid[lid].rid)));
    }
    index_reader_end(r);
    index_reader_free(r);
}

/* ---- the run ---- */

static void open_index(struct run *t)
{
    bool fresh;
    ok(index_open(t->dir, 64u << 20, &t->ix, &fresh));
    index_records(t->ix, &t->r);
    /* As the meta row would say; the last entries may have been forgotten. */
    index_set_log_head(t->ix, t->committed.head);
}

static void end_transaction(struct run *t)
{
    check_orders(t);
    check_places(t);
    check_nodes(t);
    check_plains(t);
    if (pick(t, 3)) {
        ok(index_commit(t->ix));
        t->committed = t->now;
    } else {
        index_abort(t->ix);
        t->now = t->committed;
    }
    assert_int_equal(index_log_head(t->ix), t->committed.head);
    check_log(t);
    if (pick(t, 50) == 0) {
        index_close(t->ix);
        open_index(t);
    }
    ok(index_begin(t->ix));
}

static void step(struct run *t)
{
    uint32_t dice = pick(t, 100);

    if (dice < 35)
        op_name(t);
    else if (dice < 55)
        op_place(t);
    else if (dice < 63)
        op_content(t);
    else if (dice < 70)
        op_attr(t);
    else if (dice < 71)
        op_forget_inode(t);
    else if (dice < 82)
        op_node(t);
    else if (dice < 87)
        op_del_node(t);
    else if (dice < 92)
        op_del_orphan(t);
    else if (dice < 96)
        op_forget(t);
    else
        end_transaction(t);
}

static void agrees_with_a_model(void **state)
{
    static struct run t;
    const char *seed = getenv("FARM_TEST_SEED");
    char cmd[64];
    (void)state;

    t.rng = seed ? strtoull(seed, NULL, 0) : clock_wall(&clock_system) | 1;
    print_message("FARM_TEST_SEED=%llu\n", (unsigned long long)t.rng);
    strcpy(t.dir, "/tmp/farm-index-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    memset(t.now.slot, 0xff, sizeof t.now.slot);
    t.now.head = 1;
    t.committed = t.now;
    open_index(&t);
    ok(index_begin(t.ix));
    for (uint32_t i = 0; i < STEPS; i++)
        step(&t);
    index_close(t.ix);
    snprintf(cmd, sizeof cmd, "rm -rf %s", t.dir);
    ok(system(cmd));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
