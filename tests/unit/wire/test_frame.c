/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Frame headers: round trip, every bit flipped, lengths beyond the bounds. */
#include "wire/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void round_trip(void **state)
{
    static const char payload[] = "the payload";
    uint8_t h[FRAME_HEADER];
    struct frame_header out;

    (void)state;
    frame_header_put(h, FRAME_DATA, 0, sizeof payload, payload, sizeof payload);
    assert_int_equal(frame_header_get(h, &out), 0);
    assert_int_equal(out.type, FRAME_DATA);
    assert_int_equal(out.flags, 0);
    assert_int_equal(out.len, sizeof payload);
    assert_int_equal(out.raw_len, sizeof payload);
    assert_int_equal(frame_check(h, payload, sizeof payload), 0);

    frame_header_put(h, FRAME_RECORDS, FRAME_ZSTD, FRAME_MAX, payload, sizeof payload);
    assert_int_equal(frame_header_get(h, &out), 0);
    assert_int_equal(out.raw_len, FRAME_MAX);
    frame_header_put(h, FRAME_STATE, 0, 0, NULL, 0);
    assert_int_equal(frame_header_get(h, &out), 0);
    assert_int_equal(frame_check(h, NULL, 0), 0);
}

/* The bytes are the format: they must not change without a new version. */
static void fixed_bytes(void **state)
{
    static const uint8_t want[FRAME_HEADER] = {'F', 'R', 'M', '1', 6, 0, 0, 0, 3, 0, 0, 0, 3};
    uint8_t h[FRAME_HEADER];

    (void)state;
    frame_header_put(h, FRAME_ACK, 0, 3, "abc", 3);
    assert_memory_equal(h, want, 16);
}

static void flips(void **state)
{
    uint8_t payload[40], h[FRAME_HEADER], bad[FRAME_HEADER];
    struct frame_header out;

    (void)state;
    memset(payload, 'x', sizeof payload);
    frame_header_put(h, FRAME_DATA, 0, sizeof payload, payload, sizeof payload);
    for (size_t bit = 0; bit < FRAME_HEADER * 8; bit++) {
        memcpy(bad, h, sizeof h);
        bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(frame_header_get(bad, &out) != 0 ||
                    frame_check(bad, payload, sizeof payload) == FARM_ECORRUPT);
    }
    for (size_t bit = 0; bit < sizeof payload * 8; bit++) {
        payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(frame_check(h, payload, sizeof payload), FARM_ECORRUPT);
        payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void bounds(void **state)
{
    uint8_t h[FRAME_HEADER];
    struct frame_header out;

    (void)state;
    frame_header_put(h, FRAME_DATA, 0, FRAME_MAX + 1, "", 0);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
    frame_header_put(h, FRAME_DATA, FRAME_ZSTD, 10, "0123456789", 10);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
    frame_header_put(h, FRAME_DATA, FRAME_ZSTD, 10, "", 0);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
    frame_header_put(h, FRAME_DATA, 2, 1, "x", 1);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
    frame_header_put(h, 0, 0, 1, "x", 1);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
    frame_header_put(h, FRAME_SUM + 1, 0, 1, "x", 1);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
    frame_header_put(h, FRAME_DATA, 0, 2, "x", 1);
    assert_int_equal(frame_header_get(h, &out), FARM_EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(fixed_bytes),
        cmocka_unit_test(flips),
        cmocka_unit_test(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
