/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Nodes for the tests of this room: a real index, node table and staging area each, in temporary
 * directories, and a core that does no more than merge batches and rename staged files into place.
 * A file's record id is its name.
 */
#ifndef SHIP_HARNESS_H
#define SHIP_HARNESS_H

#include "base/digest.h"
#include "base/io.h"
#include "base/log.h"
#include "ship/receiver.h"
#include "ship/sender.h"
#include "wire/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_SESSIONS 4
#define WAIT_MS 30000

#define ok(e) assert_int_equal((e), 0)

struct session {
    struct node *node;
    struct session *other;
    int fd;
    uint64_t applied; /* of the peer's log */
    struct sender *sender;
    pthread_t rx, tx;
    int rx_result, tx_result;
    bool up;
};

struct node {
    uint64_t id;
    char dir[64];
    bool mounted;
    int rootfd;
    struct index *index;
    struct nodes *nodes;
    struct dirty *dirty;
    struct staging staging;
    pthread_mutex_t lock; /* guards the index's writer and what follows */
    uint64_t seq;
    struct vvec know;
    struct session sessions[MAX_SESSIONS];
    uint64_t got[4]; /* content items, by enum item_data */
    uint64_t names, boundaries, resent, told;
    uint64_t drained; /* how often a receiver waited for what it had handed over */
};

/* Between two sockets: passes frames on, the first `flips` of type `type` with one byte changed at
 * `at` from the end. */
struct middle {
    int a, b;
    uint8_t type;
    unsigned flips;
    uint32_t at;
    pthread_t forth, back;
};

static inline void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static inline void file_name(struct id128 rid, char out[48])
{
    snprintf(out, 48, "%llx-%llx", (unsigned long long)rid.node, (unsigned long long)rid.n);
}

/* ---- nodes ---- */

/* fs_bytes: folder and area on a small file system of their own (of the test's mount namespace); 0:
 * where the temporary directory is. */
static inline void node_open_on(struct node *n, uint64_t id, unsigned fs_bytes)
{
    char state[80], fs[80], folder[96], area[96], size[32], why[256];
    bool fresh, inside;

    memset(n, 0, sizeof *n);
    n->id = id;
    snprintf(n->dir, sizeof n->dir, "/var/tmp/farm-ship-XXXXXX");
    assert_non_null(mkdtemp(n->dir));
    snprintf(state, sizeof state, "%s/state", n->dir);
    snprintf(fs, sizeof fs, "%s/fs", n->dir);
    snprintf(folder, sizeof folder, "%s/folder", fs);
    snprintf(area, sizeof area, "%s/area", fs);
    ok(mkdir(state, 0700));
    ok(mkdir(fs, 0700));
    n->mounted = fs_bytes > 0;
    if (n->mounted) {
        snprintf(size, sizeof size, "size=%u", fs_bytes);
        ok(mount("none", fs, "tmpfs", 0, size));
    }
    ok(mkdir(folder, 0755));
    n->rootfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(n->rootfd >= 0);
    ok(index_open(state, 1ull << 30, &n->index, &fresh));
    ok(nodes_new(n->index, n->rootfd, 1024, 64, &n->nodes));
    nodes_reserve(n->nodes, LID_FIRST, 1u << 20);
    ok(dirty_new(&n->dirty));
    ok(staging_open(folder, n->rootfd, area, &n->staging, &inside, why));
    pthread_mutex_init(&n->lock, NULL);
}

static inline void node_open(struct node *n, uint64_t id)
{
    node_open_on(n, id, 0);
}

static inline void node_close(struct node *n)
{
    char cmd[128], fs[80];

    nodes_free(n->nodes);
    index_close(n->index);
    dirty_free(n->dirty);
    staging_close(&n->staging);
    close(n->rootfd);
    pthread_mutex_destroy(&n->lock);
    snprintf(fs, sizeof fs, "%s/fs", n->dir);
    if (n->mounted)
        ok(umount(fs));
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", n->dir);
    ok(system(cmd));
}

static inline int node_open_file(struct node *n, struct id128 rid, int flags)
{
    char name[48];
    file_name(rid, name);
    return openat(n->rootfd, name, flags | O_CLOEXEC, 0644);
}

/* ---- the core ---- */

static inline void wake_all(struct node *n, const struct session *but)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (n->sessions[i].up && &n->sessions[i] != but)
            sender_wake(n->sessions[i].sender);
}

/* Commit with the meta row, as the real core does. */
static inline int commit(struct node *n)
{
    struct index_meta m;

    memset(&m, 0, sizeof m);
    m.node = n->id;
    m.log_head = index_log_head(n->index);
    m.know = n->know;
    int e = index_put_meta(n->index, &m);
    return e ? e : index_commit(n->index);
}

/* The staged file (staged[0] != 0) takes the inode's place; without one the content is missing. */
static inline int install(struct node *n, struct batch_item *it)
{
    const struct content_rec *c = &it->rec.content;
    struct index_node row = {.rid = c->rid, .type = NODE_REG, .size = c->size};
    char name[48];

    file_name(c->rid, name);
    if (renameat(n->staging.in, it->staged, n->rootfd, name) < 0)
        return -errno;
    it->staged[0] = 0;
    int e = nodes_new_lid(n->nodes, &row.lid);
    row.handle = it->handle;
    if (!e)
        e = index_put_node(n->index, &row, false);
    return e ? e : index_put_leaves(n->index, c->rid, it->leaves, it->nleaves);
}

static inline int apply_content(struct node *n, const struct records *r, struct batch_item *it,
                                struct session *s)
{
    const struct content_rec *c = &it->rec.content;
    struct content_rec ours;
    struct index_node row;

    n->got[it->data]++;
    int e = r->get_content(r->ctx, c->rid, &ours);
    if (!e && head_wins(&ours.h, &c->h))
        return 0;
    bool have = index_get_node(n->index, c->rid, &row) == 0;
    e = r->put_content(r->ctx, c, s->other->node->id);
    if (e || it->data == ITEM_SAME)
        return e;
    if (it->data == ITEM_STAGED)
        return install(n, it);
    if (have) {
        row.flags |= NODE_NODATA;
        e = index_put_node(n->index, &row, false);
    }
    struct msg_want want = {c->rid, c->h.stamp};
    return !e && it->data == ITEM_MISSING ? sender_ask(s->sender, &want) : e;
}

static inline int apply_item(struct node *n, const struct records *r, struct batch_item *it,
                             struct session *s)
{
    int e = 0;

    switch (it->rec.kind) {
    case REC_NAME:
        n->names++;
        e = r->put_name(r->ctx, &it->rec.name, s->other->node->id);
        break;
    case REC_CONTENT: e = apply_content(n, r, it, s); break;
    case REC_ATTR: e = r->put_attr(r->ctx, &it->rec.attr, s->other->node->id); break;
    }
    return e;
}

static inline void ack_all(struct node *n)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (n->sessions[i].up)
            sender_ack(n->sessions[i].sender, n->sessions[i].applied, &n->know);
}

static inline int on_batch(void *arg, struct batch *b)
{
    struct session *s = arg;
    struct node *n = s->node;
    struct records r;
    int e;

    pthread_mutex_lock(&n->lock);
    e = index_begin(n->index);
    index_records(n->index, &r);
    for (size_t i = 0; !e && i < b->n; i++)
        e = apply_item(n, &r, &b->items[i], s);
    n->boundaries += b->boundary;
    n->resent += b->resent;
    if (!e)
        e = commit(n);
    if (!e && !b->resent)
        s->applied = n->told = b->pos;
    if (!e)
        ack_all(n);
    wake_all(n, s);
    pthread_mutex_unlock(&n->lock);
    if (!e)
        batch_free(b, &n->staging);
    return e;
}

static inline int on_ack(void *arg, const struct msg_ack *a)
{
    struct session *s = arg;
    sender_acked(s->sender, a->pos, &a->know);
    return 0;
}

static inline int on_want(void *arg, const struct msg_want *w)
{
    struct session *s = arg;
    return sender_want(s->sender, w->rid, w->stamp);
}

static inline int on_state(void *arg, const struct msg_state *m)
{
    struct session *s = arg;
    pthread_mutex_lock(&s->node->lock);
    s->node->told = m->counter;
    pthread_mutex_unlock(&s->node->lock);
    return 0;
}

static inline int on_sum(void *arg, const struct msg_sum *m)
{
    struct session *s = arg;
    pthread_mutex_lock(&s->node->lock);
    s->node->told = m->token;
    pthread_mutex_unlock(&s->node->lock);
    return 0;
}

/* The meta row first: what a node says it knew at the end of its log is read there. */
static inline int on_know(void *arg, const struct msg_ack *k)
{
    struct session *s = arg;
    struct node *n = s->node;

    pthread_mutex_lock(&n->lock);
    int e = k->pos > s->applied ? FARM_EPROTO : vvec_join(&n->know, &k->know);
    if (!e)
        e = index_begin(n->index);
    if (!e)
        e = commit(n);
    if (!e)
        ack_all(n);
    wake_all(n, s);
    pthread_mutex_unlock(&n->lock);
    return e;
}

static inline int drain(void *arg)
{
    struct node *n = ((struct session *)arg)->node;

    pthread_mutex_lock(&n->lock);
    n->drained++; /* batches are applied as they are handed over */
    pthread_mutex_unlock(&n->lock);
    return 0;
}

/* ---- sessions ---- */

static inline void *rx_main(void *arg)
{
    struct session *s = arg;
    struct receiver_env env = {.index = s->node->index,
                               .nodes = s->node->nodes,
                               .dirty = s->node->dirty,
                               .staging = &s->node->staging,
                               .session = s,
                               .on_batch = on_batch,
                               .on_ack = on_ack,
                               .on_want = on_want,
                               .on_state = on_state,
                               .on_know = on_know,
                               .on_sum = on_sum,
                               .drain = drain};

    s->rx_result = receiver_run(s->fd, &env);
    return NULL;
}

static inline void *tx_main(void *arg)
{
    struct session *s = arg;
    s->tx_result = sender_run(s->sender);
    return NULL;
}

static inline void session_open(struct session *s, struct node *n, struct session *other, int fd,
                                uint64_t from, const struct vvec *know)
{
    struct sender_env env = {n->index, n->nodes, n->dirty, n->id};

    s->node = n;
    s->other = other;
    s->fd = fd;
    s->applied = 0;
    ok(sender_new(&env, fd, other->node ? other->node->id : 0, from, know, &s->sender));
}

static inline struct session *session_slot(struct node *n)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (!n->sessions[i].up && !n->sessions[i].sender)
            return &n->sessions[i];
    fail();
    return NULL;
}

static inline void session_start(struct session *s)
{
    pthread_mutex_lock(&s->node->lock);
    s->up = true;
    pthread_mutex_unlock(&s->node->lock);
    ok(pthread_create(&s->tx, NULL, tx_main, s));
    ok(pthread_create(&s->rx, NULL, rx_main, s));
}

static inline void *middle_forth(void *arg)
{
    struct middle *m = arg;
    void *payload;
    uint8_t type;
    uint32_t len;

    while (receiver_read_frame(m->a, &type, &payload, &len) == 0 && type) {
        if (type == m->type && m->flips && len > m->at) {
            ((uint8_t *)payload)[len - 1 - m->at] ^= 1;
            m->flips--;
        }
        int e = receiver_write_frame(m->b, type, payload, len);
        free(payload);
        if (e)
            break;
    }
    shutdown(m->b, SHUT_WR);
    return NULL;
}

static inline void *middle_back(void *arg)
{
    struct middle *m = arg;
    void *payload;
    uint8_t type;
    uint32_t len;

    while (receiver_read_frame(m->b, &type, &payload, &len) == 0 && type) {
        int e = receiver_write_frame(m->a, type, payload, len);
        free(payload);
        if (e)
            break;
    }
    shutdown(m->a, SHUT_WR);
    return NULL;
}

/* a's and b's session, from these positions in each other's logs. With a middle in between: what it
 * changes goes from a to b. */
static inline void connect_at(struct node *a, struct node *b, uint64_t a_from, uint64_t b_from,
                              struct middle *m)
{
    struct session *sa = session_slot(a), *sb = session_slot(b);
    static const struct vvec nothing;
    int p[2], q[2];

    ok(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    if (m) {
        ok(socketpair(AF_UNIX, SOCK_STREAM, 0, q));
        m->a = p[1];
        m->b = q[1];
        ok(pthread_create(&m->forth, NULL, middle_forth, m));
        ok(pthread_create(&m->back, NULL, middle_back, m));
        p[1] = q[0];
    }
    sa->node = a;
    sb->node = b;
    session_open(sa, a, sb, p[0], a_from, &nothing);
    session_open(sb, b, sa, p[1], b_from, &nothing);
    session_start(sa);
    session_start(sb);
}

static inline void connect_nodes(struct node *a, struct node *b)
{
    connect_at(a, b, 0, 0, NULL);
}

static inline void session_end(struct session *s)
{
    pthread_mutex_lock(&s->node->lock);
    s->up = false;
    pthread_mutex_unlock(&s->node->lock);
    sender_stop(s->sender);
    pthread_join(s->tx, NULL);
    pthread_join(s->rx, NULL);
    ok(s->tx_result);
    sender_free(s->sender);
    s->sender = NULL;
    close(s->fd);
}

static inline void disconnect(struct session *s, struct middle *m)
{
    struct session *o = s->other;

    /* Both directions end before either waits for the other's end. */
    pthread_mutex_lock(&o->node->lock);
    o->up = false;
    pthread_mutex_unlock(&o->node->lock);
    sender_stop(o->sender);
    session_end(s);
    session_end(o);
    if (m) {
        pthread_join(m->forth, NULL);
        pthread_join(m->back, NULL);
        close(m->a);
        close(m->b);
    }
}

/* ---- local changes ---- */

/* One clock for all nodes. */
static inline struct rec_head next_head(struct node *n)
{
    static atomic_ullong clock;
    return (struct rec_head){{n->id, ++n->seq}, atomic_fetch_add(&clock, 1) + 1};
}

static inline void put_name(struct node *n, const struct records *r, struct id128 rid)
{
    struct name_rec name = {.nid = rid, .inode = rid, .parent = RID_ROOT, .alive = true};
    char text[48];

    file_name(rid, text);
    name.name_len = (uint8_t)strlen(text);
    memcpy(name.name, text, name.name_len);
    name.h = next_head(n);
    ok(r->put_name(r->ctx, &name, n->id));
}

static inline void put_row(struct node *n, struct id128 rid, int fd, uint64_t size)
{
    struct index_node row;

    if (index_get_node(n->index, rid, &row) != 0) {
        row = (struct index_node){.rid = rid, .type = NODE_REG};
        ok(handle_of_fd(fd, &row.handle));
        ok(nodes_new_lid(n->nodes, &row.lid));
    }
    row.size = size;
    ok(index_put_node(n->index, &row, false));
}

/* The file as it is becomes a version, which differs from the one before in these ranges. */
static inline void seal_in(struct node *n, const struct records *r, struct id128 rid,
                           const struct range *ranges, uint32_t nr)
{
    struct content_rec c = {.rid = rid, .type = NODE_REG}, was;
    struct stat st;
    int fd = node_open_file(n, rid, O_RDONLY);

    assert_true(fd >= 0);
    ok(fstat(fd, &st));
    c.size = (uint64_t)st.st_size;
    uint64_t nl = digest_leaves(c.size);
    uint8_t *leaves = malloc(nl ? nl * DIGEST_LEN : 1);
    ok(digest_file_leaves(fd, c.size, 0, nl, leaves));
    digest_root(c.size, leaves, nl, c.digest);
    if (r->get_content(r->ctx, rid, &was) == 0)
        c.base = was.h.stamp;
    c.h = next_head(n);
    ok(r->put_content(r->ctx, &c, n->id));
    put_row(n, rid, fd, c.size);
    if (nl > 1)
        ok(index_put_leaves(n->index, rid, leaves, nl));
    if (c.base.node)
        ok(index_journal_put(n->index, rid, c.h.stamp, c.base, ranges, nr));
    free(leaves);
    close(fd);
}

static inline void seal(struct node *n, struct id128 rid, uint64_t off, uint64_t len)
{
    struct range range = {off, len};
    struct records r;

    pthread_mutex_lock(&n->lock);
    ok(index_begin(n->index));
    index_records(n->index, &r);
    seal_in(n, &r, rid, &range, 1);
    ok(vvec_raise(&n->know, n->id, n->seq));
    ok(commit(n));
    wake_all(n, NULL);
    pthread_mutex_unlock(&n->lock);
}

static inline void fill_random(uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        p[i] = (uint8_t)(seed >> 56);
    }
}

/* Random bytes into a file, made when absent; not sealed. */
static inline void scribble(struct node *n, struct id128 rid, uint64_t off, size_t len)
{
    int fd = node_open_file(n, rid, O_RDWR | O_CREAT);
    uint8_t *p = malloc(len ? len : 1);

    assert_true(fd >= 0);
    fill_random(p, len, off + len + rid.n);
    ok(io_pwrite(fd, p, len, off));
    free(p);
    close(fd);
}

static inline void resize(struct node *n, struct id128 rid, uint64_t size)
{
    int fd = node_open_file(n, rid, O_RDWR | O_CREAT);
    ok(ftruncate(fd, (off_t)size));
    close(fd);
}

/* ---- looking ---- */

static inline bool get_content(struct node *n, struct id128 rid, struct content_rec *c,
                               uint64_t *lid)
{
    struct index_reader *r;
    struct index_node row;
    struct record rec;

    ok(index_reader_new(n->index, &r));
    ok(index_reader_begin(r));
    bool have = index_reader_record(r, REC_CONTENT, rid, &rec) == 0 &&
                index_reader_node(r, rid, &row) == 0 && !(row.flags & NODE_NODATA);
    index_reader_end(r);
    index_reader_free(r);
    if (have) {
        *c = rec.content;
        *lid = row.lid;
    }
    return have;
}

/* Do both hold the same version, with its bytes? */
static inline bool same_file(struct node *a, struct node *b, struct id128 rid)
{
    struct content_rec x, y;
    uint8_t root[DIGEST_LEN];
    uint64_t lid;

    if (!get_content(a, rid, &x, &lid) || !get_content(b, rid, &y, &lid) ||
        !stamp_eq(x.h.stamp, y.h.stamp))
        return false;
    int fd = node_open_file(b, rid, O_RDONLY);
    assert_true(fd >= 0);
    struct stat st;
    ok(fstat(fd, &st));
    uint64_t n = digest_leaves(x.size);
    uint8_t *leaves = malloc(n ? n * DIGEST_LEN : 1);
    ok(digest_file_leaves(fd, x.size, 0, n, leaves));
    digest_root(x.size, leaves, n, root);
    free(leaves);
    close(fd);
    return (uint64_t)st.st_size == x.size && memcmp(root, x.digest, DIGEST_LEN) == 0;
}

static inline void wait_same(struct node *a, struct node *b, struct id128 rid)
{
    for (int i = 0; i < WAIT_MS / 5 && !same_file(a, b, rid); i++)
        sleep_ms(5);
    assert_true(same_file(a, b, rid));
}

static inline struct sender_stats stats_of(struct session *s)
{
    struct sender_stats st;
    sender_stats(s->sender, &st);
    return st;
}

/* The committed head of the node's log. */
static inline uint64_t head_of(struct node *n)
{
    pthread_mutex_lock(&n->lock);
    uint64_t head = index_log_head(n->index);
    pthread_mutex_unlock(&n->lock);
    return head;
}

/* Until the peer has acknowledged everything that is in the log now. */
static inline void wait_acked(struct session *s)
{
    uint64_t head = head_of(s->node);
    for (int i = 0; i < WAIT_MS && stats_of(s).acked_pos < head; i++)
        sleep_ms(1);
    assert_true(stats_of(s).acked_pos >= head);
}

static inline uint64_t locked_u64(struct node *n, const uint64_t *p)
{
    pthread_mutex_lock(&n->lock);
    uint64_t v = *p;
    pthread_mutex_unlock(&n->lock);
    return v;
}

#endif
