/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define KEYS 2000
#define OPS 100000

static char cells[OPS]; /* their addresses are the values */

static uint32_t rng(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

static void u64_agrees_with_a_model(void **state)
{
    (void)state;
    static void *model[KEYS];
    size_t live = 0;
    uint32_t x = 1;
    struct map_u64 m;
    map_u64_init(&m);
    for (int i = 0; i < OPS; i++) {
        uint32_t k = rng(&x) % KEYS;
        uint64_t key = (uint64_t)k << 40; /* low bits all alike */
        uint32_t op = rng(&x) % 10;
        if (op < 4) {
            void *old = &x;
            assert_int_equal(map_u64_set(&m, key, &cells[i], &old), 0);
            assert_ptr_equal(old, model[k]);
            live += model[k] == NULL;
            model[k] = &cells[i];
        } else if (op < 8) {
            assert_ptr_equal(map_u64_del(&m, key), model[k]);
            live -= model[k] != NULL;
            model[k] = NULL;
        } else {
            assert_ptr_equal(map_u64_get(&m, key), model[k]);
        }
        assert_int_equal(m.n, live);
        assert_true(m.used >= m.n && m.used <= m.size / 4 * 3);
    }
    /* churn must not make the table grow without end */
    assert_true(m.size <= 4 * KEYS * 2);
    size_t it = 0, seen = 0;
    uint64_t key;
    void *v;
    while ((v = map_u64_next(&m, &it, &key)) != NULL) {
        assert_ptr_equal(v, model[key >> 40]);
        assert_ptr_equal(map_u64_del(&m, key), v);
        seen++;
    }
    assert_int_equal(seen, live);
    assert_int_equal(m.n, 0);
    map_u64_fini(&m);
}

static void bytes_agree_with_a_model(void **state)
{
    (void)state;
    static void *model[KEYS];
    size_t live = 0;
    uint32_t x = 7;
    struct map_bytes m;
    map_bytes_init(&m);
    for (int i = 0; i < OPS; i++) {
        uint32_t k = rng(&x) % KEYS;
        char key[16];
        size_t len = (size_t)snprintf(key, sizeof(key), "%u", k);
        uint32_t op = rng(&x) % 10;
        if (op < 4) {
            void *old = &x;
            assert_int_equal(map_bytes_set(&m, key, len, &cells[i], &old), 0);
            assert_ptr_equal(old, model[k]);
            live += model[k] == NULL;
            model[k] = &cells[i];
        } else if (op < 8) {
            assert_ptr_equal(map_bytes_del(&m, key, len), model[k]);
            live -= model[k] != NULL;
            model[k] = NULL;
        } else {
            assert_ptr_equal(map_bytes_get(&m, key, len), model[k]);
        }
        assert_int_equal(m.n, live);
    }
    size_t it = 0, len, seen = 0;
    const void *key;
    void *v;
    while ((v = map_bytes_next(&m, &it, &key, &len)) != NULL) {
        unsigned k = 0;
        for (size_t i = 0; i < len; i++)
            k = k * 10 + (unsigned)(((const char *)key)[i] - '0');
        assert_ptr_equal(v, model[k]);
        if (seen++ % 2 == 0) /* the key given is the map's own copy */
            assert_ptr_equal(map_bytes_del(&m, key, len), v);
    }
    assert_int_equal(seen, live);
    map_bytes_fini(&m);
}

static void keys_are_compared_whole(void **state)
{
    (void)state;
    struct map_bytes m;
    map_bytes_init(&m);
    assert_null(map_bytes_get(&m, "a", 1));
    assert_null(map_bytes_del(&m, "", 0));
    assert_int_equal(map_bytes_set(&m, "a\0b", 3, &cells[0], NULL), 0);
    assert_int_equal(map_bytes_set(&m, "a\0c", 3, &cells[1], NULL), 0);
    assert_int_equal(map_bytes_set(&m, "", 0, &cells[2], NULL), 0);
    assert_ptr_equal(map_bytes_get(&m, "a\0b", 3), &cells[0]);
    assert_ptr_equal(map_bytes_get(&m, "a\0c", 3), &cells[1]);
    assert_ptr_equal(map_bytes_get(&m, NULL, 0), &cells[2]);
    assert_null(map_bytes_get(&m, "a", 1));
    map_bytes_fini(&m);
}

static void u64_extreme_keys(void **state)
{
    (void)state;
    struct map_u64 m;
    size_t it = 0;
    map_u64_init(&m);
    assert_null(map_u64_next(&m, &it, NULL));
    assert_int_equal(map_u64_set(&m, 0, &cells[0], NULL), 0);
    assert_int_equal(map_u64_set(&m, UINT64_MAX, &cells[1], NULL), 0);
    assert_ptr_equal(map_u64_get(&m, 0), &cells[0]);
    assert_ptr_equal(map_u64_get(&m, UINT64_MAX), &cells[1]);
    map_u64_fini(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(u64_agrees_with_a_model),
        cmocka_unit_test(bytes_agree_with_a_model),
        cmocka_unit_test(keys_are_compared_whole),
        cmocka_unit_test(u64_extreme_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
