/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What a program does to the files of one directory, recorded, and the states of the disk that a
 * power cut could leave behind, made from it. The system calls are taken over by functions of the
 * same name in the test's executable; those of other directories pass by.
 *
 * The disk: a write, a change of size, a new or another name is durable once the file (for names:
 * the directory) was synced after it. What was not synced may be there or not, each on its own, and
 * a write in pieces of 512 bytes.
 */
#ifndef CUT_RECORD_H
#define CUT_RECORD_H

#include "must.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum op_kind { OP_WRITE, OP_SIZE, OP_CREATE, OP_RENAME, OP_UNLINK, OP_SYNC, OP_SYNC_DIR, OP_NOTE };

struct op {
    enum op_kind kind;
    unsigned file; /* the inode: numbers from 0 */
    uint64_t off;  /* OP_SIZE: the size; OP_NOTE: what was noted */
    size_t len;
    uint8_t *data;
    size_t durable;        /* number of the sync that made it so, SIZE_MAX: none did */
    char name[32], to[32]; /* CREATE, RENAME, UNLINK */
};

struct recording {
    struct op *ops;
    size_t n, size;
};

/* Record what happens below dir (an absolute path) until record_stop. Files whose name ends in
 * "-lock" are left out: they say nothing after a machine stop. */
void record_start(const char *dir);
void record_stop(struct recording *out);
/* Mark a point in the recording. */
void record_note(uint64_t what);

/* What of the not synced ops before `upto` is on the disk. */
enum keep {
    KEEP_ALL, /* a cut of everything in order */
    KEEP_NONE,
    KEEP_ALL_BUT, /* one */
    KEEP_ONLY,    /* one */
    KEEP_TORN,    /* all; one of them only in some of its sectors */
    KEEP_RANDOM,  /* each or not, sectors of each or not */
};
/* Not synced at `upto`, numbers of ops; returns how many (at most max are stored). */
size_t record_loose(const struct recording *r, size_t upto, size_t *ops, size_t max);
/* Make that state of the disk in the (empty) directory. one: which op; seed: which sectors. */
void record_play(const struct recording *r, size_t upto, enum keep keep, size_t one, uint64_t seed,
                 const char *dir);

#endif
