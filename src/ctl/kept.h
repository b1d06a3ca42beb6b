/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One kept thing, as its .json in .farm/conflicts or .farm/history tells it; and files put back. */
#ifndef CTL_KEPT_H
#define CTL_KEPT_H

#include "ctl/ctl.h"

#include <sys/types.h>
#include <time.h>

#define KEPT_ID_LEN 16

struct kept {
    char id[KEPT_ID_LEN + 1];
    const char *dir; /* "conflicts" or "history" */
    char *path;      /* in the folder, exact; "" when it is not known */
    char *why;
    char *node;   /* that wrote it; "unknown" */
    char *winner; /* that wrote what it lost to; "unknown" */
    char kind[16], type[16];
    char when[40], written[40]; /* UTC; written "" when it is not known */
    uint64_t size;
    uid_t uid;
    gid_t gid;
    mode_t mode;
    struct timespec mtime;
    bool data; /* its file is there */
};

/* -ENOENT: there is none. */
FARM_MUSTUSE_ int kept_load(const struct farm *f, const char *dir, const char *id, struct kept *k);
void kept_free(struct kept *k);
/* Calls visit with the id of each entry of a directory, the oldest first; nonzero ends it. */
FARM_MUSTUSE_ int kept_each(const struct farm *f, const char *dir,
                            int (*visit)(void *arg, const char *id), void *arg);
bool kept_id_valid(const char *id);
/* A JSON string, quotes and all, as text; NULL: it is none. The caller frees. */
char *kept_unquote(const char *value, size_t n);
/* UTC text of the control files. */
bool kept_parse_time(const char *text, struct timespec *out);

/* A path the user gave, as one in the folder ("" is its root); the caller frees. NULL: it is
 * outside (said). */
char *kept_folder_path(const struct farm *f, const char *path);

/* Puts a kept thing at a path of the file system, with its owner, mode and time; directories above
 * it that are missing are made. replace: what is there is replaced by rename; else -EEXIST. */
FARM_MUSTUSE_ int kept_put(const struct farm *f, const struct kept *k, const char *path,
                           bool replace);

#endif
