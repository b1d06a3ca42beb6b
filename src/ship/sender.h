/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The sending half of a session with one peer: turns the log from a position on into frames.
 *
 * One thread per session runs sender_run and is the only one that writes to the session's
 * descriptor; everything else is told to it by the calls below, from any thread, which never wait
 * for the peer. The backlog of a slow or absent peer is a position in the log, not memory.
 *
 * What is sent: every entry of the log whose stamp the peer's knowledge does not cover and that did
 * not come from this peer. An entry that came from a node the peer is itself connected to is
 * deferred: that node sends it; it is sent from here only when the peer's connection to it goes
 * away (deferred entries are positions, at most SENDER_DEFERRED; past that they are sent). The
 * position told to the peer never passes a deferred entry. Positions are those of the next entry:
 * "up to pos" is everything before it, and pos is where a later session begins (`from`). A position
 * that moved without anything to send is told by an empty RECORDS some 20 ms later; the first
 * RECORDS with RECORDS_BOUNDARY comes even when there is nothing to send. At the log's
 * end KNOW says what this node knew there.
 *
 * Content: at most DIGEST_BLOCK bytes travel inline with the record (DATA_WHOLE). Larger: if the
 * peer holds the version before (the last one sent in this session, or the record's base is in its
 * knowledge) and the journal reaches there, the changed ranges (inline up to 1 MiB in total, else
 * as a transfer of FRAME_DATA with a base), else the whole file as a transfer, holes skipped. Data
 * is read from the backing file; when the file was written to in the ranges read since it was
 * sealed (dirty_overlaps), or is gone, or cannot be read, the record goes with DATA_NONE: a newer
 * version follows. What is at most DIGEST_BLOCK long, and whatever answers a WANT, is checked
 * against its digest first: a file that was changed behind our back is not sent over and over.
 */
#ifndef SHIP_SENDER_H
#define SHIP_SENDER_H

#include "store/dirty.h"
#include "store/index.h"
#include "store/nodes.h"
#include "wire/msg.h"

#define SENDER_DEFERRED 65536u
#define SENDER_BATCH (256u * 1024u) /* a RECORDS frame is closed when it is larger than this */

struct sender_env {
    struct index *index;
    struct nodes *nodes;
    struct dirty *dirty;
    uint64_t self; /* our node id */
};

struct sender;

/* fd: borrowed, blocking. peer: its node id. from: first log position the peer has not applied.
 * know: its knowledge. */
FARM_MUSTUSE int sender_new(const struct sender_env *env, int fd, uint64_t peer, uint64_t from,
                            const struct vvec *know, struct sender **out);
/* Before sender_run: the contents of these versions are not sent along, unless asked for. */
void sender_held(struct sender *s, const struct vvec *held);
void sender_free(struct sender *s);
/* Runs until sender_stop (0) or the stream fails (negative). */
FARM_MUSTUSE int sender_run(struct sender *s);
/* Any thread. Shuts the sending direction of fd down, so that a write that waits for the peer ends.
 */
void sender_stop(struct sender *s);

void sender_wake(struct sender *s); /* the log has grown (after a commit) */
/* From the peer: */
void sender_acked(struct sender *s, uint64_t pos, const struct vvec *know);
FARM_MUSTUSE int sender_want(struct sender *s, struct id128 rid,
                             struct stamp stamp); /* FARM_EFULL */
void sender_peer_links(struct sender *s, const uint64_t *nodes, size_t n);
/* To the peer: coalesced, the latest wins; sent between other frames, within one frame's time. */
void sender_ack(struct sender *s, uint64_t pos, const struct vvec *know);
/* Ask the peer for an inode's content. FARM_EFULL: ask again later. */
FARM_MUSTUSE int sender_ask(struct sender *s, const struct msg_want *w);
/* Say something of a range of the records. FARM_EFULL: too much is being said. */
FARM_MUSTUSE int sender_sum(struct sender *s, const struct msg_sum *m);
/* Send all records of the inodes from first to last, without data, as RECORDS_REPAIR. FARM_EFULL.
 */
FARM_MUSTUSE int sender_range(struct sender *s, struct id128 first, struct id128 last);
/* One STATE payload per node id, the latest wins (copied; at most 64 nodes). */
FARM_MUSTUSE int sender_state(struct sender *s, uint64_t node, const void *payload, size_t n);

struct sender_stats {
    uint64_t sent_pos;  /* everything before this was sent or skipped */
    uint64_t acked_pos; /* as acknowledged */
    uint64_t bytes;     /* payload bytes handed to the link */
    uint64_t records;
    uint64_t deferred;
};
void sender_stats(struct sender *s, struct sender_stats *out);

#endif
