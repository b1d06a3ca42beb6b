/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "lib/find.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ROOT "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
#define WWW "30 21 0:40 / /srv/www/.farm rw - fuse.farmfs-control farmfs rw,user_id=0\n"
#define BLANK "31 21 0:41 / /srv/a\\040b\\134c/.farm rw shared:3 - fuse farmfs rw\n"
#define OTHER "32 21 0:42 / /srv/data/.farm rw - ext4 /dev/sdb rw\n"
#define CTL "33 21 0:43 / /srv/x/.farm rw - fusectl fusectl rw\n"
#define NAMED "34 21 0:44 / /srv/not.farm rw - fuse.sshfs x rw\n"
#define SHORT "35 21 - fuse x rw\n"

static int find(const char *text, char **out)
{
    FILE *in = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    assert_non_null(in);
    int err = find_mounted(in, out);
    fclose(in);
    return err;
}

static void expect(const char *text, const char *want)
{
    char *folder = NULL;
    assert_int_equal(find(text, &folder), 0);
    assert_string_equal(folder, want);
    free(folder);
}

static void the_only_mount(void **state)
{
    (void)state;
    char *folder = NULL;
    expect(ROOT WWW OTHER CTL NAMED SHORT, "/srv/www");
    expect(ROOT BLANK, "/srv/a b\\c");
    expect(WWW WWW, "/srv/www");
    assert_int_equal(find(ROOT OTHER CTL NAMED SHORT, &folder), -ENOENT);
    assert_int_equal(find(WWW BLANK, &folder), -ENOTUNIQ);
    assert_null(folder);
}

/* A directory that happens to be called .farm makes no folder. */
static void no_mount_above(void **state)
{
    (void)state;
    char dir[] = "/tmp/farm-find-XXXXXX", path[64], *folder = NULL;
    int fd = -1;
    assert_non_null(mkdtemp(dir));
    int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(at >= 0);
    assert_int_equal(find_above(at, &fd, &folder), -ENOENT);
    snprintf(path, sizeof(path), "%s/.farm", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(find_above(at, &fd, &folder), -ENOENT);
    assert_null(folder);
    close(at);
    rmdir(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_only_mount),
        cmocka_unit_test(no_mount_above),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
