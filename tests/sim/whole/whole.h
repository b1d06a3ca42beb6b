/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A farm of whole workers in one process and one thread.
 *
 * The worker's own code runs unchanged, from worker_main on, with its threads. What it asks of the
 * C library is answered by the simulator (linked with --wrap, see CMakeLists.txt):
 *
 *   threads, mutexes, conditions, sleeping, clocks   fiber.c: fibers, virtual time
 *   eventfd, epoll, poll, streams to other nodes     fds.c, net.c
 *   the backing file system                          vfs.c, vfs_calls.c: in memory, power can fail
 *   libfuse                                          kernel.c: a model of the kernel's side
 *   entropy                                          the seed
 *
 * The index is real LMDB, and the intent log a real mapped file, in /dev/shm. What runs on a
 * machine belongs to a struct proc, which can be killed at every call that is answered here.
 *
 * One seed is one run: its shape (nodes, topology, delays, which faults, how often) and every
 * choice in it come from the seed's numbers, and nothing else does.
 */
#ifndef WHOLE_H
#define WHOLE_H

#include "base/config.h"
#include "core/record.h"
#include "mount/mount.h"
#include "node/worker.h"
#include "store/index.h"

#include <lmdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <ucontext.h>

#define MACHINES_MAX 8u
#define WALL_START (1700000000ull * 1000 * 1000)
#define KEYS_MAX 128u
#define ALL_FDS_MAX 4096u
#define SEC 1000000ull /* of virtual time */

/* ---- world.c: the run ---- */

enum fault {
    FAULT_KILL = 1,      /* a worker dies at some call */
    FAULT_CUT = 2,       /* no bytes between two nodes, for a while */
    FAULT_ONE_WAY = 4,   /* in one direction only */
    FAULT_BREAK = 8,     /* a stream ends in the middle of a frame */
    FAULT_TWICE = 16,    /* a second stream while the first one lives */
    FAULT_POWER = 32,    /* the machine stops, what was not synced is lost */
    FAULT_STOP = 64,     /* clean stop, changes behind the mount's back, start */
    FAULT_FULL = 128,    /* no room on the disk, for a while */
    FAULT_CLOCK = 256,   /* a clock jumps */
    FAULT_RESTORE = 512, /* a snapshot of the machine is restored */
    FAULT_WIPE = 1024,   /* stopped, its state directory lost, start */
    FAULT_ALL = 2047,
};

struct world {
    uint64_t seed, rng;
    uint64_t now;  /* virtual microseconds since the start */
    uint64_t hash; /* of everything that was noted */
    bool trace;
    unsigned n;          /* machines */
    unsigned steps;      /* operations left */
    unsigned faults;     /* enum fault: those this run may have */
    uint64_t fault_mean; /* microseconds between two */
    bool healing;        /* no more faults or operations */
    /* Shape of the run (swarm). */
    unsigned yield_one_in; /* calls at which another fiber may go on */
    uint64_t delay_us, jitter_us, grain_ns, pause_us;
    size_t stream_room, intents_size;
    unsigned big_one_in; /* files larger than a digest block */
    bool links[MACHINES_MAX][MACHINES_MAX];
    /* Counted for the summary. */
    uint64_t frames; /* that carry something new */
    uint64_t ops, kills, powers, breaks, sessions, switches;
    char why[512]; /* failed, when not empty */
};
extern struct world w;

uint64_t rnd(void);
unsigned below(uint64_t n);
static inline bool one_in(unsigned n)
{
    return n && below(n) == 0;
}
/* A line of the trace; what is noted makes the hash. */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The run has failed; the first reason counts. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- fiber.c ---- */

struct proc; /* something on a machine that can be killed whole */

struct fiber {
    struct proc *proc;
    ucontext_t ctx;
    void *stack;
    void *(*run)(void *);
    void *arg;
    enum { FIBER_READY, FIBER_WAITS, FIBER_DONE } state;
    const void *on;    /* what it waits for */
    uint64_t deadline; /* of w.now; 0 none */
    bool timed_out, interrupted;
    int err;          /* its errno */
    void *mount_self; /* its thread-local of src/mount */
    void *keys[KEYS_MAX];
};

struct proc {
    struct machine *machine;
    const char *name;
    bool dead;
    uint64_t die_in; /* calls from now; 0: lives on */
    void *maps[8];
    size_t map_len[8];
};

extern struct fiber *self; /* NULL: the world itself */

struct proc *proc_new(struct machine *m, const char *name);
/* Its fibers never run again. */
void proc_end_fibers(struct proc *p);
struct fiber *fiber_new(struct proc *p, void *(*run)(void *), void *arg);
/* False: the deadline passed or the fiber was interrupted first. */
bool fiber_wait(const void *on, uint64_t deadline);
void fiber_wake(const void *on);
void fiber_sleep(uint64_t us);
/* Called at each call the worker makes: others may go on here, and a proc may die here. */
void point(void);
void world_at(uint64_t time, void (*f)(void *, uint64_t), void *arg, uint64_t n);
/* Runs until `done` or the time is over or nothing is left to do; false when not done. */
bool world_run(bool (*done)(void), uint64_t until);
struct machine *here(void); /* of the fiber that runs; NULL in the world */
int fail_errno(int e);      /* sets errno, returns -1 */

/* ---- fds.c ---- */

#define VFD_BASE 100000
enum desc_kind {
    D_FREE,
    D_FILE,
    D_EVENT,
    D_EPOLL,
    D_STREAM,
    D_PACKETS,
    D_FUSE,
    D_CLOSES,
    D_CLOSED
};

struct packet {
    struct packet *next;
    size_t n;
    int fd;
    uint8_t bytes[];
};

struct desc {
    enum desc_kind kind;
    unsigned refs;
    struct machine *machine;
    struct inode *inode; /* D_FILE */
    uint64_t off;
    int flags;
    uint64_t count, gen;    /* D_EVENT */
    struct stream *stream;  /* D_STREAM: what is read from */
    struct stream *back;    /* and written to */
    struct packet *packets; /* D_PACKETS */
    uint64_t lid;           /* D_CLOSED */
    struct watch *watches;  /* D_EPOLL */
};

int desc_new(enum desc_kind kind, struct machine *m, struct proc *owner, struct desc **out);
struct desc *desc_of(int fd); /* NULL: not one of ours */
int desc_dup(int fd, struct proc *owner);
int desc_close(int fd);
void desc_signal(struct desc *d);
void proc_close_fds(struct proc *p);
void real_fd_opened(int fd);
void packets_put(struct desc *d, const void *p, size_t n, int fd);

/* ---- net.c ---- */

struct stream { /* one direction */
    struct conn *conn;
    unsigned from, to;
    uint8_t *bytes;
    size_t n, size;
    size_t ready;      /* of them, arrived */
    uint64_t last_at;  /* when the last of them arrives */
    bool ended;        /* nothing follows */
    bool gone;         /* nobody reads any more */
    uint64_t break_in; /* bytes until it ends by itself; 0 never */
    struct desc *reader;
    const void *room; /* writers wait for this */
};

void net_init(void);
void net_worker_up(struct machine *m);
void net_machine_down(struct machine *m);
void net_heal(void);
void net_fault(enum fault f);
ssize_t stream_read(struct desc *d, void *p, size_t n);
ssize_t stream_write(struct desc *d, const void *p, size_t n);
void stream_close(struct desc *d);
bool stream_readable(const struct desc *d);
bool stream_ended(const struct desc *d);
void stream_shutdown(struct desc *d);

/* ---- vfs.c ---- */

struct dirent_v {
    char name[256];
    struct inode *inode;
};

struct xattr_v {
    char name[64];
    uint8_t value[256];
    size_t n;
};

struct inode {
    struct machine *machine;
    uint64_t ino;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    int64_t mtime, ctime; /* ns */
    unsigned nlink, opens;
    uint8_t *data; /* file, or symlink target */
    size_t size, room;
    struct dirent_v *names; /* directory */
    size_t nnames, names_size;
    struct inode *parent; /* of a directory */
    struct xattr_v x[4];
    /* What a power cut leaves of the data. */
    bool unsynced;
    uint8_t *synced;
    size_t synced_size;
    /* For the oracle. */
    bool removed;   /* an application took a name of it away */
    bool installed; /* came from a peer, not written to since */
    bool promised;  /* closed by an application: what it holds is to be published */
    uint8_t digest[32];
};

void disk_init(struct machine *m);
struct inode *inode_new(struct machine *m, mode_t mode);
struct inode *dir_find(const struct inode *dir, const char *name);
/* One or more names of directories change together: durable together. */
void disk_change(struct machine *m, struct inode *dir, const char *name, struct inode *to);
void disk_change_done(struct machine *m);
void inode_resize(struct inode *i, size_t size);
void inode_touch(struct inode *i, bool data);
void inode_before_write(struct inode *i);
void inode_sync(struct inode *i);
void disk_power_cut(struct machine *m);
struct inode *disk_by_ino(struct machine *m, uint64_t ino);
void inode_digest(const struct inode *i, uint8_t out[32]);
void disk_snapshot(struct machine *m);
void disk_restore(struct machine *m);
/* The inode of a descriptor of ours, or NULL; of a path. */
struct inode *inode_of_fd(int fd);
int vfs_path(int dirfd, const char *path, struct inode **out);
bool inode_below(const struct inode *i, const struct inode *top);

/* ---- kernel.c ---- */

struct dentry {
    uint64_t dir, ino; /* ino 0: known to be absent */
    char name[256];
    bool expired;
};

struct kernel {
    struct dentry *d;
    size_t n, size;
    struct fuse_req *pending, *processing;
    uint64_t unique;
    uint64_t *closes; /* lids closed by a writer */
    size_t ncloses, closes_size;
    struct desc *closes_desc;
    uint64_t locked[16]; /* directories being changed */
    size_t nlocked;
    uint64_t open_lids[64]; /* held open by applications */
    size_t nopen;
    bool init_sent;
};

void kernel_reset(struct machine *m);  /* the machine stopped */
void kernel_resend(struct machine *m); /* a successor asks for the requests in flight */
int k_lookup(uint64_t dir, const char *name, uint64_t *ino);
int k_create(uint64_t dir, const char *name, mode_t mode, uint64_t *ino);
int k_mkdir(uint64_t dir, const char *name);
int k_symlink(uint64_t dir, const char *name, const char *target);
int k_link(uint64_t ino, uint64_t dir, const char *name);
int k_remove(uint64_t dir, const char *name, bool rmdir);
int k_rename(uint64_t dir, const char *name, uint64_t dir2, const char *name2, unsigned flags);
int k_write(uint64_t ino, const void *p, size_t n, uint64_t off);
int k_read(uint64_t ino, void *p, size_t n, uint64_t off);
int k_size(uint64_t ino, uint64_t *size, mode_t *mode);
int k_truncate(uint64_t ino, uint64_t size, bool open);
int k_chmod(uint64_t ino, mode_t mode);
int k_utime(uint64_t ino, int64_t mtime_ns);
int k_setxattr(uint64_t ino, const char *name, const char *value);
int k_fsync(uint64_t ino);
void k_open(uint64_t ino);
void k_close(uint64_t ino, bool written);
/* What the kernel has cached of names is what the backing tree says. */
void kernel_check(struct machine *m);
/* The backing inode behind a lid, as the worker last said; NULL unknown. */
struct inode *inode_of_lid(struct machine *m, uint64_t lid);

/* ---- machine.c ---- */

struct machine {
    unsigned i;
    enum { POWER_OFF, POWER_ON } power;
    enum { WORKER_NONE, WORKER_STARTING, WORKER_UP, WORKER_STOPPING } worker_state;
    struct proc *worker, *apps;
    unsigned apps_busy;
    struct config *config;
    struct worker_args args;
    struct mount_shared shared;
    struct staging staging;
    struct desc *super, *link; /* the worker's ends; NULL when it has none */
    char state[80], name[8];
    uint64_t boots;
    int exit_code; /* the worker ended itself with it */
    int64_t skew_us;
    /* disk */
    struct inode *root, *tree, *area;
    struct inode **inodes;
    size_t ninodes, inodes_size;
    struct undo *undo;
    struct snapshot *snapshot;
    bool full;
    struct kernel k;
    uint64_t *lid_ino; /* backing inode by lid */
    size_t nlids;
    /* its index */
    MDB_env *env;
    MDB_txn *txns[256];
    size_t ntxns;
    struct index *index;
    uint64_t head_before; /* for the check that a restart makes no new version */
};
extern struct machine machines[MACHINES_MAX];

void machine_init(unsigned i, const char *dir);
void machine_boot(struct machine *m);
void machine_kill_worker(struct machine *m);
void machine_power_cut(struct machine *m);
void machine_stop(struct machine *m);    /* asks for it; the state says when it is done */
void machine_restore(struct machine *m); /* when it is off */
void machine_wipe(struct machine *m);    /* when it is off */
void machine_snapshot(struct machine *m);

/* Its index file and the mark of it are on disk as they are now. */
void machine_index_synced(struct machine *m);

/* ---- ops.c ---- */
void apps_start(struct machine *m);
void edit_unmounted(struct machine *m);

/* ---- check.c ---- */
void published(const uint8_t digest[32]);
bool is_published(const uint8_t digest[32]);
void check_installed(struct inode *i, struct inode *from, struct inode *to);
/* Every worker is up and idle; *sum stays the same while no node's log grows. */
bool all_quiet(uint64_t *sum);
/* Every file of the tree that came from a peer is what some node published. */
void check_whole(struct machine *m);
void check_end(void);
void check_after_restart(void);
void heads_remember(void);

#endif
