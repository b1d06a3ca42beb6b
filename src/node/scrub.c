/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The scrub: a thread with idle priority that goes round all inodes in the order of their ids and
 * looks whether the backing tree is what the index says: at its names, its attributes, and the
 * bytes of files against their digests. It reads and compares, no more. What looks wrong is looked
 * at again after a pause, since changes under way look wrong too; what still does is told to the
 * core thread (scrub_repair.c).
 *
 * The thread's own state is kept in the file `scrub` of the state directory, so that a round goes
 * on where it was.
 */
#include "node/scrub_i.h"

#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STATE_FILE "scrub"
#define STATE_BYTES 4096u
#define SAVE_US (10ull * 1000 * 1000)
#define FIRST_US (60ull * 1000 * 1000) /* a worker has other things to do when it starts */
#define AGAIN_US (1000ull * 1000)      /* what looked wrong is looked at again after this */
#define FINDS_MAX 16u                  /* told to the core and not dealt with */
#define BATCH 32u                      /* inodes whose ids are taken in one read transaction */
#define INODE_COST 16384u              /* looking at an inode costs as much as reading so much */
#define RATE_LEAST 65536u              /* bytes a second: a small folder is done, then rests */
#define IDLE_CLASS (3 << 13)           /* ioprio_set(2): IOPRIO_CLASS_IDLE */

/* ---- kept over restarts ---- */

static void put_state(struct scrub *s, struct buf *b)
{
    const struct round *r = &s->round;

    buf_printf(b, "running %d %d\n", r->running, r->full);
    buf_printf(b, "position %" PRIx64 " %" PRIu64 "\n", r->pos.node, r->pos.n);
    buf_printf(b, "started %" PRIu64 "\n", r->started_us);
    buf_printf(b, "inodes %" PRIu64 " %" PRIu64 "\n", r->inodes, r->all_inodes);
    buf_printf(b, "bytes %" PRIu64 " %" PRIu64 "\n", r->bytes, r->all_bytes);
    buf_printf(b, "last %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", s->last.started_us,
               s->last.ended_us, s->last.inodes, s->last.bytes);
    buf_printf(b, "asked %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", s->asked, s->asked_before,
               s->answered);
    buf_printf(b, "counts %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
               s->counts[COUNT_FOUND], s->counts[COUNT_REPAIRED], s->counts[COUNT_TAKEN],
               s->counts[COUNT_DIFFERING], s->counts[COUNT_HEALED]);
}

static void save(struct scrub *s)
{
    struct buf b;

    buf_init(&b, STATE_BYTES);
    pthread_mutex_lock(&s->lock);
    put_state(s, &b);
    pthread_mutex_unlock(&s->lock);
    int rc =
        b.err ? b.err : io_write_file_at(s->n->args->state_fd, STATE_FILE, b.data, b.len, 0600);
    if (rc)
        log_warn_code(rc, "the position of the scrub cannot be kept");
    buf_fini(&b);
    s->saved_us = node_mono(s->n);
}

/* What cannot be read begins anew: nothing but time is lost. */
static void load(struct scrub *s)
{
    struct round *r = &s->round;
    char *text;
    size_t len;
    int running = 0, full = 0;

    int rc = io_read_file_at(s->n->args->state_fd, STATE_FILE, STATE_BYTES, &text, &len);
    if (rc) {
        if (rc != -ENOENT)
            log_warn_code(rc, "the position of the scrub is not known any more");
        return;
    }
    int got =
        sscanf(text,
               "running %d %d\nposition %" SCNx64 " %" SCNu64 "\nstarted %" SCNu64
               "\ninodes %" SCNu64 " %" SCNu64 "\nbytes %" SCNu64 " %" SCNu64 "\nlast %" SCNu64
               " %" SCNu64 " %" SCNu64 " %" SCNu64 "\nasked %" SCNu64 " %" SCNu64 " %" SCNu64
               "\ncounts %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
               &running, &full, &r->pos.node, &r->pos.n, &r->started_us, &r->inodes, &r->all_inodes,
               &r->bytes, &r->all_bytes, &s->last.started_us, &s->last.ended_us, &s->last.inodes,
               &s->last.bytes, &s->asked, &s->asked_before, &s->answered, &s->counts[COUNT_FOUND],
               &s->counts[COUNT_REPAIRED], &s->counts[COUNT_TAKEN], &s->counts[COUNT_DIFFERING],
               &s->counts[COUNT_HEALED]);
    free(text);
    if (got != 21) {
        log_warn("the position of the scrub is not understood: it begins anew");
        memset(r, 0, sizeof *r);
        return;
    }
    r->running = running != 0;
    r->full = full != 0;
    s->frontier = r->pos;
    s->restart = s->asked > s->asked_before;
}

/* ---- pace ---- */

bool scrub_pause(struct scrub *s, uint64_t us)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + us % 1000000 * 1000;
    until.tv_sec += (time_t)(us / 1000000 + ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&s->lock);
    int rc = 0;
    while (us && !s->stop && !s->restart && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&s->wake, &s->lock, &until);
    bool end = s->stop || s->restart;
    pthread_mutex_unlock(&s->lock);
    return end;
}

uint64_t scrub_rate(struct scrub *s)
{
    const struct config *c = s->n->config;

    pthread_mutex_lock(&s->lock);
    uint64_t cost = s->round.all_bytes + s->round.all_inodes * INODE_COST;
    bool full = s->round.full;
    pthread_mutex_unlock(&s->lock);
    uint64_t rate = cost / (c->scrub_every_s ? c->scrub_every_s : 1);
    if (full || rate > c->scrub_rate)
        return c->scrub_rate;
    return rate < RATE_LEAST && c->scrub_rate > RATE_LEAST ? RATE_LEAST : rate;
}

bool scrub_pay(struct scrub *s, uint64_t bytes)
{
    uint64_t now = node_mono(s->n), rate = scrub_rate(s);

    if (s->next_us < now)
        s->next_us = now;
    s->next_us += (uint64_t)((double)bytes * 1e6 / (double)(rate ? rate : 1));
    return scrub_pause(s, s->next_us - now > 2000 ? s->next_us - now : 0);
}

/* ---- suspects ---- */

static void suspect(struct scrub *s, struct id128 rid)
{
    s->suspects[(s->first + s->count++) % SUSPECTS_MAX] =
        (struct suspect){rid, node_mono(s->n) + AGAIN_US};
}

/* True: the core has it. It is never waited for with the inbox full: the core may be waiting for
 * this thread to end. */
static bool tell(struct scrub *s, const struct scrub_find *find)
{
    struct inmsg *m = calloc(1, sizeof *m);
    struct scrub_find *copy = malloc(sizeof *copy);

    if (m && copy) {
        *copy = *find;
        m->type = IN_SCRUB;
        m->p = copy;
        if (queue_try_push(&s->n->inbox, &m->q) == 0) {
            s->told++;
            return true;
        }
    }
    free(m);
    free(copy);
    return false;
}

static unsigned untold(struct scrub *s)
{
    pthread_mutex_lock(&s->lock);
    unsigned n = s->told - s->dealt;
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* Those that are due are looked at again. */
static int review(struct scrub *s)
{
    struct scrub_find find;

    while (s->count && s->suspects[s->first].due_us <= node_mono(s->n)) {
        if (untold(s) >= FINDS_MAX)
            return scrub_pause(s, 10000) ? -ECANCELED : 0;
        s->again = true;
        int rc = scrub_inspect(s, s->suspects[s->first].rid, &find);
        s->again = false;
        if (rc)
            return rc;
        if (find.kind && !tell(s, &find))
            return scrub_pause(s, 10000) ? -ECANCELED : 0;
        s->first = (s->first + 1) % SUSPECTS_MAX;
        s->count--;
    }
    return 0;
}

/* ---- rounds ---- */

struct batch_ids {
    struct id128 ids[BATCH];
    size_t n;
};

static int visit_id(void *arg, struct id128 rid)
{
    struct batch_ids *b = arg;

    b->ids[b->n++] = rid;
    return b->n == BATCH;
}

static int next_ids(struct scrub *s, struct id128 from, struct batch_ids *b)
{
    b->n = 0;
    int rc = index_reader_begin(s->reader);
    if (rc)
        return rc;
    rc = index_reader_inodes(s->reader, from, visit_id, b);
    index_reader_end(s->reader);
    return rc < 0 ? rc : 0;
}

static struct id128 id_after(struct id128 id)
{
    return id.n == UINT64_MAX ? (struct id128){id.node + 1, 0} : (struct id128){id.node, id.n + 1};
}

struct sums {
    struct scrub *s;
    struct id128 last;
    uint64_t inodes, bytes, step;
};

static int visit_sum(void *arg, struct id128 rid)
{
    struct sums *x = arg;
    struct index_node row;

    x->last = rid;
    int rc = index_reader_node(x->s->reader, rid, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    x->inodes++;
    x->bytes += row.type == NODE_REG ? row.size : 0;
    return ++x->step % 4096 == 0;
}

/* How much there is: in steps, so that no read transaction is open for long. */
static int sum_up(struct scrub *s, struct sums *x)
{
    struct id128 from = {0, 0};

    *x = (struct sums){.s = s};
    for (int more = 1; more > 0;) {
        int rc = index_reader_begin(s->reader);
        if (rc)
            return rc;
        more = index_reader_inodes(s->reader, from, visit_sum, x);
        index_reader_end(s->reader);
        from = id_after(x->last);
        if (more < 0)
            return more;
    }
    return 0;
}

static int begin_round(struct scrub *s)
{
    struct sums x;

    int rc = sum_up(s, &x);
    if (rc)
        return rc;
    pthread_mutex_lock(&s->lock);
    s->round = (struct round){.running = true,
                              .full = s->asked > s->answered,
                              .started_us = node_wall(s->n),
                              .all_inodes = x.inodes,
                              .all_bytes = x.bytes};
    s->asked_before = s->asked;
    s->restart = false;
    pthread_mutex_unlock(&s->lock);
    s->at_end = false;
    s->frontier = (struct id128){0, 0};
    s->count = 0;
    s->next_us = 0;
    save(s);
    return 0;
}

static void end_round(struct scrub *s)
{
    pthread_mutex_lock(&s->lock);
    s->last.started_us = s->round.started_us;
    s->last.ended_us = node_wall(s->n);
    s->last.inodes = s->round.inodes;
    s->last.bytes = s->round.bytes;
    s->answered = s->asked_before;
    s->round.running = false;
    s->round.pos = (struct id128){0, 0};
    pthread_mutex_unlock(&s->lock);
    save(s);
}

/* Some inodes further. -ECANCELED: stopped, or to begin anew. */
static int walk(struct scrub *s)
{
    struct batch_ids b;
    struct scrub_find find;

    if (s->n->npeers && id_cmp(s->round.pos, s->frontier) >= 0 && s->frontier.node != UINT64_MAX) {
        int cut = scrub_compare(s);
        if (cut)
            return cut;
    }
    int rc = next_ids(s, s->round.pos, &b); /* only this thread changes it */
    if (rc)
        return rc;
    s->at_end = b.n == 0;
    for (size_t i = 0; i < b.n && s->count < SUSPECTS_MAX; i++) {
        rc = scrub_inspect(s, b.ids[i], &find);
        if (rc)
            return rc;
        if (find.kind)
            suspect(s, b.ids[i]);
        pthread_mutex_lock(&s->lock);
        s->round.inodes++;
        s->round.pos = id_after(b.ids[i]);
        pthread_mutex_unlock(&s->lock);
        if (scrub_pay(s, INODE_COST))
            return -ECANCELED;
    }
    return 0;
}

static int step(struct scrub *s)
{
    int rc = review(s);
    if (!rc && !s->at_end && s->count < SUSPECTS_MAX)
        return walk(s);
    if (!rc && s->at_end && s->count == 0 && untold(s) == 0)
        end_round(s);
    else if (!rc && scrub_pause(s, 20000))
        rc = -ECANCELED;
    return rc;
}

enum todo { TO_STOP, TO_WAIT, TO_BEGIN, TO_STEP };

static enum todo what_now(struct scrub *s)
{
    uint64_t wall = node_wall(s->n);
    enum todo todo = TO_WAIT;

    pthread_mutex_lock(&s->lock);
    bool asked = s->restart;
    bool settled = asked || s->round.full || node_mono(s->n) - s->n->started_us > FIRST_US;
    bool due = s->last.started_us == 0 || s->last.started_us > wall ||
               wall - s->last.started_us >= s->n->config->scrub_every_s * 1000000ull;
    if (s->stop)
        todo = TO_STOP;
    else if (!s->allowed || !settled)
        todo = TO_WAIT;
    else if (asked || (!s->round.running && due))
        todo = TO_BEGIN;
    else if (s->round.running)
        todo = TO_STEP;
    pthread_mutex_unlock(&s->lock);
    return todo;
}

static void wait_a_while(struct scrub *s)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_mutex_lock(&s->lock);
    if (!s->stop)
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
    pthread_mutex_unlock(&s->lock);
}

static void *scrub_main(void *arg)
{
    struct scrub *s = arg;

    prctl(PR_SET_NAME, "scrub");
    if (setpriority(PRIO_PROCESS, (id_t)gettid(), 19) < 0 ||
        syscall(SYS_ioprio_set, 1, 0, IDLE_CLASS) < 0)
        log_debug("the scrub has the priority of everything else");
    for (;;) {
        int rc = 0;
        switch (what_now(s)) {
        case TO_STOP: return NULL;
        case TO_WAIT: wait_a_while(s); break;
        case TO_BEGIN: rc = begin_round(s); break;
        case TO_STEP: rc = step(s); break;
        }
        if (rc && rc != -ECANCELED) {
            log_warn_code(rc, "the scrub pauses");
            wait_a_while(s);
        }
        if (node_mono(s->n) - s->saved_us > SAVE_US && s->round.running)
            save(s);
    }
}

/* ---- the core thread ---- */

static void scrub_free(struct scrub *s)
{
    index_reader_free(s->reader);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

int scrub_start(struct node *n)
{
    pthread_condattr_t a;

    if (!n->config->scrub_rate)
        return 0;
    struct scrub *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->n = n;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &a);
    pthread_condattr_destroy(&a);
    load(s);
    int rc = index_reader_new(n->index, &s->reader);
    if (!rc)
        rc = -pthread_create(&s->thread, NULL, scrub_main, s);
    if (rc) {
        scrub_free(s);
        return rc;
    }
    pthread_mutex_lock(&n->status_lock);
    n->scrub = s;
    pthread_mutex_unlock(&n->status_lock);
    return 0;
}

void scrub_stop(struct node *n)
{
    struct scrub *s = n->scrub;

    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    save(s);
    pthread_mutex_lock(&n->status_lock);
    n->scrub = NULL;
    pthread_mutex_unlock(&n->status_lock);
    scrub_free(s);
}

void scrub_tick(struct node *n)
{
    struct scrub *s = n->scrub;

    if (!s)
        return;
    scrub_review(n);
    bool allowed = n->state == STATE_READY || n->state == STATE_LAGGING ||
                   n->state == STATE_ISOLATED || n->state == STATE_DRAINING ||
                   n->state == STATE_MAINTENANCE;
    if (n->scan) /* what was changed before is not known yet */
        allowed = false;
    pthread_mutex_lock(&s->lock);
    s->open = n->nrepairs;
    if (allowed != s->allowed)
        pthread_cond_signal(&s->wake);
    s->allowed = allowed;
    pthread_mutex_unlock(&s->lock);
}

void scrub_now(struct node *n)
{
    struct scrub *s = n->scrub;

    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->asked++;
    s->restart = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void scrub_dealt(struct node *n)
{
    struct scrub *s = n->scrub;

    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->dealt++;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void scrub_counted(struct node *n, enum scrub_count what)
{
    struct scrub *s = n->scrub;

    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->counts[what]++;
    pthread_mutex_unlock(&s->lock);
}
