/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "index_fixture.h"

/* ---- journal ---- */

static void check_union(struct fix *f, uint64_t from, uint64_t to, uint32_t max, const char *want)
{
    struct index_reader *r;
    struct range out[64];
    char text[256] = "";
    uint32_t n = 0;
    size_t len = 0;

    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    int e = index_reader_journal(r, id(1), st(from), st(to), out, max, &n);
    index_reader_end(r);
    index_reader_free(r);
    if (!want) {
        assert_int_equal(e, -ENOENT);
        return;
    }
    ok(e);
    for (uint32_t i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%llu+%llu", len ? " " : "",
                                (unsigned long long)out[i].off, (unsigned long long)out[i].len);
    assert_string_equal(text, want);
}

static void the_journal_joins_a_chain(void **state)
{
    struct fix *f = *state;
    const struct range r2[] = {{100, 10}, {0, 10}, {5, 0}}, r3[] = {{105, 20}, {200, 1}};
    const struct range r4[] = {{10, 5}};

    ok(index_begin(f->ix));
    ok(index_journal_put(f->ix, id(1), st(2), st(1), r2, 3));
    ok(index_journal_put(f->ix, id(1), st(3), st(2), r3, 2));
    ok(index_journal_put(f->ix, id(1), st(4), st(3), r4, 1));
    ok(index_journal_put(f->ix, id(2), st(9), st(1), r4, 1));
    ok(index_journal_put(f->ix, id(1), st(6), st(5), r4, 1)); /* not made from 4 */
    ok(index_journal_put(f->ix, id(1), st(7), st(6), NULL, 0));
    ok(index_commit(f->ix));
    check_union(f, 1, 4, 64, "0+15 100+25 200+1");
    check_union(f, 2, 4, 64, "10+5 105+20 200+1");
    check_union(f, 3, 4, 64, "10+5");
    check_union(f, 4, 4, 64, "");
    check_union(f, 6, 7, 64, "");
    check_union(f, 1, 4, 2, "0+15 100+101");
    check_union(f, 1, 4, 1, "0+201");
    check_union(f, 0, 4, 64, NULL);
    check_union(f, 4, 7, 64, NULL);
    check_union(f, 4, 1, 64, NULL);
    ok(index_begin(f->ix));
    ok(index_journal_drop(f->ix, id(1)));
    ok(index_commit(f->ix));
    check_union(f, 3, 4, 64, NULL);
}

static void the_journal_is_bounded(void **state)
{
    struct fix *f = *state;
    static struct range many[1000];
    static struct range out[4096];
    struct index_reader *r;
    uint64_t covered = 0;
    uint32_t n;

    ok(index_begin(f->ix));
    for (uint64_t v = 1; v <= 20; v++) {
        struct range one = {v * 10, 1};
        ok(index_journal_put(f->ix, id(1), st(v), st(v - 1), &one, 1));
    }
    /* The same version again replaces its row. */
    ok(index_journal_put(f->ix, id(1), st(20), st(19), &(struct range){1, 1}, 1));
    for (uint32_t i = 0; i < 1000; i++)
        many[i] = (struct range){i * 100, i % 2 ? 10 : 90};
    ok(index_journal_put(f->ix, id(3), st(2), st(1), many, 1000));
    ok(index_commit(f->ix));
    check_union(f, 18, 20, 64, "1+1 190+1");
    check_union(f, 4, 5, 64, "50+1");
    check_union(f, 3, 5, 64, NULL);
    check_union(f, 20 - JOURNAL_VERSIONS, 20, 3, "1+1 50+131 190+1");

    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    ok(index_reader_journal(r, id(3), st(1), st(2), out, 4096, &n));
    assert_int_equal(n, JOURNAL_RANGES);
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t j = 0;
        while (j < n && out[j].off + out[j].len < many[i].off + many[i].len)
            j++;
        assert_true(j < n && out[j].off <= many[i].off);
    }
    for (uint32_t j = 0; j < n; j++) {
        covered += out[j].len;
        assert_true(j == 0 || out[j].off > out[j - 1].off + out[j - 1].len);
    }
    /* 50000 changed bytes; all 500 gaps of 10 and 244 of the 499 gaps of 90 had to go. */
    assert_int_equal(covered, 50000 + 500 * 10 + 244 * 90);
    index_reader_end(r);
    index_reader_free(r);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_journal_joins_a_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(the_journal_is_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
