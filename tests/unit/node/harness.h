/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A whole worker on a real directory, without FUSE, network and threads: the test does what the
 * mount would do (changes the backing tree and logs the intents) and what a stream would bring
 * (batches of a peer's records, with content in the staging area). The peer is the real core over
 * records in memory. The linker sends calls of other parts here (--wrap, see tests/CMakeLists.txt).
 */
#ifndef HARNESS_H
#define HARNESS_H

#include "node/worker.c" /* the unit: its steps of starting and recovering are static */

#include "base/digest.h"
#include "memrecords.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Not every test needs all of it. */
#pragma GCC diagnostic ignored "-Wunused-function"

#define PEER_ID 0x77u
#define TEXTS_MAX 256u

static struct {
    char dir[64], tree[80], state[80];
    struct config config;
    struct worker_args args;
    struct mount_shared shared;
    struct staging staging;
    struct node n;
    int super[2];
    bool up;
    /* the peer */
    struct memrecords records;
    struct replica peer;
    uint64_t sent; /* of its log */
    struct {
        struct id128 rid;
        char text[64];
    } texts[TEXTS_MAX]; /* what its files hold: the last one counts */
    size_t ntexts;
    int die_after;  /* effects are run up to this one, then the worker is dead; -1: it lives */
    size_t planned; /* effects of the last commit */
} t;

/* ---- what is not there: streams, and a worker that dies between two effects ---- */

uint64_t __wrap_session_node(const struct session *s);
uint64_t __wrap_session_peer_run(const struct session *s);
const char *__wrap_session_name(const struct session *s);
void __wrap_session_applied(struct session *s, uint64_t pos, bool resent);
void __real_effects_run(struct node *n, bool again);
void __wrap_effects_run(struct node *n, bool again);

uint64_t __wrap_session_node(const struct session *s)
{
    (void)s;
    return PEER_ID;
}

uint64_t __wrap_session_peer_run(const struct session *s)
{
    (void)s;
    return 1;
}

const char *__wrap_session_name(const struct session *s)
{
    (void)s;
    return "peer";
}

void __wrap_session_applied(struct session *s, uint64_t pos, bool resent)
{
    (void)s;
    (void)pos;
    (void)resent;
}

void __wrap_effects_run(struct node *n, bool again)
{
    t.planned = n->effects.n;
    if (t.die_after >= 0 && (size_t)t.die_after < n->effects.n)
        n->effects.n = (size_t)t.die_after;
    __real_effects_run(n, again);
    n->effects.n = 0;
}

/* ---- the worker ---- */

static void up(bool restarted)
{
    char why[256];
    bool inside;

    t.args = (struct worker_args){
        .config = &t.config, .shared = &t.shared, .staging = &t.staging, .restarted = restarted};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, t.super), 0);
    t.args.super_fd = t.super[0];
    t.args.rootfd = open(t.tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    t.args.state_fd = open(t.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(t.args.rootfd >= 0 && t.args.state_fd >= 0);
    assert_int_equal(staging_open(t.tree, t.args.rootfd, NULL, &t.staging, &inside, why), 0);
    assert_int_equal(node_init(&t.n, &t.args), 0);
    assert_int_equal(open_rooms(&t.n), 0);
    assert_int_equal(recover(&t.n), 0);
    t.n.serving = true;
    t.up = true;
}

/* The walk over the whole tree after a start. */
static void walk(void)
{
    for (unsigned i = 0; i < 100 && !scan_rests(&t.n); i++)
        assert_int_equal(apply_walk(&t.n), 0);
    assert_true(scan_rests(&t.n));
}

/* Without any of what a worker does in the end: as if it had been killed. */
static void down(void)
{
    struct node *n = &t.n;

    durable_stop(n);
    index_reader_free(n->reader);
    scan_free(n);
    nodes_free(n->nodes);
    index_close(n->index);
    intent_close(n->intents);
    claims_free(n->claims);
    dirty_free(n->dirty);
    events_close(n->events);
    effects_clear(&n->effects);
    seal_done(n);
    struct map_u64 *const maps[] = {&n->to_seal, &n->to_stat, &n->to_touch, &n->to_refresh,
                                    &n->settle,  &n->held,    &n->replaced, &n->leaving};
    for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
        map_u64_fini(maps[i]);
    free(n->seeds);
    free(n->wants);
    free(n->peers);
    staging_close(&t.staging);
    close(t.args.rootfd);
    close(t.args.state_fd);
    close(t.super[0]);
    close(t.super[1]);
    t.up = false;
}

static int setup(void **state)
{
    (void)state;
    log_init("test", LOG_WARN_);
    memset(&t, 0, sizeof t);
    strcpy(t.dir, "/tmp/worker-XXXXXX");
    if (!mkdtemp(t.dir))
        return -1;
    snprintf(t.tree, sizeof t.tree, "%s/www", t.dir);
    snprintf(t.state, sizeof t.state, "%s/state", t.dir);
    if (mkdir(t.tree, 0755) < 0 || mkdir(t.state, 0700) < 0)
        return -1;
    strcpy(t.config.node, "web1");
    strcpy(t.config.folder, "www");
    t.config.folder_id = 1;
    t.config.dir = t.tree;
    t.config.state = t.state;
    t.config.seal_after_ms = 2000;
    t.die_after = -1;
    memrecords_init(&t.records);
    t.peer = (struct replica){.r = &t.records.r, .node = PEER_ID, .next_seq = 1, .next_id = 2};
    up(false);
    /* as the first handshake does */
    struct index_peer p = {.node = PEER_ID, .name = "peer", .epoch = 1};
    assert_int_equal(index_begin(t.n.index), 0);
    assert_int_equal(index_put_peer(t.n.index, &p), 0);
    assert_int_equal(index_commit(t.n.index), 0);
    walk();
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    if (t.up)
        down();
    memrecords_fini(&t.records);
    return nftw(t.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- the peer ---- */

static uint64_t wall(void)
{
    return clock_wall(&clock_system);
}

static const uint8_t *last_of(const char *path, uint8_t *len)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;

    *len = (uint8_t)strlen(name);
    return (const uint8_t *)name;
}

/* What the peer has at a path. */
static struct name_rec peer_name(const char *path)
{
    struct name_rec n = {.inode = RID_ROOT};

    for (const char *p = path; *p;) {
        size_t len = strcspn(p, "/");
        struct id128 nid;

        if (t.records.r.who_is_at(&t.records, n.inode, (const uint8_t *)p, (uint8_t)len, &nid) < 0)
            fail_msg("the peer has nothing at %s", path);
        assert_int_equal(t.records.r.get_name(&t.records, nid, &n), 0);
        p += len + (p[len] == '/');
    }
    return n;
}

static struct id128 peer_parent(const char *path)
{
    char dir[256] = "";
    const char *slash = strrchr(path, '/');

    if (slash)
        memcpy(dir, path, (size_t)(slash - path));
    return peer_name(dir).inode;
}

static void peer_look(void)
{
    size_t n;

    free(memrecords_update(&t.records, &n));
}

static void peer_content(struct id128 rid, enum node_type type, const char *text)
{
    struct content_rec c = {.rid = rid, .type = (uint8_t)type, .mtime_ns = (int64_t)wall() * 1000};

    if (type == NODE_REG) {
        c.size = strlen(text);
        digest_small(text, strlen(text), c.digest);
        assert_true(t.ntexts < TEXTS_MAX);
        t.texts[t.ntexts].rid = rid;
        snprintf(t.texts[t.ntexts++].text, sizeof t.texts[0].text, "%s", text);
    } else if (type == NODE_LNK) {
        c.target = (const uint8_t *)text;
        c.target_len = (uint16_t)strlen(text);
    }
    assert_int_equal(replica_content(&t.peer, wall(), 0, &c), 0);
}

static void peer_chmod(const char *path, uint32_t mode)
{
    struct attr_rec a = {.rid = peer_name(path).inode, .mode = mode};

    assert_int_equal(replica_attr(&t.peer, wall(), 0, &a), 0);
}

static void peer_make(const char *path, enum node_type type, const char *text)
{
    struct attr_rec a = {.rid = replica_new_id(&t.peer), .mode = type == NODE_DIR ? 0755 : 0644};
    struct id128 nid;
    uint8_t len;
    const uint8_t *name = last_of(path, &len);

    peer_content(a.rid, type, text);
    assert_int_equal(replica_attr(&t.peer, wall(), 0, &a), 0);
    assert_int_equal(replica_link(&t.peer, wall(), 0, a.rid, peer_parent(path), name, len, &nid),
                     0);
    peer_look();
}

static void peer_write(const char *path, const char *text)
{
    peer_content(peer_name(path).inode, NODE_REG, text);
    peer_look();
}

static void peer_link(const char *path, const char *to)
{
    struct id128 nid;
    uint8_t len;
    const uint8_t *name = last_of(to, &len);

    assert_int_equal(
        replica_link(&t.peer, wall(), 0, peer_name(path).inode, peer_parent(to), name, len, &nid),
        0);
    peer_look();
}

static void peer_remove(const char *path)
{
    uint8_t len;
    const uint8_t *name = last_of(path, &len);

    assert_int_equal(replica_unlink(&t.peer, wall(), peer_parent(path), name, len), 0);
    peer_look();
}

static void peer_rename(const char *from, const char *to, bool exchange)
{
    uint8_t len, len2;
    const uint8_t *name = last_of(from, &len), *name2 = last_of(to, &len2);

    assert_int_equal(replica_rename(&t.peer, wall(), peer_parent(from), name, len, peer_parent(to),
                                    name2, len2, exchange),
                     0);
    peer_look();
}

/* ---- batches ---- */

static void stage(struct batch_item *it)
{
    const char *text = NULL;
    int fd;

    for (size_t i = 0; i < t.ntexts; i++) {
        if (id_eq(t.texts[i].rid, it->rec.content.rid))
            text = t.texts[i].text;
    }
    assert_non_null(text);
    assert_int_equal(staging_create(t.n.staging, it->staged, &fd), 0);
    assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
    assert_int_equal(handle_of_fd(fd, &it->handle), 0);
    close(fd);
    it->data = ITEM_STAGED;
}

/* All that the peer's log has and the node was not sent yet, in one batch. */
static int deliver(void)
{
    struct batch *b = calloc(1, sizeof *b);

    assert_non_null(b);
    b->items = calloc(t.records.nlog + 1, sizeof *b->items);
    assert_non_null(b->items);
    for (; t.sent < t.records.nlog; t.sent++) {
        struct batch_item *it = &b->items[b->n];

        if (!memrecords_at(&t.records, t.sent + 1, &it->rec) ||
            record_head(&it->rec)->stamp.node != PEER_ID)
            continue;
        b->n++;
        if (it->rec.kind == REC_CONTENT && it->rec.content.type == NODE_REG)
            stage(it);
    }
    b->pos = t.sent;
    b->boundary = true;
    int rc = apply_batch(&t.n, NULL, b);

    batch_free(b, t.n.staging);
    return rc;
}

/* What the node has recorded reaches the peer. */
static void hear(void)
{
    struct index_reader *r;
    struct record rec;
    uint64_t at, source;
    enum merge_result result;
    bool skewed;

    assert_int_equal(index_reader_new(t.n.index, &r), 0);
    assert_int_equal(index_reader_begin(r), 0);
    for (uint64_t pos = 1; index_reader_log(r, pos, &at, &rec, &source) == 0; pos = at + 1) {
        if (record_head(&rec)->stamp.node != PEER_ID)
            assert_int_equal(
                replica_merge(&t.peer, wall(), &rec, t.n.replica.node, &result, &skewed), 0);
    }
    index_reader_end(r);
    index_reader_free(r);
    peer_look();
}

/* ---- the mount's part ---- */

static const char *full(const char *path)
{
    static char out[4][512];
    static unsigned turn;
    char *p = out[turn++ % 4];

    snprintf(p, sizeof out[0], "%s/%s", t.tree, path);
    return p;
}

static uint64_t lid_of_path(const char *path)
{
    struct handle h;
    struct node_ref ref;

    if (!*path)
        return LID_ROOT;
    assert_int_equal(handle_of_name(AT_FDCWD, full(path), &h), 0);
    assert_int_equal(nodes_find(t.n.nodes, &h, &ref), 0);
    return ref.lid;
}

static uint64_t lid_of_parent(const char *path)
{
    char dir[256] = "";
    const char *slash = strrchr(path, '/');

    if (slash)
        memcpy(dir, path, (size_t)(slash - path));
    return lid_of_path(dir);
}

static struct intent intent_at(enum intent_op op, const char *path)
{
    struct intent in = {.op = (uint16_t)op, .wall_us = wall(), .parent = lid_of_parent(path)};
    const uint8_t *name = last_of(path, &in.name1_len);

    memcpy(in.name1, name, in.name1_len);
    return in;
}

/* Creates it and says so; the intent's reference when it is to stay open. */
static uint64_t local_make(const char *path, mode_t mode, bool leave_open)
{
    struct intent in = intent_at(INTENT_CREATE, path);
    struct node_ref ref;
    struct stat st;
    uint64_t mark;

    assert_int_equal(nodes_new_lid(t.n.nodes, &in.lid), 0);
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    assert_int_equal(S_ISDIR(mode) ? mkdir(full(path), mode & 07777) : mknod(full(path), mode, 0),
                     0);
    if (leave_open)
        return mark;
    assert_int_equal(lstat(full(path), &st), 0);
    in.mode = st.st_mode;
    assert_int_equal(handle_of_name(AT_FDCWD, full(path), &in.handle), 0);
    assert_int_equal(
        nodes_add(t.n.nodes, in.lid, S_ISDIR(mode) ? NODE_DIR : NODE_REG, &in.handle, &ref), 0);
    intent_complete(t.n.intents, mark, &in);
    return 0;
}

static void intent_of(enum intent_op op, uint64_t lid)
{
    struct intent in = {.op = (uint16_t)op, .wall_us = wall(), .lid = lid};

    assert_int_equal(intent_add(t.n.intents, &in), 0);
}

/* Writes, and closes or not. */
static void local_write(const char *path, const char *text, bool closed)
{
    uint64_t lid = lid_of_path(path);
    bool first;
    int fd = open(full(path), O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(dirty_begin(t.n.dirty, lid, &first), 0);
    if (first)
        intent_of(INTENT_DIRTY, lid);
    assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
    dirty_end(t.n.dirty, lid, 0, 4096);
    close(fd);
    if (closed)
        intent_of(INTENT_CLOSE, lid);
}

static void local_file(const char *path, const char *text)
{
    local_make(path, S_IFREG | 0644, false);
    local_write(path, text, true);
}

static void local_link(const char *path, const char *to)
{
    struct intent in = intent_at(INTENT_LINK, to);
    uint64_t mark;

    in.lid = lid_of_path(path);
    assert_int_equal(handle_of_name(AT_FDCWD, full(path), &in.handle), 0);
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    assert_int_equal(link(full(path), full(to)), 0);
    intent_complete(t.n.intents, mark, &in);
}

static void local_rename(const char *from, const char *to, unsigned flags)
{
    struct intent in = intent_at(INTENT_RENAME, from);
    const uint8_t *name = last_of(to, &in.name2_len);
    struct stat st;
    uint64_t mark;

    memcpy(in.name2, name, in.name2_len);
    in.parent2 = lid_of_parent(to);
    in.lid = lid_of_path(from);
    in.lid2 = lstat(full(to), &st) == 0 ? lid_of_path(to) : 0;
    in.flags = flags & RENAME_EXCHANGE ? INTENT_F_EXCHANGE : 0;
    assert_int_equal(handle_of_name(AT_FDCWD, full(from), &in.handle), 0);
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    assert_int_equal(renameat2(AT_FDCWD, full(from), AT_FDCWD, full(to), flags), 0);
    intent_complete(t.n.intents, mark, &in);
}

static void local_remove(const char *path)
{
    struct stat st;
    uint64_t mark;

    assert_int_equal(lstat(full(path), &st), 0);
    struct intent in = intent_at(S_ISDIR(st.st_mode) ? INTENT_RMDIR : INTENT_UNLINK, path);

    in.lid = lid_of_path(path);
    assert_int_equal(intent_begin(t.n.intents, &in, &mark), 0);
    assert_int_equal(remove(full(path)), 0);
    intent_complete(t.n.intents, mark, &in);
}

/* ---- what is there ---- */

struct lines {
    char text[4096];
    size_t n, entries;
};

/* Each entry: in the records it is at this place, and the index knows it by its handle. */
static void check_entry(struct id128 dir, const char *path, const char *name, struct id128 *rid)
{
    struct index_node row;
    struct name_rec rec;
    struct id128 nid;
    struct handle h;
    struct stat st;

    assert_int_equal(lstat(full(path), &st), 0);
    assert_int_equal(handle_of_name(AT_FDCWD, full(path), &h), 0);
    if (t.n.records.who_is_at(t.n.records.ctx, dir, (const uint8_t *)name, (uint8_t)strlen(name),
                              &nid) < 0)
        fail_msg("%s is in the tree and not in the records", path);
    assert_int_equal(t.n.records.get_name(t.n.records.ctx, nid, &rec), 0);
    if (index_get_node_by_handle(t.n.index, &h, &row) < 0)
        fail_msg("%s is not known by its handle", path);
    assert_true(id_eq(row.rid, rec.inode));
    if (S_ISREG(st.st_mode) && !(row.flags & NODE_HELD)) {
        struct content_rec c;

        assert_int_equal(t.n.records.get_content(t.n.records.ctx, row.rid, &c), 0);
        assert_int_equal(c.size, st.st_size);
        assert_int_equal(row.size, st.st_size);
    }
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        struct content_rec c;
        struct attr_rec a;

        assert_int_equal(t.n.records.get_content(t.n.records.ctx, row.rid, &c), 0);
        if (!(row.flags & NODE_HELD) && t.n.records.get_attr(t.n.records.ctx, row.rid, &a) == 0 &&
            record_mtime(&c, &a) != st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec)
            fail_msg("%s has another time than its records", path);
    }
    *rid = row.rid;
}

static void list(struct lines *l, const char *path, struct id128 dir)
{
    struct dirent **e;
    int n = scandir(full(path), &e, NULL, alphasort);

    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        char below[256], text[256] = "";
        struct id128 rid;
        struct stat st;

        if (strcmp(e[i]->d_name, ".") == 0 || strcmp(e[i]->d_name, "..") == 0)
            goto next;
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", e[i]->d_name);
        assert_int_equal(lstat(full(below), &st), 0);
        check_entry(dir, below, e[i]->d_name, &rid);
        l->entries++;
        if (S_ISLNK(st.st_mode)) {
            assert_true(readlink(full(below), text, sizeof text - 1) >= 0);
        } else if (S_ISREG(st.st_mode)) {
            int fd = open(full(below), O_RDONLY | O_CLOEXEC);

            assert_true(fd >= 0 && read(fd, text, sizeof text - 1) >= 0);
            close(fd);
        }
        l->n += (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s%s%s", l->n ? " " : "",
                                 below,
                                 S_ISDIR(st.st_mode)   ? "/"
                                 : S_ISLNK(st.st_mode) ? "@"
                                                       : "=",
                                 text);
        if (S_ISDIR(st.st_mode))
            list(l, below, rid);
    next:
        free(e[i]);
    }
    free(e);
}

/* The tree is this ("d/ d/f=text l@target", in order), and the index says the same. */
static void check_is(const char *tree)
{
    struct lines l = {.n = 0};
    uint64_t places;

    assert_int_equal(index_begin(t.n.index), 0);
    list(&l, "", RID_ROOT);
    assert_int_equal(index_count_places(t.n.index, &places), 0);
    index_abort(t.n.index);
    assert_string_equal(l.text, tree);
    assert_int_equal(places, l.entries);
}

static bool same_inode(const char *a, const char *b)
{
    struct stat sa, sb;

    assert_int_equal(lstat(full(a), &sa), 0);
    assert_int_equal(lstat(full(b), &sb), 0);
    return sa.st_ino == sb.st_ino;
}

/* How many files are in a directory of the staging area. */
static unsigned count_in(const char *sub)
{
    char path[128];
    unsigned n = 0;

    snprintf(path, sizeof path, "%s/.farmfs.www/%s", t.dir, sub);
    DIR *d = opendir(path);

    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

#endif
