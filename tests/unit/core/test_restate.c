/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Records outside of the ordinary course: a node under a new id, and one that rejoins. */
#include "core/replica.h"
#include "memrecords.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define OLD 5u
#define NEW 9u

static struct memrecords m;
static struct replica p;

static int setup(void **state)
{
    (void)state;
    memrecords_init(&m);
    p = (struct replica){.r = &m.r, .node = NEW, .next_seq = 1, .next_id = 2};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    memrecords_fini(&m);
    return 0;
}

static struct record content(uint64_t node, uint64_t seq, uint64_t hlc)
{
    return (struct record){.kind = REC_CONTENT,
                           .content = {.h = {{node, seq}, hlc},
                                       .rid = {OLD, 2},
                                       .type = NODE_REG,
                                       .size = hlc,
                                       .vv = {.n = 1, .e = {{node, seq}}}}};
}

static const struct content_rec *held(void)
{
    static struct content_rec c;

    assert_int_equal(m.r.get_content(&m, (struct id128){OLD, 2}, &c), 0);
    return &c;
}

/* What the first life made of the numbers from 4 on gets others; what is older stays. */
static void renewed(void **state)
{
    struct record c = content(OLD, 4, 10), before = content(OLD, 3, 9);
    struct record n = {.kind = REC_NAME,
                       .name = {.h = {{OLD, 5}, 11},
                                .nid = {OLD, 3},
                                .inode = {OLD, 2},
                                .name_len = 1,
                                .name = "n",
                                .seen = {.n = 1, .e = {{OLD, 4}}}}};
    struct record a = {.kind = REC_ATTR, .attr = {.h = {{OLD, 6}, 12}, .rid = {OLD, 2}}};
    struct name_rec name;
    struct attr_rec attr;

    (void)state;
    assert_int_equal(replica_renew(&p, OLD, 4, &before), 0);
    assert_int_equal(m.nlog, 0);
    c.content.base = (struct stamp){OLD, 4};
    assert_int_equal(replica_renew(&p, OLD, 4, &c), 0);
    assert_true(stamp_eq(held()->h.stamp, (struct stamp){NEW, 1}));
    assert_int_equal(held()->h.hlc, 10);
    assert_int_equal(vvec_get(&held()->vv, NEW), 1);
    assert_int_equal(vvec_get(&held()->vv, OLD), 3);
    assert_int_equal(held()->base.node, 0);
    assert_int_equal(replica_renew(&p, OLD, 4, &n), 0);
    assert_int_equal(m.r.get_name(&m, n.name.nid, &name), 0);
    assert_true(stamp_eq(name.h.stamp, (struct stamp){NEW, 2}));
    assert_true(vvec_includes(&name.seen, &held()->vv));
    assert_int_equal(replica_renew(&p, OLD, 4, &a), 0);
    assert_int_equal(m.r.get_attr(&m, a.attr.rid, &attr), 0);
    assert_true(stamp_eq(attr.h.stamp, (struct stamp){NEW, 3}));
    /* nothing of the first life in it: only the stamp is new */
    c = content(7, 1, 20);
    c.content.h.stamp = (struct stamp){OLD, 8};
    c.content.base = (struct stamp){7, 1};
    assert_int_equal(replica_renew(&p, OLD, 4, &c), 0);
    assert_int_equal(held()->vv.n, 1);
    assert_int_equal(held()->base.node, 7);
    n.name.h.stamp.seq = 9;
    n.name.seen.n = 0;
    assert_int_equal(replica_renew(&p, OLD, 4, &n), 0);
    assert_int_equal(m.r.get_name(&m, n.name.nid, &name), 0);
    assert_int_equal(name.seen.n, 0);
    c.content.h.stamp.node = 7; /* another's */
    assert_int_equal(replica_renew(&p, OLD, 4, &c), 0);
    assert_int_equal(p.next_seq, 6);
}

static void vectors_are_full(void **state)
{
    struct record c = content(OLD, 4, 10);
    struct record n = {.kind = REC_NAME, .name = {.h = {{OLD, 5}, 11}, .nid = {OLD, 3}}};
    struct record a = {.kind = REC_ATTR, .attr = {.h = {{OLD, 6}, 12}, .rid = {OLD, 2}}};
    struct vvec full = {0};

    (void)state;
    for (uint64_t i = 0; i < VVEC_MAX; i++)
        assert_int_equal(vvec_raise(&full, OLD + 100 * i, 5), 0);
    p.next_seq = 2;
    c.content.vv = n.name.seen = full;
    assert_int_equal(replica_renew(&p, OLD, 4, &c), FARM_EFULL);
    assert_int_equal(replica_renew(&p, OLD, 4, &n), FARM_EFULL);
    c.content.vv.n = n.name.seen.n = 0;
    p.know = full;
    assert_int_equal(replica_renew(&p, OLD, 4, &c), FARM_EFULL);
    assert_int_equal(replica_renew(&p, OLD, 4, &n), FARM_EFULL);
    assert_int_equal(replica_renew(&p, OLD, 4, &a), FARM_EFULL);
    assert_int_equal(m.nlog, 0);
}

/* Whoever rejoins takes what the peer has, also where its own is later; what is lost is told. */
static void taken(void **state)
{
    struct record ours = content(7, 3, 30), theirs = content(8, 1, 20), next = theirs;
    struct record n = {.kind = REC_NAME,
                       .name = {.h = {{8, 2}, 20}, .nid = {8, 3}, .inode = {OLD, 2}}};
    struct record a = {.kind = REC_ATTR, .attr = {.h = {{8, 4}, 20}, .rid = {OLD, 2}}};
    enum merge_result result;

    (void)state;
    assert_int_equal(replica_take(&p, &ours, 8, &result), 0);
    assert_int_equal(result, MERGE_NEW);
    assert_int_equal(replica_take(&p, &theirs, 8, &result), 0);
    assert_int_equal(result, MERGE_CONFLICT);
    assert_int_equal(held()->h.hlc, 20);
    assert_int_equal(replica_take(&p, &theirs, 8, &result), 0);
    assert_int_equal(result, MERGE_OLD);
    next.content.h = (struct rec_head){{8, 5}, 40};
    next.content.vv.e[0].seq = 5;
    assert_int_equal(replica_take(&p, &next, 8, &result), 0);
    assert_int_equal(result, MERGE_NEW);
    assert_int_equal(replica_take(&p, &theirs, 8, &result), 0); /* ours was later */
    assert_int_equal(result, MERGE_CONFLICT);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(replica_take(&p, &n, 8, &result), 0);
        assert_int_equal(result, again ? MERGE_OLD : MERGE_NEW);
        assert_int_equal(replica_take(&p, &a, 8, &result), 0);
        assert_int_equal(result, again ? MERGE_OLD : MERGE_NEW);
    }
    n.name.h.hlc = a.attr.h.hlc = 10;
    assert_int_equal(replica_take(&p, &n, 8, &result), 0);
    assert_int_equal(result, MERGE_NEW);
    assert_int_equal(replica_take(&p, &a, 8, &result), 0);
    assert_int_equal(result, MERGE_NEW);
    /* the impossible */
    n.name.inode.n++;
    assert_int_equal(replica_take(&p, &n, 8, &result), FARM_EPROTO);
    next.content.type = NODE_DIR;
    assert_int_equal(replica_take(&p, &next, 8, &result), FARM_EPROTO);
    a.attr.h.stamp.seq = 0;
    assert_int_equal(replica_take(&p, &a, 8, &result), FARM_EPROTO);
}

#define RESTATE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RESTATE_TEST(renewed),
        RESTATE_TEST(vectors_are_full),
        RESTATE_TEST(taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
