/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Sessions: one stream to one peer, two threads. The receiver's thread does the handshake and
 * reads; the sender's thread writes. The core thread decides.
 *
 *   rx: HELLO ->  <- HELLO  --IN_HELLO--> core: which position do we want? --> rx: WELCOME ->
 *       <- WELCOME  --IN_WELCOME--> core: makes the sender, starts tx --> rx: receiver_run
 *       ... --IN_DOWN--> core: joins, frees
 */
#include "node/node.h"

#include "base/io.h"
#include "base/log.h"
#include "wire/frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLOCK_TOLERANCE_US (10ll * 1000 * 1000)

struct session {
    struct node *node;
    size_t peer; /* index in node->peers */
    int fd;
    struct msg_hello mine; /* as of the start */
    struct msg_hello hello;
    struct msg_welcome theirs;
    pthread_t rx, tx;
    bool tx_started; /* this and the next three: core thread */
    uint64_t applied, acked, acked_known;
    struct sender *sender;       /* set once, before `ready` */
    struct index_reader *reader; /* the receiving thread's, made when it is needed */
    atomic_int refs;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t change;
    struct msg_welcome ours;
    bool welcomed, ready, closed;
    unsigned pending; /* batches handed over and not applied */

    int code; /* why it ended */
    char text[400];
};

static void session_put(struct session *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    sender_free(s->sender);
    index_reader_free(s->reader);
    pthread_cond_destroy(&s->change);
    pthread_mutex_destroy(&s->lock);
    close(s->fd);
    free(s);
}

static struct peer *peer_of(struct session *s)
{
    return &s->node->peers[s->peer];
}

struct sender *session_sender(struct session *s)
{
    return s->sender;
}

uint64_t session_peer_run(const struct session *s)
{
    return s->hello.run;
}

uint64_t session_node(const struct session *s)
{
    return s->hello.node;
}

const char *session_name(const struct session *s)
{
    return s->node->peers[s->peer].config->name;
}

uint64_t session_applied_pos(const struct session *s)
{
    return s->applied;
}

int session_want(struct session *s, struct id128 rid, struct stamp stamp)
{
    struct msg_want w = {rid, stamp};
    return sender_ask(s->sender, &w);
}

/* ---- the receiver's thread ---- */

static int post(struct session *s, enum inmsg_type type, void *p)
{
    struct inmsg *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    m->type = type;
    m->session = s;
    m->p = p;
    atomic_fetch_add(&s->refs, 1);
    int rc = queue_push(&s->node->inbox, &m->q);
    if (rc) {
        free(m);
        session_put(s);
    }
    return rc;
}

static int on_batch(void *arg, struct batch *b)
{
    struct session *s = arg;

    pthread_mutex_lock(&s->lock);
    s->pending++;
    pthread_mutex_unlock(&s->lock);
    int rc = post(s, IN_BATCH, b);
    if (rc) {
        pthread_mutex_lock(&s->lock);
        s->pending--;
        pthread_mutex_unlock(&s->lock);
    }
    return rc;
}

static int on_ack(void *arg, const struct msg_ack *a)
{
    struct session *s = arg;

    sender_acked(s->sender, a->pos, &a->know);
    struct msg_ack *copy = malloc(sizeof *copy);
    if (!copy)
        return -ENOMEM;
    *copy = *a;
    int rc = post(s, IN_ACK, copy);
    if (rc)
        free(copy);
    return rc;
}

static int on_know(void *arg, const struct msg_ack *k)
{
    struct msg_ack *copy = malloc(sizeof *copy);
    if (!copy)
        return -ENOMEM;
    *copy = *k;
    int rc = post(arg, IN_KNOW, copy);
    if (rc)
        free(copy);
    return rc;
}

static int on_want(void *arg, const struct msg_want *w)
{
    struct session *s = arg;
    int rc = sender_want(s->sender, w->rid, w->stamp);
    return rc == FARM_EFULL ? 0 : rc; /* it is asked for again */
}

static int on_state(void *arg, const struct msg_state *m)
{
    struct session *s = arg;

    struct gossip *g = calloc(1, sizeof *g);
    if (!g)
        return -ENOMEM;
    snprintf(g->name, sizeof g->name, "%s", m->name);
    g->node = m->node;
    g->counter = m->counter;
    size_t len = m->json_len < STATE_MAX ? m->json_len : STATE_MAX;
    memcpy(g->json, m->json, len);
    int rc = post(s, IN_STATE, g);
    if (rc)
        free(g);
    return rc;
}

static int on_sum(void *arg, const struct msg_sum *m)
{
    struct session *s = arg;

    int rc = s->reader ? 0 : index_reader_new(s->node->index, &s->reader);
    return rc ? rc : scrub_sum_heard(s->node, s->peer, s->reader, s->sender, m);
}

static int drain(void *arg)
{
    struct session *s = arg;

    pthread_mutex_lock(&s->lock);
    while (s->pending > 0 && !s->closed)
        pthread_cond_wait(&s->change, &s->lock);
    int rc = s->closed ? FARM_ECLOSED : 0;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int send_msg(struct session *s, uint8_t type, struct buf *b)
{
    int rc = b->err ? b->err : receiver_write_frame(s->fd, type, b->data, (uint32_t)b->len);
    buf_fini(b);
    return rc;
}

static int refuse(struct session *s, int code, const char *text)
{
    struct msg_refuse r = {.code = code};
    struct buf b;

    snprintf(r.text, sizeof r.text, "%s", text);
    buf_init(&b, 4096);
    msg_refuse_put(&b, &r);
    if (send_msg(s, FRAME_REFUSE, &b) < 0)
        log_debug("the refusal did not reach %s", session_name(s));
    snprintf(s->text, sizeof s->text, "%s", text);
    return code;
}

static int expect(struct session *s, uint8_t want, void **payload, uint32_t *len)
{
    struct msg_refuse r;
    uint8_t type;

    int rc = receiver_read_frame(s->fd, &type, payload, len);
    if (rc)
        return rc;
    if (type == want)
        return 0;
    if (type == 0)
        return FARM_ECLOSED;
    if (type == FRAME_REFUSE && msg_refuse_get(*payload, *len, &r) == 0) {
        snprintf(s->text, sizeof s->text, "%s refuses us: %s", session_name(s), r.text);
        rc = r.code < 0 ? r.code : FARM_EPROTO;
    } else {
        rc = FARM_EPROTO;
    }
    free(*payload);
    *payload = NULL;
    return rc;
}

static int check_hello(struct session *s)
{
    const struct config *c = s->node->config;
    char text[400];

    if (s->hello.protocol != PROTOCOL_VERSION) {
        snprintf(text, sizeof text,
                 "protocol version %u here, %u there: install the same release on both",
                 PROTOCOL_VERSION, s->hello.protocol);
        return refuse(s, FARM_EVERSION, text);
    }
    if (s->hello.folder_id != c->folder_id) {
        snprintf(text, sizeof text, "folder %s has id %016llx here, %016llx there", c->folder,
                 (unsigned long long)c->folder_id, (unsigned long long)s->hello.folder_id);
        return refuse(s, FARM_EFOLDER, text);
    }
    if (strcmp(s->hello.name, session_name(s)) != 0) {
        snprintf(text, sizeof text, "the key belongs to %s, but the node calls itself %s",
                 session_name(s), s->hello.name);
        return refuse(s, FARM_EIDENT, text);
    }
    return 0;
}

static int wait_for(struct session *s, const bool *flag)
{
    pthread_mutex_lock(&s->lock);
    while (!*flag && !s->closed)
        pthread_cond_wait(&s->change, &s->lock);
    int rc = *flag ? 0 : FARM_ECLOSED;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int handshake(struct session *s)
{
    struct buf b;
    void *p = NULL;
    uint32_t len;

    buf_init(&b, 8192);
    msg_hello_put(&b, &s->mine);
    int rc = send_msg(s, FRAME_HELLO, &b);
    if (!rc)
        rc = expect(s, FRAME_HELLO, &p, &len);
    if (rc)
        return rc;
    rc = msg_hello_get(p, len, &s->hello);
    free(p);
    if (!rc)
        rc = check_hello(s);
    if (!rc)
        rc = post(s, IN_HELLO, NULL);
    if (!rc)
        rc = wait_for(s, &s->welcomed);
    if (rc)
        return rc;
    buf_init(&b, 8192);
    msg_welcome_put(&b, &s->ours);
    rc = send_msg(s, FRAME_WELCOME, &b);
    if (!rc)
        rc = expect(s, FRAME_WELCOME, &p, &len);
    if (rc)
        return rc;
    rc = msg_welcome_get(p, len, &s->theirs);
    free(p);
    if (!rc)
        rc = post(s, IN_WELCOME, NULL);
    return rc ? rc : wait_for(s, &s->ready);
}

static void *rx_main(void *arg)
{
    struct session *s = arg;
    struct node *n = s->node;

    s->code = handshake(s);
    if (s->code == 0) {
        struct receiver_env env = {.index = n->index,
                                   .nodes = n->nodes,
                                   .dirty = n->dirty,
                                   .staging = n->staging,
                                   .session = s,
                                   .on_batch = on_batch,
                                   .on_ack = on_ack,
                                   .on_want = on_want,
                                   .on_state = on_state,
                                   .on_know = on_know,
                                   .on_sum = on_sum,
                                   .drain = drain};
        s->code = receiver_run(s->fd, &env);
    }
    shutdown(s->fd, SHUT_RDWR);
    if (post(s, IN_DOWN, NULL) < 0)
        log_debug("session with %s ended with the worker", session_name(s));
    return NULL;
}

static void *tx_main(void *arg)
{
    struct session *s = arg;

    int rc = sender_run(s->sender);
    if (rc && rc != FARM_ECLOSED && rc != -EPIPE && rc != -ECONNRESET)
        log_warn_code(rc, "sending to %s", session_name(s));
    shutdown(s->fd, SHUT_RDWR);
    return NULL;
}

/* ---- the core thread ---- */

int session_start(struct node *n, const char *peer, int fd)
{
    size_t i = 0;

    while (i < n->npeers && strcmp(n->peers[i].config->name, peer) != 0)
        i++;
    struct session *s = i < n->npeers ? calloc(1, sizeof *s) : NULL;
    if (!s) {
        close(fd);
        return i < n->npeers ? -ENOMEM : FARM_EIDENT;
    }
    s->node = n;
    s->peer = i;
    s->fd = fd;
    s->mine = (struct msg_hello){.protocol = PROTOCOL_VERSION,
                                 .folder_id = n->config->folder_id,
                                 .node = n->replica.node,
                                 .epoch = n->meta.epoch,
                                 .wall_us = node_wall(n),
                                 .run = identity_run(n),
                                 .former = n->peers[i].former,
                                 .know = n->replica.know,
                                 .gone = n->replica.gone};
    snprintf(s->mine.name, sizeof s->mine.name, "%s", n->config->node);
    snprintf(s->mine.folder, sizeof s->mine.folder, "%s", n->config->folder);
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->change, NULL);
    int rc = pthread_create(&s->rx, NULL, rx_main, s);
    if (rc) {
        session_put(s);
        return -rc;
    }
    n->peers[i].starting = s;
    return 0;
}

static void session_answer(struct session *s, bool *flag)
{
    pthread_mutex_lock(&s->lock);
    *flag = true;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
}

static void session_end(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    if (s->sender)
        sender_stop(s->sender);
    shutdown(s->fd, SHUT_RDWR);
}

static void check_clock(struct session *s)
{
    struct node *n = s->node;
    int64_t ahead = (int64_t)s->hello.wall_us - (int64_t)node_wall(n);
    char name[80];

    snprintf(name, sizeof name, "clock-%s", session_name(s));
    if (ahead > CLOCK_TOLERANCE_US || ahead < -CLOCK_TOLERANCE_US)
        events_raise(n->events, name, "the clock of %s is %lld s %s ours: set both by NTP",
                     session_name(s), (long long)((ahead < 0 ? -ahead : ahead) / 1000000),
                     ahead < 0 ? "behind" : "ahead of");
    else
        events_clear(n->events, name, "the clock of %s agrees with ours", session_name(s));
}

static int on_hello(struct session *s)
{
    struct node *n = s->node;
    struct index_peer p;

    check_clock(s);
    if (s->hello.node == n->replica.node) { /* one is a copy of the other: one of them changes */
        struct index_run now = {.seq = n->replica.next_seq, .pos = n->meta.log_head};
        if (strcmp(s->mine.name, s->hello.name) > 0)
            return identity_renew(n, &now, session_name(s));
        return FARM_ECLOSED;
    }
    int rc = rejoin_hello(n, &s->mine, &s->hello);
    if (!rc)
        rc = txn_begin(n);
    if (rc)
        return rc;
    rc = index_get_peer(n->index, s->hello.node, &p);
    if (rc == -ENOENT || (rc == 0 && p.epoch != s->hello.epoch)) {
        memset(&p, 0, sizeof p);
        p.node = s->hello.node;
        p.epoch = s->hello.epoch;
        rc = 0;
    }
    snprintf(p.name, sizeof p.name, "%s", s->hello.name);
    p.seen_us = node_wall(n);
    if (!rc)
        rc = index_put_peer(n->index, &p);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    rc = txn_commit(n);
    if (rc)
        return rc;
    s->ours.epoch = p.epoch;
    s->ours.pos = p.applied;
    s->ours.know = n->replica.know;
    s->ours.seen = vvec_get(&n->replica.seen, s->hello.node);
    s->ours.run = p.run;
    s->ours.run_seen = p.run_seen;
    s->ours.held = n->rejoin_held;
    session_answer(s, &s->welcomed);
    return 0;
}

static int on_welcome(struct session *s)
{
    struct node *n = s->node;
    struct peer *p = peer_of(s);
    struct index_run fork;
    uint64_t from = 1;

    if (s->mine.node != n->replica.node)
        return FARM_ECLOSED; /* we changed identity meanwhile: dial again */
    if (identity_forked(n, &s->theirs, &fork)) {
        int rc = identity_renew(n, &fork, session_name(s));
        return rc ? rc : FARM_ECLOSED;
    }
    if (s->theirs.epoch == n->meta.epoch)
        from = s->theirs.pos;
    if (from < n->meta.rejoin_pos)
        from = n->meta.rejoin_pos;
    struct sender_env env = {n->index, n->nodes, n->dirty, n->replica.node};
    int rc = sender_new(&env, s->fd, s->hello.node, from, &s->theirs.know, &s->sender);
    if (rc)
        return rc;
    sender_held(s->sender, &s->theirs.held);
    rc = pthread_create(&s->tx, NULL, tx_main, s);
    if (rc)
        return -rc;
    s->tx_started = true;
    if (p->session && p->session != s)
        session_end(p->session);
    p->session = s;
    p->starting = NULL;
    p->node = p->former = s->hello.node;
    p->code = 0;
    p->reason[0] = 0;
    p->acked_pos = from;
    session_answer(s, &s->ready);
    char name[80];
    snprintf(name, sizeof name, "link-%s", session_name(s));
    events_clear(n->events, name, "connected to %s", session_name(s));
    apply_ask(n, s);
    n->gossip_due = true;
    return 0;
}

static void on_down(struct session *s)
{
    struct node *n = s->node;
    struct peer *p = peer_of(s);
    char name[80];

    session_end(s);
    pthread_join(s->rx, NULL);
    if (s->tx_started)
        pthread_join(s->tx, NULL);
    if (p->session == s || p->starting == s) {
        bool was_up = p->session == s;
        if (p->session == s)
            p->session = NULL;
        if (was_up)
            p->away_us = node_mono(n);
        p->starting = NULL;
        p->code = s->code ? s->code : FARM_ECLOSED;
        snprintf(p->reason, sizeof p->reason, "%s", s->text[0] ? s->text : err_text(p->code));
        snprintf(name, sizeof name, "link-%s", session_name(s));
        if (was_up || s->text[0])
            events_raise(n->events, name, "no connection to %s: %s", session_name(s), p->reason);
        n->gossip_due = true;
    }
    session_put(s); /* the list's */
}

void session_applied(struct session *s, uint64_t pos, bool resent)
{
    pthread_mutex_lock(&s->lock);
    s->pending--;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    if (!resent && pos > s->applied)
        s->applied = pos;
}

struct acking {
    struct session *s;
    uint64_t pos;
    struct vvec know;
};

static void ack_now(void *arg)
{
    struct acking *a = arg;

    sender_ack(a->s->sender, a->pos, &a->know);
    session_put(a->s);
    free(a);
}

/* Acknowledged when the kernel has been told, so that whoever waits for it sees what was applied.
 */
void session_ack_all(struct node *n)
{
    for (size_t i = 0; i < n->npeers; i++) {
        struct session *s = n->peers[i].session;
        if (!s)
            continue;
        uint64_t known = 0;
        for (uint16_t k = 0; k < n->replica.know.n; k++)
            if (n->replica.know.e[k].node != n->replica.node) /* ours it has from us */
                known += n->replica.know.e[k].seq;
        if (s->acked == s->applied && s->acked_known == known)
            continue;
        struct acking *a = malloc(sizeof *a);
        if (!a)
            return;
        s->acked = s->applied;
        s->acked_known = known;
        *a = (struct acking){s, s->applied, n->replica.know};
        atomic_fetch_add(&s->refs, 1);
        if (n->mount)
            mount_after_notify(n->mount, ack_now, a);
        else
            ack_now(a);
    }
}

static void on_acked(struct session *s, const struct msg_ack *a)
{
    struct peer *p = peer_of(s);
    if (p->session == s && a->pos > p->acked_pos)
        p->acked_pos = a->pos;
}

/* What came before it on this stream has been applied, or the session would have ended. The meta
 * row follows within a second: what is lost of it in a crash is told again. */
static int on_known(struct node *n, struct session *s, const struct msg_ack *k)
{
    if (peer_of(s)->session != s)
        return 0;
    if (k->pos > s->applied)
        return FARM_EPROTO;
    if (n->meta.rejoin_pos)
        return rejoin_finish(n, &s->hello, &k->know);
    return replica_learn(&n->replica, &k->know);
}

static int batch_in(struct node *n, struct session *s, struct batch *b)
{
    int rc = apply_batch(n, s, b);
    if (rc == -ESTALE) {
        struct index_run now = {.seq = n->replica.next_seq, .pos = n->meta.log_head};
        rc = identity_renew(n, &now, session_name(s));
    } else if (rc == 0)
        events_clear(n->events, "apply", "changes of peers are applied again");
    else
        events_raise(n->events, "apply", "changes of %s cannot be applied: %s; tried again",
                     session_name(s), err_text(rc));
    batch_free(b, n->staging);
    return rc;
}

void session_message(struct node *n, struct inmsg *m)
{
    struct session *s = m->session;
    int rc = 0;

    switch (m->type) {
    case IN_HELLO: rc = on_hello(s); break;
    case IN_WELCOME: rc = on_welcome(s); break;
    case IN_BATCH:
        /* After one that could not be applied those behind it wait too: they come again. */
        if (peer_of(s)->session == s && !s->closed)
            rc = batch_in(n, s, m->p);
        else
            batch_free(m->p, n->staging);
        break;
    case IN_ACK:
        on_acked(s, m->p);
        free(m->p);
        break;
    case IN_KNOW:
        rc = on_known(n, s, m->p);
        free(m->p);
        break;
    case IN_STATE: gossip_heard(n, s, m->p); break;
    case IN_DOWN: on_down(s); break;
    default: break;
    }
    if (rc && m->type != IN_DOWN) {
        if (rc != FARM_ECLOSED)
            snprintf(s->text, sizeof s->text, "%s", err_text(rc));
        session_end(s);
    }
    session_put(s);
    free(m);
}

void session_wake_all(struct node *n)
{
    for (size_t i = 0; i < n->npeers; i++)
        if (n->peers[i].session)
            sender_wake(n->peers[i].session->sender);
}

void session_stop_all(struct node *n)
{
    for (size_t i = 0; i < n->npeers; i++) {
        if (n->peers[i].session)
            session_end(n->peers[i].session);
        if (n->peers[i].starting)
            session_end(n->peers[i].starting);
    }
}
