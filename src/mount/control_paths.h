/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Node ids of the control files: a keyed hash of the path, the key being the mount's, so that a
 * restarted worker gives the same numbers. An id not known here (a former worker gave it) is found
 * by walking the provider's tree; the table is a bounded cache. One thread.
 */
#ifndef MOUNT_CONTROL_PATHS_H
#define MOUNT_CONTROL_PATHS_H

#include "base/map.h"
#include "mount/control.h"

#include <limits.h>

struct control_paths {
    const struct control_provider *p;
    uint64_t key;
    struct map_u64 nodes; /* id -> struct control_node */
    size_t evict;         /* where the next node to be dropped is looked for */
};

void control_paths_init(struct control_paths *t, const struct control_provider *p, uint64_t key);
void control_paths_fini(struct control_paths *t);
/* Of any path, known or not; 1 is the root (""). */
uint64_t control_paths_id(const struct control_paths *t, const char *path);
/* One component that may be a name here: no control characters, no dots alone. */
bool control_name_valid(const char *name);
/* -ENOENT: no valid name; -ENAMETOOLONG. */
FARM_MUSTUSE int control_path_join(const char *dir, const char *name, char out[PATH_MAX]);
/* The path of an id, good until the next call of this module. -ESTALE: no file has it. */
FARM_MUSTUSE int control_paths_get(struct control_paths *t, uint64_t id, const char **out);
/* The kernel looked up a path that exists; it forgets it again n times. */
FARM_MUSTUSE int control_paths_looked_up(struct control_paths *t, const char *path);
void control_paths_forget(struct control_paths *t, uint64_t id, uint64_t n);

#endif
