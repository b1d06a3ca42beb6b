/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "lib/find.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif
#define CONTROL_DIR ".farm"

/* A directory of that name counts when it is a FUSE mount of its own with a file `node` in it. */
static int control_of(int dirfd, int *out)
{
    int fd = openat(dirfd, CONTROL_DIR, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOTDIR || errno == ELOOP ? -ENOENT : -errno;
    struct statfs fs;
    struct stat dir, control;
    int err = 0;
    if (fstatfs(fd, &fs) < 0 || fstat(dirfd, &dir) < 0 || fstat(fd, &control) < 0)
        err = -errno;
    else if (fs.f_type != FUSE_SUPER_MAGIC || dir.st_dev == control.st_dev)
        err = -ENOENT;
    else if (faccessat(fd, "node", R_OK, 0) < 0)
        err = -errno;
    if (err < 0) {
        close(fd);
        return err;
    }
    *out = fd;
    return 0;
}

static int path_of(int fd, char **out)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path));
    if (n < 0)
        return -errno;
    if ((size_t)n == sizeof(path))
        return -ENAMETOOLONG;
    *out = strndup(path, (size_t)n);
    return *out != NULL ? 0 : -ENOMEM;
}

static bool same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int find_above(int dirfd, int *fd, char **folder)
{
    int at = openat(dirfd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int err = at < 0 ? -errno : 0;
    int control = -1;
    while (err == 0) {
        err = control_of(at, &control);
        if (err != -ENOENT)
            break;
        int up = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct stat here, there;
        err = up < 0 || fstat(at, &here) < 0 || fstat(up, &there) < 0 ? -errno
              : same(&here, &there)                                   ? -ENOENT
                                                                      : 0;
        close(at);
        at = up;
    }
    if (err == 0)
        err = path_of(at, folder);
    if (err < 0 && control >= 0)
        close(control);
    if (at >= 0)
        close(at);
    if (err == 0)
        *fd = control;
    return err;
}

/* mountinfo writes blanks and backslashes as \ooo. In place. */
static void unescape(char *s)
{
    char *to = s;
    while (*s != '\0') {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 4;
        } else {
            *to++ = *s++;
        }
    }
    *to = '\0';
}

/* The mount point of a line (proc_pid_mountinfo(5): the fifth field) when it is a FUSE one that
 * ends in /.farm, cut there; else NULL. */
static char *folder_of_line(char *line)
{
    char *type = strstr(line, " - ");
    if (type == NULL || strncmp(type + 3, "fuse", 4) != 0 || (type[7] != '.' && type[7] != ' '))
        return NULL;
    char *save = NULL, *field = strtok_r(line, " ", &save);
    for (int i = 0; i < 4 && field != NULL; i++)
        field = strtok_r(NULL, " ", &save);
    if (field == NULL)
        return NULL;
    unescape(field);
    char *last = strrchr(field, '/');
    if (last == NULL || last == field || strcmp(last + 1, CONTROL_DIR) != 0)
        return NULL;
    *last = '\0';
    return field;
}

int find_mounted(FILE *mountinfo, char **folder)
{
    char *line = NULL, *found = NULL;
    size_t size = 0;
    int err = -ENOENT;
    while (getline(&line, &size, mountinfo) >= 0) {
        const char *path = folder_of_line(line);
        if (path == NULL || (found != NULL && strcmp(found, path) == 0))
            continue;
        err = found != NULL ? -ENOTUNIQ : 0;
        if (err < 0)
            break;
        found = strdup(path);
        if (found == NULL) {
            err = -ENOMEM;
            break;
        }
    }
    free(line);
    if (err < 0)
        free(found);
    else
        *folder = found;
    return err;
}
