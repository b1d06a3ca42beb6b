/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmlatency FROM TO COUNT [BYTES]
 *
 * How long after close() on one node a change is visible on another: writes files in FROM and asks
 * the other mount, TO, with stat() every 30 us until it shows. Two series: new names, which were
 * looked up in vain on TO before, and rewritten files, which were known there with another size.
 * Prints one line a series: count, p50, p90, p99 and the longest, in milliseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_MS 20000.0

static void die(const char *what, const char *path)
{
    fprintf(stderr, "farmlatency: %s: %s: %s\n", path, what, strerror(errno));
    exit(1);
}

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void pause_us(long us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

    nanosleep(&ts, NULL);
}

static void write_file(const char *path, size_t bytes, char fill)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    char buf[4096];

    if (fd < 0) {
        die("open", path);
    }
    memset(buf, fill, sizeof(buf));
    while (bytes > 0) {
        size_t part = bytes < sizeof(buf) ? bytes : sizeof(buf);
        ssize_t n = write(fd, buf, part);

        if (n <= 0) {
            die("write", path);
        }
        bytes -= (size_t)n;
    }
    if (close(fd) < 0) {
        die("close", path);
    }
}

/* Milliseconds until path shows that size; dies after LIMIT_MS. */
static double wait_size(const char *path, size_t bytes)
{
    double start = now_ms();

    for (;;) {
        struct stat st;
        double waited;

        if (stat(path, &st) == 0 && (size_t)st.st_size == bytes) {
            return now_ms() - start;
        }
        waited = now_ms() - start;
        if (waited > LIMIT_MS) {
            fprintf(stderr, "farmlatency: %s: not seen within %.0f s\n", path, LIMIT_MS / 1e3);
            exit(1);
        }
        pause_us(30);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static void report(const char *what, double *ms, size_t count)
{
    qsort(ms, count, sizeof(*ms), by_value);
    printf("%s count %zu p50 %.2f p90 %.2f p99 %.2f max %.2f ms\n", what, count, ms[count / 2],
           ms[count * 90 / 100], ms[count * 99 / 100], ms[count - 1]);
}

static void measure(const char *what, const char *from, const char *to, size_t count, size_t bytes,
                    bool lookup_first, double *ms)
{
    for (size_t i = 0; i < count; i++) {
        char src[4096];
        char dst[4096];
        struct stat st;

        snprintf(src, sizeof(src), "%s/latency.%zu", from, i);
        snprintf(dst, sizeof(dst), "%s/latency.%zu", to, i);
        if (lookup_first && stat(dst, &st) == 0) {
            fprintf(stderr, "farmlatency: %s: is there already\n", dst);
            exit(1);
        }
        write_file(src, bytes, (char)('a' + i % 26));
        ms[i] = wait_size(dst, bytes);
        pause_us(2000);
    }
    report(what, ms, count);
}

int main(int argc, char **argv)
{
    size_t count = argc >= 4 ? strtoul(argv[3], NULL, 10) : 0;
    size_t bytes = argc >= 5 ? strtoul(argv[4], NULL, 10) : 8192;
    double *ms;

    if (count == 0 || argc > 5) {
        fprintf(stderr, "usage: farmlatency FROM TO COUNT [BYTES]\n");
        return 2;
    }
    ms = malloc(count * sizeof(*ms));
    if (ms == NULL) {
        die("malloc", "latencies");
    }
    measure("new", argv[1], argv[2], count, bytes, true, ms);
    measure("changed", argv[1], argv[2], count, bytes + 1, false, ms);
    for (size_t i = 0; i < count; i++) {
        char src[4096];

        snprintf(src, sizeof(src), "%s/latency.%zu", argv[1], i);
        unlink(src);
    }
    free(ms);
    return 0;
}
