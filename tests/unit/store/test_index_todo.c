/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is left to do (todo, pending) and who is told of names. */
#include "index_fixture.h"

/* Visits leave what they saw as text; a visit of `stop` ends the walk. */
struct seen {
    char text[256];
    size_t len;
    const char *stop;
};

static int see_todo(void *arg, struct id128 rid, uint8_t flags)
{
    struct seen *s = arg;

    assert_int_equal(rid.node, US);
    s->len += (size_t)snprintf(s->text + s->len, sizeof s->text - s->len, "%s%llu:%u",
                               s->len ? " " : "", (unsigned long long)rid.n, flags);
    return 0;
}

static int see_pending(void *arg, const void *data, size_t len)
{
    struct seen *s = arg;

    s->len += (size_t)snprintf(s->text + s->len, sizeof s->text - s->len, "[%.*s]", (int)len,
                               (const char *)data);
    return s->stop && strlen(s->stop) == len && memcmp(s->stop, data, len) == 0 ? 42 : 0;
}

static void see_put(void *arg, struct id128 nid)
{
    struct seen *s = arg;

    assert_int_equal(nid.node, US);
    s->len += (size_t)snprintf(s->text + s->len, sizeof s->text - s->len, "%s%llu",
                               s->len ? " " : "", (unsigned long long)nid.n);
}

static void check_todo(struct fix *f, const char *want)
{
    struct seen s = {.len = 0};
    ok(index_each_todo(f->ix, see_todo, &s));
    assert_string_equal(s.text, want);
}

static void check_pending(struct fix *f, const char *want)
{
    struct seen s = {.len = 0};
    ok(index_each_pending(f->ix, see_pending, &s));
    assert_string_equal(s.text, want);
}

static void reopen(struct fix *f)
{
    index_close(f->ix);
    fix_open(f, false);
    ok(index_begin(f->ix));
}

static void flags_add_up_and_a_row_without_any_goes(void **state)
{
    struct fix *f = *state;

    ok(index_begin(f->ix));
    check_todo(f, "");
    ok(index_set_todo(f->ix, id(300), TODO_DATA, true));
    ok(index_set_todo(f->ix, id(2), TODO_DIRTY, true));
    ok(index_set_todo(f->ix, id(2), TODO_HELD, true));
    ok(index_set_todo(f->ix, id(2), TODO_HELD, true));
    check_todo(f, "2:5 300:2");
    /* Clearing what is not set changes nothing. */
    ok(index_set_todo(f->ix, id(2), TODO_DATA, false));
    ok(index_set_todo(f->ix, id(9), TODO_DATA, false));
    check_todo(f, "2:5 300:2");
    ok(index_set_todo(f->ix, id(2), TODO_DIRTY | TODO_DATA, false));
    check_todo(f, "2:4 300:2");
    ok(index_set_todo(f->ix, id(2), TODO_DIRTY | TODO_HELD | TODO_DATA, false));
    check_todo(f, "300:2");
    put_meta(f, 0);
    ok(index_commit(f->ix));

    ok(index_begin(f->ix));
    ok(index_set_todo(f->ix, id(300), TODO_DATA, false));
    ok(index_set_todo(f->ix, id(4), TODO_HELD, true));
    check_todo(f, "4:4");
    index_abort(f->ix);
    reopen(f);
    check_todo(f, "300:2");
    index_abort(f->ix);
}

static void what_a_file_holds_goes_when_its_data_has_come(void **state)
{
    struct fix *f = *state;
    struct content_rec c = a_file(7, 100), got;

    ok(index_begin(f->ix));
    assert_int_equal(index_get_behind(f->ix, id(7), &got), -ENOENT);
    ok(index_put_behind(f->ix, &c));
    ok(index_set_todo(f->ix, id(7), TODO_DATA | TODO_DIRTY, true));
    put_meta(f, 0);
    ok(index_commit(f->ix));

    reopen(f);
    ok(f->r.get_behind(f->r.ctx, id(7), &got));
    assert_true(id_eq(got.rid, c.rid) && got.size == 100 && stamp_eq(got.h.stamp, c.h.stamp));
    assert_true(vvec_includes(&got.vv, &c.vv) && vvec_includes(&c.vv, &got.vv));
    ok(index_set_todo(f->ix, id(7), TODO_DIRTY, false));
    ok(index_get_behind(f->ix, id(7), &got));
    ok(index_set_todo(f->ix, id(7), TODO_DATA, false));
    assert_int_equal(index_get_behind(f->ix, id(7), &got), -ENOENT);
    index_abort(f->ix);
}

static void steps_are_kept_in_order_until_cleared(void **state)
{
    struct fix *f = *state;
    struct seen s = {.stop = "two"};

    ok(index_begin(f->ix));
    check_pending(f, "");
    ok(index_clear_pending(f->ix));
    ok(index_put_pending(f->ix, 256, "last", 4));
    ok(index_put_pending(f->ix, 2, "two", 3));
    ok(index_put_pending(f->ix, 1, "was", 3));
    ok(index_put_pending(f->ix, 1, "one", 3));
    ok(index_put_pending(f->ix, 3, "", 0));
    check_pending(f, "[one][two][][last]");
    /* What the callback returns ends the walk and is returned. */
    assert_int_equal(index_each_pending(f->ix, see_pending, &s), 42);
    assert_string_equal(s.text, "[one][two]");
    put_meta(f, 0);
    ok(index_commit(f->ix));

    ok(index_begin(f->ix));
    ok(index_clear_pending(f->ix));
    check_pending(f, "");
    index_abort(f->ix);
    reopen(f);
    check_pending(f, "[one][two][][last]");
    ok(index_clear_pending(f->ix));
    ok(index_put_pending(f->ix, 1, "next", 4));
    ok(index_commit(f->ix));
    reopen(f);
    check_pending(f, "[next]");
    index_abort(f->ix);
}

static void a_watcher_is_told_of_every_name_put(void **state)
{
    struct fix *f = *state;
    struct name_rec a = a_name(1, 1, RID_ROOT, "a"), b = a_name(2, 2, RID_ROOT, "b");
    struct content_rec c = a_file(1, 0);
    struct index_node held = a_node(2, 16, 1);
    struct place p = {.kind = PLACE_AT, .parent = RID_ROOT, .name_len = 1, .name = "a"};
    struct seen s = {.len = 0};

    ok(index_begin(f->ix));
    ok(f->r.put_name(f->r.ctx, &a, US)); /* nobody asks */
    index_watch_names(f->ix, see_put, &s);
    held.flags = NODE_HELD;
    ok(index_put_node(f->ix, &held, false));
    ok(f->r.put_name(f->r.ctx, &b, US)); /* not in the log, told all the same */
    assert_string_equal(s.text, "2");
    ok(f->r.put_name(f->r.ctx, &a, US));
    a.alive = false;
    ok(f->r.put_name(f->r.ctx, &a, US));
    assert_string_equal(s.text, "2 1 1");
    ok(f->r.put_content(f->r.ctx, &c, US));
    ok(f->r.set_place(f->r.ctx, id(1), &p));
    ok(index_forget_name(f->ix, id(2)));
    assert_string_equal(s.text, "2 1 1");
    /* A put that fails is not told. */
    index_set_log_head(f->ix, 1);
    assert_true(f->r.put_name(f->r.ctx, &a, US) < 0);
    assert_string_equal(s.text, "2 1 1");
    index_abort(f->ix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(flags_add_up_and_a_row_without_any_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_file_holds_goes_when_its_data_has_come, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(steps_are_kept_in_order_until_cleared, setup, teardown),
        cmocka_unit_test_setup_teardown(a_watcher_is_told_of_every_name_put, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
