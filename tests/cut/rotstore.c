/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * rotstore [--tries N] [--seed N]: an index, its mark and an intent log are damaged at random -
 * bits flipped, pages and tails lost, older formats, files of zeros - and opened. Damage must be
 * found: at the door, or by looking at the whole; or have done no harm. What a process does that
 * reads a damaged index through LMDB (it may die) is counted, in a child.
 */
#include "must.h"

#include "base/clock.h"
#include "base/digest.h"
#include "store/index_i.h"
#include "store/intent.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#define MAP_SIZE ((size_t)1 << 30)
#define INTENTS_BYTES 65536u
#define INTENTS 60u
#define FILES 3u

enum rot { ROT_BIT, ROT_BITS, ROT_ZEROS, ROT_JUNK, ROT_CUT, ROT_EMPTY, ROT_OLD, ROT_KINDS };
static const char *const rot_names[ROT_KINDS] = {"one bit",        "some bits", "a page of zeros",
                                                 "a page of junk", "cut short", "a file of zeros",
                                                 "an older page"};
static const char *const files[FILES] = {INDEX_FILE, MARK_FILE, "intents"};

struct file {
    uint8_t *data, *older;
    size_t len, older_len;
};
static struct file good[FILES];
static uint64_t rng, want;
static char dir[] = "/dev/shm/farm-rot-XXXXXX";
static const uint8_t boot[16] = {1};

static uint64_t rnd(uint64_t below)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng % below;
}

static void must(int e)
{
    if (e) {
        fprintf(stderr, "rotstore: %s\n", err_text(e));
        abort();
    }
}

static void path_of(unsigned f, char out[96])
{
    snprintf(out, 96, "%s/%s", dir, files[f]);
}

static void load(unsigned f, uint8_t **data, size_t *len)
{
    char path[96];
    struct stat st;

    path_of(f, path);
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0 && fstat(fd, &st) == 0);
    *len = (size_t)st.st_size;
    *data = malloc(*len);
    MUST(*data && read(fd, *data, *len) == (ssize_t)*len);
    close(fd);
}

static void store(unsigned f, const uint8_t *data, size_t len)
{
    char path[96];

    path_of(f, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0 && write(fd, data, len) == (ssize_t)len);
    close(fd);
}

/* ---- what is good ---- */

static int add_row(void *arg, const MDB_val *k, const MDB_val *v)
{
    XXH3_state_t *h = arg;

    XXH3_64bits_update(h, k->mv_data, k->mv_size);
    XXH3_64bits_update(h, v->mv_data, v->mv_size);
    return 0;
}

static int digest_of(struct index *ix, uint64_t *out)
{
    XXH3_state_t *h = XXH3_createState();
    struct key all = {.n = 0};

    int e = index_begin(ix);
    XXH3_64bits_reset(h);
    for (int t = 0; t < T_COUNT && !e; t++)
        e = row_scan(ix, ix->txn, (enum table)t, &all, add_row, h);
    index_abort(ix);
    *out = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return e;
}

static void an_intent(uint64_t i, struct intent *in)
{
    memset(in, 0, sizeof *in);
    in->op = INTENT_CREATE;
    in->lid = i;
    in->parent = 1;
    in->name1_len = (uint8_t)snprintf((char *)in->name1, sizeof in->name1, "name %" PRIu64, i);
}

static void put_rows(struct index *ix, uint64_t from, uint64_t to)
{
    static uint8_t leaves[300 * DIGEST_LEN];
    struct index_meta m = {.folder_id = 1, .node = 7, .next_id = to};
    struct records r;

    index_records(ix, &r);
    must(index_begin(ix));
    for (uint64_t i = from; i < to; i++) {
        struct id128 id = {7, i};
        struct name_rec n = {.h = {{7, i}, 5}, .nid = id, .inode = id, .alive = true};
        struct content_rec c = {.h = {{7, i}, 5}, .rid = id, .type = NODE_REG, .size = i};
        n.parent = RID_ROOT;
        n.name_len = (uint8_t)snprintf((char *)n.name, 64, "file-%" PRIu64, i);
        must(r.put_name(r.ctx, &n, 7));
        must(r.put_content(r.ctx, &c, 7));
        if (i % 50 == 0)
            must(index_put_leaves(ix, id, leaves, 300));
    }
    m.log_head = index_log_head(ix);
    must(index_put_meta(ix, &m));
    must(index_commit(ix));
}

static void make_good(void)
{
    struct intent_log *log;
    struct index *ix;
    struct intent in;
    bool fresh;

    must(index_open_boot(dir, MAP_SIZE, boot, &ix, &fresh));
    must(intent_open(dir, INTENTS_BYTES, true, &log));
    for (uint64_t i = 0; i < 1500; i += 100)
        put_rows(ix, i + 1, i + 101);
    must(index_mark_clean(ix));
    for (unsigned f = 0; f < FILES; f++)
        load(f, &good[f].older, &good[f].older_len);
    for (uint64_t i = 0; i < 900; i += 100)
        put_rows(ix, i + 1, i + 101);
    must(index_mark_clean(ix));
    must(digest_of(ix, &want));
    index_close(ix);
    for (uint64_t i = 1; i <= INTENTS; i++) {
        an_intent(i, &in);
        must(intent_add(log, &in));
    }
    intent_close(log);
    for (unsigned f = 0; f < FILES; f++)
        load(f, &good[f].data, &good[f].len);
}

/* ---- damage ---- */

static void damage(unsigned f, enum rot rot)
{
    size_t len = good[f].len, at = rnd(len), page = at / 4096 * 4096;
    size_t n = len - page < 4096 ? len - page : 4096;
    uint8_t *p = malloc(len);

    MUST(p);
    memcpy(p, good[f].data, len);
    switch (rot) {
    case ROT_BIT: p[at] ^= (uint8_t)(1u << rnd(8)); break;
    case ROT_BITS:
        for (uint64_t i = 0, bits = 2 + rnd(30); i < bits; i++)
            p[rnd(len)] ^= (uint8_t)(1u << rnd(8));
        break;
    case ROT_ZEROS: memset(p + page, 0, n); break;
    case ROT_JUNK:
        for (size_t i = 0; i < n; i++)
            p[page + i] = (uint8_t)rnd(256);
        break;
    case ROT_CUT: len = at; break;
    case ROT_EMPTY: memset(p, 0, len); break;
    default:
        if (page + n <= good[f].older_len)
            memcpy(p + page, good[f].older + page, n);
        break;
    }
    store(f, p, len);
    free(p);
}

/* ---- what comes of it ---- */

enum outcome { REFUSED, READ_RIGHT, READ_WRONG, READ_ERROR, DIED, OUTCOMES };
static const char *const outcome_names[OUTCOMES] = {"refused when opened", "read as it was",
                                                    "read wrongly", "an error when read",
                                                    "the reader died"};

/* As a worker would: opens and reads, without having looked first. */
static enum outcome read_in_child(void)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct rlimit none = {0, 0};
        struct index *ix;
        uint64_t got;
        bool fresh;
        setrlimit(RLIMIT_CORE, &none);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
        alarm(20);
        if (index_open_boot(dir, MAP_SIZE, boot, &ix, &fresh))
            _exit(REFUSED);
        if (fresh || digest_of(ix, &got))
            _exit(READ_ERROR);
        _exit(got == want ? READ_RIGHT : READ_WRONG);
    }
    MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) && WEXITSTATUS(status) < OUTCOMES ? (enum outcome)WEXITSTATUS(status)
                                                               : DIED;
}

/* 0: found; 1: harmless; 2: neither. */
static int try_index(uint64_t counts[OUTCOMES])
{
    struct index_verified v;

    int looked = index_verify(NULL, dir, NULL, 0, &v);
    enum outcome o = read_in_child();
    counts[o]++;
    if (o == REFUSED)
        return 0;
    if (looked == FARM_ECORRUPT && !v.what[0])
        return 2; /* not said in words */
    if (looked)
        return 0;
    return o == READ_RIGHT ? 1 : 2;
}

static int try_intents(void)
{
    struct intent_log *log;
    struct intent in, is;
    uint64_t seq;
    int e = intent_open(dir, INTENTS_BYTES, false, &log), result = 1;

    if (e)
        return e == FARM_ECORRUPT || e == FARM_EVERSION ? 0 : 2;
    for (uint64_t i = 1; i <= INTENTS && result == 1; i++) {
        e = intent_next(log, &is, &seq);
        an_intent(i, &in);
        if (e == FARM_ECORRUPT)
            result = 0;
        else if (e || seq != i || is.lid != in.lid || is.name1_len != in.name1_len ||
                 memcmp(is.name1, in.name1, in.name1_len) != 0)
            result = 2;
    }
    intent_close(log);
    return result;
}

int main(int argc, char **argv)
{
    uint64_t most = 150, seed = clock_wall(&clock_system) % 1000000;
    uint64_t tries[FILES][ROT_KINDS] = {{0}}, found[FILES] = {0}, harmless[FILES] = {0},
             counts[OUTCOMES] = {0};
    char lock[96];

    for (int i = 1; i + 1 < argc; i += 2)
        *(strcmp(argv[i], "--tries") == 0 ? &most : &seed) = strtoull(argv[i + 1], NULL, 10);
    rng = seed * 2654435761u + 88172645463325252ull;
    if (!mkdtemp(dir))
        return 2;
    snprintf(lock, sizeof lock, "%s/" INDEX_FILE "-lock", dir);
    make_good();
    int bad = 0;
    for (uint64_t t = 0; !bad && t < most; t++) {
        unsigned f = (unsigned)rnd(FILES);
        enum rot rot = (enum rot)rnd(ROT_KINDS);
        if (f == 2 && rot == ROT_OLD)
            continue; /* an older page of a log in memory is a state it was in */
        uint64_t luck = rng;
        unlink(lock);
        for (unsigned i = 0; i < FILES; i++)
            store(i, good[i].data, good[i].len);
        damage(f, rot);
        tries[f][rot]++;
        int r = f == 2 ? try_intents() : try_index(counts);
        found[f] += r == 0;
        harmless[f] += r == 1;
        if (r == 2) {
            printf("%s, %s: neither found nor harmless; seed %" PRIu64 " at %" PRIu64 "\n",
                   files[f], rot_names[rot], seed, luck);
            bad = 1;
        }
    }
    for (unsigned f = 0; f < FILES; f++) {
        printf("%s:", files[f]);
        for (int k = 0; k < ROT_KINDS; k++)
            printf(" %s %" PRIu64 "%s", rot_names[k], tries[f][k], k + 1 < ROT_KINDS ? "," : "");
        printf(": found %" PRIu64 ", harmless %" PRIu64 "\n", found[f], harmless[f]);
    }
    printf("without looking first, a reader of the index:");
    for (int o = 0; o < OUTCOMES; o++)
        printf(" %s %" PRIu64 "%s", outcome_names[o], counts[o], o + 1 < OUTCOMES ? "," : "\n");
    unlink(lock);
    for (unsigned f = 0; f < FILES; f++) {
        char path[96];
        path_of(f, path);
        unlink(path);
    }
    rmdir(dir);
    return bad;
}
