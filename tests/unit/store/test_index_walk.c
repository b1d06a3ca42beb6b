/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the walk over a whole folder needs of the index: its directories in order, how many names
 * there are, and memory that stays bounded. */
#include "index_fixture.h"

#define ROWS 20000u

static void put_row(struct fix *f, uint64_t lid, uint8_t type)
{
    struct index_node n = {.rid = id(lid), .lid = lid, .type = type};

    n.handle.len = 8;
    memcpy(n.handle.bytes, &lid, sizeof lid);
    ok(index_put_node(f->ix, &n, false));
}

static void directories_come_in_the_order_of_their_lids(void **state)
{
    struct fix *f = *state;
    uint64_t after = 0, lid = 0;

    ok(index_begin(f->ix));
    put_row(f, 40, NODE_DIR);
    put_row(f, 16, NODE_DIR);
    for (uint64_t l = 17; l < 30; l++)
        put_row(f, l, NODE_REG);
    put_row(f, 30, NODE_DIR);
    ok(index_del_node(f->ix, id(30), true)); /* an orphan now */
    ok(index_next_dir(f->ix, &after, 100, &lid));
    assert_true(lid == 16 && after == 16);
    /* no more rows at a time than asked for */
    assert_int_equal(index_next_dir(f->ix, &after, 5, &lid), -EAGAIN);
    assert_int_equal(after, 21);
    ok(index_next_dir(f->ix, &after, 100, &lid));
    assert_true(lid == 40 && after == 40);
    assert_int_equal(index_next_dir(f->ix, &after, 100, &lid), -ENOENT);
    ok(index_commit(f->ix));
}

static void names_in_the_tree_are_counted(void **state)
{
    struct fix *f = *state;
    uint64_t n = 99;
    struct place at = {.kind = PLACE_AT, .parent = RID_ROOT, .name_len = 1, .name = "a"};
    struct place hidden = {.kind = PLACE_HIDDEN, .parent = RID_ROOT, .name_len = 1, .name = "a"};

    ok(index_begin(f->ix));
    ok(index_count_places(f->ix, &n));
    assert_int_equal(n, 0);
    ok(f->r.set_place(f->r.ctx, id(1), &at));
    ok(f->r.set_place(f->r.ctx, id(2), &hidden));
    ok(index_count_places(f->ix, &n));
    assert_int_equal(n, 1);
    ok(index_commit(f->ix));
}

static size_t mapped(void)
{
    unsigned long shared = 0;
    FILE *s = fopen("/proc/self/statm", "re");

    assert_non_null(s);
    assert_int_equal(fscanf(s, "%*u %*u %lu", &shared), 1);
    fclose(s);
    return shared * (size_t)sysconf(_SC_PAGESIZE);
}

static void read_all(struct fix *f)
{
    struct index_node n;

    ok(index_begin(f->ix));
    for (uint64_t l = 16; l < 16 + ROWS; l++) {
        ok(index_get_node(f->ix, id(l), &n));
        assert_int_equal(n.lid, l);
    }
    ok(index_commit(f->ix));
}

static void pages_that_were_read_can_be_given_back(void **state)
{
    struct fix *f = *state;

    ok(index_begin(f->ix));
    for (uint64_t l = 16; l < 16 + ROWS; l++)
        put_row(f, l, NODE_REG);
    ok(index_commit(f->ix));
    read_all(f);
    size_t before = mapped();
    index_trim(f->ix, before + 1);
    assert_true(mapped() >= before);
    index_trim(f->ix, before / 2);
    assert_true(mapped() + (1u << 20) < before);
    read_all(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(directories_come_in_the_order_of_their_lids, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(names_in_the_tree_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_that_were_read_can_be_given_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
