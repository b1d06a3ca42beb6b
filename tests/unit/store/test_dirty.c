/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/dirty.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct dirty *d;

static int setup(void **state)
{
    (void)state;
    return dirty_new(&d);
}

static int teardown(void **state)
{
    (void)state;
    dirty_free(d);
    return 0;
}

static bool begin(uint64_t lid)
{
    bool first = false;
    assert_int_equal(dirty_begin(d, lid, &first), 0);
    return first;
}

static bool write_at(uint64_t lid, uint64_t off, uint64_t len)
{
    bool first = begin(lid);
    dirty_end(d, lid, off, len);
    return first;
}

static struct range taken[DIRTY_RANGES];
static uint32_t n;
static bool whole;
static uint64_t gen;

static int take(uint64_t lid)
{
    return dirty_take(d, lid, taken, &n, &whole, &gen);
}

static void expect(uint32_t i, uint64_t off, uint64_t len)
{
    assert_true(i < n);
    assert_int_equal(taken[i].off, off);
    assert_int_equal(taken[i].len, len);
}

static void a_life(void **state)
{
    (void)state;
    assert_int_equal(take(5), -ENOENT);
    assert_true(begin(5));
    assert_true(begin(5)); /* the first one's intent may not be logged yet */
    assert_int_equal(take(5), -EBUSY);
    assert_true(dirty_is(d, 5));
    dirty_end(d, 5, 100, 50);
    assert_false(begin(5));
    dirty_end(d, 5, 0, 0); /* failed: nothing changed */
    assert_int_equal(take(5), -EBUSY);
    dirty_end(d, 5, 150, 10);
    assert_int_equal(take(5), 0);
    assert_int_equal(n, 1);
    expect(0, 100, 60);
    assert_false(whole);
    assert_false(dirty_since(d, 5, gen));
    assert_false(dirty_is(d, 5));
    assert_true(begin(5));
    assert_true(dirty_since(d, 5, gen));
    dirty_end(d, 5, 7, 1);
    dirty_back(d, 5, taken, n, false);
    assert_int_equal(take(5), 0);
    assert_int_equal(n, 2);
    expect(0, 7, 1);
    expect(1, 100, 60);
    assert_int_equal(dirty_all(d, 5), 0);
    write_at(5, 1, 1);
    assert_int_equal(take(5), 0);
    assert_true(whole && n == 0);
    dirty_back(d, 5, taken, n, true);
    assert_int_equal(take(5), 0);
    assert_true(whole);
    write_at(5, 1, UINT64_MAX);
    assert_int_equal(take(5), 0);
    expect(0, 1, UINT64_MAX - 1);
    begin(5);
    dirty_drop(d, 5);
    dirty_end(d, 5, 0, 1); /* an end after the drop does no harm */
    dirty_drop(d, 5);
    assert_false(dirty_is(d, 5));
}

static void overlaps(void **state)
{
    (void)state;
    assert_false(dirty_overlaps(d, 5, 0, UINT64_MAX));
    write_at(5, 100, 50);
    assert_false(dirty_overlaps(d, 5, 0, 100));
    assert_true(dirty_overlaps(d, 5, 0, 101));
    assert_true(dirty_overlaps(d, 5, 149, 1));
    assert_false(dirty_overlaps(d, 5, 150, UINT64_MAX));
    begin(5); /* in flight: nobody knows where */
    assert_true(dirty_overlaps(d, 5, 900, 1));
    dirty_end(d, 5, 0, 0);
    assert_int_equal(take(5), 0);
    assert_false(dirty_overlaps(d, 5, 100, 50));
    assert_int_equal(dirty_all(d, 5), 0);
    assert_true(dirty_overlaps(d, 5, 7, 1));
}

static void listing(void **state)
{
    (void)state;
    uint64_t lids[64];
    for (uint64_t lid = 1; lid <= 40; lid++)
        write_at(lid, 0, 1);
    begin(99);
    uint64_t now = clock_mono(&clock_system);
    assert_int_equal(dirty_list(d, now, 0, 0, lids, 64), 40); /* 99 changed nothing yet */
    assert_int_equal(dirty_list(d, now, 0, 0, lids, 10), 10);
    assert_int_equal(dirty_list(d, now, 60000000, 60000000, lids, 64), 0);
    assert_int_equal(dirty_list(d, now + 60000001, 60000000, 60000000, lids, 64), 40);
    bool seen[41] = {false};
    for (int i = 0; i < 16; i++) { /* with little room all get their turn */
        size_t got = dirty_list(d, now, 0, 0, lids, 3);
        for (size_t j = 0; j < got; j++)
            seen[lids[j]] = true;
    }
    for (uint64_t lid = 1; lid <= 16; lid++) /* of each shard */
        assert_true(seen[lid] || seen[lid + 16] || (lid <= 8 && seen[lid + 32]));
    dirty_end(d, 99, 0, 0);
    assert_false(dirty_is(d, 99));
    /* written again and again: not idle, but its first write grows old */
    write_at(1, 9, 1);
    now = clock_mono(&clock_system);
    assert_int_equal(dirty_list(d, now, 60000000, 0, lids, 64), 40);
}

/* Against one byte a unit: nothing that was written may be missing; few ranges are exact. */
static void ranges_cover_the_model(void **state)
{
    (void)state;
    static uint8_t model[4096];
    srand(3);
    for (int round = 0; round < 200; round++) {
        int writes = round < 100 ? 40 : 600;
        memset(model, 0, sizeof(model));
        for (int i = 0; i < writes; i++) {
            uint64_t off = (uint64_t)rand() % 4000, len = 1 + (uint64_t)rand() % 12;
            write_at(9, off, len);
            memset(model + off, 1, len);
        }
        assert_int_equal(take(9), 0);
        assert_true(n >= 1 && n <= DIRTY_RANGES && !whole);
        uint64_t end = 0, marked = 0, covered = 0;
        for (uint32_t i = 0; i < n; i++) {
            assert_true(taken[i].len > 0 && (i == 0 || taken[i].off > end));
            end = taken[i].off + taken[i].len;
            covered += taken[i].len;
            for (uint64_t b = taken[i].off; b < end; b++) {
                marked += model[b];
                model[b] = 0;
            }
        }
        assert_null(memchr(model, 1, sizeof(model)));
        if (writes < (int)DIRTY_RANGES)
            assert_int_equal(covered, marked);
    }
}

/* ---- threads ---- */

#define WRITERS 4u
#define EACH 20000u

static _Atomic unsigned turn, running;

static void *writer(void *arg)
{
    (void)arg;
    uint64_t me = atomic_fetch_add(&turn, 1);
    for (uint64_t i = 0; i < EACH; i++) {
        bool first;
        uint64_t lid = i % 3;
        if (dirty_begin(d, lid, &first) < 0)
            abort();
        dirty_end(d, lid, (me * EACH + i) * 2, 1); /* all apart */
    }
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void no_write_is_lost(void **state)
{
    (void)state;
    pthread_t t[WRITERS];
    atomic_store(&running, WRITERS);
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, writer, NULL), 0);
    static uint8_t hit[WRITERS * EACH];
    for (bool last = false;; last = atomic_load(&running) == 0) {
        uint64_t lids[8];
        size_t got = dirty_list(d, 0, 0, 0, lids, 8);
        for (size_t i = 0; i < got; i++) {
            int r = take(lids[i]);
            if (r < 0)
                continue;
            if (rand() % 4 == 0) {
                dirty_back(d, lids[i], taken, n, whole);
                continue;
            }
            for (uint32_t j = 0; j < n; j++)
                for (uint64_t b = taken[j].off; b < taken[j].off + taken[j].len; b += 2)
                    hit[b / 2] = 1;
        }
        if (last && got == 0)
            break;
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(t[i], NULL);
    assert_null(memchr(hit, 0, sizeof(hit)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_life, setup, teardown),
        cmocka_unit_test_setup_teardown(overlaps, setup, teardown),
        cmocka_unit_test_setup_teardown(listing, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_cover_the_model, setup, teardown),
        cmocka_unit_test_setup_teardown(no_write_is_lost, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
