/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Payloads of frames (see farmfs-protocol(7)). Encoders append to a struct buf; decoders check
 * every bound and leave pointers into the payload.
 *
 * Both sides send HELLO first. Having the other's HELLO, each sends WELCOME, saying from where in
 * the other's log it wants to go on. Then RECORDS, DATA, ACK, WANT, STATE, KNOW, SUM in any order.
 */
#ifndef WIRE_MSG_H
#define WIRE_MSG_H

#include "base/buf.h"
#include "core/record.h"

/* u32 protocol | u64 folder | u64 node | u64 epoch | u64 wall_us | u8 len, node name |
 * u8 len, folder name | u64 run | u64 former | vvec know | vvec gone */
struct msg_hello {
    uint32_t protocol;
    uint64_t folder_id;
    uint64_t node;  /* this incarnation's id */
    uint64_t epoch; /* of its log: positions are meaningful within one epoch */
    uint64_t wall_us;
    char name[64]; /* NUL-terminated here */
    char folder[64];
    uint64_t run;           /* of the sender: random, new at each start */
    uint64_t former;        /* the id by which it last met the node it speaks to; 0: never */
    struct vvec know, gone; /* as in struct replica */
};

/* u64 epoch | u64 pos | vvec know | u64 seen | u64 run | u64 run_seen | vvec held:
 * "I have applied your log of that epoch up to pos" */
struct msg_welcome {
    uint64_t epoch; /* of the receiver of this message; 0: none, start at 0 */
    uint64_t pos;
    struct vvec know;
    uint64_t seen;          /* the receiver's greatest number that was met in any record */
    uint64_t run, run_seen; /* the same in records from itself, and in which run of it; 0: none */
    struct vvec held;       /* contents of these need not be sent along: a rejoining node's */
};

/* i32 code | u16 len, text */
struct msg_refuse {
    int32_t code; /* enum farm_err */
    char text[256];
};

/* How the content of a CONTENT record comes along. */
enum data_kind {
    DATA_NONE = 0, /* no data: not a regular file, or no longer at hand (a newer version follows) */
    DATA_WHOLE = 1,  /* u32 len, the file */
    DATA_RANGES = 2, /* changed ranges on top of the version `base`: stamp base | u32 n |
                        n x (u64 off, u32 len, bytes). The rest is as in base, cut or extended with
                        a hole to the record's size. */
    DATA_STAGED = 3, /* u64 transfer: sent before in FRAME_DATA frames of that transfer */
};

struct msg_item {
    struct record rec;
    enum data_kind data;
    const uint8_t *whole; /* DATA_WHOLE */
    uint32_t whole_len;
    struct stamp base; /* DATA_RANGES */
    uint32_t nranges;  /* DATA_RANGES: read with msg_range_next from `ranges` */
    const uint8_t *ranges;
    uint32_t ranges_len;
    uint64_t transfer; /* DATA_STAGED */
};

/* RECORDS: u64 pos (the sender's log position after these) | u8 flags | u32 count |
 * count x (u32 item length, item). An item: record | u8 data kind | its data */
enum {
    RECORDS_BOUNDARY = 1 /* the sender's log ended here: apply what you hold */,
    RECORDS_RESENT = 2 /* answers a WANT: outside the log order, pos does not count */,
    RECORDS_REPAIR = 4 /* with RESENT: all records of some inodes, after their SUMs differed; what
                          is known and not there is taken all the same */
};

struct msg_records {
    uint64_t pos;
    uint8_t flags;
    uint32_t count;
    struct cur items; /* read with msg_item_next */
};

/* DATA: u64 transfer | u64 base stamp node, seq ({0,0}: from nothing) | id rid | u64 size | u64 off
 * | u32 len, bytes. Frames of one transfer come in ascending order of off; holes are simply not
 * sent. With a base, what is not sent is as in the base. */
struct msg_data {
    uint64_t transfer;
    struct stamp base;
    struct id128 rid;
    uint64_t size;
    uint64_t off;
    uint32_t len;
    const uint8_t *bytes;
};

/* u64 pos | vvec know. ACK: "applied from your log up to pos; I hold know". KNOW: "my log ended
 * here: whoever has applied all that I sent holds what know covers" */
struct msg_ack {
    uint64_t pos;
    struct vvec know;
};

/* id rid | stamp: "send me the content of this inode whole, this version or a later one" */
struct msg_want {
    struct id128 rid;
    struct stamp stamp;
};

/* What a node says of itself; gossiped on by others, the greater counter wins.
 * u64 node | u64 counter | u8 len, name | u32 len, JSON text (at most STATE_MAX) */
#define STATE_MAX 4096u
struct msg_state {
    uint64_t node;
    uint64_t counter;
    char name[64];
    const uint8_t *json;
    uint32_t json_len;
};

/* The records of the inodes from first to last (content, attributes, names) that have a living
 * name, and the root's: how many inodes, and a digest (store/index.h). Everything the sender held
 * when it knew `know` is in it, and nothing else. u64 token | u8 step | id first | id last | u64
 * inodes | 32 bytes digest | vvec know */
enum sum_step {
    SUM_ASK = 1,   /* is yours the same? Answered by one of the next three, with the same token */
    SUM_EQUAL = 2, /* it is */
    SUM_DIFFERENT = 3,
    SUM_LATER = 4, /* it cannot be told: one of us has what the other does not know yet */
    SUM_SEND = 5,  /* it is not, again and again: here are mine (RECORDS_REPAIR), send yours */
};
struct msg_sum {
    uint64_t token;
    enum sum_step step;
    struct id128 first, last;
    uint64_t inodes;
    uint8_t digest[32];
    struct vvec know;
};

void msg_hello_put(struct buf *b, const struct msg_hello *m);
/* Of another version only the protocol is known: the rest is zeros. */
FARM_MUSTUSE int msg_hello_get(const void *p, size_t n, struct msg_hello *m);
void msg_welcome_put(struct buf *b, const struct msg_welcome *m);
FARM_MUSTUSE int msg_welcome_get(const void *p, size_t n, struct msg_welcome *m);
void msg_refuse_put(struct buf *b, const struct msg_refuse *m);
FARM_MUSTUSE int msg_refuse_get(const void *p, size_t n, struct msg_refuse *m);

/* Building RECORDS: begin (in an empty buffer), items, end (which sets pos, flags, count). */
void msg_records_begin(struct buf *b);
void msg_item_put(struct buf *b, const struct record *rec, enum data_kind kind, const void *whole,
                  uint32_t whole_len, uint64_t transfer);
/* DATA_RANGES: begin, ranges, end. */
size_t msg_item_ranges_begin(struct buf *b, const struct record *rec, struct stamp base);
void msg_item_range_put(struct buf *b, uint64_t off, const void *p, uint32_t len);
void msg_item_ranges_end(struct buf *b, size_t mark, uint32_t n);
void msg_records_end(struct buf *b, uint64_t pos, uint8_t flags, uint32_t count);

FARM_MUSTUSE int msg_records_get(const void *p, size_t n, struct msg_records *m);
/* 1: an item; 0: no more; negative: FARM_ECORRUPT. */
FARM_MUSTUSE int msg_item_next(struct msg_records *m, struct msg_item *item);
/* 1: a range; 0: no more; negative: FARM_ECORRUPT. `c` was set over item->ranges, ranges_len. */
FARM_MUSTUSE int msg_range_next(struct cur *c, uint64_t *off, const uint8_t **p, uint32_t *len);

void msg_data_put(struct buf *b, const struct msg_data *m);
FARM_MUSTUSE int msg_data_get(const void *p, size_t n, struct msg_data *m);
void msg_ack_put(struct buf *b, const struct msg_ack *m);
FARM_MUSTUSE int msg_ack_get(const void *p, size_t n, struct msg_ack *m);
void msg_want_put(struct buf *b, const struct msg_want *m);
FARM_MUSTUSE int msg_want_get(const void *p, size_t n, struct msg_want *m);
void msg_state_put(struct buf *b, const struct msg_state *m);
FARM_MUSTUSE int msg_state_get(const void *p, size_t n, struct msg_state *m);

void msg_sum_put(struct buf *b, const struct msg_sum *m);
FARM_MUSTUSE int msg_sum_get(const void *p, size_t n, struct msg_sum *m);

/* Decode a whole payload of any type and every item in it: what the link process does before a
 * frame may reach the worker. 0, FARM_ECORRUPT, FARM_EPROTO. */
FARM_MUSTUSE int msg_validate(uint8_t type, const void *p, size_t n);

#endif
