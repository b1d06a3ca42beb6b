/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What was printed to a stream since begin(). */
static char *printed;
static size_t printed_len;

static FILE *begin(void)
{
    FILE *f = open_memstream(&printed, &printed_len);
    assert_non_null(f);
    return f;
}

static void expect(FILE *f, const char *want)
{
    assert_int_equal(fclose(f), 0);
    assert_string_equal(printed, want);
    free(printed);
}

static void check(void (*format)(const char *, char[FORMAT_TEXT_MAX]), const char *text,
                  const char *want)
{
    char out[FORMAT_TEXT_MAX];
    format(text, out);
    assert_string_equal(out, want);
}

static void numbers(void **state)
{
    (void)state;
    check(format_bytes, "0", "0 B");
    check(format_bytes, "1023", "1023 B");
    check(format_bytes, "1536", "1.5 KiB");
    check(format_bytes, "18446744073709551615", "16384.0 PiB");
    check(format_bytes, "18446744073709551616", "18446744073709551616");
    check(format_us, "210", "210 us");
    check(format_us, "1500", "1.5 ms");
    check(format_us, "61000000", "61.0 s");
    check(format_ms, "999", "999 ms");
    check(format_ms, "1500", "1.5 s");
    check(format_ms, "", "-");
    check(format_ms, "never", "never");
    check(format_ms, "-1", "-1");
    check(format_backlog, "0 0", "none");
    check(format_backlog, "1 10", "1 file, 10 B");
    check(format_backlog, "3 1536", "3 files, 1.5 KiB");
    check(format_backlog, "0 7", "0 files, 7 B");
    check(format_backlog, "3", "3");
    check(format_backlog, "3 x", "3 x");
}

static void states_in_text(void **state)
{
    (void)state;
    FILE *f = begin();
    format_text(f, true, "web1 ready\nweb2 lagging, ready-made failed.\n");
    expect(f, "web1 \033[32mready\033[0m\nweb2 \033[33mlagging\033[0m, ready-made failed.\n");
    f = begin();
    format_text(f, false, "web1 ready\n");
    expect(f, "web1 ready\n");
}

static void tables(void **state)
{
    (void)state;
    struct table t;
    table_init(&t, 3);
    table_add(&t, (const char *const[]){"PEER", "STATE", "ERROR"});
    table_add(&t, (const char *const[]){"web2", "ready", ""});
    table_add(&t, (const char *const[]){"a-long-name", "", "refused"});
    FILE *f = begin();
    assert_true(table_print(&t, f, false, 1));
    expect(f, "PEER         STATE  ERROR\n"
              "web2         ready\n"
              "a-long-name         refused\n");
    f = begin();
    assert_true(table_print(&t, f, true, 1));
    expect(f, "\033[1mPEER\033[0m         \033[1mSTATE\033[0m  \033[1mERROR\033[0m\n"
              "web2         \033[32mready\033[0m\n"
              "a-long-name         refused\n");
    table_fini(&t);
}

static void events(void **state)
{
    (void)state;
    static const char line[] = "2026-11-22T04:05:06.123Z cleared peer/web2 it is \"back\"";
    struct event e;
    assert_true(event_parse(line, strlen(line), &e));
    assert_memory_equal(e.kind, "cleared", e.kind_len);
    assert_memory_equal(e.name, "peer/web2", e.name_len);
    assert_memory_equal(e.text, "it is \"back\"", e.text_len);
    assert_false(event_parse("garbage", 7, &e));
    assert_false(event_parse("", 0, &e));
    assert_false(event_parse("a  b", 4, &e));

    FILE *f = begin();
    event_print(f, false, line, strlen(line));
    event_print(f, false, "T note n", 8);
    event_print(f, false, "garbage", 7);
    expect(f, "2026-11-22T04:05:06.123Z cleared peer/web2 it is \"back\"\nT note    n \ngarbage\n");
    f = begin();
    event_print_json(f, line, strlen(line));
    event_print_json(f, "garbage", 7);
    expect(f, "{\"time\": \"2026-11-22T04:05:06.123Z\", \"kind\": \"cleared\", \"name\": "
              "\"peer/web2\", \"text\": \"it is \\\"back\\\"\"}\n"
              "{\"time\": \"\", \"kind\": \"note\", \"name\": \"\", \"text\": \"garbage\"}\n");
}

static void last_lines(void **state)
{
    (void)state;
    static const char text[] = "a\nb\n\nc\n";
    size_t n = strlen(text);
    assert_string_equal(format_last_lines(text, n, 0), "");
    assert_string_equal(format_last_lines(text, n, 1), "c\n");
    assert_string_equal(format_last_lines(text, n, 2), "\nc\n");
    assert_string_equal(format_last_lines(text, n, 9), text);
    assert_string_equal(format_last_lines("a\nb", 3, 1), "b");
    assert_string_equal(format_last_lines("", 0, 3), "");
}

static void json_strings(void **state)
{
    (void)state;
    FILE *f = begin();
    json_string(f, "a\"\\\n\xc3\xa9\xff\xc0\x80\xed\xa0\x80", 12);
    expect(f, "\"a\\\"\\\\\\u000a\xc3\xa9\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

static void check_member(const char *object, const char *name, const char *want)
{
    const char *value;
    size_t n;
    bool found = json_member(object, name, &value, &n);
    assert_int_equal(found, want != NULL);
    if (found) {
        assert_int_equal(n, strlen(want));
        assert_memory_equal(value, want, n);
    }
}

static void json_members(void **state)
{
    (void)state;
    static const char object[] =
        " {\"a\": {\"peers\": 1}, \"s\":\"}],\\\"\", \"peers\" : [ {\"x\": \"]\"} , 2 ] , \"z\":3}";
    check_member(object, "peers", "[ {\"x\": \"]\"} , 2 ]");
    check_member(object, "z", "3");
    check_member(object, "s", "\"}],\\\"\"");
    check_member(object, "x", NULL);
    check_member("{}", "x", NULL);
    check_member("[1]", "x", NULL);
    check_member("{\"x\": ", "x", NULL);
    check_member("{\"x\": \"abc", "x", NULL);
    check_member("{\"x", "x", NULL);
    check_member("", "x", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),      cmocka_unit_test(states_in_text),
        cmocka_unit_test(tables),       cmocka_unit_test(events),
        cmocka_unit_test(last_lines),   cmocka_unit_test(json_strings),
        cmocka_unit_test(json_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
