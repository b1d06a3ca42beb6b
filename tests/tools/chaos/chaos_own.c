/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A writer: its own area with the model of it, and in between operations in the shared one. */
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FUSE_MAGIC 0x65735546
#define UP_LIMIT_US (180ll * 1000000)
#define FULL_GRACE_US 3000000ll

struct writer {
    const struct args *a;
    struct ctl *ctl;
    struct model m, before;
    uint32_t id, counter;
    uint64_t rng;
    unsigned char *buf, *out;
    FILE *ledger;
    int own, shared_dir; /* on the mount; -1: not open */
    struct shared shared;
    const char *what; /* the call that failed */
    int torn;         /* inode that may be half after a failure, -1 none */
    int64_t full_us;  /* the disk was full then */
    unsigned long ops, shared_ops, settled, torn_seen, full_seen, failures, synced, acked;
    int64_t worst_us;
};

static sigjmp_buf bus_jump;

static void on_bus(int sig)
{
    (void)sig;
    siglongjmp(bus_jump, 1);
}

static size_t below(struct writer *w, size_t n)
{
    return (size_t)(chaos_random(&w->rng) % n);
}

static int bad(struct writer *w, const char *what)
{
    w->what = what;
    return errno != 0 ? errno : EIO;
}

static void complain(struct writer *w, const char *text, const char *detail)
{
    w->failures++;
    fprintf(stderr, "writer %u: %s: %s (its operation %lu, at %lld)\n", w->id, text, detail, w->ops,
            (long long)now_us());
}

/* ---- the mount comes and goes ---- */

static void leave_mount(struct writer *w)
{
    if (w->own >= 0) {
        close(w->own);
    }
    if (w->shared_dir >= 0) {
        close(w->shared_dir);
    }
    w->own = w->shared_dir = -1;
}

static bool ready(struct writer *w)
{
    char path[512], text[64] = "";
    struct statfs fs;

    snprintf(path, sizeof path, "%s/web%u/www/.farm/state", w->a->lab, w->a->node);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    snprintf(path, sizeof path, "%s/web%u/www/.", w->a->lab, w->a->node);
    return n > 0 && strncmp(text, "absent", 6) != 0 && strncmp(text, "starting", 8) != 0 &&
           statfs(path, &fs) == 0 && fs.f_type == FUSE_MAGIC;
}

/* Until the node is there and its directories are open; false when the run ends or the limit
 * passes. */
static bool enter_mount(struct writer *w)
{
    int64_t end = now_us() + UP_LIMIT_US;
    char sub[32];

    leave_mount(w);
    snprintf(sub, sizeof sub, "own/%u", w->id);
    while (now_us() < end) {
        uint32_t epoch = w->ctl->down[w->a->node];

        if (epoch % 2 == 0 && ready(w)) {
            w->own = mount_dir(w->a->lab, w->a->node, sub);
            w->shared_dir = mount_dir(w->a->lab, w->a->node, "shared");
            if (w->own >= 0 && w->shared_dir >= 0 && w->ctl->down[w->a->node] == epoch) {
                return true;
            }
            leave_mount(w);
        }
        usleep(20000);
    }
    complain(w, "the mount", "is not back in time");
    return false;
}

/* ---- operations in the own area: each changes the model first, then the tree; 0 or errno ---- */

static int pick_used(struct writer *w)
{
    int from = (int)below(w, FILES);

    for (int i = 0; i < FILES; i++) {
        if (w->m.inode_of[(from + i) % FILES] >= 0) {
            return (from + i) % FILES;
        }
    }
    return -1;
}

static int pick_free(struct writer *w)
{
    int from = (int)below(w, FILES);

    for (int i = 0; i < FILES; i++) {
        if (w->m.inode_of[(from + i) % FILES] < 0) {
            return (from + i) % FILES;
        }
    }
    return -1;
}

static void drop_unnamed(struct model *m)
{
    for (int i = 0; i <= FILES; i++) {
        bool named = false;

        for (int k = 0; k < FILES; k++) {
            named = named || m->inode_of[k] == i;
        }
        m->inodes[i].used = m->inodes[i].used && named;
    }
}

static struct segment *add_segment(struct writer *w, struct chain *c)
{
    size_t max = below(w, 20) == 0 ? BODY_MAX : below(w, 4) == 0 ? 40000 : 4000;
    struct segment s = {.id = {w->id, ++w->counter},
                        .after = chain_last(c),
                        .area = AREA_OWN,
                        .len = 1 + (uint32_t)below(w, max)};

    c->seg[c->n++] = s;
    c->whole = true;
    c->size += segment_size(s.len);
    return &c->seg[c->n - 1];
}

static struct segment *new_content(struct writer *w, int inode)
{
    memset(&w->m.inodes[inode].chain, 0, sizeof w->m.inodes[inode].chain);
    w->torn = inode;
    return add_segment(w, &w->m.inodes[inode].chain);
}

static int put_at(struct writer *w, int fd, const struct segment *s, off_t off)
{
    size_t len = segment_size(s->len), done = 0;

    segment_fill(s, w->out);
    while (done < len) {
        ssize_t n = pwrite(fd, w->out + done, len - done, off + (off_t)done);

        if (n <= 0) {
            return bad(w, "pwrite");
        }
        done += (size_t)n;
    }
    return 0;
}

/* What was promised when an fsync returned: with ack = all every other node shows it, with one at
 * least one. Only asked while no fault is on. */
static void check_ack(struct writer *w, int slot)
{
    unsigned have = 0, asked = 0;
    uint32_t links = w->ctl->links, down = 0, after = 0;
    char path[512], name[64];
    struct chain c;

    own_file_name(&w->m, slot, name);
    for (unsigned n = 1; n <= w->a->nodes; n++) {
        down += w->ctl->down[n];
    }
    for (unsigned n = 1; n <= w->a->nodes; n++) {
        if (n == w->a->node) {
            continue;
        }
        snprintf(path, sizeof path, "%s/web%u/www/own/%u/%s", w->a->lab, n, w->id, name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        long size = fd < 0 ? 0 : file_read(fd, w->buf);
        if (fd >= 0) {
            close(fd);
        }
        chain_parse(w->buf, size > 0 ? (size_t)size : 0, &c);
        asked++;
        have += chain_same(&c, &w->m.inodes[w->m.inode_of[slot]].chain);
    }
    for (unsigned n = 1; n <= w->a->nodes; n++) {
        after += w->ctl->down[n] | (w->ctl->down[n] % 2 ? 1u << 31 : 0);
    }
    if (links % 2 || links != w->ctl->links || down != after) {
        return;
    }
    w->acked++;
    if (have < (strcmp(w->a->ack, "all") == 0 ? asked : 1)) {
        complain(w, "fsync returned before it was promised", name);
    }
}

static int finish(struct writer *w, int fd, int slot, int r, bool sync)
{
    bool synced = r == 0 && sync && below(w, 5) == 0;

    if (synced && fsync(fd) < 0) {
        r = bad(w, "fsync");
    }
    if (close(fd) < 0 && r == 0) {
        r = bad(w, "close");
    }
    if (r == 0 && synced) {
        w->synced++;
        if (strcmp(w->a->ack, "local") != 0) {
            check_ack(w, slot);
        }
    }
    return r;
}

static int create_at(struct writer *w, int slot)
{
    char name[64];
    int i = 0;

    while (w->m.inodes[i].used) {
        i++;
    }
    w->m.inodes[i] = (struct inode){.used = true, .mode = 0644};
    w->m.inode_of[slot] = i;
    struct segment *s = new_content(w, i);
    own_file_name(&w->m, slot, name);
    int fd = openat(w->own, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return fd < 0 ? bad(w, "create") : finish(w, fd, slot, put_at(w, fd, s, 0), true);
}

static int do_create(struct writer *w, int slot)
{
    (void)slot;
    int free_slot = pick_free(w);
    return free_slot < 0 ? 0 : create_at(w, free_slot);
}

static int do_truncating(struct writer *w, int slot)
{
    char name[64];

    own_file_name(&w->m, slot, name);
    struct segment *s = new_content(w, w->m.inode_of[slot]);
    int fd = openat(w->own, name, O_WRONLY | O_TRUNC | O_CLOEXEC);
    return fd < 0 ? bad(w, "open to truncate") : finish(w, fd, slot, put_at(w, fd, s, 0), true);
}

static int do_in_place(struct writer *w, int slot)
{
    char name[64];
    struct chain *c = &w->m.inodes[w->m.inode_of[slot]].chain;
    size_t old = c->size;

    own_file_name(&w->m, slot, name);
    struct segment *s = new_content(w, w->m.inode_of[slot]);
    int fd = openat(w->own, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return bad(w, "open to rewrite");
    }
    int r = put_at(w, fd, s, 0);
    if (r == 0 && c->size < old && ftruncate(fd, (off_t)c->size) < 0) {
        r = bad(w, "ftruncate");
    }
    return finish(w, fd, slot, r, true);
}

static int copy_mapped(struct writer *w, int fd, const struct segment *s)
{
    size_t len = segment_size(s->len);
    if (ftruncate(fd, (off_t)len) < 0) {
        return bad(w, "ftruncate to map");
    }
    unsigned char *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return bad(w, "mmap");
    }
    segment_fill(s, w->out);
    int r = 0;
    if (sigsetjmp(bus_jump, 1) == 0) {
        memcpy(map, w->out, len);
        if (msync(map, len, MS_SYNC) < 0) {
            r = bad(w, "msync");
        }
    } else {
        errno = EIO;
        r = bad(w, "store to a mapped page");
    }
    munmap(map, len);
    return r;
}

static int do_mapped(struct writer *w, int slot)
{
    char name[64];

    own_file_name(&w->m, slot, name);
    struct segment *s = new_content(w, w->m.inode_of[slot]);
    int fd = openat(w->own, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return bad(w, "open to map");
    }
    return finish(w, fd, slot, copy_mapped(w, fd, s), false);
}

static int do_append(struct writer *w, int slot)
{
    struct chain *c = &w->m.inodes[w->m.inode_of[slot]].chain;
    size_t old = c->size;
    char name[64];

    if (c->n == CHAIN_MAX) {
        return do_truncating(w, slot);
    }
    own_file_name(&w->m, slot, name);
    w->torn = w->m.inode_of[slot];
    struct segment *s = add_segment(w, c);
    int fd = openat(w->own, name, O_WRONLY | O_APPEND | O_CLOEXEC);
    return fd < 0 ? bad(w, "open to append")
                  : finish(w, fd, slot, put_at(w, fd, s, (off_t)old), true);
}

static int do_cut(struct writer *w, int slot)
{
    struct chain *c = &w->m.inodes[w->m.inode_of[slot]].chain;
    char name[64];

    if (c->n < 2) {
        return do_append(w, slot);
    }
    own_file_name(&w->m, slot, name);
    w->torn = w->m.inode_of[slot];
    c->size -= segment_size(c->seg[--c->n].len);
    int fd = openat(w->own, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return bad(w, "open to cut");
    }
    return finish(w, fd, slot, ftruncate(fd, (off_t)c->size) < 0 ? bad(w, "cut") : 0, true);
}

static int do_unlink(struct writer *w, int slot)
{
    char name[64];

    own_file_name(&w->m, slot, name);
    w->m.inode_of[slot] = -1;
    return unlinkat(w->own, name, 0) < 0 ? bad(w, "unlink") : 0;
}

static int move(struct writer *w, int slot, int to)
{
    char from_name[64], to_name[64];

    own_file_name(&w->m, slot, from_name);
    own_file_name(&w->m, to, to_name);
    if (w->m.inode_of[slot] == w->m.inode_of[to]) {
        return 0; /* rename does nothing with two links of one file */
    }
    w->m.inode_of[to] = w->m.inode_of[slot];
    w->m.inode_of[slot] = -1;
    return renameat(w->own, from_name, w->own, to_name) < 0 ? bad(w, "rename") : 0;
}

static int do_move(struct writer *w, int slot)
{
    return move(w, slot, (int)below(w, FILES));
}

static int do_exchange(struct writer *w, int slot)
{
    int to = pick_used(w), inode = w->m.inode_of[to];
    char from_name[64], to_name[64];

    own_file_name(&w->m, slot, from_name);
    own_file_name(&w->m, to, to_name);
    if (inode == w->m.inode_of[slot]) {
        return 0;
    }
    w->m.inode_of[to] = w->m.inode_of[slot];
    w->m.inode_of[slot] = inode;
    return renameat2(w->own, from_name, w->own, to_name, RENAME_EXCHANGE) < 0 ? bad(w, "exchange")
                                                                              : 0;
}

static int do_link(struct writer *w, int slot)
{
    int to = pick_free(w);
    char from_name[64], to_name[64];

    if (to < 0) {
        return 0;
    }
    own_file_name(&w->m, slot, from_name);
    own_file_name(&w->m, to, to_name);
    w->m.inode_of[to] = w->m.inode_of[slot];
    return linkat(w->own, from_name, w->own, to_name, 0) < 0 ? bad(w, "link") : 0;
}

static int do_chmod(struct writer *w, int slot)
{
    static const unsigned modes[] = {0644, 0600, 0640, 0755};
    char name[64];

    own_file_name(&w->m, slot, name);
    unsigned mode = modes[below(w, 4)];
    w->m.inodes[w->m.inode_of[slot]].mode = mode;
    return fchmodat(w->own, name, mode, 0) < 0 ? bad(w, "chmod") : 0;
}

static int do_empty_dir(struct writer *w, int slot)
{
    char name[16];
    size_t i = below(w, EMPTY_DIRS);

    (void)slot;
    snprintf(name, sizeof name, "e%zu", i);
    w->m.empty[i] = !w->m.empty[i];
    if (w->m.empty[i]) {
        return mkdirat(w->own, name, 0755) < 0 ? bad(w, "mkdir") : 0;
    }
    return unlinkat(w->own, name, AT_REMOVEDIR) < 0 ? bad(w, "rmdir") : 0;
}

static int do_move_dir(struct writer *w, int slot)
{
    char from[16], to[16];
    size_t i = below(w, DIRS);

    (void)slot;
    snprintf(from, sizeof from, "%c%zu", w->m.moved[i] ? 'D' : 'd', i);
    w->m.moved[i] = !w->m.moved[i];
    snprintf(to, sizeof to, "%c%zu", w->m.moved[i] ? 'D' : 'd', i);
    return renameat(w->own, from, w->own, to) < 0 ? bad(w, "rename of a directory") : 0;
}

static int do_look(struct writer *w, int slot)
{
    errno = 0;
    if (model_file(w->own, &w->m, slot, true, "", w->buf) == 0) {
        return 0;
    }
    return bad(w, "look");
}

static const struct {
    const char *name;
    int (*run)(struct writer *w, int slot);
    unsigned weight;
} actions[] = {
    {"create", do_create, 5},     {"truncate+write", do_truncating, 4},
    {"in-place", do_in_place, 5}, {"mapped", do_mapped, 2},
    {"append", do_append, 5},     {"cut", do_cut, 2},
    {"unlink", do_unlink, 2},     {"rename", do_move, 5},
    {"exchange", do_exchange, 1}, {"link", do_link, 2},
    {"chmod", do_chmod, 2},       {"empty-dir", do_empty_dir, 3},
    {"move-dir", do_move_dir, 1}, {"look", do_look, 4},
};
#define ACTIONS (sizeof actions / sizeof actions[0])

/* ---- one operation, and what becomes of it when the node dies or its disk is full ---- */

static size_t pick_action(struct writer *w)
{
    unsigned total = 0, pick;

    for (size_t i = 0; i < ACTIONS; i++) {
        total += actions[i].weight;
    }
    pick = (unsigned)below(w, total);
    for (size_t i = 0;; i++) {
        if (pick < actions[i].weight) {
            return i;
        }
        pick -= actions[i].weight;
    }
}

static bool remove_torn(struct writer *w, int inode)
{
    int64_t from = now_us();
    char name[64];

    w->torn_seen++;
    for (int i = 0; i < FILES; i++) {
        if (w->m.inode_of[i] != inode) {
            continue;
        }
        own_file_name(&w->m, i, name);
        while (unlinkat(w->own, name, 0) < 0 && errno != ENOENT) {
            usleep(100000);
            if ((w->ctl->down[w->a->node] % 2 || errno == ENOTCONN) && !enter_mount(w)) {
                return false;
            }
            if (now_us() - from > UP_LIMIT_US) {
                complain(w, "unlink of a half file", strerror(errno));
                return false;
            }
        }
        fprintf(w->ledger, "T %lld %lld own/%u/%s\n", (long long)from, (long long)now_us(), w->id,
                name);
        w->m.inode_of[i] = -1;
    }
    drop_unnamed(&w->m);
    return true;
}

/* The tree must be as before, or as after, or half where it was being written. */
static bool settle(struct writer *w, const char *action)
{
    struct model after = w->m;
    char who[100];

    w->settled++;
    /* What a failed write-back of a mapping left in the page cache is not what the file holds. */
    bool cached = w->torn >= 0 && strcmp(action, "mapped") == 0;
    if (!cached && model_compare(w->own, &w->before, true, "", w->buf) == 0) {
        w->m = w->before;
        return true;
    }
    if (!cached && model_compare(w->own, &after, true, "", w->buf) == 0) {
        return true;
    }
    if (w->torn >= 0) {
        w->m.inodes[w->torn].torn = true;
        if (model_compare(w->own, &w->m, true, "", w->buf) == 0) {
            return remove_torn(w, w->torn);
        }
    }
    snprintf(who, sizeof who, "writer %u, after a broken %s (%s)", w->id, action, w->what);
    model_compare(w->own, &w->m, false, who, w->buf);
    complain(w, "neither as before nor as after a call that failed", action);
    return false;
}

/* May a call have failed just now with this errno? */
static bool excused(struct writer *w, int err, uint32_t epoch)
{
    if (w->ctl->down[w->a->node] != epoch || epoch % 2) {
        return true;
    }
    return (err == ENOSPC || err == EDQUOT) &&
           (w->ctl->full[w->a->node] % 2 || now_us() - w->full_us < FULL_GRACE_US);
}

static bool after_error(struct writer *w, int err, uint32_t epoch, const char *action)
{
    char text[160];

    snprintf(text, sizeof text, "%s in %s", w->what, action);
    /* The error may be here before the word of the script is. */
    bool fine = excused(w, err, epoch);
    for (int i = 0; i < 20 && !fine && err != ENOSPC; i++) {
        usleep(10000);
        fine = excused(w, err, epoch);
    }
    if (err == ENOSPC) {
        w->full_seen++;
    }
    if (!fine) {
        char why[300];

        snprintf(why, sizeof why, "%s: %s", text, strerror(err));
        complain(w, "a call failed", why);
    }
    if (err != ENOSPC || w->ctl->down[w->a->node] != epoch) {
        return enter_mount(w);
    }
    return true;
}

static bool own_step(struct writer *w)
{
    size_t action = pick_action(w);
    uint32_t epoch = w->ctl->down[w->a->node];
    int64_t from = now_us();
    int slot = pick_used(w), inode = slot < 0 ? -1 : w->m.inode_of[slot];

    if (slot < 0) {
        action = 0;
    }
    w->before = w->m;
    w->torn = -1;
    if (w->ctl->full[w->a->node] % 2) {
        w->full_us = from;
    }
    errno = 0;
    int err = actions[action].run(w, slot);
    int64_t took = now_us() - from;
    drop_unnamed(&w->m);
    w->ops++;
    if (err == 0 && took > w->worst_us) {
        w->worst_us = took;
    }
    fprintf(w->ledger, "O %lld %lld %s %d %d %u %d\n", (long long)from, (long long)(from + took),
            actions[action].name, slot, inode, w->counter, err);
    if (err == 0) {
        return true;
    }
    return after_error(w, err, epoch, actions[action].name) && settle(w, actions[action].name);
}

static bool shared_turn(struct writer *w)
{
    uint32_t epoch = w->ctl->down[w->a->node];

    if (w->ctl->full[w->a->node] % 2) {
        w->full_us = now_us();
    }
    errno = 0;
    int err = shared_step(&w->shared, w->shared_dir, &w->what);
    w->shared_ops++;
    return err == 0 || after_error(w, err, epoch, "shared");
}

/* ---- the whole ---- */

static bool first_dirs(struct writer *w)
{
    char name[32];

    for (int i = 0; i < FILES; i++) {
        w->m.inode_of[i] = -1;
    }
    for (int i = 0; i < DIRS; i++) {
        snprintf(name, sizeof name, "d%d", i);
        if (mkdirat(w->own, name, 0755) < 0) {
            complain(w, "mkdir", strerror(errno));
            return false;
        }
    }
    return true;
}

static bool save_model(struct writer *w)
{
    char path[512];

    snprintf(path, sizeof path, "%s/model.%u", w->a->dir, w->id);
    FILE *f = fopen(path, "w");
    if (f == NULL) {
        return false;
    }
    bool good = fwrite(&w->m, sizeof w->m, 1, f) == 1;
    return fclose(f) == 0 && good;
}

static bool open_files(struct writer *w)
{
    char path[512];

    w->buf = malloc(FILE_MAX + 1);
    w->out = malloc(BODY_MAX + 64);
    snprintf(path, sizeof path, "%s/ledger.%u", w->a->dir, w->id);
    w->ledger = fopen(path, "w");
    snprintf(path, sizeof path, "%s/lock.%u", w->a->dir, w->a->node);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (w->buf == NULL || w->out == NULL || w->ledger == NULL || lock < 0) {
        return false;
    }
    setvbuf(w->ledger, NULL, _IOLBF, 0);
    w->shared = (struct shared){.args = w->a,
                                .writer = w->id,
                                .counter = &w->counter,
                                .ledger = w->ledger,
                                .buf = w->buf,
                                .out = w->out,
                                .rng = &w->rng,
                                .lock = lock};
    return true;
}

int chaos_write(const struct args *a)
{
    static struct writer writer;
    struct writer *w = &writer;
    struct sigaction bus = {.sa_handler = on_bus};

    *w = (struct writer){.a = a,
                         .id = a->node * WRITERS_PER_NODE + a->process,
                         .own = -1,
                         .shared_dir = -1,
                         .full_us = -FULL_GRACE_US};
    w->rng = a->seed * 1000 + w->id;
    w->ctl = ctl_open(a->dir, false);
    umask(022);
    sigaction(SIGBUS, &bus, NULL);
    if (w->ctl == NULL || !open_files(w)) {
        fprintf(stderr, "farmchaos: %s: %s\n", a->dir, strerror(errno));
        return 2;
    }
    bool good = enter_mount(w) && first_dirs(w);
    while (good && !w->ctl->stop) {
        good = below(w, 3) == 0 ? shared_turn(w) : own_step(w);
        usleep((useconds_t)below(w, 10000));
    }
    printf("writer %u ops %lu shared %lu failures %lu settled %lu torn %lu full %lu synced %lu "
           "acked %lu worst-ms %lld\n",
           w->id, w->ops, w->shared_ops, w->failures, w->settled, w->torn_seen, w->full_seen,
           w->synced, w->acked, (long long)w->worst_us / 1000);
    return save_model(w) && good && w->failures == 0 ? 0 : 1;
}
