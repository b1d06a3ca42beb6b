/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * treedigest [-l] [-x NAME]... DIR
 *
 * One SHA-256 over everything a tree promises to keep: path bytes, type, mode, numeric owner and
 * group, mtime in nanoseconds, size, which names are hard links of each other, symlink targets,
 * device numbers, xattrs (POSIX ACLs are among them) and content. Holes read as zeros, so two files
 * that differ only in allocation are equal. `.farm` at the top is left out, and so are names given
 * with -x. -l prints a line per entry instead, to be compared with diff.
 * xattrs of security.* and trusted.* are left out: a farm does not carry them by default.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define IO_SIZE (256 * 1024)
#define EXCLUDE_MAX 16

struct link_group {
    dev_t dev;
    ino_t ino;
    char *first; /* the first path, in walking order, of this inode */
};

struct walk {
    EVP_MD_CTX *all;
    struct link_group *groups;
    size_t group_count;
    const char *exclude[EXCLUDE_MAX];
    size_t exclude_count;
    bool list;
    unsigned char *io;
};

static void die(const char *what, const char *path)
{
    fprintf(stderr, "treedigest: %s: %s: %s\n", path, what, strerror(errno));
    exit(1);
}

static void *must(void *p)
{
    if (p == NULL) {
        fprintf(stderr, "treedigest: out of memory\n");
        exit(1);
    }
    return p;
}

static void hex(const unsigned char *bytes, size_t len, char *out)
{
    for (size_t i = 0; i < len; i++) {
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

/* Path bytes for one printed line: whatever is not plain becomes \xHH. */
static char *escape(const char *s)
{
    char *out = must(malloc(strlen(s) * 4 + 1));
    char *p = out;

    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;

        if (c <= ' ' || c >= 0x7f || c == '\\') {
            p += sprintf(p, "\\x%02x", c);
        } else {
            *p++ = (char)c;
        }
    }
    *p = '\0';
    return out;
}

static char *join(const char *dir, const char *name)
{
    size_t need = strlen(dir) + strlen(name) + 2;
    char *out = must(malloc(need));

    snprintf(out, need, "%s%s%s", dir, dir[0] != '\0' ? "/" : "", name);
    return out;
}

static EVP_MD_CTX *sha_new(void)
{
    EVP_MD_CTX *ctx = must(EVP_MD_CTX_new());

    EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
    return ctx;
}

static void sha_hex(EVP_MD_CTX *ctx, char out[65])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned int len = 0;

    EVP_DigestFinal_ex(ctx, md, &len);
    EVP_MD_CTX_free(ctx);
    hex(md, 32, out);
}

static void hash_content(struct walk *w, int dirfd, const char *name, const char *path,
                         char out[65])
{
    EVP_MD_CTX *ctx = sha_new();
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0) {
        die("open", path);
    }
    for (;;) {
        ssize_t n = read(fd, w->io, IO_SIZE);

        if (n < 0) {
            die("read", path);
        }
        if (n == 0) {
            break;
        }
        EVP_DigestUpdate(ctx, w->io, (size_t)n);
    }
    close(fd);
    sha_hex(ctx, out);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool xattr_counts(const char *name)
{
    return strncmp(name, "security.", 9) != 0 && strncmp(name, "trusted.", 8) != 0;
}

/* procpath reaches an entry of any type without opening it: /proc/self/fd/DIR/NAME. */
static void hash_xattrs(const char *procpath, const char *path, char out[65])
{
    EVP_MD_CTX *ctx = sha_new();
    ssize_t size = llistxattr(procpath, NULL, 0);

    if (size < 0 && errno != ENOTSUP) {
        die("listxattr", path);
    }
    if (size > 0) {
        char *names = must(malloc((size_t)size));
        char **sorted = must(malloc((size_t)size * sizeof(*sorted)));
        size_t count = 0;

        size = llistxattr(procpath, names, (size_t)size);
        if (size < 0) {
            die("listxattr", path);
        }
        for (char *p = names; p < names + size; p += strlen(p) + 1) {
            if (xattr_counts(p)) {
                sorted[count++] = p;
            }
        }
        qsort(sorted, count, sizeof(*sorted), by_name);
        for (size_t i = 0; i < count; i++) {
            static char value[65536];
            ssize_t len = lgetxattr(procpath, sorted[i], value, sizeof(value));

            if (len < 0) {
                die("getxattr", path);
            }
            EVP_DigestUpdate(ctx, sorted[i], strlen(sorted[i]) + 1);
            EVP_DigestUpdate(ctx, &len, sizeof(len));
            EVP_DigestUpdate(ctx, value, (size_t)len);
        }
        free(sorted);
        free(names);
    }
    sha_hex(ctx, out);
}

/* The path under which this inode was met first; equal for all names of one inode. */
static const char *link_group(struct walk *w, const struct stat *st, const char *path)
{
    for (size_t i = 0; i < w->group_count; i++) {
        if (w->groups[i].ino == st->st_ino && w->groups[i].dev == st->st_dev) {
            return w->groups[i].first;
        }
    }
    w->groups = must(realloc(w->groups, (w->group_count + 1) * sizeof(*w->groups)));
    w->groups[w->group_count] =
        (struct link_group){.dev = st->st_dev, .ino = st->st_ino, .first = must(strdup(path))};
    return w->groups[w->group_count++].first;
}

static void entry(struct walk *w, int dirfd, const char *name, const char *path,
                  const struct stat *st)
{
    char content[65] = "-";
    char xattrs[65];
    char procpath[512];
    char *target = NULL;
    char *shown = escape(path);
    char *group = NULL;
    char *line = NULL;
    int len;

    snprintf(procpath, sizeof(procpath), "/proc/self/fd/%d/%s", dirfd, name);
    hash_xattrs(procpath, path, xattrs);
    if (S_ISREG(st->st_mode)) {
        hash_content(w, dirfd, name, path, content);
    }
    if (S_ISLNK(st->st_mode)) {
        char raw[4097];
        ssize_t n = readlinkat(dirfd, name, raw, sizeof(raw) - 1);

        if (n < 0) {
            die("readlink", path);
        }
        raw[n] = '\0';
        target = escape(raw);
    }
    if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) {
        group = escape(link_group(w, st, path));
    }
    len = asprintf(&line,
                   "%s type=%o mode=%04o uid=%u gid=%u mtime=%lld.%09ld size=%lld nlink=%lu "
                   "link=%s rdev=%u:%u target=%s xattrs=%.16s content=%s\n",
                   shown, (unsigned)(st->st_mode & S_IFMT) >> 12, (unsigned)(st->st_mode & 07777),
                   st->st_uid, st->st_gid, (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec,
                   S_ISDIR(st->st_mode) ? 0LL : (long long)st->st_size,
                   S_ISDIR(st->st_mode) ? 0UL : (unsigned long)st->st_nlink,
                   group != NULL ? group : "-",
                   S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode) ? major(st->st_rdev) : 0,
                   S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode) ? minor(st->st_rdev) : 0,
                   target != NULL ? target : "-", xattrs, content);
    if (len < 0) {
        die("format", path);
    }
    if (w->list) {
        fputs(line, stdout);
    }
    EVP_DigestUpdate(w->all, line, (size_t)len);
    free(line);
    free(group);
    free(target);
    free(shown);
}

static bool excluded(const struct walk *w, const char *path, const char *name)
{
    if (strcmp(path, ".farm") == 0) {
        return true;
    }
    for (size_t i = 0; i < w->exclude_count; i++) {
        if (strcmp(w->exclude[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static char **read_names(int fd, const char *path, size_t *count)
{
    DIR *dir = fdopendir(fd);
    char **names = NULL;
    struct dirent *de;

    *count = 0;
    if (dir == NULL) {
        die("opendir", path);
    }
    for (errno = 0; (de = readdir(dir)) != NULL; errno = 0) {
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) {
            continue;
        }
        names = must(realloc(names, (*count + 1) * sizeof(*names)));
        names[(*count)++] = must(strdup(de->d_name));
    }
    if (errno != 0) {
        die("readdir", path);
    }
    closedir(dir);
    qsort(names, *count, sizeof(*names), by_name);
    return names;
}

static void walk_dir(struct walk *w, int dirfd, const char *path)
{
    size_t count = 0;
    char **names = read_names(dup(dirfd), path, &count);

    for (size_t i = 0; i < count; i++) {
        char *sub = join(path, names[i]);
        struct stat st;

        if (!excluded(w, sub, names[i])) {
            if (fstatat(dirfd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
                die("stat", sub);
            }
            entry(w, dirfd, names[i], sub, &st);
            if (S_ISDIR(st.st_mode)) {
                int fd = openat(dirfd, names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

                if (fd < 0) {
                    die("open", sub);
                }
                walk_dir(w, fd, sub);
                close(fd);
            }
        }
        free(sub);
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    struct walk w = {.all = sha_new(), .io = must(malloc(IO_SIZE))};
    char digest[65];
    struct stat st;
    int opt;
    int fd;

    while ((opt = getopt(argc, argv, "lx:")) != -1) {
        if (opt == 'l') {
            w.list = true;
        } else if (opt == 'x' && w.exclude_count < EXCLUDE_MAX) {
            w.exclude[w.exclude_count++] = optarg;
        } else {
            fprintf(stderr, "usage: treedigest [-l] [-x NAME]... DIR\n");
            return 2;
        }
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: treedigest [-l] [-x NAME]... DIR\n");
        return 2;
    }
    fd = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        die("open", argv[optind]);
    }
    entry(&w, fd, ".", ".", &st);
    walk_dir(&w, fd, "");
    close(fd);
    sha_hex(w.all, digest);
    if (!w.list) {
        puts(digest);
    }
    for (size_t i = 0; i < w.group_count; i++) {
        free(w.groups[i].first);
    }
    free(w.groups);
    free(w.io);
    return 0;
}
