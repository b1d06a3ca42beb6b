/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mount/control_paths.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const tree[] = {"status", "peers", "peers/web2", "peers/web2/state", "why"};

static bool is_dir(const char *path)
{
    return strstr(path, "state") == NULL && strcmp(path, "status") != 0;
}

static int list(void *ctx, const char *path, control_list f, void *arg)
{
    (void)ctx;
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof(tree) / sizeof(tree[0]); i++) {
        const char *rest = tree[i];
        if (n > 0 && (strncmp(rest, path, n) != 0 || rest[n] != '/'))
            continue;
        rest += n > 0 ? n + 1 : 0;
        struct control_stat st = {.type = is_dir(tree[i]) ? CONTROL_DIR : CONTROL_FILE};
        if (strchr(rest, '/') == NULL)
            f(arg, rest, &st);
    }
    return 0;
}

static const struct control_provider provider = {.list = list};

static void ids_outlive_the_table(void **state)
{
    (void)state;
    struct control_paths a, b, c;
    const char *path;
    control_paths_init(&a, &provider, 1);
    control_paths_init(&b, &provider, 1);
    control_paths_init(&c, &provider, 2);
    assert_int_equal(control_paths_id(&a, ""), 1);
    assert_int_equal(control_paths_get(&b, 1, &path), 0);
    assert_string_equal(path, "");
    for (size_t i = 0; i < sizeof(tree) / sizeof(tree[0]); i++) {
        uint64_t id = control_paths_id(&a, tree[i]);
        assert_true(id > 1);
        assert_int_not_equal(control_paths_id(&c, tree[i]), id);
        assert_int_equal(control_paths_get(&b, id, &path), 0);
        assert_string_equal(path, tree[i]);
    }
    control_paths_fini(&a);
    control_paths_fini(&b);
    control_paths_fini(&c);
}

/* What is not listed is known as long as the kernel knows it. */
static void forgetting(void **state)
{
    (void)state;
    struct control_paths t;
    const char *path;
    control_paths_init(&t, &provider, 7);
    uint64_t id = control_paths_id(&t, "why/index.php");
    assert_int_equal(control_paths_get(&t, id, &path), -ESTALE);
    assert_int_equal(control_paths_looked_up(&t, "why/index.php"), 0);
    assert_int_equal(control_paths_looked_up(&t, "why/index.php"), 0);
    control_paths_forget(&t, id, 1);
    assert_int_equal(control_paths_get(&t, id, &path), 0);
    assert_string_equal(path, "why/index.php");
    control_paths_forget(&t, id, 5);
    assert_int_equal(control_paths_get(&t, id, &path), -ESTALE);
    control_paths_forget(&t, id, 1);
    control_paths_fini(&t);
}

static void bounded(void **state)
{
    (void)state;
    struct control_paths t;
    const char *got;
    char path[64];
    control_paths_init(&t, &provider, 7);
    for (unsigned i = 0; i < 70000; i++) {
        snprintf(path, sizeof(path), "why/%u", i);
        assert_int_equal(control_paths_looked_up(&t, path), 0);
        assert_int_equal(control_paths_get(&t, control_paths_id(&t, path), &got), 0);
        assert_string_equal(got, path);
    }
    assert_true(t.nodes.n <= 65536);
    control_paths_fini(&t);
}

static void names(void **state)
{
    (void)state;
    char path[PATH_MAX], name[300];
    assert_int_equal(control_path_join("", "peers", path), 0);
    assert_string_equal(path, "peers");
    assert_int_equal(control_path_join("peers", "web2", path), 0);
    assert_string_equal(path, "peers/web2");
    static const char *const bad[] = {"", ".", "..", "a/b", "a\nb", "\x7f"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(control_path_join("", bad[i], path), -ENOENT);
    memset(name, 'a', sizeof(name));
    name[255] = '\0';
    assert_true(control_name_valid(name));
    name[255] = 'a';
    name[256] = '\0';
    assert_false(control_name_valid(name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_outlive_the_table),
        cmocka_unit_test(forgetting),
        cmocka_unit_test(bounded),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
