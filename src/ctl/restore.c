/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Putting back what is kept: through the mount, so that it is a change like any other. */
#include "ctl/format.h"
#include "ctl/kept.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHUNK (1u << 20)
#define NAMES_TRIED 10000

/* ---- one file ---- */

/* The directory of a path, missing ones made; *name points into path. */
static int open_parent(const char *path, int *fd, const char **name)
{
    char part[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || strlen(path) >= sizeof(part))
        return -ENAMETOOLONG;
    for (const char *s = path; (s = strchr(s + 1, '/')) != NULL;) {
        memcpy(part, path, (size_t)(s - path));
        part[s - path] = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -errno;
    }
    memcpy(part, path, (size_t)(slash - path));
    part[slash - path] = '\0';
    int dir = open(slash == path ? "/" : part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    *fd = dir;
    *name = slash + 1;
    return 0;
}

static int copy(int from, int to)
{
    char *chunk = malloc(CHUNK);
    if (chunk == NULL)
        return -ENOMEM;
    int err = 0;
    for (ssize_t got; err == 0 && (got = read(from, chunk, CHUNK)) != 0;) {
        (void)watchdog_set(ANSWER_MS);
        if (got < 0)
            err = errno == EINTR ? 0 : -errno;
        for (ssize_t done = 0, n; err == 0 && done < got; done += n) {
            n = write(to, chunk + done, (size_t)(got - done));
            if (n < 0)
                err = -errno;
        }
    }
    free(chunk);
    return err;
}

static int open_kept(const struct farm *f, const struct kept *k, int *fd)
{
    char file[64];
    snprintf(file, sizeof(file), "%s/%s", k->dir, k->id);
    return farm_stream(f, file, fd);
}

/* Of the kept file, ACLs too; those that may not be set here (security.*, say) are left out. */
static int copy_xattrs(int from, int to)
{
    char names[XATTR_LIST_MAX], *value = malloc(XATTR_SIZE_MAX);
    ssize_t n = flistxattr(from, names, sizeof(names)), len;
    if (value == NULL)
        return -ENOMEM;
    int err = n < 0 && errno != EOPNOTSUPP ? -errno : 0;
    for (const char *s = names; err == 0 && s < names + n; s += strlen(s) + 1) {
        len = fgetxattr(from, s, value, XATTR_SIZE_MAX);
        if (len < 0)
            err = errno == ENODATA ? 0 : -errno;
        else if (fsetxattr(to, s, value, (size_t)len, 0) < 0 && errno != EPERM &&
                 errno != EOPNOTSUPP)
            err = -errno;
    }
    free(value);
    return err;
}

static int make_file(const struct farm *f, const struct kept *k, int dir, const char *name)
{
    int from, err = open_kept(f, k, &from);
    if (err < 0)
        return err;
    int to = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    err = to < 0 ? -errno : copy(from, to);
    if (err == 0)
        err = copy_xattrs(from, to);
    close(from);
    if (to < 0)
        return err;
    struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, k->mtime};
    if (err == 0 && fchown(to, k->uid, k->gid) < 0)
        err = -errno;
    if (err == 0 && fchmod(to, k->mode) < 0)
        err = -errno;
    if (err == 0 && futimens(to, times) < 0)
        err = -errno;
    if (close(to) < 0 && err == 0)
        err = -errno;
    return err;
}

static int make_link(const struct farm *f, const struct kept *k, int dir, const char *name)
{
    char file[64], *target;
    snprintf(file, sizeof(file), "%s/%s", k->dir, k->id);
    int err = farm_read(f, file, &target, NULL);
    if (err < 0)
        return err;
    err = symlinkat(target, dir, name) < 0 ? -errno : 0;
    free(target);
    return err;
}

static int make(const struct farm *f, const struct kept *k, int dir, const char *name)
{
    int err;
    if (strcmp(k->type, "file") == 0)
        return make_file(f, k, dir, name);
    if (strcmp(k->type, "symlink") == 0)
        err = make_link(f, k, dir, name);
    else if (strcmp(k->type, "fifo") == 0)
        err = mkfifoat(dir, name, k->mode) < 0 ? -errno : 0;
    else
        return -EOPNOTSUPP;
    if (err == 0 && fchownat(dir, name, k->uid, k->gid, AT_SYMLINK_NOFOLLOW) < 0)
        err = -errno;
    return err;
}

/* An empty directory, as it was. */
static int put_dir(const struct kept *k, int dir, const char *name)
{
    if (mkdirat(dir, name, 0700) < 0)
        return -errno;
    if (fchownat(dir, name, k->uid, k->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        fchmodat(dir, name, k->mode, 0) < 0)
        return -errno;
    return 0;
}

int kept_put(const struct farm *f, const struct kept *k, const char *path, bool replace)
{
    const char *name;
    char temp[32];
    uint64_t number;
    int dir = -1, err = open_parent(path, &dir, &name);
    if (err < 0)
        return err;
    if (strcmp(k->type, "directory") == 0 && strcmp(k->kind, "history") == 0) {
        err = put_dir(k, dir, name);
        close(dir);
        return err;
    }
    if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
        number = (uint64_t)getpid();
    snprintf(temp, sizeof(temp), ".restore-%016llx", (unsigned long long)number);
    err = make(f, k, dir, temp);
    if (err == 0 && renameat2(dir, temp, dir, name, replace ? 0 : RENAME_NOREPLACE) < 0)
        err = -errno;
    if (err < 0)
        (void)!unlinkat(dir, temp, 0);
    close(dir);
    return err;
}

/* ---- restore ---- */

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* A free name beside it; the caller frees. */
static char *free_name(const char *path)
{
    char *out;
    for (int i = 1; i < NAMES_TRIED; i++) {
        if (asprintf(&out, "%s.restored-%d", path, i) < 0)
            return NULL;
        if (!exists(out))
            return out;
        free(out);
    }
    return NULL;
}

/* On a terminal the user is asked. */
static bool agreed(const char *path, const char *other)
{
    char answer[16];
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return true;
    fprintf(stderr, "%s exists. Restore beside it, as %s? [Y/n] ", path, other);
    (void)watchdog_set(-1);
    bool yes = fgets(answer, sizeof(answer), stdin) != NULL &&
               (answer[0] == '\n' || answer[0] == 'y' || answer[0] == 'Y');
    (void)watchdog_set(ANSWER_MS);
    return yes;
}

static int find_kept(const struct farm *f, const char *id, struct kept *k)
{
    if (!kept_id_valid(id)) {
        fprintf(stderr,
                "farmctl: restore %s: expected an id of 16 hex digits, see farmctl conflicts\n",
                id);
        return EXIT_USAGE;
    }
    int err = kept_load(f, "conflicts", id, k);
    if (err == -ENOENT)
        err = kept_load(f, "history", id, k);
    if (err == -ENOENT) {
        fprintf(stderr,
                "farmctl: restore %s: nothing is kept under this id (any more), see "
                "farmctl conflicts and farmctl history\n",
                id);
        return EXIT_FAILED;
    }
    return err < 0 ? ctl_failed(f, "conflicts", err) : EXIT_OK;
}

static int cannot(const char *what, const char *path, int err)
{
    fprintf(stderr, "farmctl: %s: cannot restore to %s: %s\n", what, path,
            err == -EOPNOTSUPP ? "it is a directory with what was in it, or a device: copy it out "
                                 "of the staging area"
                               : strerror(-err));
    return EXIT_FAILED;
}

/* Until a free name is found: nothing that is there is ever replaced. */
static int put_beside(const struct farm *f, const struct kept *k, const char *path)
{
    char *to = strdup(path);
    int err = to == NULL ? -ENOMEM : exists(to) ? -EEXIST : kept_put(f, k, to, false);
    while (err == -EEXIST) {
        char *other = free_name(path);
        if (other != NULL && !agreed(path, other)) {
            free(other);
            free(to);
            fputs("farmctl: nothing was restored\n", stderr);
            return EXIT_FAILED;
        }
        free(to);
        to = other;
        err = to != NULL ? kept_put(f, k, to, false) : -ENOMEM;
    }
    int code = err < 0 ? cannot(k->id, path, err) : EXIT_OK;
    if (code == EXIT_OK)
        printf("restored %s\n", to);
    free(to);
    return code;
}

int ctl_restore(const struct farm *f, const struct options *o)
{
    struct kept k;
    char *path = NULL;
    int code = find_kept(f, o->args[0], &k);
    if (code != EXIT_OK)
        return code;
    if (o->to == NULL && k.path[0] == '\0')
        fprintf(stderr, "farmctl: restore %s: its path is not known: say where with --to PATH\n",
                k.id);
    else if (!k.data && strcmp(k.type, "directory") != 0)
        fprintf(stderr, "farmctl: restore %s: its content is not on this node\n", k.id);
    else if (o->to == NULL && asprintf(&path, "%s/%s", farm_folder(f), k.path) < 0)
        path = NULL;
    else if (o->to != NULL)
        path = o->to[0] == '/' || strncmp(o->to, "./", 2) == 0 ? strdup(o->to) : NULL;
    if (o->to != NULL && path == NULL && asprintf(&path, "./%s", o->to) < 0)
        path = NULL;
    code = path != NULL ? put_beside(f, &k, path) : EXIT_FAILED;
    free(path);
    kept_free(&k);
    return code;
}
