/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Segments and chains; what the other files share. */
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SEGMENT_MAGIC 0x6d726166u

struct header {
    uint32_t magic, writer, counter, after_writer, after_counter, area, len, check;
};

uint64_t chaos_random(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15u;

    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint32_t header_check(const struct header *h)
{
    const uint32_t *w = (const uint32_t *)h;
    uint32_t sum = 2166136261u;

    for (size_t i = 0; i < offsetof(struct header, check) / sizeof *w; i++) {
        sum = (sum ^ w[i]) * 16777619u;
        sum ^= sum >> 15;
    }
    return sum;
}

size_t segment_size(uint32_t len)
{
    return sizeof(struct header) + len;
}

static void body_fill(struct vid id, unsigned char *out, size_t len)
{
    uint64_t state = ((uint64_t)id.writer << 32) + id.counter;

    for (size_t i = 0; i < len; i += 8) {
        uint64_t x = chaos_random(&state);

        memcpy(out + i, &x, len - i < 8 ? len - i : 8);
    }
}

void segment_fill(const struct segment *s, unsigned char *out)
{
    struct header h = {.magic = SEGMENT_MAGIC,
                       .writer = s->id.writer,
                       .counter = s->id.counter,
                       .after_writer = s->after.writer,
                       .after_counter = s->after.counter,
                       .area = s->area,
                       .len = s->len};

    h.check = header_check(&h);
    memcpy(out, &h, sizeof h);
    body_fill(s->id, out + sizeof h, s->len);
}

static bool body_right(const struct segment *s, const unsigned char *p)
{
    uint64_t state = ((uint64_t)s->id.writer << 32) + s->id.counter;

    for (size_t i = 0; i < s->len; i += 8) {
        uint64_t x = chaos_random(&state);

        if (memcmp(p + i, &x, s->len - i < 8 ? s->len - i : 8) != 0) {
            return false;
        }
    }
    return true;
}

void chain_parse(const unsigned char *p, size_t size, struct chain *c)
{
    size_t off = 0;
    struct header h;

    memset(c, 0, sizeof *c);
    c->size = size;
    while (off + sizeof h <= size && c->n < CHAIN_MAX) {
        struct segment *s = &c->seg[c->n];

        memcpy(&h, p + off, sizeof h);
        if (h.magic != SEGMENT_MAGIC || h.check != header_check(&h)) {
            return;
        }
        *s = (struct segment){.id = {h.writer, h.counter},
                              .after = {h.after_writer, h.after_counter},
                              .area = h.area,
                              .len = h.len};
        if (h.len > size - off - sizeof h || !body_right(s, p + off + sizeof h) ||
            !vid_same(s->after, chain_last(c))) {
            return;
        }
        c->n++;
        off += sizeof h + h.len;
    }
    c->whole = off == size && c->n > 0;
}

bool vid_same(struct vid a, struct vid b)
{
    return a.writer == b.writer && a.counter == b.counter;
}

struct vid chain_last(const struct chain *c)
{
    return c->n > 0 ? c->seg[c->n - 1].id : (struct vid){0, 0};
}

bool chain_same(const struct chain *a, const struct chain *b)
{
    if (a->n != b->n || a->whole != b->whole || a->size != b->size) {
        return false;
    }
    for (unsigned i = 0; i < a->n; i++) {
        if (!vid_same(a->seg[i].id, b->seg[i].id)) {
            return false;
        }
    }
    return true;
}

long file_read(int fd, unsigned char *buf)
{
    size_t done = 0;

    while (done < FILE_MAX + 1) {
        ssize_t n = pread(fd, buf + done, FILE_MAX + 1 - done, (off_t)done);

        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        done += (size_t)n;
    }
    return (long)done;
}

int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void own_file_name(const struct model *m, int slot, char out[64])
{
    int d = slot % DIRS;

    snprintf(out, 64, "%c%d/f%d", m->moved[d] ? 'D' : 'd', d, slot);
}

struct ctl *ctl_open(const char *dir, bool create)
{
    char path[512];
    struct ctl *c;
    int fd;

    snprintf(path, sizeof path, "%s/ctl", dir);
    fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0644);
    if (fd < 0 || (create && ftruncate(fd, sizeof *c) < 0)) {
        return NULL;
    }
    c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return c == MAP_FAILED ? NULL : c;
}

int mount_dir(const char *lab, unsigned node, const char *sub)
{
    char path[512];
    int fd;

    snprintf(path, sizeof path, "%s/web%u/www/%s", lab, node, sub);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}
