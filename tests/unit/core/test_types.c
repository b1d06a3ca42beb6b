/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_vvec_raise_keeps_order_and_maximum(void **state)
{
    struct vvec v = {0};

    (void)state;
    assert_int_equal(vvec_raise(&v, 7, 3), 0);
    assert_int_equal(vvec_raise(&v, 2, 9), 0);
    assert_int_equal(vvec_raise(&v, 5, 1), 0);
    assert_int_equal(vvec_raise(&v, 7, 2), 0);
    assert_int_equal(vvec_raise(&v, 4, 0), 0);
    assert_int_equal(v.n, 3);
    assert_int_equal(v.e[0].node, 2);
    assert_int_equal(v.e[1].node, 5);
    assert_int_equal(v.e[2].node, 7);
    assert_int_equal(vvec_get(&v, 7), 3);
    assert_int_equal(vvec_get(&v, 6), 0);
}

static void test_vvec_full(void **state)
{
    struct vvec v = {0}, one = {.n = 1, .e = {{1000, 1}}}, before;

    (void)state;
    for (uint64_t i = 1; i <= VVEC_MAX; i++)
        assert_int_equal(vvec_raise(&v, i, 1), 0);
    before = v;
    assert_int_equal(vvec_raise(&v, 1000, 1), FARM_EFULL);
    assert_int_equal(vvec_join(&v, &one), FARM_EFULL);
    assert_memory_equal(&v, &before, sizeof(v));
    assert_int_equal(vvec_raise(&v, 1, 5), 0);
}

static void test_vvec_includes(void **state)
{
    struct vvec a = {.n = 2, .e = {{1, 3}, {4, 5}}}, b = {.n = 1, .e = {{4, 5}}};

    (void)state;
    assert_true(vvec_includes(&a, &b));
    assert_false(vvec_includes(&b, &a));
    b.e[0].seq = 6;
    assert_false(vvec_includes(&a, &b));
    b.e[0] = (struct stamp){3, 1};
    assert_false(vvec_includes(&a, &b));
    b.e[0] = (struct stamp){5, 1};
    assert_false(vvec_includes(&a, &b));
    b.e[0].seq = 0; /* as good as absent */
    assert_true(vvec_includes(&a, &b));
}

static void test_vvec_join_is_least_upper_bound(void **state)
{
    struct vvec a = {.n = 2, .e = {{1, 5}, {3, 1}}}, b = {.n = 2, .e = {{2, 2}, {3, 4}}};

    (void)state;
    assert_false(vvec_includes(&a, &b));
    assert_int_equal(vvec_join(&a, &b), 0);
    assert_true(vvec_includes(&a, &b));
    assert_false(vvec_includes(&b, &a));
    assert_int_equal(vvec_get(&a, 1), 5);
    assert_int_equal(vvec_get(&a, 3), 4);
    assert_true(vvec_covers(&a, (struct stamp){3, 4}));
    assert_false(vvec_covers(&a, (struct stamp){3, 5}));
    assert_true(vvec_covers(&a, (struct stamp){0, 0}));
    assert_true(vvec_includes(&b, &(struct vvec){0}));
}

static void test_hlc_follows_wall_clock_and_peers(void **state)
{
    struct hlc h = {0};
    uint64_t a = hlc_tick(&h, 1000, 0), b = hlc_tick(&h, 1000, 0), c = hlc_tick(&h, 500, 0);

    (void)state;
    assert_int_equal(hlc_to_us(a), 1000);
    assert_true(a < b && b < c);
    assert_true(hlc_tick(&h, 1000, hlc_from_us(2000)) == hlc_from_us(2000) + 1);
    assert_true(hlc_observe(&h, 1000, hlc_from_us(5000)));
    assert_true(hlc_tick(&h, 1000, 0) > hlc_from_us(5000));
    assert_int_equal(hlc_to_us(hlc_tick(&h, 9000, 0)), 9000);
    /* what it follows has the very time of the wall clock, or is the next count */
    assert_int_equal(hlc_tick(&h, 9500, hlc_from_us(9500)), hlc_from_us(9500) + 1);
    assert_int_equal(hlc_tick(&h, 9000, h.last + 1), hlc_from_us(9500) + 3);
}

static void test_hlc_is_not_carried_away(void **state)
{
    struct hlc h = {0};
    uint64_t mad = hlc_from_us(HLC_SKEW_MAX_US + 2000);

    (void)state;
    assert_false(hlc_observe(&h, 1000, mad));
    assert_true(hlc_tick(&h, 1000, mad) == mad + 1);
    assert_int_equal(hlc_to_us(hlc_tick(&h, 1001, 0)), 1001);
}

static void test_head_order(void **state)
{
    struct rec_head a = {{1, 1}, 10}, later = {{0, 0}, 11}, node = {{2, 0}, 10}, seq = {{1, 2}, 10};

    (void)state;
    assert_true(head_wins(&later, &a));
    assert_true(head_wins(&node, &a));
    assert_true(head_wins(&seq, &a));
    assert_false(head_wins(&a, &a));
    assert_false(head_wins(&a, &seq));
}

static void test_content_conflicts(void **state)
{
    struct content_rec a = {.type = NODE_REG, .digest = {1}, .vv = {.n = 1, .e = {{1, 1}}}};
    struct content_rec b = {.type = NODE_REG, .digest = {2}, .vv = {.n = 1, .e = {{2, 1}}}};

    (void)state;
    assert_true(content_conflicts(&a, &b));
    b.digest[0] = 1;
    assert_false(content_conflicts(&a, &b));
    b.size = 5;
    assert_true(content_conflicts(&a, &b));
    b.vv = (struct vvec){.n = 2, .e = {{1, 1}, {2, 1}}};
    assert_false(content_conflicts(&a, &b));
    b.vv = (struct vvec){.n = 1, .e = {{2, 1}}};
    a.type = b.type = NODE_DIR;
    assert_false(content_conflicts(&a, &b));
    a.type = b.type = NODE_LNK;
    a.target = b.target = (const uint8_t *)"there";
    a.target_len = b.target_len = 5;
    assert_false(content_conflicts(&a, &b));
    b.target = (const uint8_t *)"where";
    assert_true(content_conflicts(&a, &b));
    b.target_len = 4;
    assert_true(content_conflicts(&a, &b));
    a.target_len = b.target_len = 0;
    assert_false(content_conflicts(&a, &b));
    for (uint8_t type = NODE_CHR; type <= NODE_BLK; type++) {
        a.type = b.type = type;
        a.rdev_major = b.rdev_major = 8;
        a.rdev_minor = b.rdev_minor = 1;
        assert_false(content_conflicts(&a, &b));
        b.rdev_minor = 2;
        assert_true(content_conflicts(&a, &b));
        b.rdev_major = 9;
        assert_true(content_conflicts(&a, &b));
    }
    a.type = b.type = NODE_FIFO;
    assert_false(content_conflicts(&a, &b));
    b.type = NODE_SOCK;
    assert_true(content_conflicts(&a, &b));
    b.type = NODE_DIR;
    assert_false(content_conflicts(&a, &b));
}

static void test_mtime_is_the_later_by_clock(void **state)
{
    struct content_rec c = {.h = {{1, 1}, 10}, .mtime_ns = 100};
    struct attr_rec a = {.mtime_ns = 50};

    (void)state;
    assert_int_equal(record_mtime(&c, &a), 100);
    a.mtime_hlc = 9;
    assert_int_equal(record_mtime(&c, &a), 100);
    a.mtime_hlc = 11;
    assert_int_equal(record_mtime(&c, &a), 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vvec_raise_keeps_order_and_maximum),
        cmocka_unit_test(test_vvec_full),
        cmocka_unit_test(test_vvec_includes),
        cmocka_unit_test(test_vvec_join_is_least_upper_bound),
        cmocka_unit_test(test_hlc_follows_wall_clock_and_peers),
        cmocka_unit_test(test_hlc_is_not_carried_away),
        cmocka_unit_test(test_head_order),
        cmocka_unit_test(test_content_conflicts),
        cmocka_unit_test(test_mtime_is_the_later_by_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
