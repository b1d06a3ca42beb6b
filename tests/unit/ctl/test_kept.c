/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/kept.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_unquoted(const char *json, const char *want)
{
    char *text = kept_unquote(json, strlen(json));
    if (want == NULL) {
        assert_null(text);
        return;
    }
    assert_non_null(text);
    assert_string_equal(text, want);
    free(text);
}

static void a_json_string_becomes_text(void **state)
{
    (void)state;
    assert_unquoted("\"\"", "");
    assert_unquoted("\"a/b c\"", "a/b c");
    assert_unquoted("\"q\\\"b\\\\s\\/n\\nt\\t\"", "q\"b\\s/n\nt\t");
    assert_unquoted("\"\\u0001\\u00e4\\u6f22\"", "\x01ä漢");
    assert_unquoted("\"žluť\"", "žluť");
    assert_unquoted("null", NULL);
    assert_unquoted("\"", NULL);
}

static void times_are_read_to_the_nanosecond(void **state)
{
    (void)state;
    struct timespec t;
    assert_true(kept_parse_time("2026-11-22T04:05:06.123456789Z", &t));
    assert_int_equal(t.tv_sec, 1795320306);
    assert_int_equal(t.tv_nsec, 123456789);
    assert_true(kept_parse_time("1969-12-31T23:59:58.500000000Z", &t));
    assert_int_equal(t.tv_sec, -2);
    assert_int_equal(t.tv_nsec, 500000000);
    assert_true(kept_parse_time("2026-11-22T04:05:06Z", &t));
    assert_int_equal(t.tv_nsec, 0);
    assert_false(kept_parse_time("2026-11-22 04:05:06", &t));
    assert_false(kept_parse_time("", &t));
}

static void ids_are_16_hex_digits(void **state)
{
    (void)state;
    assert_true(kept_id_valid("00064425d38f0a2b"));
    assert_false(kept_id_valid("00064425d38f0a2"));
    assert_false(kept_id_valid("00064425D38F0A2B"));
    assert_false(kept_id_valid("00064425d38f0a2b.json"));
    assert_false(kept_id_valid("../64425d38f0a2b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_json_string_becomes_text),
        cmocka_unit_test(times_are_read_to_the_nanosecond),
        cmocka_unit_test(ids_are_16_hex_digits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
