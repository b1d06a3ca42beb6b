/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Inside the worker: shared by src/node/ and nobody else.
 *
 * One thread, the core thread, runs worker_loop and owns everything in struct node that does not
 * name another owner. What comes from elsewhere arrives as intents (from the mount) or as messages
 * in the inbox (from sessions, control files, the link process).
 *
 * How a change of a peer gets into the backing tree (apply.c):
 *   merge the records -> view_changes -> plan: effects, places, node rows -> claim the names
 *   -> commit records and effects together -> run the effects -> invalidate the kernel's caches ->
 * ack. The effects are a redo log: after a crash they are run again, each finds out whether it was
 * done.
 */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/queue.h"
#include "mount/control.h"
#include "mount/mount.h"
#include "node/worker.h"
#include "ship/receiver.h"
#include "ship/sender.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define INTENTS_SIZE (32u * 1024u * 1024u)
#define INDEX_MAP_SIZE ((size_t)256 << 30)
#define LIDS_BLOCK 65536u
#define INBOX_MAX 256u
#define MAPPED_MAX (64u << 20) /* bytes of mapped files that may count as this process's memory */

struct session;

enum node_state {
    STATE_STARTING,
    STATE_RECOVERING,
    STATE_SYNCING,
    STATE_READY,
    STATE_LAGGING,
    STATE_ISOLATED,
    STATE_DRAINING,
    STATE_MAINTENANCE,
    STATE_FAILED,
};
const char *node_state_name(enum node_state s);

/* ---- events.c: what happened, for people; a file in the state directory, bounded. Any thread.
 * ---- */
struct events;
FARM_MUSTUSE int events_open(int state_fd, struct events **out);
void events_close(struct events *e);
/* kind: "raised", "cleared" or "note"; name: a short stable word ("link-web2", "skew-web3"). A
 * raised one is repeated only after it was cleared, and cleared only if raised. */
void events_raise(struct events *e, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void events_clear(struct events *e, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void events_note(struct events *e, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Offsets go on over rotation. They begin anew with the worker, at the oldest line that is kept;
 * what was dropped since then reads as empty lines. */
uint64_t events_size(struct events *e);
/* Up to n bytes of the log from off on. */
FARM_MUSTUSE int events_read(struct events *e, uint64_t off, size_t n, struct buf *out);
/* Called (on the caller's thread) after each line. */
void events_on_grow(struct events *e, void (*f)(void *), void *arg);

/* ---- effects.c ---- */
enum loc_kind { LOC_NONE, LOC_DIR, LOC_IN, LOC_HIDDEN, LOC_ORPHAN, LOC_CONFLICT, LOC_HISTORY };
struct loc {
    uint8_t kind;
    uint8_t len;
    uint8_t name[255];
    uint64_t lid;      /* LOC_DIR: the directory */
    struct handle dir; /* and its handle: when it goes too, its lid is not known after the commit */
};
enum effect_op {
    EFFECT_MOVE = 1,   /* from -> to; what is at `to` goes to `displaced` or is replaced */
    EFFECT_LINK = 2,   /* another name */
    EFFECT_REMOVE = 3, /* unlink, or rmdir when dir */
    EFFECT_ATTR = 4,   /* make the inode's attributes and time those of its records */
};
struct effect {
    uint8_t op;
    bool dir;
    bool done; /* run; the kernel may not have been told of it */
    struct loc from, to, displaced;
    uint64_t lid;     /* of the thing; 0 when it has none */
    uint64_t old_lid; /* what is displaced at `to`; 0 none */
    struct id128 rid;
    struct handle handle; /* of the thing: tells whether it was done */
};
struct effects {
    struct effect *v;
    size_t n, size;
};

/* ---- the node ---- */
struct want {
    struct id128 rid;
    struct stamp stamp;
    uint64_t asked_us; /* mono; 0: not yet */
    bool fresh, done;  /* added, and met, in the transaction under way */
};

struct barrier {
    struct barrier *next;
    struct control_request *rq; /* either this or the next */
    struct sync_wait *sync;
    bool *awaited;    /* per peer: it could be reached when the barrier was begun */
    uint64_t intents; /* all before this number must be in the index */
    uint64_t *lids;   /* then these must be sealed; NULL: not asked for yet */
    size_t nlids;
    uint64_t pos; /* every connected peer must have acknowledged this */
    bool settled; /* pos is set */
};

struct peer {
    const struct config_peer *config;
    struct session *session;        /* NULL: not connected */
    struct session *starting;       /* in its handshake */
    uint64_t node;                  /* its id, 0 unknown yet */
    uint64_t former, former_us;     /* the id that it was last met under, when (wall) */
    uint64_t away_us;               /* mono: since when it is not connected */
    uint64_t behind_pos, behind_us; /* a position of its log we lack, since when (mono; 0: none) */
    int code;                       /* why it is not connected */
    char reason[400];
    uint32_t rtt_us;
    uint64_t acked_pos; /* of our log; kept over sessions */
    uint64_t mark_pos,
        mark_us;         /* it had not acknowledged this at that (mono) time; 0: it has all */
    bool met;            /* connected since we started: acked_pos is known */
    bool synced;         /* we had all of its log once since we started */
    uint64_t head;       /* of its log, as it says in this session; 0 not yet */
    char link_text[256]; /* why the link process has no session, "" it has */
    uint64_t sent_bytes, sent_seen; /* over all sessions; of this one, as last counted */
    uint64_t backlog_entries, backlog_bytes, backlog_us; /* as counted at that time */
    uint64_t links[VVEC_MAX];                            /* nodes it is connected to, as it says */
    size_t nlinks;
};

#define GOSSIP_MAX 64u
/* What other nodes say of themselves (gossip), by name. */
struct gossip {
    char name[64];
    uint64_t node, counter;
    uint64_t heard_us; /* mono */
    bool knows;        /* it said what it holds for certain, and whom it counts as members */
    struct vvec know;
    char members[GOSSIP_MAX][64];
    size_t nmembers;
    char json[STATE_MAX + 1];
};

/* What is shown of a peer, ready to be printed. */
struct peer_shown {
    char state[16];
    char error[400];
    bool met; /* backlog and lag are known */
    uint64_t backlog_entries, backlog_bytes, lag_ms, rtt_us, sent_bytes;
    uint64_t acked_pos; /* of our log */
};

struct kept_later;
struct kept_note;
struct keep_total {
    uint64_t count, bytes;
};
/* What is kept: keep.c. */
struct keep {
    struct keep_total total[KEPT_CLASSES];
    uint64_t evicted, lost;      /* since the start */
    uint64_t evict_us, sweep_us; /* mono: when last */
    uint64_t drop_upto;          /* conflicts with lower keys are being discarded; 0: none are */
    size_t dropped;              /* so far */
    struct kept_later *later;    /* rows of what was kept outside of a transaction */
    struct kept_note *notes;     /* of this transaction */
    struct id128 *hidden;        /* of this transaction: names to be looked at */
    size_t nhidden, hidden_size;
};

struct node {
    const struct worker_args *args;
    const struct config *config;
    const struct clock_source *clock;
    struct index *index;
    struct records records;
    struct replica replica;
    struct index_meta meta;
    struct nodes *nodes;
    struct intent_log *intents;
    struct claims *claims;
    struct dirty *dirty;
    struct staging *staging;
    struct mount *mount;
    struct control *control;
    struct control_provider provider; /* control_files, with this node as ctx */
    struct events *events;
    struct queue inbox; /* struct inmsg */
    int epoll, link_fd;
    bool stopping, serving;
    bool compare;  /* the intents are lost: the folder is compared although the mount lives */
    bool restored; /* the machine stopped: the index is as of its last mark */
    bool adopting; /* peers are heard first: what is unknown to the index may be theirs */
    bool adopted;  /* that is over */
    bool passed;   /* while it lasted something unknown was passed by */
    bool draining; /* asked for, until `ready` is */
    bool unclean;  /* what ran before us here did not stop in order */
    enum node_state state;
    char state_reason[160];
    uint64_t started_us; /* mono */

    /* The current transaction. */
    bool in_txn;
    struct replica replica_before; /* to go back to when the transaction is abandoned */
    struct index_meta meta_before;
    uint64_t consumed;     /* intents turned into records in it */
    uint64_t reviewed_us;  /* wants, tombstones */
    uint64_t suspected_us; /* the index was last looked at for an error in it; 0 never */
    struct durable *durable;
    struct vvec synced_know; /* knowledge that outlives a crash of the machine: what members are
                                told, who collect by it */
    atomic_bool rejoining;   /* meta.rejoin_pos is set; for other threads */
    struct {
        bool held, allowed;   /* deletions wait to be confirmed; were confirmed */
        uint64_t lost, total; /* names that are gone, of so many */
    } brake;
    struct vvec rejoin_held;    /* rejoining: the versions that we had */
    struct vvec collect_stable; /* what all had seen when the last pass began */
    uint64_t collect_us;        /* when that was (mono) */
    uint64_t collect_from;      /* log position of the tombstone to be looked at next */
    uint64_t collected;         /* inodes, since the start */
    uint64_t commit_next_us;    /* the next local transaction not before this (monotonic) */
    uint64_t stalled_until_us;  /* the index could not be written: not before then again */

    /* Work collected while intents are consumed (keys are lids; values not used). */
    struct map_u64 to_seal;    /* to be sealed: value n; or the write generation it was closed with,
                                  then only if nothing was begun since */
    struct map_u64 to_stat;    /* attributes may have changed; value 2: times set explicitly */
    struct map_u64 to_touch;   /* directories whose names changed here: their time moves */
    struct map_u64 to_refresh; /* what was changed by us or lost or got a name: its row follows */
    struct map_u64 settle;     /* now in the index once committed */
    struct map_u64 held;       /* new files not announced yet: value is mono us of creation / 1 */
    struct map_u64 leaving; /* inodes that leave the tree for a peer's change, once committed: value
                               &replaced: another content takes its place; else it goes */
    struct seal_undo *sealed; /* taken out of `dirty` and `held` in this transaction */
    struct map_u64 replaced;  /* orphans that a peer's content replaced: unsealed writes are kept */
    uint64_t retry_seal_us;   /* 0: none to retry */

    struct map_u64 *watch; /* claim keys whose intents local_consume refuses with -EAGAIN */
    struct id128 *seeds;   /* names that local operations put: the view is asked about them */
    size_t nseeds, seeds_size;

    struct scan *scan; /* the walk, NULL: the folder is compared whole */

    struct index_reader *reader;       /* committed state, for the core thread */
    struct index_reader *files_reader; /* and for the control thread */
    struct effects effects;            /* planned, committed, to be run */
    struct telling *telling;           /* run, and the kernel may not have been told yet */
    size_t ntelling, telling_size;
    uint64_t tell_seq;         /* of the latest of them */
    _Atomic uint64_t told_seq; /* up to which it was told; set on the notify thread */
    struct want *wants;
    size_t nwants, want_turn;
    uint64_t next_key; /* conflicts/<key>, history/<key> */
    struct keep keep, keep_before;

    struct peer *peers;
    size_t npeers;
    struct barrier *barriers;
    atomic_bool barriers_ended; /* none is answered any more */
    struct gossip gossip[GOSSIP_MAX];
    size_t ngossip;
    uint64_t gossip_counter;
    bool gossip_due;
    uint64_t gossip_us; /* when peers were last told (mono) */
    bool synced;        /* all connected peers were caught up with once since we started */
    uint64_t judged_us; /* when the state was first judged (mono) */
    uint64_t alone_us;  /* since when no peer is connected (mono), 0: one is */

    struct scrub *scrub;          /* NULL: off */
    struct scrub_repair *repairs; /* files the scrub found damaged or missing, to be repaired */
    size_t nrepairs;

    pthread_mutex_t status_lock; /* guards the rest */
    char *status_json, *status_text;
    char shown_state[16], shown_health[200];
    struct peer_shown *peers_shown;      /* as many as peers; NULL: nothing is shown yet */
    struct gossip shown[GOSSIP_MAX + 1]; /* ourselves first */
    size_t nshown;
};

static inline uint64_t node_wall(const struct node *n)
{
    return clock_wall(n->clock);
}
static inline uint64_t node_mono(const struct node *n)
{
    return clock_mono(n->clock);
}

/* ---- txn.c: the write transaction with what goes along with it in memory ---- */
FARM_MUSTUSE int txn_begin(struct node *n);
/* Commits records, meta and effects; then consumed intents are released, senders woken. */
FARM_MUSTUSE int txn_commit(struct node *n);
void txn_abort(struct node *n);

/* Ask the view about a name when the transaction is done (every name that is put). */
void node_seed(void *node, struct id128 nid);

/* ---- local.c: intents -> records. Inside a transaction. ---- */
/* Consume what is there, at most max entries; *n says how many. */
FARM_MUSTUSE int local_consume(struct node *n, unsigned max, unsigned *count);
/* At the end of a transaction: attributes, seals, times of directories. */
FARM_MUSTUSE int local_finish(struct node *n);
/* A file or directory found in the backing tree without a record. at: clock value, 0 now. */
FARM_MUSTUSE int local_found(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len,
                             uint64_t lid, const struct handle *h, bool by_mtime,
                             struct id128 *rid);
/* local_data.c: intents about content. */
FARM_MUSTUSE int local_dirty(struct node *n, const struct intent *in);
FARM_MUSTUSE int local_close(struct node *n, const struct intent *in);
FARM_MUSTUSE int local_forget(struct node *n, uint64_t lid);
/* Attributes of an inode as they are on disk, if they differ from the record. */
FARM_MUSTUSE int local_stat(struct node *n, uint64_t lid, bool times, uint64_t at);
/* An inode lost a name: without any place it leaves the index (orphan: its lid stays). */
FARM_MUSTUSE int local_lost(struct node *n, struct id128 rid, bool orphan);
FARM_MUSTUSE int local_touch_dir(struct node *n, uint64_t lid);
/* Intents of a dead worker: what became of them? (intent_judge) */
void local_judge(void *node, struct intent *in);
/* And its completed ones, before: their inodes are made known. */
void local_learn(void *node, struct intent *in);

/* ---- seal.c ---- */
/* Make a content version of what was written. -EBUSY: being written, try later. force: although it
 * may be open. */
FARM_MUSTUSE int seal_file(struct node *n, uint64_t lid, uint64_t at);
/* The transaction came to nothing / was committed: what its seals took is given back / forgotten.
 */
void seal_undo(struct node *n);
void seal_done(struct node *n);
/* Files kept open: seal what is idle or old. */
void seal_timer(struct node *n);

/* ---- plan.c: view changes -> effects. Inside a transaction. ---- */
struct staged {
    struct id128 rid;
    char name[32]; /* in staging in/; "" once planned */
    uint64_t lid;
    uint8_t type;
    struct handle handle;
    struct id128 nid; /* the name that got it */
};
struct plan {
    struct node *node;
    struct staged *staged;
    size_t nstaged;
    struct view_change *changes;
    uint8_t *done; /* per change: 0 no, 1 being planned, 2 done */
    size_t nchanges;
    struct map_u64 touched; /* directories (lid) whose times must be set again */
};
/* changes is taken over. */
FARM_MUSTUSE int plan_changes(struct plan *p, struct view_change *changes, size_t n);
/* New content for an inode that is in the tree. why: what it replaces is kept as a conflict;
 * KEPT_REPLACED: it lost to nothing, and goes into the history, if there is one. */
FARM_MUSTUSE int plan_content(struct plan *p, struct staged *s, const struct index_node *old,
                              enum kept_why why, const struct content_rec *loser);
/* Keep staged data that lost a conflict. */
FARM_MUSTUSE int plan_keep(struct plan *p, const char *staged, const struct content_rec *c,
                           enum kept_why why);
/* A second name for the file of this content, among the conflicts: as it is at a place. Its own
 * place is left to what follows. */
FARM_MUSTUSE int plan_keep_place(struct plan *p, struct id128 nid, const struct place *now,
                                 const struct content_rec *c, enum kept_why why);
FARM_MUSTUSE int plan_attr(struct plan *p, struct id128 rid);
FARM_MUSTUSE int plan_finish(struct plan *p);
void plan_fini(struct plan *p);
/* Create directories, symlinks, FIFOs in the staging area, with attributes. */
FARM_MUSTUSE int plan_stage_special(struct plan *p, const struct content_rec *c,
                                    struct staged **out);

/*
 * ---- keep.c: what lost, was replaced or deleted, kept outside the tree ----
 * See enum kept_class and kept_why in store/index.h. How something is kept:
 *  - planned, in a transaction: keep_file gives it its row and the effect that takes the file to
 *    where it is kept (or keep_row, where another effect takes it there);
 *  - at once, by a system call: keep_now; the row follows with the next transaction.
 * Both are listed in .farm/conflicts or .farm/history, restored, and dropped by age and quota.
 */
struct keeping {
    enum kept_class class;
    enum kept_why why;
    struct id128 rid;
    const struct content_rec *content; /* what is kept; NULL: unknown */
    const struct rec_head *winner;     /* NULL: unknown */
    struct id128 parent;               /* where it was; name_len 0: where rid is now */
    const uint8_t *name;
    uint8_t name_len;
};
/* A row; *to is where the file has to come. For conflicts an event, once that is committed. */
FARM_MUSTUSE int keep_row(struct node *n, const struct keeping *what, struct loc *to);
/* The file at `from` with that handle is moved; link: gets a second name. */
FARM_MUSTUSE int keep_file(struct node *n, const struct keeping *what, const struct loc *from,
                           const struct handle *h, bool link);
/* What goes away in the ordinary way: into the history, if the folder has one. The class does not
 * count; content NULL: as the records say. */
FARM_MUSTUSE int keep_gone(struct node *n, const struct keeping *what, const struct loc *from,
                           const struct handle *h);
/* Into conflicts/, now; path "": unknown. Not to be used for what a transaction may undo. */
FARM_MUSTUSE int keep_now(struct node *n, int dirfd, const char *name, const char *path,
                          enum kept_why why, bool link);
/* An effect could not bring a file to where it was to be kept. */
void keep_lost(struct node *n, const struct loc *to, int code);
bool keep_history(const struct node *n);
/* Losers and hidden rivals. */
static inline uint64_t keep_conflicts(const struct node *n)
{
    return n->keep.total[KEPT_CONFLICT].count + n->keep.total[KEPT_HIDDEN].count;
}
/* A name that may have become hidden, or come out: looked at by keep_hidden, in a transaction. */
void keep_look(struct node *n, struct id128 nid);
FARM_MUSTUSE int keep_hidden(struct node *n);
/* Discard what has this id, or "all" conflicts; hidden names are part of the folder and stay. */
void keep_drop(struct node *n, const char *id);
void keep_timer(struct node *n);
/* With the transaction; before: as it was when it began. */
void keep_committed(struct node *n);
void keep_aborted(struct node *n, const struct keep *before);
const char *kept_why_text(uint8_t why);
void kept_file_name(const struct index_kept *k, char out[40]);
int kept_dir(const struct staging *s, uint8_t class);
/* What can be seen of a file, and the time, into its row. */
void kept_row_of_stat(struct node *n, struct index_kept *k, const struct stat *st);

/* ---- keep_sweep.c ---- */
/* At the start, before anything is kept: counts, and rows for files that have none. */
FARM_MUSTUSE int keep_open(struct node *n);
/* Now and then: data in hidden/ that nothing refers to any more. */
void keep_sweep(struct node *n);

/* ---- path.c ---- */
/* A place of an inode in the tree (kind PLACE_AT); -ENOENT: it has none. */
FARM_MUSTUSE int path_place(const struct records *r, struct id128 rid, struct place *out);
/* Path of an inode in the tree of these records; -ENOENT: it is not in it, -ENAMETOOLONG. */
FARM_MUSTUSE int path_of(const struct records *r, struct id128 rid, char *out, size_t size);
/* For people, in a transaction; "(inode ...)" when it has none. */
void node_path(struct node *n, struct id128 rid, char *out, size_t size);

FARM_MUSTUSE int effects_add(struct effects *e, const struct effect *x);
void effects_clear(struct effects *e);
void effect_encode(struct buf *b, const struct effect *e);
FARM_MUSTUSE int effect_decode(struct cur *c, struct effect *e);
/* Run what is planned (again: after a crash, when most of it may have been done); invalidate.
 * Failures are logged and raised as events; the rest goes on. */
void effects_run(struct node *n, bool again);
/* Tell the kernel what an effect changed (again). */
void effect_tell(struct node *n, const struct effect *e);

/* ---- telling.c: the kernel's caches outlive the worker. What was run stays in the redo log, as
 * done, until the kernel has been told of it; a successor tells it of what it finds there. ---- */
void telling_add(struct node *n, const struct effect *e);
/* After effects_run: notes when the kernel has been told of all that was added. */
void telling_flush(struct node *n);
/* In txn_commit: rows of the redo log from this ordinal on. */
FARM_MUSTUSE int telling_put(struct node *n, uint64_t ordinal);
/* The mount is served: all that a former worker left is told. */
void telling_start(struct node *n);
/* The claim key of a place, 0 when it is none of the mount's. */
uint64_t loc_key(const struct loc *l);

/* ---- apply.c: batches of peers' records ---- */
/* Applies a batch whole (in its own transaction). */
FARM_MUSTUSE int apply_batch(struct node *n, struct session *s, struct batch *b);
/* What was done through the mount, in a transaction of its own; and what the view says of it. */
FARM_MUSTUSE int apply_local(struct node *n);
/* Something else in a transaction of its own, planned and carried out as a batch is: before the
 * view is asked, and after. May be tried several times. */
struct work {
    void *arg;
    int (*before)(void *arg, struct plan *p);
    int (*after)(void *arg);
};
FARM_MUSTUSE int apply_work(struct node *n, const struct work *w);
/* The same in a transaction in which f has its say: after the local operations are in the records,
 * before the view is asked. f may be called again (a name was just being changed). */
FARM_MUSTUSE int apply_with(struct node *n, int (*f)(struct plan *p, void *arg), void *arg);
/* After a restart: effects that were committed and perhaps not run. They are taken up before the
 * first transaction, or its commit would take their place; from then on commits keep them until
 * they are run. */
FARM_MUSTUSE int apply_pending_load(struct node *n);
void apply_pending_run(struct node *n);
/* Content that is to be asked for, in a transaction: its record is ahead of the file / the file is
 * not what its record says (and is kept when it is replaced); and no more. held: the record of what
 * the file holds meanwhile; NULL: it has no file, or was behind already. */
FARM_MUSTUSE int apply_want(struct node *n, struct id128 rid, struct stamp stamp,
                            const struct content_rec *held);
FARM_MUSTUSE int apply_want_damaged(struct node *n, struct id128 rid, struct stamp stamp);
FARM_MUSTUSE int apply_want_no_more(struct node *n, struct id128 rid);
bool apply_is_wanted(const struct node *n, struct id128 rid);
/* The content record of what the file holds. -ENOENT: there is none. */
FARM_MUSTUSE int apply_held(struct node *n, struct id128 rid, struct content_rec *out);
void apply_wants_end(struct node *n, bool committed); /* the transaction's end */
FARM_MUSTUSE int apply_forget_wants(struct node *n);
void apply_ask(struct node *n, struct session *s); /* send WANTs to a (new) session, NULL: to all */

/* In a transaction: everything done through the mount before now is in the records; seals,
 * attributes and times follow in local_finish / are there too. */
FARM_MUSTUSE int apply_settle(struct node *n);
FARM_MUSTUSE int apply_drain(struct node *n);
/* apply_local with a slice of the walk. */
FARM_MUSTUSE int apply_walk(struct node *n);

/* ---- check.c: one name of the backing tree against the index. Inside a transaction ---- */
struct check_dir {
    struct id128 rid;
    uint64_t lid;
    int fd;
    bool changed; /* set when what was found moves the directory's time */
};
enum checked {
    CHECK_SAME,
    CHECK_TAKEN,  /* differed; recorded as changed here */
    CHECK_BUSY,   /* being changed through the mount: try again */
    CHECK_ABSENT, /* not there; its inode may be elsewhere */
};
/* Consumes intents on the way. final: a name that is not there is recorded as removed. */
FARM_MUSTUSE int check_name(struct node *n, struct check_dir *d, const char *name, bool final,
                            enum checked *out);
/* A name, and all below it, are not in the tree any more. */
FARM_MUSTUSE int check_drop(struct node *n, struct id128 parent, const uint8_t *name, uint8_t len);
/* Has another name of the inode its file on disk? */
bool check_linked(struct node *n, const struct index_node *row, struct id128 but);
/* Another file stands where that of row stood, which has no other name: lid and h are its. */
FARM_MUSTUSE int check_replaced(struct node *n, struct index_node *row, uint64_t lid,
                                const struct handle *h);
/* An operation through the mount found the inode lid at this place: while the walk is under way the
 * index may have it elsewhere. */
FARM_MUSTUSE int check_intent(struct node *n, uint64_t dir_lid, const uint8_t *name, uint8_t len,
                              uint64_t lid);
/* All that a peer's record is about. -EAGAIN: being changed. */
FARM_MUSTUSE int check_record(struct node *n, const struct record *r);

/* ---- rebuild.c: files that the index does not know, and peers do ---- */
/* All peers that can be reached were heard to the end. */
bool rebuild_heard(const struct node *n);
/* In a transaction: the name is to get its place, where an equal file stands already: taken. */
FARM_MUSTUSE int rebuild_adopt(struct plan *p, const struct view_change *c, bool *adopted);
/* In a transaction: an unknown file that peers have deleted meanwhile is kept beside. */
FARM_MUSTUSE int rebuild_buried(struct node *n, const struct check_dir *d, const char *name,
                                const struct stat *st, bool *gone);
/* They were heard: what is unknown now is new here. Begins a walk, unless there is one. */
FARM_MUSTUSE int rebuild_end(struct node *n);

/* ---- scan.c: the walk that compares the whole folder, while it is served ---- */
FARM_MUSTUSE int scan_new(struct node *n); /* before anything is recovered; n->scan or none */
/* In the first transaction. */
FARM_MUSTUSE int scan_due(struct node *n);
void scan_free(struct node *n);
/* In a transaction; then whether that was kept or dropped. scan_kept ends the walk. */
FARM_MUSTUSE int scan_slice(struct node *n);
/* The names that were not there, as long as the walk is not over. */
void scan_gone(const struct node *n, const struct id128 **nids, size_t *count);
bool scan_rests(const struct node *n); /* there is nothing to do just now */
bool scan_idle(const struct node *n);  /* the last slice has nothing to be kept */
void scan_kept(struct node *n);
void scan_dropped(struct node *n);
/* The rest does nothing, and says no, when there is no walk. */
bool scan_first(const struct node *n);      /* nothing was recorded before */
bool scan_recovering(const struct node *n); /* after a stop that was not in order */
/* Is the file perhaps not what its row says? / It is. */
bool scan_unverified(const struct node *n, uint64_t lid);
void scan_verified(struct node *n, uint64_t lid);
/* The inode was changed through the mount: what was changed before is taken up with it. */
FARM_MUSTUSE int scan_touched(struct node *n, uint64_t lid);
/* What a peer's batch is about is compared before it is merged. -EAGAIN: being changed. */
FARM_MUSTUSE int scan_batch(struct node *n, const struct batch *b);
/* A directory that the walk may have passed by. */
FARM_MUSTUSE int scan_late(struct node *n, uint64_t lid);
/* Names of a directory, up to the first that differs. */
FARM_MUSTUSE int scan_directory(struct node *n, uint64_t lid);
/* True: the walk sees to an inode that lost its last name. */
bool scan_bare(struct node *n, struct id128 rid);
void scan_progress(const struct node *n, char *out, size_t size);
void scan_counts(const struct node *n, uint64_t *seen, uint64_t *total, uint64_t *changes);

/* ---- scrub.c: the contents of files against their digests, slowly, all the time. A thread reads
 * and compares; what it finds comes to the core thread as IN_SCRUB and is dealt with in
 * scrub_repair.c. ---- */
struct scrub;
/* What a look at an inode showed, twice, with a pause between. */
enum scrub_kind {
    SCRUB_DAMAGED = 1, /* differs from its digest; its times say that nobody wrote it */
    SCRUB_MISSING,     /* is not at a place of its, or something else is there */
    SCRUB_WRITTEN,     /* its time or size was changed behind the mount */
    SCRUB_ATTRS,       /* its attributes were */
};
struct scrub_find {
    enum scrub_kind kind;
    struct id128 rid;
    struct stamp stamp; /* of the content record */
    uint64_t lid;
    uint64_t size; /* of the file, and its times, as it was looked at */
    int64_t mtime_ns, ctime_ns;
};
FARM_MUSTUSE int scrub_start(struct node *n);
void scrub_stop(struct node *n);
/* The core thread, every 100 ms. */
void scrub_tick(struct node *n);
/* A full round from the beginning, at full rate. */
void scrub_now(struct node *n);
/* `.farm/scrub`, a line of `status`, the member of status.json. The core thread, or any other with
 * status_lock held. */
void scrub_line(struct node *n, struct buf *out);
void scrub_text(struct node *n, struct buf *out);
struct json_t;
struct json_t *scrub_json(struct node *n);

/* A find has been dealt with; what is to be counted. */
void scrub_dealt(struct node *n);
enum scrub_count {
    COUNT_FOUND,     /* files damaged or missing */
    COUNT_REPAIRED,  /* of those */
    COUNT_TAKEN,     /* changes behind the mount */
    COUNT_DIFFERING, /* ranges of records that differed from a peer's */
    COUNT_HEALED,    /* of those */
    COUNT_COUNT,
};
void scrub_counted(struct node *n, enum scrub_count what);

/* ---- scrub_peers.c ---- */
struct scrub_ask {
    uint64_t to; /* peers, a bit each */
    struct msg_sum sum;
};
/* What the scrub's thread says to peers; the core thread; takes ask. */
void scrub_say(struct node *n, struct scrub_ask *ask);
/* A peer said something of a range of records; the session's receiving thread, with a reader of its
 * own. */
FARM_MUSTUSE int scrub_sum_heard(struct node *n, size_t peer, struct index_reader *r,
                                 struct sender *tx, const struct msg_sum *m);

/* ---- scrub_repair.c: the core thread ---- */
struct scrub_repair;
void scrub_found(struct node *n, struct scrub_find *f); /* takes f */
/* Which of those that were asked for have come? */
void scrub_review(struct node *n);

/* ---- durable.c: the index is marked, and looked at, beside the core thread ---- */
FARM_MUSTUSE int durable_start(struct node *n);
/* Begins a mark when it is time; often. */
void durable_tick(struct node *n);
/* What is wrong with the index, NULL: nothing that is known of. */
const char *durable_damage(const struct node *n);
/* Waits for both threads. */
void durable_stop(struct node *n);
/* At the end of an orderly stop, after durable_stop: all is on the disk, and marked as such. */
FARM_MUSTUSE int durable_clean(struct node *n);

/* ---- session.c ---- */
enum inmsg_type {
    IN_HELLO,
    IN_WELCOME,
    IN_BATCH,
    IN_ACK,
    IN_WANT,
    IN_STATE,
    IN_KNOW,
    IN_DOWN,
    IN_BARRIER,
    IN_SYNC,
    IN_COMMAND,
    IN_SCRUB,
    IN_SUM,
};
struct inmsg {
    struct qnode q;
    enum inmsg_type type;
    struct session *session; /* a reference */
    void *p;                 /* owned; by type */
};
/* A stream from the link process: takes fd. */
FARM_MUSTUSE int session_start(struct node *n, const char *peer, int fd);
void session_message(struct node *n, struct inmsg *m);              /* takes m */
void session_applied(struct session *s, uint64_t pos, bool resent); /* one batch is in */
void session_ack_all(struct node *n);                               /* after batches */
void session_wake_all(struct node *n);
void session_stop_all(struct node *n);
struct sender *session_sender(struct session *s);
FARM_MUSTUSE int session_want(struct session *s, struct id128 rid, struct stamp stamp);
uint64_t session_node(const struct session *s);
uint64_t session_peer_run(const struct session *s); /* the peer's run, see identity.c */
const char *session_name(const struct session *s);
/* Up to where the peer's log was applied in this session; 0: nothing yet. */
uint64_t session_applied_pos(const struct session *s);

/* ---- status.c: the state, what is shown of it, what the link process says ---- */
void link_message(struct node *n); /* link_fd is readable */
/* What outlives the worker: whether the node was taken out of service. */
void status_open(struct node *n);
void node_set_state(struct node *n, enum node_state s, const char *why);
/* A complete answer of an HAProxy agent check, without its newline. */
void node_health(const struct node *n, char *out, size_t size);
/* Judges the state and shows it; every 100 ms. */
void status_update(struct node *n);
uint64_t peer_lag_ms(const struct node *n, const struct peer *p);
/* A write to a control file; takes command (malloced). */
void command_run(struct node *n, char *command);

/* ---- gossip.c ---- */
void status_gossip(struct node *n); /* tell peers about us, once a second or when it is due */
void gossip_heard(struct node *n, struct session *s, struct gossip *g); /* takes g */
/* What we say of ourselves: JSON of at most STATE_MAX bytes. */
void gossip_own(struct node *n, struct gossip *out);

/* ---- identity.c ---- */
/* At the start, in the index's transaction, with meta and replica loaded. */
FARM_MUSTUSE int identity_start(struct node *n);
uint64_t identity_run(const struct node *n);
/* What a peer says of us cannot come from what we are: from which start on. */
bool identity_forked(const struct node *n, const struct msg_welcome *w, struct index_run *from);
/* A new id; what was stamped from there on is stamped anew; all sessions end. */
FARM_MUSTUSE int identity_renew(struct node *n, const struct index_run *from, const char *peer);

void identity_become(struct node *n); /* in a transaction */

/* ---- brake.c ---- */
/* The walk has seen everything: is so much gone that somebody is to be asked first? */
FARM_MUSTUSE int brake_judge(struct node *n, const struct id128 *gone, size_t count,
                             uint64_t total);
/* What is held goes its way; or comes back from the peers. */
void brake_confirm(struct node *n);
void brake_reject(struct node *n);

/* ---- rejoin.c ---- */
/* Both have said HELLO. 0: go on; FARM_ECLOSED: not now. */
FARM_MUSTUSE int rejoin_hello(struct node *n, const struct msg_hello *mine,
                              const struct msg_hello *theirs);
/* The end of that peer's log, and what it knows. */
FARM_MUSTUSE int rejoin_finish(struct node *n, const struct msg_hello *theirs,
                               const struct vvec *know);

/* ---- collect.c ---- */
/* A bounded part of the tombstones that every member has seen goes; once a second. */
void collect_round(struct node *n);

/* ---- barrier.c ---- */
void barrier_add(struct node *n, struct control_request *rq); /* takes rq */
struct sync_wait;
void barrier_add_sync(struct node *n, struct sync_wait *w);
/* For an fsync's own thread (mount_env.acknowledged): waits until one or all (config ack) of the
 * peers that can be reached have what was written to the file. FARM_ECLOSED: the worker ends. */
FARM_MUSTUSE int barrier_sync(void *node, uint64_t lid);
void barrier_check(struct node *n);    /* after each round */
void barrier_drop_all(struct node *n); /* after control_stop; frees */

/* ---- control_files.c ---- */
extern const struct control_provider control_files; /* ctx is set to the node by the worker */

#endif
