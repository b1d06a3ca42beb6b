/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A reader's walks over the inodes, and the sums of ranges that peers compare. */
#include "index_fixture.h"

struct nodes_of_two {
    struct fix *a, *b;
};

static const struct id128 all_last = {UINT64_MAX, UINT64_MAX};

static void fill(struct fix *f, uint64_t from, uint64_t to)
{
    ok(index_begin(f->ix));
    put_many(f, from, to);
    put_meta(f, 1);
    ok(index_commit(f->ix));
}

static void sum(struct fix *f, uint64_t first, struct id128 last, const struct vvec *known,
                struct index_sum *out)
{
    struct index_reader *r;

    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    ok(index_reader_sum(r, first ? id(first) : (struct id128){0, 0}, last, known, out));
    index_reader_end(r);
    index_reader_free(r);
}

static bool same(struct fix *a, struct fix *b, uint64_t first, struct id128 last)
{
    struct index_sum x, y;

    sum(a, first, last, NULL, &x);
    sum(b, first, last, NULL, &y);
    return x.inodes == y.inodes && memcmp(x.digest, y.digest, sizeof x.digest) == 0;
}

static int two(void **state)
{
    struct nodes_of_two *t = calloc(1, sizeof *t);
    void *a, *b;

    if (!t || setup(&a) || setup(&b))
        return -1;
    t->a = a;
    t->b = b;
    *state = t;
    return 0;
}

static int no_more(void **state)
{
    struct nodes_of_two *t = *state;
    void *a = t->a, *b = t->b;

    free(t);
    return teardown(&a) | teardown(&b);
}

/* ---- walks ---- */

static int see(void *arg, struct id128 rid)
{
    uint64_t *at = arg;

    assert_true(rid.n > *at);
    *at = rid.n;
    return rid.n == 7 ? 42 : 0;
}

static void inodes_come_in_order(void **state)
{
    struct nodes_of_two *t = *state;
    struct index_reader *r;
    uint64_t at = 0;

    fill(t->a, 1, 6);
    ok(index_reader_new(t->a->ix, &r));
    ok(index_reader_begin(r));
    ok(index_reader_inodes(r, id(0), see, &at));
    assert_int_equal(at, 5);
    at = 3;
    ok(index_reader_inodes(r, id(4), see, &at));
    assert_int_equal(at, 5);
    ok(index_reader_inodes(r, id(6), see, &at));
    index_reader_end(r);
    fill(t->a, 6, 10);
    ok(index_reader_begin(r));
    at = 0;
    assert_int_equal(index_reader_inodes(r, id(0), see, &at), 42);
    assert_int_equal(at, 7);
    index_reader_end(r);
    index_reader_free(r);
}

static int see_name(void *arg, const struct name_rec *n, const struct place *p)
{
    unsigned *seen = arg;

    assert_int_equal(n->inode.n, 1);
    *seen += p->kind == PLACE_AT ? 100 : 1;
    return 0;
}

static void names_come_with_their_places(void **state)
{
    struct nodes_of_two *t = *state;
    struct place p = {.kind = PLACE_AT, .parent = RID_ROOT, .name_len = 1, .name = "x"};
    struct index_reader *r;
    unsigned seen = 0;

    ok(index_begin(t->a->ix));
    put_many(t->a, 1, 3);
    struct name_rec second = a_name(20, 1, RID_ROOT, "x");
    ok(t->a->r.put_name(t->a->r.ctx, &second, US));
    ok(t->a->r.set_place(t->a->r.ctx, second.nid, &p));
    put_meta(t->a, 1);
    ok(index_commit(t->a->ix));
    ok(index_reader_new(t->a->ix, &r));
    ok(index_reader_begin(r));
    ok(index_reader_names(r, id(1), see_name, &seen));
    assert_int_equal(seen, 101);
    index_reader_end(r);
    index_reader_free(r);
}

/* ---- sums ---- */

static void equal_sets_have_equal_sums(void **state)
{
    struct nodes_of_two *t = *state;
    struct index_sum x;

    fill(t->a, 1, 40);
    fill(t->b, 20, 40); /* in another order */
    fill(t->b, 1, 20);
    assert_true(same(t->a, t->b, 0, all_last));
    assert_true(same(t->a, t->b, 10, id(20)));
    sum(t->a, 10, id(20), NULL, &x);
    assert_int_equal(x.inodes, 11);
    sum(t->a, 40, all_last, NULL, &x);
    assert_int_equal(x.inodes, 0);
}

static void a_lost_update_is_found_where_it_is_and_healed(void **state)
{
    struct nodes_of_two *t = *state;
    struct content_rec c = a_file(17, 17);

    fill(t->a, 1, 40);
    fill(t->b, 1, 40);
    c.h.stamp.seq += 50;
    c.h.hlc++;
    ok(index_begin(t->a->ix));
    ok(t->a->r.put_content(t->a->r.ctx, &c, US));
    ok(index_commit(t->a->ix));
    assert_false(same(t->a, t->b, 0, all_last));
    assert_true(same(t->a, t->b, 0, id(16)));
    assert_false(same(t->a, t->b, 17, id(17)));
    assert_true(same(t->a, t->b, 18, all_last));
    ok(index_begin(t->b->ix));
    ok(t->b->r.put_content(t->b->r.ctx, &c, US + 1));
    ok(index_commit(t->b->ix));
    assert_true(same(t->a, t->b, 0, all_last));
}

static void lost_records_are_found(void **state)
{
    struct nodes_of_two *t = *state;

    fill(t->a, 1, 10);
    fill(t->b, 1, 10);
    ok(index_begin(t->b->ix));
    ok(index_forget_name(t->b->ix, id(4)));
    ok(index_commit(t->b->ix));
    assert_false(same(t->a, t->b, 4, id(4)));
    ok(index_begin(t->b->ix));
    ok(index_forget_inode(t->b->ix, id(6)));
    ok(index_commit(t->b->ix));
    assert_false(same(t->a, t->b, 6, id(6)));
    assert_true(same(t->a, t->b, 7, all_last));
}

static void the_dead_and_the_held_do_not_count(void **state)
{
    struct nodes_of_two *t = *state;
    struct index_node node = a_node(30, 130, 1);

    fill(t->a, 1, 10);
    fill(t->b, 1, 11);
    ok(index_begin(t->b->ix));
    struct name_rec n = a_name(10, 10, RID_ROOT, "file10");
    n.alive = false;
    n.h.hlc++;
    ok(t->b->r.put_name(t->b->r.ctx, &n, US));
    node.flags = NODE_HELD;
    ok(index_put_node(t->b->ix, &node, false));
    put_many(t->b, 30, 31);
    ok(index_commit(t->b->ix));
    assert_true(same(t->a, t->b, 0, all_last));
}

static void what_is_not_known_is_fresh(void **state)
{
    struct nodes_of_two *t = *state;
    struct vvec known = {.n = 1, .e = {st(5)}};
    struct index_sum x;

    fill(t->a, 1, 9); /* put_meta knows up to 9, and these have stamps up to 9 */
    sum(t->a, 0, all_last, NULL, &x);
    assert_false(x.fresh);
    assert_int_equal(vvec_get(&x.know, US), 9);
    sum(t->a, 1, id(4), &known, &x);
    assert_false(x.fresh);
    sum(t->a, 1, id(5), &known, &x);
    assert_true(x.fresh);
    ok(index_begin(t->a->ix));
    struct name_rec n = a_name(2, 2, RID_ROOT, "file2");
    n.alive = false; /* dead, and still something the other does not know */
    n.h.stamp.seq = 99;
    n.h.hlc++;
    ok(t->a->r.put_name(t->a->r.ctx, &n, US));
    ok(index_commit(t->a->ix));
    sum(t->a, 2, id(2), NULL, &x);
    assert_true(x.fresh);
    assert_int_equal(x.inodes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(inodes_come_in_order, two, no_more),
        cmocka_unit_test_setup_teardown(names_come_with_their_places, two, no_more),
        cmocka_unit_test_setup_teardown(equal_sets_have_equal_sums, two, no_more),
        cmocka_unit_test_setup_teardown(a_lost_update_is_found_where_it_is_and_healed, two,
                                        no_more),
        cmocka_unit_test_setup_teardown(lost_records_are_found, two, no_more),
        cmocka_unit_test_setup_teardown(the_dead_and_the_held_do_not_count, two, no_more),
        cmocka_unit_test_setup_teardown(what_is_not_known_is_fresh, two, no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
