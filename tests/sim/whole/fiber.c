/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Fibers in place of threads, and virtual time. Which one goes on is the seed's choice. */
#include "whole.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (1024u * 1024u)

void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);

struct mount_thread;
extern _Thread_local struct mount_thread *mount_self;

struct fiber *self;
static ucontext_t scheduler;
static struct fiber **fibers; /* that are not done, in an order that only the run decides */
static size_t nfibers, fibers_size;
static void **stacks; /* free ones */
static size_t nstacks, stacks_size;

struct timer {
    uint64_t time, order;
    void (*f)(void *, uint64_t);
    void *arg;
    uint64_t n;
};
static struct timer *timers; /* a heap */
static size_t ntimers, timers_size;
static uint64_t timer_order;

static void *grown(void *p, size_t *size, size_t each)
{
    *size = *size ? *size * 2 : 64;
    p = realloc(p, *size * each);
    if (!p)
        abort();
    return p;
}

/* ---- timers ---- */

static bool sooner(const struct timer *a, const struct timer *b)
{
    return a->time != b->time ? a->time < b->time : a->order < b->order;
}

void world_at(uint64_t time, void (*f)(void *, uint64_t), void *arg, uint64_t n)
{
    if (ntimers == timers_size)
        timers = grown(timers, &timers_size, sizeof *timers);
    size_t i = ntimers++;
    timers[i] = (struct timer){time, timer_order++, f, arg, n};
    for (; i && sooner(&timers[i], &timers[(i - 1) / 2]); i = (i - 1) / 2) {
        struct timer t = timers[i];
        timers[i] = timers[(i - 1) / 2];
        timers[(i - 1) / 2] = t;
    }
}

static struct timer timer_take(void)
{
    struct timer first = timers[0];
    timers[0] = timers[--ntimers];
    for (size_t i = 0;;) {
        size_t least = i, l = 2 * i + 1, r = l + 1;
        if (l < ntimers && sooner(&timers[l], &timers[least]))
            least = l;
        if (r < ntimers && sooner(&timers[r], &timers[least]))
            least = r;
        if (least == i)
            return first;
        struct timer t = timers[i];
        timers[i] = timers[least];
        timers[least] = t;
        i = least;
    }
}

/* ---- fibers ---- */

static void entry(void)
{
    self->run(self->arg);
    for (unsigned k = 0; k < KEYS_MAX; k++)
        self->keys[k] = NULL;
    self->state = FIBER_DONE;
    fiber_wake(self);
    swapcontext(&self->ctx, &scheduler);
    abort();
}

static void *stack_new(void)
{
    if (nstacks)
        return stacks[--nstacks];
    void *p = __real_mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (p == MAP_FAILED)
        abort();
    mprotect(p, 4096, PROT_NONE);
    return p;
}

static void stack_free(void *p)
{
    if (nstacks == stacks_size)
        stacks = grown(stacks, &stacks_size, sizeof *stacks);
    stacks[nstacks++] = p;
}

struct fiber *fiber_new(struct proc *p, void *(*run)(void *), void *arg)
{
    struct fiber *f = calloc(1, sizeof *f);
    if (!f)
        abort();
    f->proc = p;
    f->run = run;
    f->arg = arg;
    f->stack = stack_new();
    getcontext(&f->ctx);
    f->ctx.uc_stack.ss_sp = f->stack;
    f->ctx.uc_stack.ss_size = STACK_BYTES;
    makecontext(&f->ctx, entry, 0);
    if (nfibers == fibers_size)
        fibers = grown(fibers, &fibers_size, sizeof *fibers);
    fibers[nfibers++] = f;
    return f;
}

struct proc *proc_new(struct machine *m, const char *name)
{
    struct proc *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    p->machine = m;
    p->name = name;
    return p;
}

static void fiber_drop(size_t i)
{
    stack_free(fibers[i]->stack);
    fibers[i]->stack = NULL;
    fibers[i] = fibers[--nfibers];
}

void proc_end_fibers(struct proc *p)
{
    p->dead = true;
    for (size_t i = nfibers; i-- > 0;) {
        if (fibers[i]->proc == p) {
            fibers[i]->state = FIBER_DONE;
            fiber_drop(i);
        }
    }
}

struct machine *here(void)
{
    return self ? self->proc->machine : NULL;
}

int fail_errno(int e)
{
    errno = e;
    return -1;
}

/* ---- switching ---- */

static void switch_out(void)
{
    struct fiber *f = self;

    f->err = errno;
    f->mount_self = mount_self;
    swapcontext(&f->ctx, &scheduler);
}

static void switch_to(struct fiber *f)
{
    self = f;
    errno = f->err;
    mount_self = f->mount_self;
    w.switches++;
    swapcontext(&scheduler, &f->ctx);
    self = NULL;
    if (f->state != FIBER_DONE)
        return;
    for (size_t i = 0; i < nfibers; i++) {
        if (fibers[i] == f) {
            fiber_drop(i);
            return;
        }
    }
}

void point(void)
{
    if (!self)
        return;
    w.now += 1 + (w.rng & 1);
    struct proc *p = self->proc;
    if (p->die_in && --p->die_in == 0) {
        p->dead = true; /* the scheduler sees it and kills */
        switch_out();
    }
    if (one_in(w.yield_one_in))
        switch_out();
}

bool fiber_wait(const void *on, uint64_t deadline)
{
    if (!self) { /* the world cannot wait */
        fail("the world waits");
        return false;
    }
    self->state = FIBER_WAITS;
    self->on = on;
    self->deadline = deadline;
    self->timed_out = false;
    if (self->interrupted) {
        self->state = FIBER_READY;
        return false;
    }
    switch_out();
    return !self->timed_out && !self->interrupted;
}

void fiber_wake(const void *on)
{
    for (size_t i = 0; i < nfibers; i++)
        if (fibers[i]->state == FIBER_WAITS && fibers[i]->on == on)
            fibers[i]->state = FIBER_READY;
}

void fiber_sleep(uint64_t us)
{
    uint64_t until = w.now + (us ? us : 1);

    while (w.now < until && fiber_wait(self, until))
        ;
}

/* Fibers whose time is over become ready; *next: when the first of the others does. */
static size_t look(uint64_t *next)
{
    size_t ready = 0;

    *next = UINT64_MAX;
    for (size_t i = 0; i < nfibers; i++) {
        struct fiber *f = fibers[i];
        if (f->state == FIBER_WAITS && f->deadline && f->deadline <= w.now) {
            f->state = FIBER_READY;
            f->timed_out = true;
        }
        if (f->state == FIBER_READY)
            ready++;
        else if (f->deadline && f->deadline < *next)
            *next = f->deadline;
    }
    return ready;
}

static void run_one(size_t ready)
{
    size_t pick = below(ready);

    for (size_t i = 0; i < nfibers; i++) {
        if (fibers[i]->state == FIBER_READY && pick-- == 0) {
            struct proc *p = fibers[i]->proc;
            switch_to(fibers[i]);
            if (p->dead && p == p->machine->worker)
                machine_kill_worker(p->machine);
            return;
        }
    }
}

bool world_run(bool (*done)(void), uint64_t until)
{
    while (!w.why[0]) {
        uint64_t next;
        if (w.now >= until)
            return false;
        while (ntimers && timers[0].time <= w.now) {
            struct timer t = timer_take();
            t.f(t.arg, t.n);
        }
        if (done())
            return true;
        size_t ready = look(&next);
        if (ready) {
            run_one(ready);
            continue;
        }
        if (ntimers && timers[0].time < next)
            next = timers[0].time;
        if (next == UINT64_MAX)
            return false;
        w.now = next < until ? next : until;
    }
    return false;
}

/* ---- what the worker calls ---- */

struct sim_mutex {
    uint32_t locked, waiting;
};

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *a, void *(*run)(void *), void *arg);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    (void)a;
    point();
    *id = (pthread_t)fiber_new(self->proc, run, arg);
    return 0;
}

int __wrap_pthread_join(pthread_t id, void **ret);
int __wrap_pthread_join(pthread_t id, void **ret)
{
    struct fiber *f = (struct fiber *)id;

    (void)ret;
    while (f->state != FIBER_DONE)
        fiber_wait(f, 0);
    return 0;
}

int __wrap_pthread_tryjoin_np(pthread_t id, void **ret);
int __wrap_pthread_tryjoin_np(pthread_t id, void **ret)
{
    (void)ret;
    point();
    return ((struct fiber *)id)->state == FIBER_DONE ? 0 : EBUSY;
}

int __wrap_pthread_detach(pthread_t id);
int __wrap_pthread_detach(pthread_t id)
{
    (void)id;
    return 0;
}

int __wrap_pthread_kill(pthread_t id, int sig);
int __wrap_pthread_kill(pthread_t id, int sig)
{
    struct fiber *f = (struct fiber *)id;

    (void)sig;
    f->interrupted = true;
    if (f->state == FIBER_WAITS)
        f->state = FIBER_READY;
    return 0;
}

int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a);
int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a)
{
    (void)a;
    memset(m, 0, sizeof *m);
    return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *m);
int __wrap_pthread_mutex_destroy(pthread_mutex_t *m)
{
    (void)m;
    return 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
    struct sim_mutex *s = (void *)m;

    if (self && one_in(w.yield_one_in * 4))
        switch_out();
    while (s->locked) {
        s->waiting++;
        fiber_wait(m, 0);
        s->waiting--;
    }
    s->locked = 1;
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
    struct sim_mutex *s = (void *)m;

    s->locked = 0;
    if (s->waiting)
        fiber_wake(m);
    return 0;
}

int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *a);
int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *a)
{
    (void)a;
    memset(c, 0, sizeof *c);
    return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *c);
int __wrap_pthread_cond_destroy(pthread_cond_t *c)
{
    (void)c;
    return 0;
}

static int cond_wait(pthread_cond_t *c, pthread_mutex_t *m, uint64_t deadline)
{
    __wrap_pthread_mutex_unlock(m);
    bool woken = fiber_wait(c, deadline);
    bool late = !woken && self->timed_out;
    __wrap_pthread_mutex_lock(m);
    return late ? ETIMEDOUT : 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int __wrap_pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    return cond_wait(c, m, 0);
}

/* CLOCK_MONOTONIC is w.now here; what is beyond it by far is of CLOCK_REALTIME. */
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t);
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t)
{
    uint64_t until = (uint64_t)t->tv_sec * SEC + (uint64_t)t->tv_nsec / 1000;

    if (until > WALL_START / 2)
        until -= WALL_START + (uint64_t)here()->skew_us;
    return cond_wait(c, m, until ? until : 1);
}

int __wrap_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
    fiber_wake(c);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *c);
int __wrap_pthread_cond_broadcast(pthread_cond_t *c)
{
    fiber_wake(c);
    return 0;
}

static bool key_used[KEYS_MAX];

int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *));
int __wrap_pthread_key_create(pthread_key_t *key, void (*end)(void *))
{
    (void)end; /* what a thread leaves is the run's */
    for (unsigned k = 0; k < KEYS_MAX; k++) {
        if (key_used[k])
            continue;
        key_used[k] = true;
        *key = k;
        return 0;
    }
    return EAGAIN;
}

int __wrap_pthread_key_delete(pthread_key_t key);
int __wrap_pthread_key_delete(pthread_key_t key)
{
    (void)key; /* not given again: a fiber may still hold a value of it */
    return 0;
}

void *__wrap_pthread_getspecific(pthread_key_t key);
void *__wrap_pthread_getspecific(pthread_key_t key)
{
    return self ? self->keys[key] : NULL;
}

int __wrap_pthread_setspecific(pthread_key_t key, const void *v);
int __wrap_pthread_setspecific(pthread_key_t key, const void *v)
{
    self->keys[key] = (void *)(uintptr_t)v;
    return 0;
}

/* ---- time ---- */

int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    const struct machine *m = here();
    uint64_t us = w.now;

    if (id == CLOCK_REALTIME)
        us += WALL_START + (uint64_t)(m ? m->skew_us : 0);
    t->tv_sec = (time_t)(us / SEC);
    t->tv_nsec = (long)(us % SEC) * 1000;
    return 0;
}

time_t __wrap_time(time_t *out);
time_t __wrap_time(time_t *out)
{
    struct timespec t;

    __wrap_clock_gettime(CLOCK_REALTIME, &t);
    if (out)
        *out = t.tv_sec;
    return t.tv_sec;
}

int __wrap_usleep(useconds_t us);
int __wrap_usleep(useconds_t us)
{
    point();
    fiber_sleep(us);
    return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    (void)left;
    return __wrap_usleep((useconds_t)((uint64_t)t->tv_sec * SEC + (uint64_t)t->tv_nsec / 1000));
}

int __wrap_sched_yield(void);
int __wrap_sched_yield(void)
{
    return __wrap_usleep(1);
}

/* ---- what a thread asks for itself ---- */

int __wrap_unshare(int flags);
int __wrap_unshare(int flags)
{
    (void)flags;
    return 0;
}

int __wrap_prctl(int op, ...);
int __wrap_prctl(int op, ...)
{
    (void)op;
    return 0;
}

int __wrap_pthread_setschedparam(pthread_t id, int policy, const void *p);
int __wrap_pthread_setschedparam(pthread_t id, int policy, const void *p)
{
    (void)id;
    (void)policy;
    (void)p;
    return 0;
}

int __wrap_setpriority(int which, unsigned who, int value);
int __wrap_setpriority(int which, unsigned who, int value)
{
    (void)which;
    (void)who;
    (void)value;
    return 0;
}

mode_t __wrap_umask(mode_t mask);
mode_t __wrap_umask(mode_t mask)
{
    return mask;
}

int __wrap_setfsuid(uid_t uid);
int __wrap_setfsuid(uid_t uid)
{
    return (int)uid;
}

int __wrap_setfsgid(gid_t gid);
int __wrap_setfsgid(gid_t gid)
{
    return (int)gid;
}

long __wrap_sysconf(int name);
long __wrap_sysconf(int name)
{
    return name == _SC_NPROCESSORS_ONLN ? 2 : 4096;
}

int __wrap_sigaction(int sig, const void *a, void *old);
int __wrap_sigaction(int sig, const void *a, void *old)
{
    (void)sig;
    (void)a;
    (void)old;
    return 0;
}

ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags);
ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)(rnd() >> 32);
    return (ssize_t)n;
}
