/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmtree DIR DIRECTORIES FILES SIZE: a large tree, quickly. DIR/NNNN/MMMMMM, each file with SIZE
 * bytes of its own. Prints how many files there are and how long it took.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SIZE_MAX_BYTES 65536

static int fail(const char *what, const char *path)
{
    fprintf(stderr, "farmtree: %s: %s: %s\n", what, path, strerror(errno));
    return 1;
}

static int fill(int dir, unsigned number, unsigned files, size_t size)
{
    static char data[SIZE_MAX_BYTES + 1];
    char name[32];

    memset(data, '.', size);
    for (unsigned i = 0; i < files; i++) {
        int len = snprintf(name, sizeof name, "%06u", i);
        int fd = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0)
            return fail("create", name);
        /* no two alike */
        len = snprintf(name, sizeof name, "%u/%u\n", number, i);
        memcpy(data, name, (size_t)len < size ? (size_t)len : size);
        if (write(fd, data, size) != (ssize_t)size || close(fd) < 0)
            return fail("write", name);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct timespec a, b;
    unsigned dirs = argc == 5 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    unsigned files = argc == 5 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
    size_t size = argc == 5 ? strtoul(argv[4], NULL, 10) : 0;

    if (dirs == 0 || files == 0 || size > SIZE_MAX_BYTES) {
        fprintf(stderr, "usage: farmtree DIR DIRECTORIES FILES SIZE (bytes, at most %d)\n",
                SIZE_MAX_BYTES);
        return 2;
    }
    clock_gettime(CLOCK_MONOTONIC, &a);
    umask(022);
    for (unsigned d = 0; d < dirs; d++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%04u", argv[1], d);
        if (mkdir(path, 0755) < 0)
            return fail("mkdir", path);
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return fail("open", path);
        if (fill(fd, d, files, size))
            return 1;
        close(fd);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%llu files in %.1f s\n", (unsigned long long)dirs * files,
           (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
    return 0;
}
