/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "farmfs/farm.h"

#include "lib/find.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILE_MAX (16u << 20) /* the daemon's own bound */
#define NAMES_MAX 65536u
#define REPOLL_MS 1000

struct farm {
    int fd; /* of .farm, O_PATH */
    char *folder;
};

static int open_at(const char *path, struct farm *f)
{
    int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    int err = find_above(dir, &f->fd, &f->folder);
    close(dir);
    return err;
}

static int open_mounted(struct farm *f)
{
    FILE *in = fopen("/proc/self/mountinfo", "re");
    if (in == NULL)
        return -errno;
    char *folder = NULL;
    int err = find_mounted(in, &folder);
    fclose(in);
    if (err == 0)
        err = open_at(folder, f);
    free(folder);
    return err;
}

int farm_open(const char *path, struct farm **out)
{
    struct farm *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -ENOMEM;
    int err = open_at(path != NULL ? path : ".", f);
    if (err == -ENOENT && path == NULL)
        err = open_mounted(f);
    if (err < 0) {
        free(f);
        return err;
    }
    *out = f;
    return 0;
}

void farm_close(struct farm *f)
{
    if (f == NULL)
        return;
    close(f->fd);
    free(f->folder);
    free(f);
}

const char *farm_folder(const struct farm *f)
{
    return f->folder;
}

int farm_stream(const struct farm *f, const char *file, int *fd)
{
    int opened = openat(f->fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (opened < 0)
        return -errno;
    *fd = opened;
    return 0;
}

/* To the end of file, into fresh memory. */
static int read_all(int fd, char **text, size_t *len)
{
    char *data = NULL;
    size_t n = 0, size = 0;
    for (;;) {
        if (size - n < 4096) {
            size = size == 0 ? 8192 : size * 2;
            char *more = size <= 2 * FILE_MAX ? realloc(data, size) : NULL;
            if (more == NULL) {
                free(data);
                return size <= 2 * FILE_MAX ? -ENOMEM : -EFBIG;
            }
            data = more;
        }
        ssize_t got = read(fd, data + n, size - n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int err = -errno;
            free(data);
            return err;
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    data[n] = '\0';
    *text = data;
    if (len != NULL)
        *len = n;
    return 0;
}

int farm_read(const struct farm *f, const char *file, char **text, size_t *len)
{
    int fd = -1;
    int err = farm_stream(f, file, &fd);
    if (err < 0)
        return err;
    err = read_all(fd, text, len);
    close(fd);
    return err;
}

int farm_write(const struct farm *f, const char *file, const void *cmd, size_t len)
{
    int fd = openat(f->fd, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, cmd, len);
    int err = n < 0 ? -errno : (size_t)n != len ? -EFBIG : 0;
    close(fd);
    return err;
}

void farm_free_names(char **names)
{
    for (size_t i = 0; names != NULL && names[i] != NULL; i++)
        free(names[i]);
    free(names);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(DIR *dir, char ***names, size_t *count)
{
    size_t n = 0;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (e == NULL && errno != 0)
            return -errno;
        if (e != NULL && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0))
            continue;
        if (n >= NAMES_MAX)
            return -EFBIG;
        char **more = realloc(*names, (n + 2) * sizeof(*more));
        if (more == NULL)
            return -ENOMEM;
        *names = more;
        more[n] = e != NULL ? strdup(e->d_name) : NULL;
        more[n + 1] = NULL;
        if (e == NULL)
            break;
        if (more[n++] == NULL)
            return -ENOMEM;
    }
    *count = n;
    return 0;
}

int farm_list(const struct farm *f, const char *dir, char ***names)
{
    int fd = openat(f->fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        int err = -errno;
        close(fd);
        return err;
    }
    char **all = NULL;
    size_t n = 0;
    int err = read_names(d, &all, &n);
    closedir(d);
    if (err < 0) {
        farm_free_names(all);
        return err;
    }
    qsort(all, n, sizeof(*all), by_name);
    *names = all;
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int farm_wait(int fd, int64_t ms)
{
    int64_t start = now_ms();
    for (;;) {
        int64_t left = ms < 0 ? REPOLL_MS : ms - (now_ms() - start);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, left <= 0 ? 0 : left < REPOLL_MS ? (int)left : REPOLL_MS);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (left <= 0)
            return -ETIMEDOUT;
    }
}

int farm_barrier(const struct farm *f, int64_t ms, char **answer)
{
    int fd = -1;
    int err = farm_stream(f, "barrier", &fd);
    if (err < 0)
        return err;
    err = farm_wait(fd, ms);
    if (err == 0)
        err = read_all(fd, answer, NULL);
    close(fd);
    if (err == 0)
        (*answer)[strcspn(*answer, "\n")] = '\0';
    return err;
}
