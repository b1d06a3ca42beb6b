/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmpoke WORD ARGUMENT...: single file operations that the shell has no word for.
 *
 *   mmap-write FILE OFFSET TEXT     change bytes through a shared mapping, unmap, close
 *   mmap-hold FILE OFFSET TEXT      the same, and keep the mapping until standard input ends
 *   mmap-read FILE                  print a file, read through a mapping
 *   mmap-watch FILE                 map, print the content once per line read from standard input
 *   append FILE COUNT TAG           COUNT lines of "TAG n" by O_APPEND, one write each
 *   hold FILE SECONDS               write a line every 100 ms, keep the file open that long
 *   unlinked FILE                   open, unlink, write, read back, check the link count is 0
 *   tmpfile DIR NAME TEXT           O_TMPFILE in DIR, write, link it in as NAME
 *   exchange A B                    renameat2(RENAME_EXCHANGE)
 *   noreplace A B                   renameat2(RENAME_NOREPLACE)
 *   copy A B                        copy_file_range of the whole file
 *   holes FILE                      print the data segments by SEEK_DATA and SEEK_HOLE
 *   lock FILE                       an fcntl lock is refused to another process, freed at close
 *   as UID GID WORD ARGUMENT...     as that user: create FILE, or append, or tmpfile
 *   readers DIR SECONDS             open, read, close files of DIR over and over: p50, p99, max
 *   poll FILE SECONDS               read to the end, then one poll: the line "waiting", then
 * "ready" create FILE MODE                create with that octal mode (umask 0)
 *
 * Exit 0, or 1 with one line on standard error.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what, const char *path)
{
    fprintf(stderr, "farmpoke: %s: %s: %s\n", what, path, strerror(errno));
    return 1;
}

static int wrong(const char *what, const char *path)
{
    fprintf(stderr, "farmpoke: %s: %s\n", path, what);
    return 1;
}

static int mmap_write(char **a, int hold)
{
    off_t offset = strtoll(a[1], NULL, 0);
    size_t len = strlen(a[2]);
    int fd = open(a[0], O_RDWR | O_CLOEXEC);
    struct stat st;
    char *map;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return fail("open", a[0]);
    }
    if (offset + (off_t)len > st.st_size) {
        return wrong("the change ends past the end of the file", a[0]);
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return fail("mmap", a[0]);
    }
    memcpy(map + offset, a[2], len);
    if (hold) {
        close(fd);
        while (getchar() != EOF) {
        }
        return munmap(map, (size_t)st.st_size) < 0 ? fail("munmap", a[0]) : 0;
    }
    if (munmap(map, (size_t)st.st_size) < 0 || close(fd) < 0) {
        return fail("munmap or close", a[0]);
    }
    return 0;
}

static int do_mmap_write(char **a)
{
    return mmap_write(a, 0);
}

static int do_mmap_hold(char **a)
{
    return mmap_write(a, 1);
}

static int mmap_read(const char *path, int watch)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    char *map;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return fail("open", path);
    }
    if (st.st_size == 0) {
        return 0;
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return fail("mmap", path);
    }
    do {
        if (watch && getchar() == EOF) {
            break;
        }
        fwrite(map, 1, (size_t)st.st_size, stdout);
        fflush(stdout);
    } while (watch);
    return 0;
}

static int do_mmap_read(char **a)
{
    return mmap_read(a[0], 0);
}

static int do_mmap_watch(char **a)
{
    return mmap_read(a[0], 1);
}

static int do_append(char **a)
{
    long count = strtol(a[1], NULL, 10);
    int fd = open(a[0], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0) {
        return fail("open", a[0]);
    }
    for (long i = 0; i < count; i++) {
        char line[256];
        int len = snprintf(line, sizeof(line), "%s %ld\n", a[2], i);

        if (write(fd, line, (size_t)len) != len) {
            return fail("write", a[0]);
        }
    }
    return close(fd) < 0 ? fail("close", a[0]) : 0;
}

static int do_poll(char **a)
{
    char drop[4096];
    struct pollfd p = {.events = POLLIN};

    p.fd = open(a[0], O_RDONLY | O_CLOEXEC);
    if (p.fd < 0)
        return fail("open", a[0]);
    while (read(p.fd, drop, sizeof drop) > 0)
        ;
    if (poll(&p, 1, 0) != 0)
        return wrong("it can be read further", a[0]);
    puts("waiting");
    fflush(stdout);
    int n = poll(&p, 1, (int)(strtod(a[1], NULL) * 1000));
    if (n < 0)
        return fail("poll", a[0]);
    puts(n > 0 ? "ready" : "late");
    close(p.fd);
    return n > 0 ? 0 : 1;
}

static int do_hold(char **a)
{
    double seconds = strtod(a[1], NULL);
    int fd = open(a[0], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    struct timespec tick = {.tv_nsec = 100000000};

    if (fd < 0) {
        return fail("open", a[0]);
    }
    for (int i = 0; i < (int)(seconds * 10); i++) {
        if (dprintf(fd, "line %d\n", i) < 0) {
            return fail("write", a[0]);
        }
        nanosleep(&tick, NULL);
    }
    return close(fd) < 0 ? fail("close", a[0]) : 0;
}

static int do_unlinked(char **a)
{
    int fd = open(a[0], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    char buf[16] = "";
    struct stat st;

    if (fd < 0) {
        return fail("open", a[0]);
    }
    if (unlink(a[0]) < 0) {
        return fail("unlink", a[0]);
    }
    if (pwrite(fd, "orphan", 6, 0) != 6 || pread(fd, buf, sizeof(buf), 0) != 6 ||
        fstat(fd, &st) < 0) {
        return fail("use after unlink", a[0]);
    }
    if (memcmp(buf, "orphan", 6) != 0 || st.st_nlink != 0 || st.st_size != 6) {
        return wrong("an unlinked file does not behave", a[0]);
    }
    if (ftruncate(fd, 3) < 0 || fchmod(fd, 0600) < 0 || fstat(fd, &st) < 0) {
        return fail("change after unlink", a[0]);
    }
    return st.st_size == 3 && (st.st_mode & 0777) == 0600 ? 0 : wrong("changes got lost", a[0]);
}

static int do_tmpfile(char **a)
{
    int fd = open(a[0], O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
    char proc[64];
    char to[4096];

    if (fd < 0) {
        return fail("O_TMPFILE", a[0]);
    }
    if (write(fd, a[2], strlen(a[2])) != (ssize_t)strlen(a[2])) {
        return fail("write", a[0]);
    }
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    snprintf(to, sizeof(to), "%s/%s", a[0], a[1]);
    if (linkat(AT_FDCWD, proc, AT_FDCWD, to, AT_SYMLINK_FOLLOW) < 0) {
        return fail("linkat", to);
    }
    return close(fd) < 0 ? fail("close", to) : 0;
}

static int do_exchange(char **a)
{
    return renameat2(AT_FDCWD, a[0], AT_FDCWD, a[1], RENAME_EXCHANGE) < 0 ? fail("exchange", a[0])
                                                                          : 0;
}

static int do_noreplace(char **a)
{
    return renameat2(AT_FDCWD, a[0], AT_FDCWD, a[1], RENAME_NOREPLACE) < 0 ? fail("noreplace", a[0])
                                                                           : 0;
}

static int do_copy(char **a)
{
    int in = open(a[0], O_RDONLY | O_CLOEXEC);
    int out = open(a[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t n;

    if (in < 0 || out < 0) {
        return fail("open", in < 0 ? a[0] : a[1]);
    }
    while ((n = copy_file_range(in, NULL, out, NULL, 1 << 20, 0)) > 0) {
    }
    if (n < 0) {
        return fail("copy_file_range", a[1]);
    }
    return close(out) < 0 ? fail("close", a[1]) : 0;
}

static int do_holes(char **a)
{
    int fd = open(a[0], O_RDONLY | O_CLOEXEC);
    off_t data = 0;

    if (fd < 0) {
        return fail("open", a[0]);
    }
    for (;;) {
        off_t hole;

        data = lseek(fd, data, SEEK_DATA);
        if (data < 0) {
            return errno == ENXIO ? 0 : fail("SEEK_DATA", a[0]);
        }
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0) {
            return fail("SEEK_HOLE", a[0]);
        }
        printf("%lld-%lld\n", (long long)data, (long long)hole);
        data = hole;
    }
}

/* 0 if a process of its own gets the lock, 1 if it is refused, 2 for anything else. */
static int try_lock(const char *path)
{
    pid_t pid = fork();
    int status = 0;

    if (pid == 0) {
        struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(path, O_RDWR | O_CLOEXEC);

        if (fd < 0) {
            _exit(2);
        }
        _exit(fcntl(fd, F_SETLK, &fl) == 0 ? 0 : errno == EAGAIN || errno == EACCES ? 1 : 2);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                           : 2;
}

static int do_lock(char **a)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(a[0], O_RDWR | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0) {
        return fail("open", a[0]);
    }
    if (fcntl(fd, F_SETLK, &fl) < 0) {
        return fail("lock", a[0]);
    }
    if (try_lock(a[0]) != 1) {
        return wrong("a second process got the lock", a[0]);
    }
    close(fd);
    return try_lock(a[0]) == 0 ? 0 : wrong("the lock outlived the close", a[0]);
}

static int do_create(char **a)
{
    int fd;

    umask(0);
    fd = open(a[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)strtoul(a[1], NULL, 8));
    if (fd < 0) {
        return fail("create", a[0]);
    }
    return close(fd) < 0 ? fail("close", a[0]) : 0;
}

#define READ_FILES_MAX 1024
#define READ_SAMPLES_MAX (1U << 21)

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static int read_once(int dirfd, const char *name)
{
    char buf[65536];
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return -1;
    }
    if (read(fd, buf, sizeof(buf)) < 0) {
        close(fd);
        return -1;
    }
    return close(fd);
}

static int do_readers(char **a)
{
    static char *names[READ_FILES_MAX];
    double *ms = calloc(READ_SAMPLES_MAX, sizeof(*ms));
    double end = now_ms() + strtod(a[1], NULL) * 1e3;
    DIR *dir = opendir(a[0]);
    struct dirent *de;
    size_t files = 0;
    size_t n = 0;

    if (dir == NULL || ms == NULL) {
        return fail("opendir", a[0]);
    }
    while ((de = readdir(dir)) != NULL && files < READ_FILES_MAX) {
        if (de->d_name[0] != '.') {
            names[files++] = strdup(de->d_name);
        }
    }
    while (files > 0 && n < READ_SAMPLES_MAX && now_ms() < end) {
        double start = now_ms();

        if (read_once(dirfd(dir), names[n % files]) < 0) {
            return fail("read", names[n % files]);
        }
        ms[n++] = now_ms() - start;
    }
    if (n == 0) {
        return wrong("no file to read", a[0]);
    }
    qsort(ms, n, sizeof(*ms), by_value);
    printf("reads %zu p50-us %.1f p99-us %.1f max-ms %.1f\n", n, ms[n / 2] * 1e3,
           ms[n / 100 * 99] * 1e3, ms[n - 1]);
    return 0;
}

static int run(int argc, char **argv);

static int do_as(int argc, char **a)
{
    uid_t uid = (uid_t)strtoul(a[0], NULL, 10);
    gid_t gid = (gid_t)strtoul(a[1], NULL, 10);

    if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0) {
        return fail("change user", a[0]);
    }
    return run(argc - 2, a + 2);
}

static const struct {
    const char *word;
    int args;
    int (*run)(char **a);
} words[] = {
    {"mmap-write", 3, do_mmap_write},
    {"mmap-hold", 3, do_mmap_hold},
    {"mmap-read", 1, do_mmap_read},
    {"mmap-watch", 1, do_mmap_watch},
    {"append", 3, do_append},
    {"hold", 2, do_hold},
    {"poll", 2, do_poll},
    {"unlinked", 1, do_unlinked},
    {"tmpfile", 3, do_tmpfile},
    {"exchange", 2, do_exchange},
    {"noreplace", 2, do_noreplace},
    {"copy", 2, do_copy},
    {"holes", 1, do_holes},
    {"lock", 1, do_lock},
    {"create", 2, do_create},
    {"readers", 2, do_readers},
};

static int run(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[0], "as") == 0) {
        return do_as(argc - 1, argv + 1);
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (argc >= 1 && strcmp(argv[0], words[i].word) == 0 && argc - 1 == words[i].args) {
            return words[i].run(argv + 1);
        }
    }
    fprintf(stderr, "farmpoke: no such word, or wrong number of arguments: see farmpoke.c\n");
    return 2;
}

int main(int argc, char **argv)
{
    return run(argc - 1, argv + 1);
}
