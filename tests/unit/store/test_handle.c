/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/farm-handle-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char cmd[64];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static void follows_the_inode_through_renames(void **state)
{
    struct handle a, b, other;
    struct stat before, after;
    int fd;
    (void)state;

    int d = open(dir, O_RDONLY | O_DIRECTORY);
    assert_true(d >= 0);
    int f = openat(d, "one", O_CREAT | O_RDWR, 0600);
    assert_true(f >= 0);
    if (handle_of_fd(f, &a) == -EOPNOTSUPP)
        skip();
    assert_int_equal(handle_of_fd(f, &a), 0);
    assert_int_equal(handle_of_name(d, "one", &b), 0);
    assert_true(handle_eq(&a, &b));
    assert_int_equal(handle_of_fd(d, &other), 0);
    assert_false(handle_eq(&a, &other));
    assert_int_equal(renameat(d, "one", d, "two"), 0);
    assert_int_equal(handle_of_name(d, "one", &b), -ENOENT);
    int e = handle_open(d, &a, O_RDONLY, &fd);
    if (e == -EPERM)
        skip();
    assert_int_equal(e, 0);
    assert_int_equal(fstat(f, &before), 0);
    assert_int_equal(fstat(fd, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    close(fd);
    close(f);
    assert_int_equal(unlinkat(d, "two", 0), 0);
    assert_int_equal(handle_open(d, &a, O_RDONLY, &fd), -ESTALE);
    close(d);
}

static void is_of_the_symlink_itself(void **state)
{
    struct handle link, target;
    struct stat st;
    int fd;
    (void)state;

    int d = open(dir, O_RDONLY | O_DIRECTORY);
    assert_true(d >= 0);
    assert_int_equal(symlinkat(".", d, "link"), 0);
    if (handle_of_name(d, "link", &link) == -EOPNOTSUPP)
        skip();
    assert_int_equal(handle_of_name(d, "link", &link), 0);
    assert_int_equal(handle_of_fd(d, &target), 0);
    assert_false(handle_eq(&link, &target));
    int e = handle_open(d, &link, O_PATH | O_NOFOLLOW, &fd);
    if (e == -EPERM)
        skip();
    assert_int_equal(e, 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    close(fd);
    close(d);
}

static void refuses_what_is_too_long(void **state)
{
    struct handle h = {.len = HANDLE_BYTES_MAX + 1};
    int fd;
    (void)state;

    assert_int_equal(handle_open(0, &h, O_RDONLY, &fd), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_inode_through_renames),
        cmocka_unit_test(is_of_the_symlink_itself),
        cmocka_unit_test(refuses_what_is_too_long),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
