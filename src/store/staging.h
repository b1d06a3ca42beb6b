/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The staging area: a directory on the folder's own file system, mode 0700, never visible through
 * the mount. Sub-directories: in/ (files being assembled), orphans/<lid> (unlinked, still referred
 * to by the kernel), hidden/<nid> (names that lost their place), conflicts/<key> (content that
 * lost), history/<key> (replaced or deleted, where it is asked for), old/ (replaced, about to be
 * deleted). Core thread and receivers; each file has one owner at a time.
 */
#ifndef STORE_STAGING_H
#define STORE_STAGING_H

#include "core/record.h"
#include "store/handle.h"

struct staging {
    int dirfd; /* the area */
    int in, orphans, hidden, conflicts, history, old;
};

/* A sibling of the folder `.farmfs.<basename>` where that is on the same file system, else
 * `.farmfs` inside it (then the mount must hide it: *inside = true). `configured` wins when not
 * NULL. Checks that the file system can do what we need and says what it lacks in `why` (256
 * bytes): file handles, user xattrs, rename between area and folder, RENAME_EXCHANGE, O_TMPFILE is
 * optional. */
FARM_MUSTUSE int staging_open(const char *dir, int rootfd, const char *configured,
                              struct staging *out, bool *inside, char *why);
void staging_close(struct staging *s);
/* Remove everything in in/ and old/ (at start); orphans/ too when no mount lives. */
FARM_MUSTUSE int staging_clean(struct staging *s, bool orphans_too);

/* A new regular file in in/, mode 0600, named by a number. name has room for 32 bytes. */
FARM_MUSTUSE int staging_create(struct staging *s, char *name, int *fd);
/* The same, filled with a copy of `from` (reflink where possible, else copy_file_range, holes
 * kept). */
FARM_MUSTUSE int staging_clone(struct staging *s, int from, uint64_t size, char *name, int *fd);
void staging_discard(struct staging *s, const char *name);
/* Name of an orphan / hidden file. out has room for 40 bytes. */
void staging_orphan_name(uint64_t lid, char *out);
void staging_id_name(struct id128 id, char *out);
/* The id of such a name; false: it is none. */
bool staging_id_parse(const char *name, struct id128 *out);
/* Names in one of the directories, hidden files too, in no order. The callback may remove what it
 * is given; what it returns, other than 0, ends the walk and is returned. */
typedef int (*staging_visit)(void *arg, const char *name);
FARM_MUSTUSE int staging_each(int dirfd, staging_visit f, void *arg);
/* Each orphan's lid. */
typedef int (*orphan_visit)(void *arg, uint64_t lid);
FARM_MUSTUSE int staging_each_orphan(struct staging *s, orphan_visit f, void *arg);

#endif
