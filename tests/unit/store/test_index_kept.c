/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "index_fixture.h"

static struct index_kept row(uint8_t class, uint64_t key)
{
    struct index_kept k = {.key = key,
                           .class = class,
                           .why = KEPT_EDITED,
                           .type = NODE_REG,
                           .when_us = key * 10,
                           .rid = {1, key},
                           .nid = {2, key},
                           .version = {{3, 4}, 5},
                           .winner = {{6, 7}, 8},
                           .size = 1ull << 40,
                           .mtime_ns = -5,
                           .mode = 04755,
                           .uid = 33,
                           .gid = 34,
                           .path_len = sizeof k.path};
    memset(k.path, 'p', sizeof k.path);
    return k;
}

static void assert_same(const struct index_kept *a, const struct index_kept *b)
{
    assert_true(a->key == b->key && a->class == b->class && a->why == b->why && a->type == b->type);
    assert_true(a->when_us == b->when_us && id_eq(a->rid, b->rid) && id_eq(a->nid, b->nid));
    assert_true(stamp_eq(a->version.stamp, b->version.stamp) && a->version.hlc == b->version.hlc);
    assert_true(stamp_eq(a->winner.stamp, b->winner.stamp) && a->winner.hlc == b->winner.hlc);
    assert_true(a->size == b->size && a->mtime_ns == b->mtime_ns && a->mode == b->mode);
    assert_true(a->uid == b->uid && a->gid == b->gid && a->path_len == b->path_len);
    assert_memory_equal(a->path, b->path, a->path_len);
}

static void what_is_kept_comes_back_by_class_and_in_order(void **state)
{
    struct fix *f = *state;
    static struct index_kept k, got;
    struct index_reader *r;
    uint64_t last;

    ok(index_begin(f->ix));
    ok(index_last_kept(f->ix, KEPT_CONFLICT, &last));
    assert_int_equal(last, 0);
    for (uint64_t i = 300; i > 0; i -= 100) {
        k = row(KEPT_CONFLICT, i);
        ok(index_put_kept(f->ix, &k));
        k = row(KEPT_HISTORY, i + 1);
        ok(index_put_kept(f->ix, &k));
    }
    ok(index_last_kept(f->ix, KEPT_CONFLICT, &last));
    assert_int_equal(last, 300);
    ok(index_last_kept(f->ix, KEPT_HISTORY, &last));
    assert_int_equal(last, 301);
    ok(index_next_kept(f->ix, KEPT_CONFLICT, 101, &got));
    k = row(KEPT_CONFLICT, 200);
    assert_same(&got, &k);
    assert_int_equal(index_next_kept(f->ix, KEPT_CONFLICT, 301, &got), -ENOENT);
    assert_int_equal(index_next_kept(f->ix, KEPT_HIDDEN, 0, &got), -ENOENT);
    ok(index_del_kept(f->ix, KEPT_HISTORY, 101));
    assert_int_equal(index_del_kept(f->ix, KEPT_HISTORY, 101), -ENOENT);
    ok(index_commit(f->ix));
    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    ok(index_reader_next_kept(r, KEPT_HISTORY, 0, &got));
    k = row(KEPT_HISTORY, 201);
    assert_same(&got, &k);
    index_reader_end(r);
    index_reader_free(r);
}

static void hidden_names_have_a_key_of_their_own(void **state)
{
    (void)state;
    uint64_t a = index_kept_hidden_key((struct id128){7, 8});
    assert_true(a & KEPT_HIDDEN_BIT);
    assert_true(a < 1ull << 62);
    assert_true(a == index_kept_hidden_key((struct id128){7, 8}));
    assert_true(a != index_kept_hidden_key((struct id128){8, 7}));
    assert_true(a != index_kept_hidden_key((struct id128){7, 9}));
}

static void a_reader_reads_the_records_as_committed(void **state)
{
    struct fix *f = *state;
    struct records w, rd;
    struct content_rec c = {.h = {{9, 1}, 77}, .rid = {9, 5}, .type = NODE_DIR}, got;
    struct index_reader *r;
    uint64_t pos = 0;

    ok(index_begin(f->ix));
    index_records(f->ix, &w);
    ok(w.put_content(w.ctx, &c, 9));
    ok(index_commit(f->ix));
    ok(index_begin(f->ix));
    c.h.hlc = 88;
    ok(w.put_content(w.ctx, &c, 9));
    ok(index_reader_new(f->ix, &r));
    ok(index_reader_begin(r));
    index_reader_records(r, &rd);
    ok(rd.get_content(rd.ctx, c.rid, &got));
    assert_int_equal(got.h.hlc, 77);
    ok(index_reader_pos(r, REC_CONTENT, c.rid, &pos));
    assert_int_equal(pos, 1);
    assert_int_equal(index_reader_pos(r, REC_ATTR, c.rid, &pos), -ENOENT);
    index_reader_end(r);
    index_reader_free(r);
    index_abort(f->ix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_kept_comes_back_by_class_and_in_order, setup,
                                        teardown),
        cmocka_unit_test(hidden_names_have_a_key_of_their_own),
        cmocka_unit_test_setup_teardown(a_reader_reads_the_records_as_committed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
