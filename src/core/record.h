/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The replicated state: a set of records of three kinds, each one last-writer-wins register.
 * merge(a, b) keeps the greater by (hlc, stamp.node, stamp.seq): associative, commutative,
 * idempotent. Content and attributes of an inode are separate records, so that a chmod here and an
 * edit there both survive.
 */
#ifndef CORE_RECORD_H
#define CORE_RECORD_H

#include "core/types.h"

#define NAME_LEN_MAX 255u
#define TARGET_LEN_MAX 4095u
#define XATTRS_LEN_MAX (128u * 1024u)
#define OWNER_LEN_MAX 64u
#define SIZE_MAX_FILE (1ull << 50)

enum rec_kind { REC_NAME = 1, REC_CONTENT = 2, REC_ATTR = 3 };

enum node_type {
    NODE_REG = 1,
    NODE_DIR = 2,
    NODE_LNK = 3,
    NODE_FIFO = 4,
    NODE_CHR = 5,
    NODE_BLK = 6,
    NODE_SOCK = 7,
};

/* What every record has. */
struct rec_head {
    struct stamp stamp;
    uint64_t hlc;
};

/* A name: its register is (parent, name, alive). Directories have exactly one, hard links several.
 */
struct name_rec {
    struct rec_head h;
    struct id128 nid;
    struct id128 inode;  /* never changes */
    struct id128 parent; /* inode record of the directory */
    uint8_t name_len;    /* 1..255 */
    uint8_t prev_len;    /* 0: never renamed */
    bool alive;
    uint8_t name[NAME_LEN_MAX];
    uint8_t prev_name[NAME_LEN_MAX]; /* the place before the last rename: where a directory stays */
    struct id128 prev_parent;        /* when its move is cut out of a cycle */
    struct vvec seen; /* tombstone: the content version vector that the deleter had seen */
};

/* What a file holds. For a directory only the time counts: it moves when names in it change. */
struct content_rec {
    struct rec_head h;
    struct id128 rid;
    uint8_t type; /* enum node_type, never changes */
    uint64_t size;
    int64_t mtime_ns;   /* modification time this version had when sealed */
    struct vvec vv;     /* for conflicts: who edited it, up to which of their seqs */
    struct stamp base;  /* the version this one was made from; {0,0}: none */
    uint8_t digest[32]; /* base/digest.h root; zeros unless a regular file */
    uint32_t rdev_major, rdev_minor;
    uint16_t target_len;   /* symlink */
    const uint8_t *target; /* not owned: points into the decoded buffer or the caller's memory */
};

struct attr_rec {
    struct rec_head h;
    struct id128 rid;
    uint32_t mode; /* 07777 bits */
    uint32_t uid, gid;
    uint8_t owner_len, group_len;
    uint8_t owner[OWNER_LEN_MAX],
        group[OWNER_LEN_MAX]; /* names where the author's node knew them */
    int64_t mtime_ns;         /* explicitly set (utimensat); valid when mtime_hlc != 0 */
    uint64_t mtime_hlc; /* when it was set: the later of this and the content's hlc is the mtime */
    uint32_t xattrs_len;
    const uint8_t *xattrs; /* not owned: sorted list of u8 name_len, name, u32le len, value */
};

struct record {
    enum rec_kind kind;
    union {
        struct name_rec name;
        struct content_rec content;
        struct attr_rec attr;
    };
};

/* Does b replace a? (strictly greater by hlc, node, seq) */
bool head_wins(const struct rec_head *b, const struct rec_head *a);
const struct rec_head *record_head(const struct record *r);
struct id128 record_id(const struct record *r); /* nid or rid */
/* Neither content saw the other: replacing one by the other loses an edit. Never for directories.
 * Equal digests are no conflict. */
bool content_conflicts(const struct content_rec *a, const struct content_rec *b);
/* The modification time to show: the later by clock of content and explicit time. */
int64_t record_mtime(const struct content_rec *c, const struct attr_rec *a);

#endif
