/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A machine: its disk, its state directory, its supervisor's part (which starts the worker again),
 * and what becomes of all that when the worker dies, the power fails, a snapshot is restored.
 */
#include "whole.h"

#include "base/log.h"
#include "node/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct machine machines[MACHINES_MAX];

int __real_munmap(void *p, size_t n);
int __real_close(int fd);
int __real_open(const char *path, int flags, ...);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __real_write(int fd, const void *p, size_t n);

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "farmsim-whole: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- files of the state directory ---- */

static void path_in(const struct machine *m, const char *name, char out[128])
{
    snprintf(out, 128, "%s/%s", m->state, name);
}

static void copy_file(const struct machine *m, const char *from, const char *to)
{
    static char bytes[1 << 16];
    char a[128], b[128];

    path_in(m, from, a);
    path_in(m, to, b);
    int in = __real_open(a, O_RDONLY | O_CLOEXEC);
    if (in < 0) {
        unlink(b);
        return;
    }
    int out = __real_open(b, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(out >= 0, b);
    for (ssize_t n; (n = __real_read(in, bytes, sizeof bytes)) > 0;)
        must(__real_write(out, bytes, (size_t)n) == n, "copying the index");
    __real_close(in);
    __real_close(out);
}

static void drop_file(const struct machine *m, const char *name)
{
    char a[128];

    path_in(m, name, a);
    unlink(a);
}

/* ---- the index: what a cut leaves of it is its last sync ---- */

int __real_index_open(const char *dir, size_t map, struct index **out, bool *fresh);
int __wrap_index_open(const char *dir, size_t map, struct index **out, bool *fresh);
int __wrap_index_open(const char *dir, size_t map, struct index **out, bool *fresh)
{
    struct machine *m = here();

    (void)map;
    point();
    int e = __real_index_open(dir, 64u << 20, out, fresh);
    if (!e)
        m->index = *out;
    return e;
}

int __real_mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode);
int __wrap_mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode);
int __wrap_mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode)
{
    int e = __real_mdb_env_open(env, path, flags, mode);

    if (!e && here() && strcmp(strrchr(path, '/'), "/index.mdb") == 0)
        here()->env = env;
    return e;
}

void __real_mdb_env_close(MDB_env *env);
void __wrap_mdb_env_close(MDB_env *env);
void __wrap_mdb_env_close(MDB_env *env)
{
    if (here() && here()->env == env)
        here()->env = NULL;
    __real_mdb_env_close(env);
}

static void txn_forget(struct machine *m, const MDB_txn *t)
{
    for (size_t i = 0; i < m->ntxns; i++)
        if (m->txns[i] == t)
            m->txns[i] = m->txns[--m->ntxns];
}

int __real_mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **t);
int __wrap_mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **t);
int __wrap_mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **t)
{
    struct machine *m = here();

    point();
    int e = __real_mdb_txn_begin(env, parent, flags, t);
    if (!e && m && m->env == env) {
        must(m->ntxns < sizeof m->txns / sizeof m->txns[0], "too many transactions");
        m->txns[m->ntxns++] = *t;
    }
    return e;
}

int __real_mdb_txn_commit(MDB_txn *t);
int __wrap_mdb_txn_commit(MDB_txn *t);
int __wrap_mdb_txn_commit(MDB_txn *t)
{
    struct machine *m = here();

    point();
    if (m)
        txn_forget(m, t);
    if (m && m->full && one_in(4)) {
        mdb_txn_abort(t);
        return ENOSPC;
    }
    int e = __real_mdb_txn_commit(t);
    point();
    return e;
}

void __real_mdb_txn_abort(MDB_txn *t);
void __wrap_mdb_txn_abort(MDB_txn *t);
void __wrap_mdb_txn_abort(MDB_txn *t)
{
    if (here())
        txn_forget(here(), t);
    __real_mdb_txn_abort(t);
}

void machine_index_synced(struct machine *m)
{
    if (!(w.faults & FAULT_POWER))
        return;
    copy_file(m, "index.mdb", "synced.mdb");
    copy_file(m, "index.mark", "synced.mark");
}

int __real_mdb_env_sync(MDB_env *env, int force);
int __wrap_mdb_env_sync(MDB_env *env, int force);
int __wrap_mdb_env_sync(MDB_env *env, int force)
{
    struct machine *m = here();

    point();
    int e = __real_mdb_env_sync(env, force);
    if (!e && m && m->env == env)
        machine_index_synced(m);
    return e;
}

int __real_intent_open(const char *dir, size_t size, bool anew, struct intent_log **out);
int __wrap_intent_open(const char *dir, size_t size, bool anew, struct intent_log **out);
int __wrap_intent_open(const char *dir, size_t size, bool anew, struct intent_log **out)
{
    (void)size;
    return __real_intent_open(dir, w.intents_size, anew, out);
}

/* ---- what the worker says ---- */

void __wrap_log_write(enum log_level level, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void __wrap_log_write(enum log_level level, int code, const char *fmt, ...)
{
    char text[600];
    va_list ap;

    (void)level;
    if (!w.trace)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("%12.6f   m%u %s%s%s\n", (double)w.now / 1e6, here() ? here()->i : 99, text,
           code ? ": " : "", code ? err_text(code) : "");
}

static void say_loc(char *out, size_t size, const struct loc *l)
{
    static const char *const kinds[] = {"-", "", "in", "hidden", "orphans", "conflicts"};

    if (l->kind == LOC_DIR)
        snprintf(out, size, "%llu/%.*s", (unsigned long long)l->lid, l->len, (const char *)l->name);
    else
        snprintf(out, size, "%s/%.*s", kinds[l->kind], l->kind ? l->len : 0, (const char *)l->name);
}

int __real_effects_add(struct effects *e, const struct effect *x);
int __wrap_effects_add(struct effects *e, const struct effect *x);
int __wrap_effects_add(struct effects *e, const struct effect *x)
{
    static const char *const ops[] = {"", "move", "link", "remove", "attr"};
    char from[300], to[300], displaced[300];
    uint64_t ino = 0;

    if (w.trace) {
        say_loc(from, sizeof from, &x->from);
        say_loc(to, sizeof to, &x->to);
        say_loc(displaced, sizeof displaced, &x->displaced);
        memcpy(&ino, x->handle.bytes, 8);
        printf("%12.6f   m%u effect %s %s -> %s (lid %llu ino %llu rid %llx.%llu) over lid %llu -> "
               "%s\n",
               (double)w.now / 1e6, here()->i, ops[x->op], from, to, (unsigned long long)x->lid,
               (unsigned long long)ino, (unsigned long long)x->rid.node,
               (unsigned long long)x->rid.n, (unsigned long long)x->old_lid, displaced);
    }
    return __real_effects_add(e, x);
}

static void say_place(const struct place *p)
{
    static const char *const kinds[] = {"nowhere", "at", "hidden"};

    printf(" %s", kinds[p->kind]);
    if (p->kind)
        printf(" %llx.%llu/%.*s", (unsigned long long)p->parent.node,
               (unsigned long long)p->parent.n, p->name_len, (const char *)p->name);
}

int __real_view_changes(const struct records *r, const struct id128 *seeds, size_t nseeds,
                        struct view_change **out, size_t *nout);
int __wrap_view_changes(const struct records *r, const struct id128 *seeds, size_t nseeds,
                        struct view_change **out, size_t *nout);
int __wrap_view_changes(const struct records *r, const struct id128 *seeds, size_t nseeds,
                        struct view_change **out, size_t *nout)
{
    int e = __real_view_changes(r, seeds, nseeds, out, nout);

    for (size_t i = 0; w.trace && !e && i < *nout; i++) {
        const struct view_change *c = &(*out)[i];
        printf("%12.6f   m%u view: name %llx.%llu inode %llx.%llu", (double)w.now / 1e6, here()->i,
               (unsigned long long)c->nid.node, (unsigned long long)c->nid.n,
               (unsigned long long)c->inode.node, (unsigned long long)c->inode.n);
        say_place(&c->from);
        printf(" ->");
        say_place(&c->to);
        printf("\n");
    }
    return e;
}

void __real__exit(int code);
void __wrap__exit(int code);
void __wrap__exit(int code)
{
    if (!self)
        __real__exit(code);
    note("m%u: worker ends itself with %d", here()->i, code);
    here()->exit_code = code;
    self->proc->dead = true;
    fiber_wait(&w, 0);
    abort();
}

void __wrap_log_panic(const char *file, int line, const char *what);
void __wrap_log_panic(const char *file, int line, const char *what)
{
    fail("m%u: assertion failed: %s (%s:%d)", here() ? here()->i : 99, what,
         strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
    if (self)
        self->proc->dead = true;
    fiber_wait(&w, 0);
    abort();
}

/* ---- the worker ---- */

static void *worker_run(void *arg)
{
    struct machine *m = arg;

    return (void *)(intptr_t)worker_main(&m->args);
}

static void worker_start(void *arg, uint64_t boot);

static void *worker_thread(void *arg)
{
    struct machine *m = arg;
    int code = (int)(intptr_t)worker_run(m);

    if (code != 0 && !w.why[0])
        fail("m%u: the worker ends with code %d", m->i, code);
    m->worker->dead = true; /* what is left of its threads goes with it */
    return NULL;
}

static void worker_start(void *arg, uint64_t boot)
{
    struct machine *m = arg;

    if (m->power != POWER_ON || m->boots != boot || m->worker_state != WORKER_NONE)
        return;
    note("m%u: worker starts%s", m->i, m->args.restarted ? " again" : "");
    m->worker_state = WORKER_STARTING;
    m->worker = proc_new(m, "worker");
    m->args.super_fd = desc_new(D_PACKETS, m, m->worker, &m->super);
    if (w.faults & FAULT_KILL && !w.healing && one_in(8))
        m->worker->die_in = 1 + below(4000);
    fiber_new(m->worker, worker_thread, m);
}

static void worker_gone(struct machine *m)
{
    proc_end_fibers(m->worker);
    proc_close_fds(m->worker);
    while (m->ntxns) { /* the write transaction last: it holds the lock */
        MDB_txn *t = m->txns[--m->ntxns];
        __real_mdb_txn_abort(t);
    }
    if (m->env)
        __real_mdb_env_close(m->env);
    m->env = NULL;
    m->index = NULL;
    for (size_t i = 0; i < 8; i++)
        if (m->worker->maps[i])
            __real_munmap(m->worker->maps[i], m->worker->map_len[i]);
    m->super = m->link = NULL;
    m->worker = NULL;
    net_machine_down(m);
}

static void machine_off(struct machine *m)
{
    if (m->apps)
        proc_end_fibers(m->apps);
    m->apps = NULL;
    m->apps_busy = 0;
    kernel_reset(m);
    m->power = POWER_OFF;
    m->worker_state = WORKER_NONE;
    memset(&m->shared, 0, sizeof m->shared);
    staging_close(&m->staging);
    desc_close(m->args.rootfd);
    desc_close(m->args.fuse_fd);
    desc_close(m->args.fanotify_fd);
    __real_close(m->args.state_fd);
}

static void boot_again(void *arg, uint64_t boots)
{
    struct machine *m = arg;

    if (m->power == POWER_OFF && m->boots == boots)
        machine_boot(m);
}

void machine_kill_worker(struct machine *m)
{
    bool stopped = m->worker_state == WORKER_STOPPING && m->worker->die_in == 0;

    note("m%u: worker %s", m->i, stopped ? "stopped" : "killed");
    w.kills += !stopped;
    worker_gone(m);
    if (stopped) {
        machine_off(m);
        return;
    }
    if (m->exit_code == WORKER_EXIT_ANEW) {
        m->exit_code = 0;
        machine_off(m);
        world_at(w.now + 1000, boot_again, m, m->boots);
        return;
    }
    m->worker_state = WORKER_NONE;
    m->args.restarted = true;
    world_at(w.now + 500 + below(20000), worker_start, m, m->boots);
}

void machine_stop(struct machine *m)
{
    struct super_msg s = {.type = SUPER_STOP};

    if (m->worker_state != WORKER_UP)
        return;
    note("m%u: stop", m->i);
    m->worker_state = WORKER_STOPPING;
    m->worker->die_in = 0;
    packets_put(m->super, &s, sizeof s, -1);
}

/* ---- power ---- */

void machine_init(unsigned i, const char *dir)
{
    struct machine *m = &machines[i];
    char conf[128], text[4096];
    size_t n;

    memset(m, 0, sizeof *m);
    m->i = i;
    snprintf(m->name, sizeof m->name, "n%u", i);
    snprintf(m->state, sizeof m->state, "%s/%u", dir, i);
    must(mkdir(m->state, 0700) == 0, m->state);
    m->skew_us = (int64_t)below(200000) - 100000;
    disk_init(m);
    n = (size_t)snprintf(text, sizeof text,
                         "[node]\nname = n%u\n[folder]\nname = www\nid = 0123456789abcdef\n"
                         "dir = /sim%u/tree\nstate = %s\nstaging = /sim%u/area\n"
                         "seal-after = %ums\n[ssh]\nkey = /k\nknown-hosts = /h\n",
                         i, i, m->state, i, 100 + below(1900));
    for (unsigned p = 0; p < w.n; p++)
        if (p != i && w.links[i < p ? i : p][i < p ? p : i])
            n += (size_t)snprintf(text + n, sizeof text - n, "[peer n%u]\naddress = 10.0.0.%u\n", p,
                                  p + 1);
    path_in(m, "conf", conf);
    FILE *f = fopen(conf, "w");
    must(f && fwrite(text, 1, n, f) == n && fclose(f) == 0, conf);
    must(config_load(conf, &m->config) == 0, "the configuration");
}

/* After a cut nothing that came from a peer may be seen in part. */
static void recovered(void *arg, uint64_t boot)
{
    struct machine *m = arg;

    if (m->boots != boot || m->power != POWER_ON)
        return;
    if (m->worker_state == WORKER_UP)
        check_whole(m);
    else
        world_at(w.now + 1000, recovered, m, boot);
}

void machine_boot(struct machine *m)
{
    char why[256] = "";
    bool inside;

    note("m%u: boots", m->i);
    m->power = POWER_ON;
    m->boots++;
    m->args =
        (struct worker_args){.config = m->config, .shared = &m->shared, .staging = &m->staging};
    char tree[32], boot_id[128];
    path_in(m, "boot_id", boot_id);
    FILE *f = fopen(boot_id, "w");
    must(f && fprintf(f, "%08x-0000-4000-8000-%012llx\n", m->i, (unsigned long long)m->boots) > 0 &&
             fclose(f) == 0,
         boot_id);
    snprintf(tree, sizeof tree, "/sim%u/tree", m->i);
    m->args.rootfd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    m->args.state_fd = open(m->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    m->args.fuse_fd = desc_new(D_FUSE, m, NULL, NULL);
    m->args.fanotify_fd = desc_new(D_CLOSES, m, NULL, &m->k.closes_desc);
    m->args.control_fuse_fd = -1;
    m->shared.conn = rnd();
    int e =
        staging_open(m->config->dir, m->args.rootfd, m->config->staging, &m->staging, &inside, why);
    if (e == -ENOSPC || e == -ENOENT) { /* the administrator makes room and starts it again */
        machine_off(m);
        world_at(w.now + SEC, boot_again, m, m->boots);
        return;
    }
    if (e) {
        fail("m%u: staging area: %s %s", m->i, err_text(e), why);
        return;
    }
    m->area = dir_find(m->root, "area");
    worker_start(m, m->boots);
    apps_start(m);
    world_at(w.now + 1000, recovered, m, m->boots);
}

/* After a cut nothing that came from a peer may be seen in part. */
void machine_power_cut(struct machine *m)
{
    if (m->power != POWER_ON)
        return;
    w.powers++;
    if (m->worker)
        worker_gone(m);
    machine_off(m);
    disk_power_cut(m);
    copy_file(m, "synced.mdb", "index.mdb");
    copy_file(m, "synced.mark", "index.mark");
    drop_file(m, "index.mdb-lock");
}

/* ---- snapshots ---- */

void machine_snapshot(struct machine *m)
{
    if (m->env)
        __real_mdb_env_sync(m->env, 1);
    disk_snapshot(m);
    copy_file(m, "index.mdb", "snapshot.mdb");
    copy_file(m, "index.mark", "snapshot.mark");
    copy_file(m, "intents", "intents.snapshot");
}

void machine_restore(struct machine *m)
{
    note("m%u: restored", m->i);
    disk_restore(m);
    copy_file(m, "snapshot.mdb", "index.mdb");
    copy_file(m, "snapshot.mark", "index.mark");
    copy_file(m, "snapshot.mdb", "synced.mdb");
    copy_file(m, "snapshot.mark", "synced.mark");
    copy_file(m, "intents.snapshot", "intents");
    drop_file(m, "index.mdb-lock");
}

void machine_wipe(struct machine *m)
{
    note("m%u: state lost", m->i);
    drop_file(m, "index.mdb");
    drop_file(m, "index.mark");
    drop_file(m, "synced.mdb");
    drop_file(m, "synced.mark");
    drop_file(m, "index.mdb-lock");
    drop_file(m, "intents");
}
