/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The set of records as the core sees it: implemented by store/index.h on disk and by tests in
 * memory. One thread. All functions return 0 or a negative code; -ENOENT for an absent record.
 * Records handed out point into memory valid until the next put.
 */
#ifndef CORE_RECORDS_H
#define CORE_RECORDS_H

#include "core/record.h"

enum place_kind {
    PLACE_NONE = 0,   /* not in the tree (deleted, or not known yet) */
    PLACE_AT = 1,     /* in the tree at (parent, name) */
    PLACE_HIDDEN = 2, /* lost its name to another record: kept under conflicts/, not in the tree */
};

/* Where a name record is. parent is a canonical directory (see view.h). A hidden name keeps the
 * place it lost; parent and name are unset only for PLACE_NONE. */
struct place {
    enum place_kind kind;
    bool cut; /* a directory on a cycle (rule 4 of view.h) that is not plainly where its register
               * says: cut out of the cycle, or dead and there only because the cycle holds it */
    struct id128 parent;
    uint8_t name_len;
    uint8_t name[NAME_LEN_MAX];
};

/* Return nonzero to stop the iteration; that value is returned by the iterating call. */
typedef int (*name_visit)(void *arg, const struct name_rec *n);
typedef int (*id_visit)(void *arg, struct id128 nid);

struct records {
    void *ctx;
    int (*get_name)(void *ctx, struct id128 nid, struct name_rec *out);
    int (*get_content)(void *ctx, struct id128 rid, struct content_rec *out);
    int (*get_attr)(void *ctx, struct id128 rid, struct attr_rec *out);
    /* Store a record in place of the one with its id, keep the secondary orders below in step, and
     * move its entry to the tail of the log. `source` is the node it came from (ourselves: local).
     */
    int (*put_name)(void *ctx, const struct name_rec *n, uint64_t source);
    int (*put_content)(void *ctx, const struct content_rec *c, uint64_t source);
    int (*put_attr)(void *ctx, const struct attr_rec *a, uint64_t source);
    /* Every name record, alive or dead, whose register says (parent, name) / whose inode is rid /
     * whose parent is rid; in order of nid. The callbacks must not put;
     * they may get and iterate. */
    int (*names_at)(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len, name_visit f,
                    void *arg);
    int (*names_of)(void *ctx, struct id128 rid, name_visit f, void *arg);
    int (*names_in)(void *ctx, struct id128 parent, name_visit f, void *arg);
    /* The place a name record was last put to in the backing tree (PLACE_NONE when never), and who
     * is at a place. */
    int (*get_place)(void *ctx, struct id128 nid, struct place *out);
    int (*set_place)(void *ctx, struct id128 nid, const struct place *p);
    int (*who_is_at)(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len,
                     struct id128 *nid);
    /* Every name whose place is set to PLACE_HIDDEN at (parent, name) / to a place with `cut`. Few.
     */
    int (*hidden_at)(void *ctx, struct id128 parent, const uint8_t *name, uint8_t len, id_visit f,
                     void *arg);
    int (*cuts)(void *ctx, id_visit f, void *arg);
    /* The record goes without a trace: it leaves the log, the orders and, a name, its place.
     * forget_inode: content and attributes; either may be absent. */
    int (*forget_name)(void *ctx, struct id128 nid);
    int (*forget_inode)(void *ctx, struct id128 rid);
    /* The content record of what the file holds, while its record is ahead of it (the data has not
     * come yet): a local change builds on this one, not on what nobody here has seen. -ENOENT: it
     * holds what its record says, or there is no file. NULL: files are never behind. */
    int (*get_behind)(void *ctx, struct id128 rid, struct content_rec *out);
};

#endif
