/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "index_fixture.h"

#include "base/clock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- opening ---- */

static char *path_of(struct fix *f)
{
    static char path[64];
    snprintf(path, sizeof path, "%s/index.mdb", f->dir);
    return path;
}

static void a_killed_writer_loses_nothing_committed(void **state)
{
    struct fix *f = *state;
    struct content_rec c;
    int ready[2], status;
    char byte;

    index_close(f->ix);
    f->ix = NULL;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct fix g = *f;
        fix_open(&g, true);
        ok(index_begin(g.ix));
        put_many(&g, 1, 500);
        put_meta(&g, 0);
        ok(index_commit(g.ix));
        ok(index_begin(g.ix));
        put_many(&g, 250, 2000);
        ok(write(ready[1], "x", 1) == 1 ? 0 : -1);
        pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(ready[0]);
    close(ready[1]);
    fix_open(f, false);
    assert_int_equal(index_log_head(f->ix), 999);
    ok(index_begin(f->ix));
    ok(f->r.get_content(f->r.ctx, id(499), &c));
    assert_int_equal(c.size, 499);
    assert_int_equal(f->r.get_content(f->r.ctx, id(500), &c), -ENOENT);
    put_many(f, 500, 600);
    ok(index_commit(f->ix));
    ok(index_mark_begin(f->ix));
    ok(index_mark_finish(f->ix));
}

static void damage_is_found_at_the_door(void **state)
{
    struct fix *f = *state;
    struct index *ix = NULL;
    struct stat s;
    uint8_t junk[8192];
    bool fresh;

    ok(index_begin(f->ix));
    put_many(f, 1, 2000);
    ok(index_commit(f->ix));
    index_close(f->ix);
    f->ix = NULL;
    /* The tail is gone: an error somewhere, never a signal. */
    ok(stat(path_of(f), &s));
    ok(truncate(path_of(f), s.st_size / 2));
    int e = index_open(f->dir, MAP_SIZE, &ix, &fresh);
    if (!e) {
        struct records r;
        struct content_rec c;
        index_records(ix, &r);
        ok(index_begin(ix));
        for (uint64_t i = 1; i < 2000 && !e; i++)
            e = r.get_content(r.ctx, id(i), &c);
        index_close(ix);
    }
    assert_int_equal(e, FARM_ECORRUPT);

    memset(junk, 0x5a, sizeof junk);
    int fd = open(path_of(f), O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    close(fd);
    assert_int_equal(index_open(f->dir, MAP_SIZE, &ix, &fresh), FARM_ECORRUPT);
    ok(truncate(path_of(f), 100));
    assert_int_equal(index_open(f->dir, MAP_SIZE, &ix, &fresh), FARM_ECORRUPT);
    ok(unlink(path_of(f)));
    fix_open(f, true);
}

static void a_full_map_is_no_space(void **state)
{
    struct fix *f = *state;
    struct content_rec c;
    bool fresh;
    int e = 0;

    index_close(f->ix);
    ok(index_open(f->dir, 1 << 20, &f->ix, &fresh));
    index_records(f->ix, &f->r);
    ok(index_begin(f->ix));
    put_many(f, 1, 10);
    ok(index_commit(f->ix));
    ok(index_begin(f->ix));
    for (uint64_t i = 10; i < 100000 && !e; i++) {
        c = a_file(i, 1);
        e = f->r.put_content(f->r.ctx, &c, US);
    }
    assert_int_equal(e, -ENOSPC);
    assert_int_equal(index_commit(f->ix), -ENOSPC);
    assert_int_equal(index_log_head(f->ix), 19);
    ok(index_begin(f->ix));
    ok(f->r.get_content(f->r.ctx, id(9), &c));
    assert_int_equal(f->r.get_content(f->r.ctx, id(10), &c), -ENOENT);
    index_abort(f->ix);
}

/* ---- speed, printed ---- */

static double us_since(uint64_t start, uint64_t n)
{
    return (double)(clock_mono(&clock_system) - start) / (double)n;
}

static void speed(void **state)
{
    struct fix *f = *state;
    const uint64_t n = 100000;
    struct index_reader *r;
    struct handle h;
    struct id128 rid;
    struct record rec;
    uint64_t at = 0, source, entries = 0;
    uint8_t type;
    bool orphan;

    uint64_t t = clock_mono(&clock_system);
    ok(index_begin(f->ix));
    put_many(f, 1, n + 1);
    print_message("put of a new record: %.2f us (names and contents)\n", us_since(t, 2 * n));
    t = clock_mono(&clock_system);
    for (uint64_t i = 1; i <= n; i++) {
        struct attr_rec a = an_attr(i * 7919 % n + 1, 0644);
        ok(f->r.put_attr(f->r.ctx, &a, US));
    }
    print_message("put of attributes, random order: %.2f us\n", us_since(t, n));
    t = clock_mono(&clock_system);
    for (uint64_t i = 1; i <= n; i++) {
        struct content_rec c = a_file(i * 7919 % n + 1, 5);
        ok(f->r.put_content(f->r.ctx, &c, US));
    }
    print_message("put of content again, random order: %.2f us\n", us_since(t, n));
    t = clock_mono(&clock_system);
    for (uint64_t i = 1; i <= n; i++) {
        struct index_node node = a_node(i, i + 15, 0);
        memcpy(node.handle.bytes, &i, sizeof i);
        ok(index_put_node(f->ix, &node, false));
    }
    print_message("put of a node: %.2f us\n", us_since(t, n));
    t = clock_mono(&clock_system);
    ok(index_commit(f->ix));
    print_message("commit of it all: %.0f us\n", us_since(t, 1));

    ok(index_reader_new(f->ix, &r));
    t = clock_mono(&clock_system);
    for (uint64_t i = 1; i <= n; i++) {
        ok(index_reader_begin(r));
        ok(index_reader_by_lid(r, i * 7919 % n + 16, &h, &type, &rid, &orphan));
        index_reader_end(r);
    }
    print_message("reader, begin + look-up by lid + end: %.2f us\n", us_since(t, n));
    ok(index_reader_begin(r));
    t = clock_mono(&clock_system);
    while (index_reader_log(r, at + 1, &at, &rec, &source) == 0)
        entries++;
    print_message("reader, a step of the log: %.2f us\n", us_since(t, entries));
    assert_int_equal(entries, 3 * n);
    index_reader_end(r);
    index_reader_free(r);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_killed_writer_loses_nothing_committed, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_is_found_at_the_door, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_map_is_no_space, setup, teardown),
        cmocka_unit_test_setup_teardown(speed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
