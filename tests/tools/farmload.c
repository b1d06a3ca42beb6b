/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * farmload [-p PROCS] [-t SECONDS] [-n OPS] [-s SEED] [-k] DIR
 *
 * A file load that believes nothing: every process works in a directory of its own below DIR, keeps
 * a model of what must be there (names, sizes, content as a function of a seed), checks the return
 * value of every system call against the model and every byte it reads. So a call that failed, was
 * carried out twice or got lost is found on the spot. Meant to be run while the file system's
 * daemon is being killed and restarted.
 *
 * Each process stops after SECONDS (default 10) or OPS operations, whichever comes first. Prints
 *   farmload: ops N failures N worst-stall-ms X
 * and exits 1 if there was a failure. The trees are left in place with -k, removed otherwise.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FILES 48
#define DIRS 4
#define SIZE_MAX_BYTES (96 * 1024)
#define FAILURES_SHOWN 20
#define FAILURES_MAX 100 /* a worker gives up there */

/* What the model knows of one name. Names are fixed: slot i is d<i % DIRS>/f<i>. */
struct slot {
    bool exists;
    size_t size;
    uint64_t seed; /* byte at offset o is pattern(seed, o) */
};

struct load {
    struct slot slots[FILES];
    int dirs[DIRS];
    uint64_t rng;
    uint64_t ops;
    uint64_t failures;
    double worst_ms;
    double started_ms; /* of the call being timed */
    int worker;
    const char *doing;
    unsigned char *io;
};

struct result {
    uint64_t ops;
    uint64_t failures;
    double worst_ms;
};

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static uint64_t next(struct load *l)
{
    l->rng ^= l->rng << 13;
    l->rng ^= l->rng >> 7;
    l->rng ^= l->rng << 17;
    return l->rng;
}

static size_t below(struct load *l, size_t n)
{
    return (size_t)(next(l) % n);
}

static unsigned char pattern(uint64_t seed, size_t offset)
{
    return (unsigned char)((seed >> (offset % 8 * 8)) + offset / 8 * 31);
}

static void fill(unsigned char *buf, uint64_t seed, size_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = pattern(seed, offset + i);
    }
}

static void failed(struct load *l, const char *call, int slot, const char *why)
{
    l->failures++;
    if (l->failures <= FAILURES_SHOWN) {
        fprintf(stderr, "farmload: worker %d: %s: %s of file %d: %s\n", l->worker, l->doing, call,
                slot, why);
    }
}

static void begin(struct load *l)
{
    l->started_ms = now_ms();
}

/* Ends the timing of one call; false, and counted, if it failed. */
static bool ended(struct load *l, bool ok, const char *call, int slot)
{
    int err = errno;
    double took = now_ms() - l->started_ms;

    l->ops++;
    if (took > l->worst_ms) {
        l->worst_ms = took;
    }
    if (!ok) {
        failed(l, call, slot, strerror(err));
    }
    return ok;
}

#define CALL(l, slot, name, expr) (begin(l), ended(l, (expr), name, slot))

static int dir_of(const struct load *l, int slot)
{
    return l->dirs[slot % DIRS];
}

static void name_of(int slot, char out[32])
{
    snprintf(out, 32, "f%d", slot);
}

static bool write_range(struct load *l, int fd, int slot, uint64_t seed, size_t offset, size_t len)
{
    fill(l->io, seed, offset, len);
    for (size_t done = 0; done < len;) {
        ssize_t n = 0;

        if (!CALL(l, slot, "pwrite",
                  (n = pwrite(fd, l->io + done, len - done, (off_t)(offset + done))) > 0)) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static void close_checked(struct load *l, int fd, int slot)
{
    (void)CALL(l, slot, "close", close(fd) == 0);
}

/* Writes a whole new file under `name` in the slot's directory. */
static bool put(struct load *l, int slot, const char *name, int flags, uint64_t seed, size_t size)
{
    int fd = -1;
    bool ok;

    if (!CALL(l, slot, "open", (fd = openat(dir_of(l, slot), name, flags, 0644)) >= 0)) {
        return false;
    }
    ok = write_range(l, fd, slot, seed, 0, size);
    close_checked(l, fd, slot);
    return ok;
}

static void do_create(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    uint64_t seed = next(l);
    size_t size = below(l, SIZE_MAX_BYTES);
    char name[32];

    name_of(slot, name);
    if (s->exists) {
        if (!CALL(l, slot, "unlink", unlinkat(dir_of(l, slot), name, 0) == 0)) {
            return;
        }
        s->exists = false;
    }
    if (put(l, slot, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, seed, size)) {
        *s = (struct slot){.exists = true, .size = size, .seed = seed};
    }
}

static void do_replace(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    uint64_t seed = next(l);
    size_t size = below(l, SIZE_MAX_BYTES);
    char name[32];

    name_of(slot, name);
    if (put(l, slot, "tmp", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, seed, size) &&
        CALL(l, slot, "rename", renameat(dir_of(l, slot), "tmp", dir_of(l, slot), name) == 0)) {
        *s = (struct slot){.exists = true, .size = size, .seed = seed};
    }
}

static void do_truncate_write(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    uint64_t seed = next(l);
    size_t size = below(l, SIZE_MAX_BYTES);
    char name[32];

    name_of(slot, name);
    if (put(l, slot, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, seed, size)) {
        *s = (struct slot){.exists = true, .size = size, .seed = seed};
    }
}

/* Grows by appending, so the pattern goes on where it ended. */
static void do_append(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    size_t len = 1 + below(l, 8000);
    ssize_t n = 0;
    char name[32];
    int fd = -1;

    if (!s->exists || s->size + len > SIZE_MAX_BYTES) {
        return;
    }
    name_of(slot, name);
    if (!CALL(l, slot, "open",
              (fd = openat(dir_of(l, slot), name, O_WRONLY | O_APPEND | O_CLOEXEC)) >= 0)) {
        return;
    }
    fill(l->io, s->seed, s->size, len);
    if (CALL(l, slot, "append", (n = write(fd, l->io, len)) == (ssize_t)len)) {
        s->size += len;
    }
    if (below(l, 8) == 0) {
        (void)CALL(l, slot, "fsync", fsync(fd) == 0);
    }
    close_checked(l, fd, slot);
}

static void do_shrink(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    char name[32];
    int fd = -1;

    if (!s->exists || s->size == 0) {
        return;
    }
    name_of(slot, name);
    if (!CALL(l, slot, "open", (fd = openat(dir_of(l, slot), name, O_RDWR | O_CLOEXEC)) >= 0)) {
        return;
    }
    if (CALL(l, slot, "ftruncate", ftruncate(fd, (off_t)(s->size / 2)) == 0)) {
        s->size /= 2;
    }
    close_checked(l, fd, slot);
}

static void do_unlink(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    struct stat st;
    char name[32];

    if (!s->exists) {
        return;
    }
    name_of(slot, name);
    if (CALL(l, slot, "unlink", unlinkat(dir_of(l, slot), name, 0) == 0)) {
        s->exists = false;
        (void)CALL(l, slot, "stat after unlink",
                   fstatat(dir_of(l, slot), name, &st, 0) < 0 && errno == ENOENT);
    }
}

static void do_move(struct load *l, int slot)
{
    int to = (int)below(l, FILES);
    char from_name[32];
    char to_name[32];

    if (!l->slots[slot].exists || to == slot) {
        return;
    }
    name_of(slot, from_name);
    name_of(to, to_name);
    if (CALL(l, slot, "rename",
             renameat(dir_of(l, slot), from_name, dir_of(l, to), to_name) == 0)) {
        l->slots[to] = l->slots[slot];
        l->slots[slot].exists = false;
    }
}

static void check_bytes(struct load *l, int slot, const unsigned char *got)
{
    const struct slot *s = &l->slots[slot];

    for (size_t i = 0; i < s->size; i++) {
        if (got[i] != pattern(s->seed, i)) {
            char why[96];

            snprintf(why, sizeof(why), "wrong byte at %zu of %zu", i, s->size);
            failed(l, "content", slot, why);
            return;
        }
    }
}

static void do_read(struct load *l, int slot)
{
    const struct slot *s = &l->slots[slot];
    size_t done = 0;
    ssize_t n = 0;
    char name[32];
    int fd = -1;

    if (!s->exists) {
        return;
    }
    name_of(slot, name);
    if (!CALL(l, slot, "open", (fd = openat(dir_of(l, slot), name, O_RDONLY | O_CLOEXEC)) >= 0)) {
        return;
    }
    do {
        if (!CALL(l, slot, "read", (n = read(fd, l->io + done, SIZE_MAX_BYTES + 1 - done)) >= 0)) {
            break;
        }
        done += (size_t)n;
    } while (n > 0 && done <= SIZE_MAX_BYTES);
    if (n >= 0 && done != s->size) {
        failed(l, "read", slot, "wrong length");
    } else if (n >= 0) {
        check_bytes(l, slot, l->io);
    }
    close_checked(l, fd, slot);
}

static void do_stat(struct load *l, int slot)
{
    const struct slot *s = &l->slots[slot];
    struct stat st;
    char name[32];
    int rc = 0;

    name_of(slot, name);
    begin(l);
    rc = fstatat(dir_of(l, slot), name, &st, AT_SYMLINK_NOFOLLOW);
    if (!s->exists) {
        (void)ended(l, rc < 0 && errno == ENOENT, "stat of a missing name", slot);
    } else if (ended(l, rc == 0, "stat", slot) && (size_t)st.st_size != s->size) {
        failed(l, "stat", slot, "wrong size");
    }
}

static void do_mmap(struct load *l, int slot)
{
    struct slot *s = &l->slots[slot];
    bool change = below(l, 2) == 0;
    unsigned char *map = MAP_FAILED;
    char name[32];
    int fd = -1;

    if (!s->exists || s->size == 0) {
        return;
    }
    name_of(slot, name);
    if (!CALL(l, slot, "open", (fd = openat(dir_of(l, slot), name, O_RDWR | O_CLOEXEC)) >= 0)) {
        return;
    }
    if (CALL(l, slot, "mmap",
             (map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) !=
                 MAP_FAILED)) {
        check_bytes(l, slot, map);
        if (change) {
            s->seed = next(l);
            fill(map, s->seed, 0, s->size);
        }
        (void)CALL(l, slot, "munmap", munmap(map, s->size) == 0);
    }
    close_checked(l, fd, slot);
}

/* A hard link, a look through it, and away; then the same with a symlink. */
static void do_links(struct load *l, int slot)
{
    const struct slot *s = &l->slots[slot];
    int dir = dir_of(l, slot);
    struct stat st;
    char name[32];
    char target[64];
    ssize_t n = 0;

    if (!s->exists) {
        return;
    }
    name_of(slot, name);
    if (CALL(l, slot, "link", linkat(dir, name, dir, "hard", 0) == 0)) {
        if (CALL(l, slot, "stat of a link", fstatat(dir, "hard", &st, 0) == 0) &&
            (st.st_nlink != 2 || (size_t)st.st_size != s->size)) {
            failed(l, "link", slot, "wrong link count or size");
        }
        (void)CALL(l, slot, "unlink of a link", unlinkat(dir, "hard", 0) == 0);
    }
    if (CALL(l, slot, "symlink", symlinkat(name, dir, "soft") == 0)) {
        if (CALL(l, slot, "readlink", (n = readlinkat(dir, "soft", target, sizeof(target))) > 0) &&
            (strlen(name) != (size_t)n || memcmp(name, target, (size_t)n) != 0)) {
            failed(l, "readlink", slot, "wrong target");
        }
        (void)CALL(l, slot, "unlink of a symlink", unlinkat(dir, "soft", 0) == 0);
    }
}

static void do_subdir(struct load *l, int slot)
{
    int dir = dir_of(l, slot);

    if (CALL(l, slot, "mkdir", mkdirat(dir, "sub", 0755) == 0)) {
        if (CALL(l, slot, "rename of a directory", renameat(dir, "sub", dir, "sub2") == 0)) {
            (void)CALL(l, slot, "rmdir", unlinkat(dir, "sub2", AT_REMOVEDIR) == 0);
        }
    }
}

static void do_chmod(struct load *l, int slot)
{
    mode_t mode = below(l, 2) == 0 ? 0600 : 0644;
    struct stat st;
    char name[32];

    if (!l->slots[slot].exists) {
        return;
    }
    name_of(slot, name);
    if (CALL(l, slot, "chmod", fchmodat(dir_of(l, slot), name, mode, 0) == 0) &&
        CALL(l, slot, "stat", fstatat(dir_of(l, slot), name, &st, 0) == 0) &&
        (st.st_mode & 07777) != mode) {
        failed(l, "chmod", slot, "mode not as set");
    }
}

/* The names of one directory must be exactly those of the model. */
static void do_readdir(struct load *l, int slot)
{
    int fd = -1;
    size_t found = 0;
    size_t expected = 0;
    struct dirent *de;
    DIR *dir;

    if (!CALL(l, slot, "open of a directory",
              (fd = openat(dir_of(l, slot), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0)) {
        return;
    }
    dir = fdopendir(fd);
    if (dir == NULL) {
        failed(l, "opendir", slot, strerror(errno));
        close(fd);
        return;
    }
    begin(l);
    errno = 0;
    while ((de = readdir(dir)) != NULL) {
        int n = -1;

        if (sscanf(de->d_name, "f%d", &n) == 1) {
            found++;
            if (n < 0 || n >= FILES || n % DIRS != slot % DIRS || !l->slots[n].exists) {
                failed(l, "readdir", n, "a name that should not be there");
            }
        } else if (de->d_name[0] != '.') {
            failed(l, "readdir", slot, "a stray name");
        }
        errno = 0;
    }
    (void)ended(l, errno == 0, "readdir", slot);
    closedir(dir);
    for (int i = slot % DIRS; i < FILES; i += DIRS) {
        expected += l->slots[i].exists;
    }
    if (found != expected) {
        failed(l, "readdir", slot, "names are missing or doubled");
    }
}

static const struct {
    const char *name;
    void (*run)(struct load *l, int slot);
    unsigned weight;
} actions[] = {
    {"create", do_create, 4}, {"replace", do_replace, 3}, {"rewrite", do_truncate_write, 2},
    {"append", do_append, 4}, {"shrink", do_shrink, 1},   {"unlink", do_unlink, 1},
    {"move", do_move, 2},     {"read", do_read, 8},       {"stat", do_stat, 8},
    {"mmap", do_mmap, 2},     {"links", do_links, 1},     {"subdir", do_subdir, 1},
    {"chmod", do_chmod, 1},   {"readdir", do_readdir, 2},
};

static void step(struct load *l)
{
    unsigned total = 0;
    unsigned pick;

    for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
        total += actions[i].weight;
    }
    pick = (unsigned)below(l, total);
    for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
        if (pick < actions[i].weight) {
            l->doing = actions[i].name;
            actions[i].run(l, (int)below(l, FILES));
            return;
        }
        pick -= actions[i].weight;
    }
}

/* Errors before the load began are errors of the set-up: said and ended at once. */
static int make_dir(int parent, const char *name)
{
    int fd;

    if (mkdirat(parent, name, 0755) < 0) {
        fprintf(stderr, "farmload: mkdir %s: %s\n", name, strerror(errno));
        exit(2);
    }
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "farmload: open %s: %s\n", name, strerror(errno));
        exit(2);
    }
    return fd;
}

static void clean_up(struct load *l, int home)
{
    char name[32];

    l->doing = "clean-up";
    for (int i = 0; i < FILES; i++) {
        name_of(i, name);
        if (l->slots[i].exists) {
            (void)CALL(l, i, "unlink", unlinkat(dir_of(l, i), name, 0) == 0);
        }
    }
    for (int i = 0; i < DIRS; i++) {
        snprintf(name, sizeof(name), "d%d", i);
        (void)CALL(l, i, "rmdir", unlinkat(home, name, AT_REMOVEDIR) == 0);
    }
}

static int work(int base, int worker, double seconds, uint64_t ops, uint64_t seed, bool keep,
                int out)
{
    struct load l = {.worker = worker, .rng = (seed + 1) * 0x9E3779B97F4A7C15U + (uint64_t)worker};
    struct result r;
    double end = now_ms() + seconds * 1e3;
    char name[32];
    int home;

    l.io = malloc(SIZE_MAX_BYTES + 8192);
    if (l.io == NULL) {
        return 2;
    }
    snprintf(name, sizeof(name), "w%d", worker);
    home = make_dir(base, name);
    for (int i = 0; i < DIRS; i++) {
        char sub[32];

        snprintf(sub, sizeof(sub), "d%d", i);
        l.dirs[i] = make_dir(home, sub);
    }
    while (now_ms() < end && l.ops < ops && l.failures < FAILURES_MAX) {
        step(&l);
    }
    l.doing = "last look";
    for (int i = 0; i < FILES; i++) {
        do_stat(&l, i);
        do_read(&l, i);
    }
    if (!keep) {
        clean_up(&l, home);
        unlinkat(base, name, AT_REMOVEDIR);
    }
    free(l.io);
    r = (struct result){.ops = l.ops, .failures = l.failures, .worst_ms = l.worst_ms};
    return write(out, &r, sizeof(r)) == (ssize_t)sizeof(r) ? 0 : 2;
}

int main(int argc, char **argv)
{
    struct result sum = {0};
    struct result r;
    double seconds = 10;
    uint64_t ops = UINT64_MAX;
    uint64_t seed = 1;
    bool keep = false;
    int procs = 4;
    int reports = 0;
    int pipes[2];
    int base;
    int opt;

    while ((opt = getopt(argc, argv, "p:t:n:s:k")) != -1) {
        switch (opt) {
        case 'p': procs = atoi(optarg); break;
        case 't': seconds = strtod(optarg, NULL); break;
        case 'n': ops = strtoull(optarg, NULL, 10); break;
        case 's': seed = strtoull(optarg, NULL, 10); break;
        case 'k': keep = true; break;
        default: optind = argc; break;
        }
    }
    if (optind + 1 != argc || procs < 1) {
        fprintf(stderr, "usage: farmload [-p PROCS] [-t SECONDS] [-n OPS] [-s SEED] [-k] DIR\n");
        return 2;
    }
    base = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base < 0 || pipe(pipes) < 0) {
        fprintf(stderr, "farmload: %s: %s\n", argv[optind], strerror(errno));
        return 2;
    }
    for (int i = 0; i < procs; i++) {
        pid_t pid = fork();

        if (pid < 0) {
            fprintf(stderr, "farmload: fork: %s\n", strerror(errno));
            return 2;
        }
        if (pid == 0) {
            close(pipes[0]);
            _exit(work(base, i, seconds, ops, seed, keep, pipes[1]));
        }
    }
    close(pipes[1]);
    while (read(pipes[0], &r, sizeof(r)) == (ssize_t)sizeof(r)) {
        reports++;
        sum.ops += r.ops;
        sum.failures += r.failures;
        if (r.worst_ms > sum.worst_ms) {
            sum.worst_ms = r.worst_ms;
        }
    }
    while (wait(NULL) > 0) {
    }
    if (reports < procs) {
        fprintf(stderr, "farmload: %d of %d workers died\n", procs - reports, procs);
        sum.failures += (uint64_t)(procs - reports);
    }
    printf("farmload: ops %llu failures %llu worst-stall-ms %.1f\n", (unsigned long long)sum.ops,
           (unsigned long long)sum.failures, sum.worst_ms);
    return sum.failures == 0 ? 0 : 1;
}
