/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The view: records -> tree, a pure function. farmfs-conflicts(7) says it in words:
 *  1. A name is wanted when it is alive; or dead, and
 *     a) its inode is no directory, no other name of the inode is alive, the content is not
 *        included in what the deleter had seen (content.vv not in name.seen), and it is the latest
 *        such dead name by (hlc, stamp): an edit beats a concurrent delete;
 *     b) its inode is a directory and some wanted name has it as parent: a child revives its
 *        parent.
 *     A name whose inode has no content record yet, or whose parent directory has none (and is not
 *     the root), is not wanted yet. Of several names of one directory only the first counts:
 *     living before dead, then the later.
 *  2. Wanted directory names of one place (canonical parent, name) are one directory: the canonical
 *     one has the smallest inode id; the others' children appear in it, and they are themselves
 *     HIDDEN (nothing on disk).
 *  3. A directory beats a file of the same place. Among files the later (hlc, stamp) has the name,
 *     the others are HIDDEN. Several names of one inode at one place count once: the latest is AT
 *     (the others are HIDDEN too, but that is no conflict).
 *  4. Directories that form a cycle (concurrent moves): the name with the latest (hlc, stamp) in
 *     the cycle takes its previous place (prev_parent, prev_name) instead; if it has none or that
 *     does not lead to the root either, it is placed in the root under its own name. "Leads to the
 *     root": going up by registers alone, through wanted names, without meeting a cycle; so cuts
 *     do not depend on one another.
 *  5. The root directory always exists and has no name.
 */
#ifndef CORE_VIEW_H
#define CORE_VIEW_H

#include "core/records.h"

#include <stddef.h>

/* Where the records say that a name is; the stored places of the other names must be in step. */
FARM_MUSTUSE int view_place(const struct records *r, struct id128 nid, struct place *out);
/* The directory that stands for `dir` in the tree (itself unless merged into another). -ENOENT when
 * it is not in the tree. */
FARM_MUSTUSE int view_canon(const struct records *r, struct id128 dir, struct id128 *out);

struct view_change {
    struct id128 nid;
    struct id128 inode;
    struct place from; /* as in get_place */
    struct place to;
};

/*
 * After records changed: all names whose place now differs from get_place, starting from `seeds`
 * (names that were put; names_of the inodes whose content was put) and following every dependency
 * (rivals of old and new places, children of directories that appear, vanish or change their
 * canonical one, parents that are revived or released, members of cycles).
 * First those to be placed (to.kind AT), parents before children; then those that leave the tree,
 * children before parents. Moves may cross (exchanges, merges): a caller that carries out more than
 * one change takes all that are AT out of their old places first. from and to may differ in `cut`
 * alone, or be HIDDEN both: nothing to do on disk. The caller sets every place (set_place) before
 * it puts further records. *out is malloced (NULL when none).
 */
FARM_MUSTUSE int view_changes(const struct records *r, const struct id128 *seeds, size_t nseeds,
                              struct view_change **out, size_t *nout);

#endif
