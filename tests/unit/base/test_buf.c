/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static void integers_are_little_endian_and_come_back(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1024);
    buf_put_u8(&b, 0x01);
    buf_put_u16(&b, 0x0302);
    buf_put_u32(&b, 0x07060504);
    buf_put_u64(&b, 0x0f0e0d0c0b0a0908);
    buf_put_bytes(&b, "name", 4);
    buf_put_bytes(&b, NULL, 0);
    assert_int_equal(b.err, 0);
    for (size_t i = 0; i < 15; i++)
        assert_int_equal(b.data[i], i + 1);

    struct cur c;
    uint32_t n;
    cur_init(&c, b.data, b.len);
    assert_int_equal(cur_u8(&c), 0x01);
    assert_int_equal(cur_u16(&c), 0x0302);
    assert_int_equal(cur_u32(&c), 0x07060504);
    assert_true(cur_u64(&c) == 0x0f0e0d0c0b0a0908);
    assert_memory_equal(cur_bytes(&c, 4, &n), "name", 4);
    assert_int_equal(n, 4);
    assert_non_null(cur_bytes(&c, 0, &n));
    assert_int_equal(cur_done(&c), 0);
    buf_fini(&b);
}

static void put_beyond_cap_sticks_and_changes_nothing(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (unsigned i = 0; i < 25; i++)
        buf_put_u32(&b, i);
    assert_int_equal(b.err, 0);
    assert_int_equal(b.size, 100);
    buf_put_u8(&b, 1);
    assert_int_equal(b.err, FARM_EFULL);
    assert_int_equal(b.len, 100);
    assert_null(buf_reserve(&b, 0));
    buf_set_u32(&b, 4000, 1); /* ignored: the error stands */
    buf_reset(&b);
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_int_equal(b.err, FARM_EFULL);
    buf_reset(&b);
    buf_put_u32(&b, 0);
    buf_set_u32(&b, 0, 0xaabbccdd);
    assert_memory_equal(b.data, "\xdd\xcc\xbb\xaa", 4);
    buf_fini(&b);
    assert_null(b.data);
}

static void reserve_with_a_full_length_does_not_wrap(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, SIZE_MAX);
    buf_put(&b, "0123456789", 10);
    assert_null(buf_reserve(&b, SIZE_MAX - 5));
    assert_int_equal(b.err, FARM_EFULL);
    buf_fini(&b);
}

static void printf_appends_short_and_long(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1001);
    buf_printf(&b, "%c", 'x');
    buf_printf(&b, "%01000d", 7);
    assert_int_equal(b.err, 0);
    assert_int_equal(b.len, 1001);
    assert_int_equal(b.data[1000], '7');
    buf_printf(&b, "%s", "");
    assert_int_equal(b.err, 0);
    buf_printf(&b, "!");
    assert_int_equal(b.err, FARM_EFULL);
    buf_fini(&b);
}

static void hostile_lengths_never_read_past_the_end(void **state)
{
    (void)state;
    static const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 'a'};
    static const uint8_t over[] = {2, 0, 0, 0, 'a'};
    struct cur c;
    uint32_t n = 99;
    cur_init(&c, huge, sizeof(huge));
    assert_null(cur_bytes(&c, UINT32_MAX, &n));
    assert_int_equal(n, 0);
    assert_int_equal(c.err, FARM_ECORRUPT);
    assert_int_equal(cur_u8(&c), 0); /* although a byte is left */
    assert_int_equal(cur_done(&c), FARM_ECORRUPT);

    cur_init(&c, over, sizeof(over));
    assert_null(cur_bytes(&c, 1, &n)); /* more than the caller allows */
    cur_init(&c, over, sizeof(over));
    assert_null(cur_bytes(&c, 8, &n)); /* more than there is */
    cur_init(&c, over, sizeof(over));
    assert_null(cur_raw(&c, SIZE_MAX));
    cur_init(&c, over, 3);
    assert_int_equal(cur_u32(&c), 0);
    assert_int_equal(c.err, FARM_ECORRUPT);
    cur_init(&c, NULL, 0);
    assert_int_equal(cur_left(&c), 0);
    assert_int_equal(cur_done(&c), 0);
    cur_init(&c, over, sizeof(over));
    assert_int_equal(cur_done(&c), FARM_ECORRUPT); /* left over */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_little_endian_and_come_back),
        cmocka_unit_test(put_beyond_cap_sticks_and_changes_nothing),
        cmocka_unit_test(reserve_with_a_full_length_does_not_wrap),
        cmocka_unit_test(printf_appends_short_and_long),
        cmocka_unit_test(hostile_lengths_never_read_past_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
