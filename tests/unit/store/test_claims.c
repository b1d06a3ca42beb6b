/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/claims.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOTS 64u    /* of a bucket */
#define BATCH 16384u /* names that the core thread may claim at once */
#define THREADS 8u
#define ROUNDS 20000u
#define NAMES 6u

static void keys_and_tries(void **state)
{
    (void)state;
    struct claims *c = NULL;
    assert_int_equal(claims_new(&c), 0);
    uint64_t a = claims_key(1, "a", 1), b = claims_key(1, "b", 1), other = claims_key(2, "a", 1);
    assert_true(a != 0 && a != b && a != other);
    assert_true(a == claims_key(1, "ab", 1));
    assert_true(claims_try(c, a, b));
    assert_false(claims_try(c, a, 0));
    assert_false(claims_try(c, other, b));
    assert_true(claims_try(c, other, 0)); /* the failed one kept nothing */
    claims_drop(c, other, 0);
    claims_drop(c, a, b);
    assert_true(claims_try(c, a, a)); /* two equal keys are one */
    claims_drop(c, a, a);
    for (uint64_t n = 0; n < SLOTS; n++) /* one bucket, full */
        assert_true(claims_try(c, 100 + n, 0));
    assert_false(claims_try(c, 200, 0));
    assert_false(claims_try(c, 201, 200));
    claims_drop(c, 105, 0);
    assert_false(claims_try(c, 201, 200)); /* room for one only */
    assert_true(claims_try(c, 201, 0));
    assert_false(claims_try(c, 200, 0));
    assert_true(claims_try(c, UINT64_MAX, 0)); /* another bucket has room */
    claims_free(c);
}

/* One thread claims all of them without waiting: no bucket may be full. */
static void a_batch_has_room(void **state)
{
    (void)state;
    struct claims *c = NULL;
    assert_int_equal(claims_new(&c), 0);
    for (uint64_t i = 0; i < BATCH; i++) {
        char name[16];
        int len = snprintf(name, sizeof name, "file%u", (unsigned)(i % 1000));
        assert_true(claims_try(c, claims_key(16 + i / 1000, name, (uint8_t)len), 0));
    }
    claims_free(c);
}

struct race {
    struct claims *c;
    uint64_t keys[NAMES];
    unsigned holders[NAMES]; /* not atomic: the claims are what orders them */
    unsigned done[NAMES];
    _Atomic unsigned clashes;
    _Atomic unsigned turn;
};

static void *change_names(void *arg)
{
    struct race *r = arg;
    unsigned me = atomic_fetch_add(&r->turn, 1);
    uint64_t x = me * 0x9e3779b97f4a7c15u + 1;
    for (unsigned i = 0; i < ROUNDS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        unsigned a = (unsigned)(x >> 33) % NAMES, b = (unsigned)(x >> 40) % NAMES;
        bool two = (x >> 60) % 2 != 0;
        uint64_t kb = two ? r->keys[b] : 0;
        if (me % 4 == 3) {
            if (!claims_try(r->c, r->keys[a], kb))
                continue;
        } else {
            claims_take(r->c, r->keys[a], kb);
        }
        if (r->holders[a]++ != 0)
            r->clashes++;
        if (two && b != a && r->holders[b]++ != 0)
            r->clashes++;
        r->done[a]++;
        r->holders[a]--;
        if (two && b != a)
            r->holders[b]--;
        claims_drop(r->c, r->keys[a], kb);
    }
    return NULL;
}

static void race(const uint64_t keys[NAMES])
{
    struct race r = {.c = NULL};
    pthread_t t[THREADS];
    assert_int_equal(claims_new(&r.c), 0);
    for (unsigned i = 0; i < NAMES; i++)
        r.keys[i] = keys[i];
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, change_names, &r), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(r.clashes, 0);
    for (unsigned i = 0; i < NAMES; i++)
        assert_true(claims_try(r.c, keys[i], 0)); /* nothing is left over */
    claims_free(r.c);
}

static void one_holder_at_a_time(void **state)
{
    (void)state;
    uint64_t apart[NAMES], together[NAMES];
    for (unsigned i = 0; i < NAMES; i++) {
        apart[i] = (uint64_t)(i + 1) << 58;
        together[i] = 1000 + i;
    }
    race(apart);
    race(together);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_and_tries),
        cmocka_unit_test(a_batch_has_room),
        cmocka_unit_test(one_holder_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
