/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The worker: sets the rooms up, runs the core thread's loop, stops in order. */
#include "node/worker.h"

#include "base/io.h"
#include "base/log.h"
#include "link/link.h"
#include "node/node.h"
#include "store/attrs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODES_CACHED 65536u
#define NODES_FDS 1024u
#define TICK_MS 100
#define COMMIT_GAP_MAX_US 2000u
#define REVIEW_EVERY_US 1000000u
#define SUSPECT_EVERY_US 60000000u

enum { WATCH_INTENTS = 1, WATCH_INBOX, WATCH_SUPER, WATCH_LINK, WATCH_ENDED };

/* ---- setting up ---- */

static int fail(struct node *n, const char *what, int code)
{
    struct super_msg m = {.type = WORKER_FAILED};

    snprintf(m.text, sizeof m.text, "%s: %s", what, err_text(code));
    log_error("%s", m.text);
    if (send(n->args->super_fd, &m, sizeof m, MSG_NOSIGNAL) < 0)
        log_debug("the supervisor is gone");
    return code;
}

/* An index that cannot be used is set aside; the tree and the peers have what it held. */
static int set_aside(struct node *n, const char *what)
{
    events_note(n->events, "index",
                "the index is damaged (%s): it is set aside as %s/index.mdb.damaged, and made anew "
                "from the folder and the peers",
                what, n->config->state);
    if (renameat(n->args->state_fd, "index.mdb", n->args->state_fd, "index.mdb.damaged") < 0)
        return -errno;
    (void)!unlinkat(n->args->state_fd, "index.mdb-lock", 0);
    return 0;
}

static int open_index(struct node *n, bool *fresh)
{
    struct index_verified v;
    int rc = 0;

    /* The last worker died of it, perhaps: then it is looked at from outside first. */
    if (n->args->crashed)
        rc = index_verify(NULL, n->config->state, NULL, 0, &v);
    if (rc == FARM_ECORRUPT)
        rc = set_aside(n, v.what);
    if (rc && rc != -ENOENT)
        return rc;
    rc = index_open(n->config->state, INDEX_MAP_SIZE, &n->index, fresh);
    if (rc != FARM_ECORRUPT)
        return rc;
    if (index_verify(NULL, n->config->state, NULL, 0, &v) != FARM_ECORRUPT)
        snprintf(v.what, sizeof v.what, "its rows are of another format");
    rc = set_aside(n, v.what);
    return rc ? rc : index_open(n->config->state, INDEX_MAP_SIZE, &n->index, fresh);
}

static int64_t ns_of(struct timespec t)
{
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* The root has no name, but it has attributes and a time like any directory. */
static int make_root(struct node *n)
{
    struct index_node row = {.rid = RID_ROOT, .lid = LID_ROOT, .type = NODE_DIR};
    struct content_rec c = {.rid = RID_ROOT, .type = NODE_DIR};
    struct attr_rec a;
    struct stat st;
    struct buf x;

    if (fstat(n->args->rootfd, &st) < 0)
        return -errno;
    int rc = handle_of_fd(n->args->rootfd, &row.handle);
    row.mtime_ns = c.mtime_ns = ns_of(st.st_mtim);
    row.ctime_ns = ns_of(st.st_ctim);
    if (!rc)
        rc = index_put_node(n->index, &row, false);
    /* As old as it looks: an empty folder that joins does not impose its attributes. */
    uint64_t at = st.st_mtim.tv_sec > 0 ? hlc_from_us((uint64_t)(c.mtime_ns / 1000)) : 1;
    if (!rc)
        rc = replica_content(&n->replica, node_wall(n), at, &c);
    memset(&a, 0, sizeof a);
    a.rid = RID_ROOT;
    buf_init(&x, XATTRS_LEN_MAX + 4096);
    if (!rc)
        rc = attrs_read(n->args->rootfd, &st, &x, &a);
    if (!rc)
        rc = replica_attr(&n->replica, node_wall(n), at, &a);
    buf_fini(&x);
    return rc;
}

/* A worker that follows another under the same mount lives in the same boot, whatever became of the
 * mark. */
static bool restored(const struct node *n)
{
    return index_found(n->index) == INDEX_RESTORED && !n->args->restarted;
}

/* The index is new, and the state directory is not. */
static bool is_lost(const struct node *n)
{
    return faccessat(n->args->state_fd, "intents", F_OK, 0) == 0;
}

/* After a stop of the machine peers may know of records that are lost here, and numbers given out
 * since the last mark must not be given to others: we go on under a new id, with a new log. What
 * was ours they send us like anybody else's. */
static void become_new(struct node *n)
{
    io_random(&n->meta.node, sizeof n->meta.node);
    n->meta.node |= 1;
    io_random(&n->meta.epoch, sizeof n->meta.epoch);
    n->meta.next_seq = 1;
    n->meta.next_id = 2;
    n->meta.nruns = 0;
    n->meta.next_lid += LIDS_BLOCK;
    events_note(
        n->events, "recovery",
        "the machine stopped without notice: the index is as it was last synced, the folder "
        "is compared with it, and this node goes on as %016llx",
        (unsigned long long)n->meta.node);
}

static void judge_stop(struct node *n, bool fresh)
{
    enum index_found found = index_found(n->index);

    n->unclean = !fresh && (found != INDEX_CLEAN || !n->meta.clean);
    n->meta.clean = 0;
    if (n->unclean && !restored(n) && !n->args->restarted)
        log_warn("the last run did not stop in order");
}

static int first_meta(struct node *n)
{
    if (is_lost(n)) {
        n->meta.scanned = SCAN_REBUILD;
        events_note(n->events, "index",
                    "there is no index: it is made anew from the folder and the peers; this node "
                    "is a new one to them");
    }
    n->meta.folder_id = n->config->folder_id;
    io_random(&n->meta.node, sizeof n->meta.node);
    n->meta.node |= 1;
    io_random(&n->meta.epoch, sizeof n->meta.epoch);
    n->meta.next_seq = 1;
    n->meta.next_id = 2;
    n->meta.next_lid = LID_FIRST;
    n->meta.log_head = 1;
    n->meta.intents = 1;
    return 0;
}

static void replica_from_meta(struct node *n)
{
    n->replica = (struct replica){.r = &n->records,
                                  .node = n->meta.node,
                                  .next_seq = n->meta.next_seq,
                                  .next_id = n->meta.next_id,
                                  .clock.last = n->meta.hlc,
                                  .know = n->meta.know,
                                  .seen = n->meta.seen,
                                  .gone = n->meta.gone};
}

/* The next worker opens the index again, and requests under way are sent to it: nobody gets an
 * error for what LMDB does not forgive. */
static void start_anew(void)
{
    log_error("the index could not be written: the worker starts anew");
    _exit(1);
}

static int load_meta(struct node *n, bool fresh)
{
    int rc = index_begin(n->index);
    if (rc)
        return rc;
    rc = fresh ? first_meta(n) : index_get_meta(n->index, &n->meta);
    if (!rc && n->meta.folder_id != n->config->folder_id)
        rc = FARM_EFOLDER;
    n->restored = restored(n);
    if (!rc && n->restored)
        become_new(n);
    n->adopting = n->npeers > 0 && (n->restored || (n->meta.scanned & SCAN_REBUILD));
    replica_from_meta(n);
    index_set_log_head(n->index, n->meta.log_head);
    index_records(n->index, &n->records);
    index_watch_names(n->index, node_seed, n);
    index_on_panic(n->index, start_anew);
    if (!rc && fresh)
        rc = make_root(n);
    if (!rc)
        rc = identity_start(n);
    n->meta.node = n->replica.node;
    n->meta.next_seq = n->replica.next_seq;
    n->meta.next_id = n->replica.next_id;
    n->meta.know = n->replica.know;
    n->meta.seen = n->replica.seen;
    n->meta.hlc = n->replica.clock.last;
    n->meta.log_head = index_log_head(n->index);
    n->nseeds = 0;
    judge_stop(n, fresh);
    uint64_t from = n->meta.next_lid;
    n->meta.next_lid += LIDS_BLOCK;
    if (!rc)
        rc = index_put_meta(n->index, &n->meta);
    if (rc) {
        index_abort(n->index);
        return rc;
    }
    rc = index_commit(n->index);
    if (!rc)
        rc = nodes_new(n->index, n->args->rootfd, NODES_CACHED, NODES_FDS, &n->nodes);
    if (!rc)
        nodes_reserve(n->nodes, from, n->meta.next_lid);
    return rc;
}

static int intents_anew(struct node *n, int why)
{
    events_note(n->events, "intents",
                "the intent log is damaged (%s): it is made anew, and the folder is compared with "
                "the index instead",
                err_text(why));
    intent_close(n->intents);
    n->intents = NULL;
    n->compare = true;
    return intent_open(n->config->state, INTENTS_SIZE, true, &n->intents);
}

/* Intents are a matter of one boot and one index: after a stop of the machine, and for an index
 * that was made anew, they say nothing. */
static int open_intents(struct node *n, bool fresh)
{
    bool anew = fresh || restored(n);

    int rc = intent_open(n->config->state, INTENTS_SIZE, anew, &n->intents);
    return rc == FARM_ECORRUPT || rc == FARM_EVERSION ? intents_anew(n, rc) : rc;
}

static int open_rooms(struct node *n)
{
    bool fresh;

    int rc = events_open(n->args->state_fd, &n->events);
    if (rc)
        return fail(n, "the state directory", rc);
    rc = open_index(n, &fresh);
    if (rc)
        return fail(n, "the index in the state directory", rc);
    if (fresh && n->args->restarted) {
        log_warn("the numbers of files that the kernel knows are gone with the index: the folder "
                 "is mounted anew");
        _exit(WORKER_EXIT_ANEW);
    }
    rc = load_meta(n, fresh);
    if (rc == FARM_EFOLDER)
        return fail(n, "the state directory belongs to another folder", rc);
    if (rc)
        return fail(n, "the index in the state directory", rc);
    rc = open_intents(n, fresh);
    if (rc)
        return fail(n, "the intent log in the state directory", rc);
    rc = claims_new(&n->claims);
    if (!rc)
        rc = dirty_new(&n->dirty);
    if (!rc)
        rc = queue_init(&n->inbox, INBOX_MAX);
    if (!rc)
        rc = index_reader_new(n->index, &n->reader);
    if (!rc)
        rc = index_reader_new(n->index, &n->files_reader);
    if (!rc)
        rc = durable_start(n);
    return rc ? fail(n, "starting", rc) : 0;
}

/* ---- what a former worker left ---- */

static int visit_todo(void *arg, struct id128 rid, uint8_t flags)
{
    struct node *n = arg;
    struct index_node row;
    struct content_rec c;

    if ((flags & TODO_DATA) && n->records.get_content(n->records.ctx, rid, &c) == 0) {
        struct want *v = realloc(n->wants, (n->nwants + 1) * sizeof *v);
        if (!v)
            return -ENOMEM;
        n->wants = v;
        v[n->nwants++] = (struct want){.rid = rid, .stamp = c.h.stamp};
    }
    if (index_get_node(n->index, rid, &row) < 0)
        return 0;
    int rc = 0;
    if (flags & TODO_HELD)
        rc = map_u64_set(&n->held, row.lid, (void *)(uintptr_t)(node_mono(n) | 1), NULL);
    if (!rc && (flags & TODO_DIRTY)) {
        rc = dirty_all(n->dirty, row.lid);
        /* One still open under the live mount is sealed when it is closed or idle. */
        if (!rc && !(flags & TODO_HELD) && !n->args->restarted)
            rc = map_u64_set(&n->to_seal, row.lid, n, NULL);
    }
    return rc;
}

static int visit_old_orphan(void *arg, uint64_t lid)
{
    int rc = index_del_orphan(((struct node *)arg)->index, lid);
    return rc == -ENOENT ? 0 : rc;
}

static int recover_intents(struct node *n)
{
    int rc = intent_recover_with(n->intents, n->meta.intents, local_learn, local_judge, n);
    if (rc != FARM_ECORRUPT)
        return rc;
    rc = intents_anew(n, rc);
    if (!rc && !n->scan)
        rc = scan_new(n);
    return rc ? rc : intent_recover_with(n->intents, n->meta.intents, local_learn, local_judge, n);
}

/* An orphan that another content took the place of: its inode has a file still. */
static int visit_replaced(void *arg, uint64_t lid)
{
    struct node *n = arg;
    struct index_node row;
    struct handle h;
    struct id128 rid;
    uint8_t type;
    bool orphan;

    int rc = index_reader_by_lid(n->reader, lid, &h, &type, &rid, &orphan);
    if (!rc && orphan && index_reader_node(n->reader, rid, &row) == 0)
        rc = map_u64_set(&n->replaced, lid, n, NULL);
    return rc == -ENOENT ? 0 : rc;
}

/* Under a live mount they may still be written to. */
static int know_replaced(struct node *n)
{
    if (!n->args->restarted)
        return 0;
    int rc = index_reader_begin(n->reader);
    if (rc)
        return rc;
    rc = staging_each_orphan(n->staging, visit_replaced, n);
    index_reader_end(n->reader);
    return rc;
}

static bool is_replaced(void *arg, uint64_t lid)
{
    return map_u64_get(&((struct node *)arg)->replaced, lid) != NULL;
}

static int recover(struct node *n)
{
    int rc = n->meta.scanned & SCAN_REBUILD ? 0 : scan_new(n);
    if (!rc)
        rc = apply_pending_load(n);
    if (!rc)
        rc = keep_open(n);
    if (!rc)
        apply_pending_run(n);
    if (!rc) /* what lies in in/ belongs to nobody now */
        rc = staging_clean(n->staging, false);
    if (!rc)
        rc = know_replaced(n);
    if (!rc)
        rc = recover_intents(n);
    if (!rc)
        rc = txn_begin(n);
    if (rc)
        return rc;
    rc = scan_due(n);
    if (!rc)
        rc = index_each_todo(n->index, visit_todo, n);
    if (!rc && !n->args->restarted)
        rc = staging_each_orphan(n->staging, visit_old_orphan, n);
    if (rc) {
        txn_abort(n);
        return rc;
    }
    rc = txn_commit(n);
    while (!rc && intent_tail(n->intents) < intent_head(n->intents))
        rc = apply_local(n);
    if (!rc && !n->args->restarted)
        rc = staging_clean(n->staging, true);
    /* Nothing is open any more after a cold start: what was held back is announced. */
    size_t it = 0;
    uint64_t lid;
    while (!rc && !n->args->restarted && map_u64_next(&n->held, &it, &lid))
        rc = map_u64_set(&n->to_seal, lid, n, NULL);
    return rc ? rc : apply_local(n);
}

/* ---- serving ---- */

static int watch(struct node *n, int fd, int what)
{
    /* Intents may be left for later on purpose (commit_next_us): told once. */
    struct epoll_event e = {.events = EPOLLIN | (what == WATCH_INTENTS ? EPOLLET : 0),
                            .data.u32 = (uint32_t)what};
    return epoll_ctl(n->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int tell_super(struct node *n, enum super_type type)
{
    struct super_msg m = {.type = type};
    return send(n->args->super_fd, &m, sizeof m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int listen_all(struct node *n)
{
    n->epoll = epoll_create1(EPOLL_CLOEXEC);
    int rc = n->epoll < 0 ? -errno : watch(n, intent_eventfd(n->intents), WATCH_INTENTS);
    if (!rc)
        rc = watch(n, n->inbox.eventfd, WATCH_INBOX);
    return rc ? rc : watch(n, n->args->super_fd, WATCH_SUPER);
}

static int serve(struct node *n)
{
    struct mount_env env = {.rootfd = n->args->rootfd,
                            .fuse_fd = n->args->fuse_fd,
                            .fanotify_fd = n->args->fanotify_fd,
                            .shared = n->args->shared,
                            .nodes = n->nodes,
                            .intents = n->intents,
                            .claims = n->claims,
                            .dirty = n->dirty,
                            .staging = n->staging,
                            .hide = n->args->hide,
                            .arg = n,
                            .replaced = is_replaced,
                            .keep_orphans = keep_history(n)};

    if (n->config->ack != ACK_LOCAL)
        env.acknowledged = barrier_sync;
    int rc = mount_start(&env, &n->mount);
    if (rc)
        return fail(n, "serving the mount", rc);
    telling_start(n);
    rc = watch(n, mount_ended_fd(n->mount), WATCH_ENDED);
    if (!rc)
        rc = tell_super(n, WORKER_SERVING);
    n->serving = rc == 0;
    return rc;
}

static void on_grow(void *arg)
{
    struct node *n = arg;
    if (n->control)
        control_grown(n->control, "events");
}

static void super_message(struct node *n)
{
    struct super_msg m;
    size_t got;
    int fd = -1;

    int rc = io_recv_fd(n->args->super_fd, &m, sizeof m, &got, &fd);
    if (rc < 0 || got != sizeof m) {
        n->stopping = true; /* the supervisor is gone */
        return;
    }
    switch (m.type) {
    case SUPER_CONTROL:
        status_update(n); /* there is something to be read from the first moment */
        n->provider = control_files;
        n->provider.ctx = n;
        rc = control_start(n->args->control_fuse_fd, n->args->shared, &n->provider, &n->control);
        if (rc)
            log_error_code(rc, "the control files cannot be served");
        events_on_grow(n->events, on_grow, n);
        break;
    case SUPER_LINK:
        if (n->link_fd >= 0)
            close(n->link_fd);
        n->link_fd = fd;
        rc = watch(n, fd, WATCH_LINK);
        if (rc)
            log_error_code(rc, "the link process cannot be listened to");
        fd = -1;
        break;
    case SUPER_STOP: n->stopping = true; break;
    default: break;
    }
    if (fd >= 0)
        close(fd);
}

/* Something in the index did not have its check: is it more than one row that nobody could read? A
 * new worker then sets the index aside. */
static void suspect_index(struct node *n)
{
    struct index_verified v;
    uint64_t now = node_mono(n);

    if (n->suspected_us && now - n->suspected_us < SUSPECT_EVERY_US)
        return;
    n->suspected_us = now;
    if (index_verify(n->index, NULL, NULL, 0, &v) != FARM_ECORRUPT)
        return;
    log_error("the index is damaged: %s", v.what);
    _exit(WORKER_EXIT_DAMAGED);
}

/* The index could not be written: nothing is forgotten (intents and peers keep it), it is tried
 * again. */
static void local_round(struct node *n)
{
    uint64_t now = node_mono(n);

    if (n->stalled_until_us > now)
        return;
    if (n->commit_next_us > now)
        return;
    bool seals = n->to_seal.n > 0 && (n->retry_seal_us == 0 || now >= n->retry_seal_us);
    if (intent_tail(n->intents) >= intent_head(n->intents) && !seals && n->nseeds == 0)
        return;
    int rc = apply_local(n);
    /* Under load transactions grow instead of following each other: half the time is left to
     * others. */
    uint64_t took = node_mono(n) - now;
    n->commit_next_us = now + took + (took < COMMIT_GAP_MAX_US ? took : COMMIT_GAP_MAX_US);
    if (rc == 0) {
        n->stalled_until_us = 0;
        events_clear(n->events, "index", "the index is written again");
        return;
    }
    n->stalled_until_us = now + 250000;
    events_raise(n->events, "index",
                 "the index cannot be written: %s; changes wait in the intent log", err_text(rc));
}

/* A slice of the walk. */
static void walk_round(struct node *n)
{
    if (n->serving && n->adopting && !n->scan && rebuild_heard(n)) {
        n->adopting = n->passed;
        int e = n->passed ? rebuild_end(n) : 0;
        if (e)
            log_warn_code(e, "walking the folder once more");
    }
    if (scan_rests(n) || n->stalled_until_us > node_mono(n))
        return;
    int rc = apply_walk(n);
    if (rc)
        n->stalled_until_us = node_mono(n) + 50000;
}

/* What peers change makes work for the notify thread: they wait until it has caught up, while what
 * is done through the mount is recorded. (Not while stopping: then nothing is installed.) */
static bool behind(struct node *n)
{
    return n->mount && !n->stopping && mount_behind(n->mount);
}

static void inbox_round(struct node *n)
{
    struct qnode *q;

    if (behind(n))
        usleep(1000); /* the inbox stays readable */
    for (unsigned i = 0; i < 64 && !behind(n) && (q = queue_try_pop(&n->inbox)); i++) {
        struct inmsg *m = (struct inmsg *)(void *)q;
        if (m->type == IN_BARRIER) {
            barrier_add(n, m->p);
            free(m);
        } else if (m->type == IN_SYNC) {
            barrier_add_sync(n, m->p);
            free(m);
        } else if (m->type == IN_COMMAND) {
            command_run(n, m->p);
            free(m);
        } else if (m->type == IN_SCRUB) {
            scrub_found(n, m->p);
            free(m);
        } else if (m->type == IN_SUM) {
            scrub_say(n, m->p);
            free(m);
        } else {
            session_message(n, m);
        }
    }
}

static void review_wants(struct node *n)
{
    if (n->nwants == 0 || txn_begin(n) < 0)
        return;
    if (apply_forget_wants(n) < 0)
        txn_abort(n);
    else if (txn_commit(n) == 0)
        apply_ask(n, NULL);
}

/* Knowledge learned at the end of a peer's log, into the meta row. */
static void put_known(struct node *n)
{
    if (vvec_includes(&n->meta.know, &n->replica.know) || txn_begin(n) < 0)
        return;
    int rc = txn_commit(n);
    if (rc)
        log_debug("knowledge waits to be recorded: %s", err_text(rc));
}

static void timers(struct node *n)
{
    uint64_t now = node_mono(n);

    seal_timer(n);
    keep_timer(n);
    scrub_tick(n);
    durable_tick(n);
    if (index_suspect(n->index))
        suspect_index(n);
    if (durable_damage(n)) {
        log_error("the index is damaged: %s", durable_damage(n));
        _exit(WORKER_EXIT_DAMAGED);
    }
    if (now - n->reviewed_us >= REVIEW_EVERY_US) {
        n->reviewed_us = now;
        put_known(n);
        index_trim(n->index, MAPPED_MAX);
        review_wants(n);
        if (!n->adopting && !(n->adopted && n->scan)) /* tombstones tell what was deleted */
            collect_round(n);
    }
}

/* Until something happens, a seal is to be tried again, or the next transaction may begin. */
static int wait_events(struct node *n, struct epoll_event *ev, int max)
{
    struct timespec t = {.tv_nsec = TICK_MS * 1000000l};
    uint64_t now = node_mono(n);

    if (n->to_seal.n && n->retry_seal_us)
        t.tv_nsec = 5000000;
    if (n->scan && n->stalled_until_us <= now)
        t.tv_nsec = scan_rests(n) ? 10000000 : 0;
    if (n->commit_next_us > now && intent_tail(n->intents) < intent_head(n->intents))
        t.tv_nsec = (long)(n->commit_next_us - now) * 1000;
    return epoll_pwait2(n->epoll, ev, max, &t, NULL);
}

static void loop(struct node *n)
{
    struct epoll_event ev[16];
    uint64_t ticked = 0;

    while (!n->stopping && (n->serving || !rebuild_heard(n))) {
        int got = wait_events(n, ev, 16);
        for (int i = 0; i < got; i++) {
            switch (ev[i].data.u32) {
            case WATCH_SUPER: super_message(n); break;
            case WATCH_LINK: link_message(n); break;
            case WATCH_ENDED: n->stopping = true; break;
            default: break;
            }
        }
        local_round(n);
        inbox_round(n);
        walk_round(n);
        session_ack_all(n);
        barrier_check(n);
        if (node_mono(n) - ticked >= TICK_MS * 1000u) {
            ticked = node_mono(n);
            timers(n);
            status_update(n);
            status_gossip(n);
        }
    }
}

/* The index was lost: the peers are heard before the folder is served. */
static int rebuild(struct node *n)
{
    node_set_state(n, STATE_RECOVERING, "making the index anew from the folder and the peers");
    int rc = tell_super(n, WORKER_LISTENING);
    if (rc)
        return rc;
    loop(n);
    return n->stopping ? 0 : rebuild_end(n);
}

/* ---- stopping ---- */

static void drain_inbox(struct node *n)
{
    for (unsigned left = 1; left > 0;) {
        inbox_round(n);
        left = 0;
        for (size_t i = 0; i < n->npeers; i++)
            left += n->peers[i].session != NULL || n->peers[i].starting != NULL;
        if (left)
            usleep(1000);
    }
}

/* All is in the index, and the index on the disk. */
static int mark_clean(struct node *n)
{
    int rc = txn_begin(n);
    if (rc)
        return rc;
    n->meta.clean = !scan_recovering(n); /* one that was cut short goes on at the next start */
    rc = txn_commit(n);
    return rc ? rc : durable_clean(n);
}

static void stop(struct node *n)
{
    scrub_stop(n);
    session_stop_all(n);
    drain_inbox(n);
    if (n->control)
        control_stop(n->control);
    n->control = NULL;
    barrier_drop_all(n);
    if (n->mount)
        mount_stop(n->mount);
    n->mount = NULL;
    uint64_t lids[256];
    size_t count = dirty_list(n->dirty, node_mono(n), 0, 0, lids, 256);
    for (size_t i = 0; i < count; i++)
        if (map_u64_set(&n->to_seal, lids[i], n, NULL) < 0)
            break;
    int rc = apply_local(n);
    durable_stop(n);
    if (rc)
        log_error_code(rc, "recording the last changes; the next start finds them");
    else
        rc = mark_clean(n);
    if (rc)
        log_error_code(rc, "marking the state as stopped in order");
}

static int node_init(struct node *n, const struct worker_args *a)
{
    memset(n, 0, sizeof *n);
    n->args = a;
    n->config = a->config;
    n->clock = &clock_system;
    n->staging = a->staging;
    n->link_fd = -1;
    n->started_us = node_mono(n);
    n->next_key = node_wall(n);
    pthread_mutex_init(&n->status_lock, NULL);
    map_u64_init(&n->to_seal);
    map_u64_init(&n->to_stat);
    map_u64_init(&n->to_touch);
    map_u64_init(&n->to_refresh);
    map_u64_init(&n->settle);
    map_u64_init(&n->held);
    map_u64_init(&n->replaced);
    map_u64_init(&n->leaving);
    n->npeers = n->config->npeers;
    n->peers = calloc(n->npeers ? n->npeers : 1, sizeof *n->peers);
    if (!n->peers)
        return -ENOMEM;
    for (size_t i = 0; i < n->npeers; i++) {
        n->peers[i].config = &n->config->peers[i];
        n->peers[i].away_us = n->started_us;
    }
    return 0;
}

int worker_main(const struct worker_args *a)
{
    struct node *n = malloc(sizeof *n); /* too large for a stack; lives as long as the process */
    char name[160];

    if (!n)
        return 1;

    snprintf(name, sizeof name, "%s/%s worker", a->config->node, a->config->folder);
    log_init(name, LOG_INFO_);
    signal(SIGPIPE, SIG_IGN);
    int rc = node_init(n, a);
    if (!rc)
        rc = open_rooms(n);
    if (rc)
        return 3;
    rc = recover(n);
    if (rc) {
        fail(n, "recovering", rc);
        return 3;
    }
    rc = listen_all(n);
    if (!rc && (n->meta.scanned & SCAN_REBUILD))
        rc = rebuild(n);
    if (rc) {
        fail(n, "listening to peers", rc);
        return 3;
    }
    if (!n->stopping && serve(n))
        return 3;
    status_open(n);
    node_set_state(n, STATE_SYNCING, "");
    rc = scrub_start(n);
    if (rc)
        log_error_code(rc, "nothing is scrubbed");
    loop(n);
    stop(n);
    return 0;
}
