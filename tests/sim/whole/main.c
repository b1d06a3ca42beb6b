/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 *   farmsim-whole [--seed N] [--runs N] [--steps N] [--nodes N] [--without MASK] [--seconds N]
 *                 [--twice] [--trace] [--no-shrink]
 *
 * Runs the seeds from N on, each in a process of its own. A failure prints its seed, the reason,
 * and the command of the smallest run that was found to fail too: fewer operations, fewer nodes,
 * fewer kinds of faults. --twice runs each seed again and compares the trace hash. --seconds ends
 * it after that (real) time. --without: kinds of faults (enum fault in whole.h) that shall not
 * happen.
 */
#include "whole.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QUIET_WITHIN (90 * SEC) /* after the heal */
#define QUIET_FOR (5 * SEC)
#define RUN_REAL_SECONDS 120

int __real_clock_gettime(clockid_t id, struct timespec *t);

struct world w;

/* ---- chance, trace ---- */

uint64_t rnd(void)
{
    uint64_t z = w.rng += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

unsigned below(uint64_t n)
{
    return (unsigned)(rnd() % n);
}

void note(const char *fmt, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (int i = 0; i < n && i < (int)sizeof text - 1; i++)
        w.hash = (w.hash ^ (uint8_t)text[i]) * 0x100000001b3ull;
    w.hash = (w.hash ^ w.now) * 0x100000001b3ull;
    if (w.trace)
        printf("%12.6f %s\n", (double)w.now / 1e6, text);
}

void fail(const char *fmt, ...)
{
    char text[sizeof w.why];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!w.why[0])
        memcpy(w.why, text, sizeof w.why);
    if (w.trace)
        printf("%12.6f WRONG: %s\n", (double)w.now / 1e6, text);
}

/* ---- the shape of a run ---- */

static void shape(unsigned nodes, unsigned steps, unsigned without)
{
    static const uint64_t delays[] = {10, 200, 1000, 20000};
    static const size_t rooms[] = {1500, 20000, 300000};

    w.n = 2 + below(one_in(6) ? 7 : 3);
    if (nodes)
        w.n = nodes;
    w.steps = steps;
    w.faults = 0;
    for (unsigned f = 1; f < FAULT_ALL; f <<= 1)
        if (below(f >= FAULT_POWER ? 4 : 2) == 0)
            w.faults |= f;
    if (one_in(8))
        w.faults = 0;
    w.faults &= ~without;
    w.fault_mean = 20000 + below(one_in(2) ? 2000000 : 300000);
    w.yield_one_in = 1 + below(one_in(2) ? 4 : 40);
    w.delay_us = delays[below(4)];
    w.jitter_us = one_in(2) ? 0 : w.delay_us * 4;
    w.pause_us = one_in(3) ? 4000 : one_in(2) ? 20000 : 200000; /* between operations */
    w.grain_ns = one_in(2) ? 1000 : 4000000;
    w.stream_room = rooms[below(3)];
    if (w.delay_us > 5000 && w.stream_room < 20000)
        w.stream_room = 20000; /* a farm that is not quiet for minutes */
    w.intents_size = one_in(2) ? 65536 : 1u << 20;
    w.big_one_in = one_in(2) ? 0 : 12;
    /* A line keeps it connected; the rest by chance. */
    bool full = !one_in(3);
    for (unsigned a = 0; a < w.n; a++)
        for (unsigned b = a + 1; b < w.n; b++)
            w.links[a][b] = b == a + 1 || full || one_in(3);
}

/* ---- faults ---- */

static void boot_later(void *arg, uint64_t n)
{
    struct machine *m = arg;

    (void)n;
    if (m->power == POWER_OFF)
        machine_boot(m);
}

static void stopped_then(void *arg, uint64_t what)
{
    struct machine *m = arg;

    if (m->power != POWER_OFF) {
        if (m->worker_state == WORKER_UP)
            machine_stop(m); /* it had died meanwhile */
        world_at(w.now + 5000, stopped_then, m, what);
        return;
    }
    if (what == FAULT_RESTORE)
        machine_restore(m);
    if (what == FAULT_WIPE)
        machine_wipe(m);
    if (what == FAULT_STOP)
        edit_unmounted(m);
    world_at(w.now + 1 + below(2 * SEC), boot_later, m, 0);
}

static void room_again(void *arg, uint64_t n)
{
    (void)n;
    ((struct machine *)arg)->full = false;
}

static void machine_fault(struct machine *m, enum fault f)
{
    switch (f) {
    case FAULT_KILL:
        if (m->worker && m->worker_state != WORKER_STOPPING)
            m->worker->die_in = 1 + below(one_in(2) ? 300 : 5000);
        break;
    case FAULT_POWER:
        if (m->power == POWER_ON && m->worker_state != WORKER_STOPPING) {
            machine_power_cut(m);
            world_at(w.now + 1000 + below(3 * SEC), boot_later, m, 0);
        }
        break;
    case FAULT_STOP:
    case FAULT_WIPE:
    case FAULT_RESTORE:
        if (f == FAULT_RESTORE && !m->snapshot) {
            if (m->worker_state == WORKER_UP)
                machine_snapshot(m);
        } else if (m->worker_state == WORKER_UP) {
            machine_stop(m);
            stopped_then(m, f);
        }
        break;
    case FAULT_FULL:
        note("m%u: disk full", m->i);
        m->full = true;
        world_at(w.now + below(2 * SEC), room_again, m, 0);
        break;
    case FAULT_CLOCK:
        m->skew_us += (int64_t)below(20 * SEC) - (int64_t)(10 * SEC);
        note("m%u: clock %lld", m->i, (long long)m->skew_us);
        break;
    default: break;
    }
}

static void next_fault(void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    if (w.healing)
        return;
    world_at(w.now + 1 + below(2 * w.fault_mean), next_fault, NULL, 0);
    enum fault f = (enum fault)(1u << below(11));
    if (!(w.faults & f))
        return;
    if (f & (FAULT_CUT | FAULT_ONE_WAY | FAULT_BREAK | FAULT_TWICE))
        net_fault(f);
    else
        machine_fault(&machines[below(w.n)], f);
}

/* ---- a run ---- */

static bool steps_done(void)
{
    return w.steps == 0;
}

static uint64_t last_sum, quiet_since, next_look;

static bool quiet(void)
{
    uint64_t sum;

    if (w.now < next_look)
        return false;
    next_look = w.now + SEC / 4;
    if (!all_quiet(&sum) || sum != last_sum) {
        last_sum = sum;
        quiet_since = w.now;
        return false;
    }
    return w.now - quiet_since >= QUIET_FOR;
}

static void look_again(void *arg, uint64_t n)
{
    (void)arg;
    (void)n;
    world_at(w.now + SEC / 4, look_again, NULL, 0);
}

static bool all_off(void)
{
    for (unsigned i = 0; i < w.n; i++)
        if (machines[i].power != POWER_OFF)
            return false;
    return true;
}

static bool settle(const char *when)
{
    last_sum = 0;
    quiet_since = next_look = w.now;
    if (world_run(quiet, w.now + QUIET_WITHIN))
        return true;
    if (!w.why[0]) {
        for (unsigned i = 0; i < w.n; i++)
            note("m%u: power %d, worker %d, applications busy %u", i, machines[i].power,
                 machines[i].worker_state, machines[i].apps_busy);
        fail("no quiet within %llu s %s", (unsigned long long)(QUIET_WITHIN / SEC), when);
        check_end();
    }
    return false;
}

static void heal(void)
{
    w.healing = true;
    w.steps = 0;
    note("heal");
    net_heal();
    for (unsigned i = 0; i < w.n; i++) {
        struct machine *m = &machines[i];
        m->full = false;
        if (m->worker)
            m->worker->die_in = 0;
        if (m->power == POWER_OFF)
            world_at(w.now + 3 * SEC, boot_later, m, 0);
    }
}

static void run(const char *dir)
{
    for (unsigned i = 0; i < w.n; i++)
        machine_init(i, dir);
    for (unsigned i = 0; i < w.n; i++)
        world_at(below(one_in(2) ? 1000 : SEC), boot_later, &machines[i], 0);
    net_init();
    world_at(1000, next_fault, NULL, 0);
    world_at(SEC / 4, look_again, NULL, 0);
    world_run(steps_done, 600 * SEC);
    if (w.why[0])
        return;
    if (w.steps)
        fail("operations hang");
    heal();
    if (!settle("after the heal"))
        return;
    check_end();
    heads_remember();
    if (w.why[0])
        return;
    note("restart");
    for (unsigned i = 0; i < w.n; i++)
        machine_stop(&machines[i]);
    if (!world_run(all_off, w.now + 30 * SEC)) {
        fail("a node does not stop");
        return;
    }
    for (unsigned i = 0; i < w.n; i++)
        machine_boot(&machines[i]);
    if (settle("after a clean restart")) {
        check_after_restart();
        check_end();
    }
}

/* ---- runs in processes ---- */

struct result {
    bool finished;
    uint64_t hash, now, ops, kills, powers, breaks, sessions, switches;
    unsigned n;
    char why[512];
};

struct options {
    uint64_t seed, runs, seconds;
    unsigned steps, nodes, without;
    bool twice, trace, no_shrink;
};

static struct result *shared;

static int drop_path(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static void child(const struct options *o, uint64_t seed, const char *dir)
{
    alarm(RUN_REAL_SECONDS);
    w.seed = w.rng = seed;
    w.trace = o->trace;
    w.hash = 0xcbf29ce484222325ull;
    shape(o->nodes, o->steps, o->without);
    note("seed %llu: %u nodes, faults %x every %llu us, yield 1/%u, delay %llu+%llu us, room %zu",
         (unsigned long long)seed, w.n, w.faults, (unsigned long long)w.fault_mean, w.yield_one_in,
         (unsigned long long)w.delay_us, (unsigned long long)w.jitter_us, w.stream_room);
    run(dir);
    *shared = (struct result){.finished = true,
                              .hash = w.hash,
                              .now = w.now,
                              .ops = w.ops,
                              .kills = w.kills,
                              .powers = w.powers,
                              .breaks = w.breaks,
                              .sessions = w.sessions,
                              .switches = w.switches,
                              .n = w.n};
    memcpy(shared->why, w.why, sizeof shared->why);
    fflush(stdout);
    _exit(0);
}

static void run_seed(const struct options *o, uint64_t seed, struct result *out)
{
    char dir[64];
    int status = 0;

    snprintf(dir, sizeof dir, "/dev/shm/farmsim.%d", (int)getpid());
    memset(shared, 0, sizeof *shared);
    fflush(stdout);
    if (mkdir(dir, 0700) < 0) {
        perror(dir);
        exit(2);
    }
    pid_t pid = fork();
    if (pid == 0)
        child(o, seed, dir);
    if (pid < 0 || waitpid(pid, &status, 0) < 0) {
        perror("farmsim-whole");
        exit(2);
    }
    nftw(dir, drop_path, 16, FTW_DEPTH | FTW_PHYS);
    *out = *shared;
    if (out->finished)
        return;
    if (WIFSIGNALED(status))
        snprintf(out->why, sizeof out->why, "the process ends by signal %d%s", WTERMSIG(status),
                 WTERMSIG(status) == SIGALRM ? ": it took too long" : "");
    else
        snprintf(out->why, sizeof out->why, "the process ends with code %d", WEXITSTATUS(status));
}

/* Smaller runs that fail too. */
static struct options shrink(const struct options *from, uint64_t seed)
{
    struct options best = *from;
    struct result r;

    best.trace = false;
    for (unsigned n = 2; n < MACHINES_MAX && (!best.nodes || n < best.nodes); n++) {
        struct options o = best;
        o.nodes = n;
        run_seed(&o, seed, &r);
        if (r.why[0])
            best = o;
    }
    for (unsigned f = 1; f < FAULT_ALL; f <<= 1) {
        struct options o = best;
        o.without |= f;
        run_seed(&o, seed, &r);
        if (r.why[0])
            best = o;
    }
    for (unsigned steps = best.steps / 2, tries = 0; steps > 0 && tries < 12; tries++) {
        struct options o = best;
        o.steps = steps;
        run_seed(&o, seed, &r);
        if (r.why[0]) {
            best = o;
            steps /= 2;
        } else {
            steps = steps + (best.steps - steps) / 2;
            if (steps >= best.steps)
                break;
        }
    }
    return best;
}

static void report(const struct options *o, uint64_t seed, const struct result *r)
{
    printf("FAILED seed %llu of farmsim --whole: %s\n", (unsigned long long)seed, r->why);
    if (o->no_shrink || o->trace)
        return;
    struct options s = shrink(o, seed);
    printf("  farmsim-whole --seed %llu --steps %u --nodes %u --without %u --trace\n",
           (unsigned long long)seed, s.steps, s.nodes, s.without);
}

static uint64_t real_ms(void)
{
    struct timespec t;

    __real_clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool usage(int argc, char **argv, struct options *o)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},    {"runs", required_argument, NULL, 'r'},
        {"steps", required_argument, NULL, 't'},   {"nodes", required_argument, NULL, 'n'},
        {"without", required_argument, NULL, 'w'}, {"seconds", required_argument, NULL, 'S'},
        {"twice", no_argument, NULL, '2'},         {"trace", no_argument, NULL, 'v'},
        {"no-shrink", no_argument, NULL, 'k'},     {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's': o->seed = strtoull(optarg, NULL, 0); break;
        case 'r': o->runs = strtoull(optarg, NULL, 0); break;
        case 't': o->steps = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'n': o->nodes = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'w': o->without = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'S': o->seconds = strtoull(optarg, NULL, 0); break;
        case '2': o->twice = true; break;
        case 'v': o->trace = true; break;
        case 'k': o->no_shrink = true; break;
        default: return false;
        }
    }
    return o->nodes != 1 && o->nodes <= MACHINES_MAX && optind == argc;
}

struct totals {
    uint64_t runs, failed, virtual_us, ops, kills, powers, breaks, sessions;
};

static void count(struct totals *t, const struct result *r)
{
    t->runs++;
    t->failed += r->why[0] != 0;
    t->virtual_us += r->now * r->n;
    t->ops += r->ops;
    t->kills += r->kills;
    t->powers += r->powers;
    t->breaks += r->breaks;
    t->sessions += r->sessions;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1, .runs = 1, .steps = 60};
    struct totals t = {0};
    struct result r, again;

    if (!usage(argc, argv, &o)) {
        fprintf(stderr, "usage: see the head of tests/sim/whole/main.c\n");
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t end = o.seconds ? real_ms() + o.seconds * 1000 : UINT64_MAX;
    bool tty = isatty(STDOUT_FILENO) && !o.trace;
    for (uint64_t i = 0; i < o.runs && real_ms() < end; i++) {
        run_seed(&o, o.seed + i, &r);
        if (o.twice && !r.why[0]) {
            run_seed(&o, o.seed + i, &again);
            if (again.hash != r.hash)
                snprintf(r.why, sizeof r.why, "two runs differ: trace hash %016llx, then %016llx",
                         (unsigned long long)r.hash, (unsigned long long)again.hash);
        }
        count(&t, &r);
        if (r.why[0])
            report(&o, o.seed + i, &r);
        if (tty && i % 16 == 0) {
            printf("\r%llu seeds, %llu failed, seed %llu ", (unsigned long long)t.runs,
                   (unsigned long long)t.failed, (unsigned long long)(o.seed + i));
            fflush(stdout);
        }
    }
    if (o.runs == 1)
        printf("seed %llu: trace hash %016llx, %.1f s, %llu switches\n", (unsigned long long)o.seed,
               (unsigned long long)r.hash, (double)r.now / 1e6, (unsigned long long)r.switches);
    printf("%llu seeds, %.2f simulated node hours, %llu operations, %llu sessions, %llu workers "
           "killed, %llu power cuts, %llu streams broken\n",
           (unsigned long long)t.runs, (double)t.virtual_us / 3600e6, (unsigned long long)t.ops,
           (unsigned long long)t.sessions, (unsigned long long)t.kills,
           (unsigned long long)t.powers, (unsigned long long)t.breaks);
    printf("%llu passed, %llu failed, 0 skipped\n", (unsigned long long)(t.runs - t.failed),
           (unsigned long long)t.failed);
    return t.failed > 0;
}
