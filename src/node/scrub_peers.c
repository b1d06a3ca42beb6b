/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The records themselves, between peers. Nodes that know the same must hold the same: range by
 * range of the inodes' ids the scrub's thread sums its records up and asks every connected peer
 * whether it has that sum, too (SUM_ASK). The receiver's thread there answers. An answer counts
 * only when the peer knows all that we knew and none of its records in the range is one that we did
 * not know; a difference, only when it is found three times with pauses between. Then both send all
 * they hold of the range (RECORDS_REPAIR), and the merge decides.
 */
#include "node/scrub_i.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANGE_INODES 256u
#define TRIES 12u
#define SURE 3u     /* differences that make one */
#define HOPELESS 7u /* and after both have sent theirs */
#define ANSWER_US (3ull * 1000 * 1000)
#define LATER_US (300ull * 1000)
#define DIFFERENT_US (700ull * 1000)

/* ---- the scrub's thread: asking ---- */

struct count_ids {
    struct id128 last;
    unsigned n;
};

static int visit_count(void *arg, struct id128 rid)
{
    struct count_ids *c = arg;

    c->last = rid;
    return ++c->n == RANGE_INODES;
}

static int sum_here(struct scrub *s, struct msg_sum *m, bool *fresh)
{
    struct index_sum sum;

    int rc = index_reader_begin(s->reader);
    if (rc)
        return rc;
    rc = index_reader_sum(s->reader, m->first, m->last, NULL, &sum);
    index_reader_end(s->reader);
    if (rc)
        return rc;
    *fresh = sum.fresh;
    m->inodes = sum.inodes;
    m->know = sum.know;
    memcpy(m->digest, sum.digest, sizeof m->digest);
    return 0;
}

static int next_range(struct scrub *s, struct msg_sum *m)
{
    struct count_ids c = {.n = 0};

    int rc = index_reader_begin(s->reader);
    if (rc)
        return rc;
    rc = index_reader_inodes(s->reader, s->frontier, visit_count, &c);
    index_reader_end(s->reader);
    m->first = s->frontier;
    m->last = c.n == RANGE_INODES ? c.last : (struct id128){UINT64_MAX, UINT64_MAX};
    return rc < 0 ? rc : 0;
}

/* The core sends it to the peers in `to`; false: it could not be told. */
static bool say(struct scrub *s, const struct msg_sum *m, uint64_t to)
{
    struct inmsg *in = calloc(1, sizeof *in);
    struct scrub_ask *ask = malloc(sizeof *ask);

    if (in && ask) {
        *ask = (struct scrub_ask){.to = to, .sum = *m};
        in->type = IN_SUM;
        in->p = ask;
        if (queue_try_push(&s->n->inbox, &in->q) == 0)
            return true;
    }
    free(in);
    free(ask);
    return false;
}

/* Of the peers asked: all have answered, or time is up. True: stop, or begin anew. */
static bool await(struct scrub *s, uint64_t token)
{
    uint64_t until = node_mono(s->n) + ANSWER_US;

    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool done = s->said == token && s->awaited == 0;
        pthread_mutex_unlock(&s->lock);
        if (done || node_mono(s->n) > until)
            return false;
        if (scrub_pause(s, 1000))
            return true;
    }
}

struct asked {
    uint64_t open; /* peers that have not said that they are equal */
    unsigned differed[CONFIG_PEERS_MAX];
    uint64_t sent; /* those that were sent our records */
    bool different, later;
};

static void records_event(const struct scrub *s, size_t peer, char out[96])
{
    snprintf(out, 96, "scrub-records-%s", s->n->config->peers[peer].name);
}

static void found_different(struct scrub *s, struct asked *a, size_t i, struct msg_sum *m)
{
    char name[96];

    records_event(s, i, name);
    scrub_counted(s->n, COUNT_DIFFERING);
    events_raise(s->n->events, name,
                 "what is recorded here and on %s differs although both know the same (among %llu "
                 "inodes from %llx.%llu): both send theirs",
                 s->n->config->peers[i].name, (unsigned long long)m->inodes,
                 (unsigned long long)m->first.node, (unsigned long long)m->first.n);
    a->sent |= 1ull << i;
    m->step = SUM_SEND;
    if (!say(s, m, 1ull << i))
        a->sent &= ~(1ull << i);
}

static void found_equal(struct scrub *s, struct asked *a, size_t i)
{
    char name[96];

    a->open &= ~(1ull << i);
    if (!(a->sent >> i & 1))
        return;
    records_event(s, i, name);
    scrub_counted(s->n, COUNT_HEALED);
    events_clear(s->n->events, name, "what is recorded here and on %s is the same again",
                 s->n->config->peers[i].name);
}

static void weigh(struct scrub *s, struct asked *a, struct msg_sum *m)
{
    enum sum_step answers[CONFIG_PEERS_MAX];

    pthread_mutex_lock(&s->lock);
    memcpy(answers, s->answers, sizeof answers);
    pthread_mutex_unlock(&s->lock);
    a->different = a->later = false;
    for (size_t i = 0; i < s->n->npeers; i++) {
        if (!(a->open >> i & 1))
            continue;
        switch (answers[i]) {
        case SUM_EQUAL: found_equal(s, a, i); break;
        case SUM_DIFFERENT:
            a->different = true;
            if (++a->differed[i] == SURE)
                found_different(s, a, i, m);
            if (a->differed[i] == HOPELESS)
                a->open &= ~(1ull << i); /* stays raised */
            break;
        case SUM_LATER: a->later = true; break;
        default: a->open &= ~(1ull << i); break; /* not connected */
        }
    }
}

int scrub_compare(struct scrub *s)
{
    struct asked a = {.open = s->n->npeers < 64 ? (1ull << s->n->npeers) - 1 : UINT64_MAX};
    struct msg_sum m = {.step = SUM_ASK};
    bool fresh = true;

    int rc = next_range(s, &m);
    for (unsigned i = 0; i < TRIES && !rc && a.open; i++) {
        /* What a peer did not know yet it knows soon; if not, there is newer by now. */
        if (i % 2 == 0 || a.different)
            rc = sum_here(s, &m, &fresh);
        m.step = SUM_ASK;
        m.token = ++s->token;
        a.later = true;
        a.different = false;
        if (!rc && !fresh && say(s, &m, a.open)) {
            if (await(s, m.token))
                return -ECANCELED;
            weigh(s, &a, &m);
        }
        if (!rc && a.open && scrub_pause(s, a.different ? DIFFERENT_US : a.later ? LATER_US : 0))
            return -ECANCELED;
    }
    if (!rc)
        s->frontier = m.last;
    return rc;
}

/* ---- the core thread: what the scrub's thread says goes to the peers ---- */

void scrub_say(struct node *n, struct scrub_ask *ask)
{
    struct scrub *s = n->scrub;
    uint64_t said = 0;
    unsigned count = 0;

    if (atomic_load(&n->rejoining))
        ask->to = 0;
    if (s && ask->sum.step == SUM_ASK) { /* before any can answer */
        pthread_mutex_lock(&s->lock);
        memset(s->answers, 0, sizeof s->answers);
        s->said = 0;
        s->asking = ask->sum.token;
        pthread_mutex_unlock(&s->lock);
    }
    for (size_t i = 0; i < n->npeers; i++) {
        struct session *to = n->peers[i].session;
        struct sender *tx = to ? session_sender(to) : NULL;
        if (!(ask->to >> i & 1) || !tx || sender_sum(tx, &ask->sum) < 0)
            continue;
        said |= 1ull << i;
        count++;
        if (ask->sum.step == SUM_SEND && sender_range(tx, ask->sum.first, ask->sum.last) < 0)
            log_debug("records for %s are sent later", session_name(to));
    }
    if (s && ask->sum.step == SUM_ASK) {
        pthread_mutex_lock(&s->lock);
        for (size_t i = 0; i < n->npeers; i++) {
            if (said >> i & 1 && s->answers[i])
                count--; /* it was quick */
            else if (said >> i & 1)
                s->answers[i] = SUM_LATER;
        }
        s->awaited = count;
        s->said = ask->sum.token;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
    }
    free(ask);
}

/* ---- receivers' threads ---- */

/* n->scrub is taken away under status_lock when the worker stops. */
static void heard_answer(struct node *n, size_t peer, const struct msg_sum *m)
{
    pthread_mutex_lock(&n->status_lock);
    struct scrub *s = n->scrub;
    if (s) {
        pthread_mutex_lock(&s->lock);
        if (s->asking == m->token) {
            s->answers[peer] = m->step;
            if (s->said == m->token && s->awaited > 0)
                s->awaited--;
            pthread_cond_signal(&s->wake);
        }
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_unlock(&n->status_lock);
}

/* Does the peer's sum agree with ours? */
static int judge(struct index_reader *r, const struct msg_sum *m, enum sum_step *out)
{
    struct index_sum sum;

    int rc = index_reader_begin(r);
    if (rc)
        return rc;
    rc = index_reader_sum(r, m->first, m->last, &m->know, &sum);
    index_reader_end(r);
    if (rc)
        return rc;
    if (!vvec_includes(&sum.know, &m->know) || sum.fresh)
        *out = SUM_LATER;
    else if (sum.inodes == m->inodes && memcmp(sum.digest, m->digest, sizeof sum.digest) == 0)
        *out = SUM_EQUAL;
    else
        *out = SUM_DIFFERENT;
    return 0;
}

int scrub_sum_heard(struct node *n, size_t peer, struct index_reader *r, struct sender *tx,
                    const struct msg_sum *m)
{
    struct msg_sum answer = *m;

    if (atomic_load(&n->rejoining)) { /* what is here is not to be healed, nor to heal */
        answer.step = SUM_LATER;
        return m->step == SUM_ASK && sender_sum(tx, &answer) == -ENOMEM ? -ENOMEM : 0;
    }
    if (m->step == SUM_SEND) {
        events_note(n->events, "scrub",
                    "%s found that its records differ from those here: both send theirs",
                    n->config->peers[peer].name);
        return sender_range(tx, m->first, m->last) == -ENOMEM ? -ENOMEM : 0;
    }
    if (m->step != SUM_ASK) {
        heard_answer(n, peer, m);
        return 0;
    }
    int rc = judge(r, m, &answer.step);
    if (!rc && sender_sum(tx, &answer) < 0)
        log_debug("a sum of %s is not answered", n->config->peers[peer].name);
    return rc;
}
