/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * cutstore [--seconds S] [--seed N] [--commits C]: the store's own work is recorded write by write;
 * the power is cut after each, with all and with nothing of what was not synced on the disk, and
 * then for S seconds at any, where whatever of the unsynced writes could be on the disk is. The
 * index that is opened then must be, row for row, one that was marked: the last, or the one that
 * was being marked; and opening it once more changes nothing.
 */
#include "record.h"

#include "base/clock.h"
#include "base/digest.h"
#include "store/index_i.h"
#include "store/intent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MAP_SIZE ((size_t)1 << 30)
#define COMMITS_MAX 1000u
#define LOOSE_MAX 4096u
#define INTENTS_BYTES 65536u

enum { NOTE_BEGUN = 0, NOTE_DONE = 1 }; /* low bit of a note; the rest: commit number */

static uint64_t rng;
static uint64_t digests[COMMITS_MAX + 1];
static const uint8_t boot_before[16] = {1}, boot_after[16] = {2}, boot_third[16] = {3};

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
        fprintf(stderr, "cutstore: %s\n", err_text(e));
        abort();
    }
}

/* ---- what is in an index ---- */

static int add_row(void *arg, const MDB_val *k, const MDB_val *v)
{
    XXH3_state_t *h = arg;

    XXH3_64bits_update(h, &k->mv_size, sizeof k->mv_size);
    XXH3_64bits_update(h, k->mv_data, k->mv_size);
    XXH3_64bits_update(h, &v->mv_size, sizeof v->mv_size);
    XXH3_64bits_update(h, v->mv_data, v->mv_size);
    return 0;
}

static int digest_index(struct index *ix, uint64_t *out)
{
    XXH3_state_t *h = XXH3_createState();
    struct key all = {.n = 0};
    int e = h ? index_begin(ix) : -ENOMEM;

    if (e) {
        XXH3_freeState(h);
        return e;
    }
    XXH3_64bits_reset(h);
    for (int t = 0; t < T_COUNT && !e; t++)
        e = row_scan(ix, ix->txn, (enum table)t, &all, add_row, h);
    index_abort(ix);
    *out = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return e;
}

static int commit_of(struct index *ix, uint64_t *out)
{
    struct index_meta m;

    int e = index_begin(ix);
    if (e)
        return e;
    e = index_get_meta(ix, &m);
    index_abort(ix);
    if (!e)
        *out = m.next_id;
    return e;
}

/* ---- the work ---- */

static void put_some(struct index *ix)
{
    static uint8_t leaves[400 * DIGEST_LEN];
    struct records r;

    index_records(ix, &r);
    for (uint64_t i = 0, n = 1 + rnd(12); i < n; i++) {
        struct id128 id = {7, 1 + rnd(300)};
        struct name_rec name = {.h = {{7, 1 + rnd(1000)}, 5}, .nid = id, .inode = id};
        struct content_rec c = {.h = {{7, 1 + rnd(1000)}, 5}, .rid = id, .type = NODE_REG};
        struct range range = {rnd(1000), rnd(1000)};
        name.parent = RID_ROOT;
        name.alive = true;
        name.name_len = (uint8_t)snprintf((char *)name.name, 64, "n%" PRIu64, rnd(100000));
        c.size = rnd(1u << 30);
        must(r.put_name(r.ctx, &name, 7));
        must(r.put_content(r.ctx, &c, 7));
        must(index_journal_put(ix, id, c.h.stamp, (struct stamp){7, 1}, &range, 1));
        if (rnd(4) == 0) {
            memset(leaves, (int)rnd(256), sizeof leaves);
            must(index_put_leaves(ix, id, leaves, rnd(400)));
        }
        if (rnd(6) == 0)
            must(index_forget_inode(ix, (struct id128){7, 1 + rnd(300)}));
    }
}

static void do_commit(struct index *ix, uint64_t number)
{
    struct index_meta m = {.folder_id = 1, .node = 7, .next_id = number};

    must(index_begin(ix));
    put_some(ix);
    m.log_head = index_log_head(ix);
    must(index_put_meta(ix, &m));
    must(index_commit(ix));
    must(digest_index(ix, &digests[number]));
}

static void reopen(struct index **ix, const char *dir, bool clean)
{
    bool fresh;

    if (clean) {
        uint64_t number;
        must(commit_of(*ix, &number));
        record_note(number << 1 | NOTE_BEGUN);
        must(index_mark_clean(*ix));
        record_note(number << 1 | NOTE_DONE);
    }
    index_close(*ix);
    must(index_open_boot(dir, MAP_SIZE, boot_before, ix, &fresh));
    MUST(!fresh && index_found(*ix) == (clean ? INDEX_CLEAN : INDEX_LIVE));
}

/* As a node does: commits, marks with commits going on meanwhile, a worker that dies, a clean stop.
 */
static void work(const char *dir, uint64_t commits)
{
    struct index *ix = NULL;
    struct intent_log *log;
    uint64_t marking = 0;
    bool fresh;

    must(index_open_boot(dir, MAP_SIZE, boot_before, &ix, &fresh));
    must(intent_open(dir, INTENTS_BYTES, false, &log));
    for (uint64_t i = 1; i <= commits; i++) {
        do_commit(ix, i);
        uint64_t what = rnd(12);
        if (marking && what < 4) {
            must(index_mark_finish(ix));
            record_note(marking << 1 | NOTE_DONE);
            marking = 0;
        } else if (!marking && what < 3) {
            record_note(i << 1 | NOTE_BEGUN);
            must(index_mark_begin(ix));
            marking = i;
        } else if (what == 5 || what == 6) { /* also in the middle of a mark */
            reopen(&ix, dir, false);
            marking = 0;
        } else if (!marking && what == 7) {
            reopen(&ix, dir, true);
        }
        if (rnd(20) == 0) {
            intent_close(log);
            must(intent_open(dir, INTENTS_BYTES, true, &log));
        }
    }
    intent_close(log);
    index_close(ix);
}

/* ---- the cut ---- */

struct totals {
    uint64_t states, last, under_way, anew;
};

static void empty(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    MUST(d);
    while ((e = readdir(d)))
        if (e->d_name[0] != '.')
            unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

static int open_after(const char *dir, const uint8_t boot[16], uint64_t *number, uint64_t *digest)
{
    struct index_verified v;
    struct index *ix;
    bool fresh;

    int e = index_open_boot(dir, MAP_SIZE, boot, &ix, &fresh);
    if (e)
        return e;
    *number = *digest = 0;
    if (!fresh) {
        e = commit_of(ix, number);
        if (!e)
            e = digest_index(ix, digest);
    }
    if (!e)
        e = index_verify(ix, NULL, NULL, 0, &v);
    index_close(ix);
    return e;
}

static bool one_state(const struct recording *r, size_t upto, enum keep keep, size_t one,
                      uint64_t seed, const char *dir, struct totals *t)
{
    uint64_t done = 0, begun[COMMITS_MAX], nbegun = 0, number, digest, again, digest_again;
    struct intent_log *log;
    bool legal = false;

    for (size_t i = 0; i < upto; i++) {
        if (r->ops[i].kind != OP_NOTE)
            continue;
        if (r->ops[i].off & 1) {
            done = r->ops[i].off >> 1;
            nbegun = 0;
        } else {
            begun[nbegun++] = r->ops[i].off >> 1;
        }
    }
    empty(dir);
    record_play(r, upto, keep, one, seed, dir);
    t->states++;
    int e = open_after(dir, boot_after, &number, &digest);
    if (e == FARM_ECORRUPT && done == 0) {
        t->anew++; /* nothing had been marked yet: made anew */
        return true;
    }
    if (e) {
        struct index_verified v;
        e = index_verify(NULL, dir, NULL, 0, &v);
        printf("not opened: %s: %s\n", err_text(e), v.what);
        return false;
    }
    for (uint64_t i = 0; i < nbegun; i++)
        legal |= begun[i] == number;
    t->last += number == done;
    t->under_way += number != done;
    if (number != done && !legal && done != 0) {
        printf("commit %" PRIu64 " instead of %" PRIu64 "\n", number, done);
        return false;
    }
    if (number != 0 && digest != digests[number]) {
        printf("commit %" PRIu64 " is not what it was\n", number);
        return false;
    }
    e = open_after(dir, boot_third, &again, &digest_again);
    if (e || again != number || digest_again != digest) {
        printf("opened twice is not opened once: %s\n", err_text(e));
        return false;
    }
    e = intent_open(dir, INTENTS_BYTES, false, &log);
    if (e == FARM_ECORRUPT)
        e = intent_open(dir, INTENTS_BYTES, true, &log);
    if (e)
        return false;
    intent_close(log);
    return true;
}

static int cut_all(const struct recording *r, const char *dir, uint64_t seconds, uint64_t seed)
{
    static size_t loose[LOOSE_MAX];
    struct totals t = {0};
    uint64_t points = 0, classes[6] = {0};

    for (size_t upto = 1; upto <= r->n; upto++) {
        if (r->ops[upto - 1].kind == OP_NOTE)
            continue;
        points++;
        for (int keep = KEEP_ALL; keep <= KEEP_NONE; keep++) {
            classes[keep]++;
            if (!one_state(r, upto, (enum keep)keep, 0, 0, dir, &t)) {
                printf("cut after write %zu of %zu, class %d\n", upto, r->n, keep);
                return 1;
            }
        }
    }
    uint64_t until = clock_mono(&clock_system) + seconds * 1000000;
    while (clock_mono(&clock_system) < until) {
        size_t upto = 1 + (size_t)rnd(r->n);
        size_t n = record_loose(r, upto, loose, LOOSE_MAX);
        enum keep keep = (enum keep)(KEEP_ALL_BUT + rnd(4));
        size_t one = n ? loose[rnd(n < LOOSE_MAX ? n : LOOSE_MAX)] : 0;
        uint64_t luck = rng;
        classes[keep]++;
        if (!one_state(r, upto, keep, one, luck, dir, &t)) {
            printf("cut after write %zu of %zu, class %d, op %zu, seed %" PRIu64 "\n", upto, r->n,
                   (int)keep, one, luck);
            return 1;
        }
    }
    printf("seed %" PRIu64 ": %" PRIu64 " cut points, %" PRIu64
           " states of the disk (in order %" PRIu64 ", nothing unsynced %" PRIu64
           ", all but one %" PRIu64 ", only one %" PRIu64 ", one torn %" PRIu64 ", any %" PRIu64
           "): %" PRIu64 " opened as last marked, %" PRIu64 " as marked just then, %" PRIu64
           " made anew before anything was marked\n",
           seed, points, t.states, classes[0], classes[1], classes[2], classes[3], classes[4],
           classes[5], t.last, t.under_way, t.anew);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t seconds = 10, commits = 24, seed = clock_wall(&clock_system) % 1000000;
    char dir[] = "/dev/shm/farm-cut-XXXXXX" /* a sync costs nothing there */, work_dir[64],
         cut_dir[64];

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t v = strtoull(argv[i + 1], NULL, 10);
        *(strcmp(argv[i], "--seconds") == 0   ? &seconds
          : strcmp(argv[i], "--commits") == 0 ? &commits
                                              : &seed) = v;
    }
    if (commits > COMMITS_MAX)
        commits = COMMITS_MAX;
    rng = seed * 2654435761u + 88172645463325252ull;
    if (!mkdtemp(dir))
        return 2;
    snprintf(work_dir, sizeof work_dir, "%s/work", dir);
    snprintf(cut_dir, sizeof cut_dir, "%s/cut", dir);
    if (mkdir(work_dir, 0700) < 0 || mkdir(cut_dir, 0700) < 0)
        return 2;
    struct recording r;
    record_start(work_dir);
    work(work_dir, commits);
    record_stop(&r);
    int rc = cut_all(&r, cut_dir, seconds, seed);
    if (rc)
        printf("seed %" PRIu64 "\n", seed);
    empty(work_dir);
    empty(cut_dir);
    rmdir(work_dir);
    rmdir(cut_dir);
    rmdir(dir);
    return rc;
}
