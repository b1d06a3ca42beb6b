/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A reader: goes through what other nodes wrote, over and over, and reads files whole. Whatever is
 * no chain is noted in DIR/seen.<node> for the judge:  TIME PATH SIZE SEGMENTS
 */
#include "chaos.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct reader {
    const struct args *a;
    struct ctl *ctl;
    uint64_t rng;
    unsigned char *buf;
    FILE *seen;
    int lock;
    unsigned long reads, bytes_k, broken, errors;
};

static void look(struct reader *r, int dirfd, const char *area, const char *name)
{
    struct chain c;
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0) {
        r->errors += errno != ENOENT;
        return;
    }
    long size = file_read(fd, r->buf);
    close(fd);
    if (size < 0) {
        r->errors++;
        return;
    }
    r->reads++;
    r->bytes_k += (unsigned long)size / 1024;
    chain_parse(r->buf, (size_t)size, &c);
    if (!c.whole) {
        r->broken++;
        fprintf(r->seen, "%lld %s/%s %ld %u\n", (long long)now_us(), area, name, size, c.n);
    }
}

static void look_below(struct reader *r, const char *area)
{
    int top = mount_dir(r->a->lab, r->a->node, area);
    char path[600];
    DIR *d = top < 0 ? NULL : fdopendir(top);
    struct dirent *de;

    if (d == NULL) {
        return;
    }
    while ((de = readdir(d)) != NULL && !r->ctl->stop) {
        if (de->d_name[0] == '.') {
            continue;
        }
        if (de->d_type == DT_DIR) {
            snprintf(path, sizeof path, "%s/%s", area, de->d_name);
            look_below(r, path);
        } else if (chaos_random(&r->rng) % 3 == 0) {
            look(r, top, area, de->d_name);
        }
    }
    closedir(d);
}

int chaos_read(const struct args *a)
{
    static struct reader reader;
    struct reader *r = &reader;
    char path[512];

    *r = (struct reader){.a = a, .ctl = ctl_open(a->dir, false), .rng = a->seed + a->node};
    snprintf(path, sizeof path, "%s/seen.%u", a->dir, a->node);
    r->seen = fopen(path, "w");
    snprintf(path, sizeof path, "%s/lock.%u", a->dir, a->node);
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    r->buf = malloc(FILE_MAX + 1);
    if (r->ctl == NULL || r->seen == NULL || r->lock < 0 || r->buf == NULL) {
        fprintf(stderr, "farmchaos: %s: %s\n", a->dir, strerror(errno));
        return 2;
    }
    while (!r->ctl->stop) {
        unsigned n = 1 + (unsigned)(chaos_random(&r->rng) % a->nodes);

        if (r->ctl->down[a->node] % 2 == 1) {
            usleep(50000); /* the plain directory is not what is looked at */
        } else if (n == a->node) {
            flock(r->lock, LOCK_SH); /* half a write of this node is nothing strange */
            look_below(r, "shared");
            flock(r->lock, LOCK_UN);
        } else {
            for (unsigned p = 0; p < WRITERS_PER_NODE; p++) {
                snprintf(path, sizeof path, "own/%u", n * WRITERS_PER_NODE + p);
                look_below(r, path);
            }
        }
        usleep(20000);
    }
    printf("reader %u reads %lu kilobytes %lu broken %lu errors %lu\n", a->node, r->reads,
           r->bytes_k, r->broken, r->errors);
    return fclose(r->seen) == 0 ? 0 : 1;
}
