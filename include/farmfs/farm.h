/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * libfarm: a client of a farmfs folder's control files (farmfs-control(7)).
 *
 * Functions return 0 or a negative errno and write their outputs only on success. Those that go
 * with farm_open have these meanings:
 *   -ENOENT    no farmfs folder there (or, with no path given, none mounted)
 *   -ENOTUNIQ  no path given, and several folders are mounted
 *   -ENOTCONN  the folder's daemon is gone, the mount is left over
 *   -EACCES    only root and the group `farm` may
 * A handle is for one thread at a time. A daemon that hangs makes a call hang with it: only
 * farm_barrier and farm_wait have a time limit of their own.
 */
#ifndef FARMFS_FARM_H
#define FARMFS_FARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FARM_MUSTUSE_ __attribute__((warn_unused_result))

struct farm;

/* The folder that `path` (a directory) is in; NULL: the one the current directory is in, or else
 * the only one mounted. Free with farm_close. */
FARM_MUSTUSE_ int farm_open(const char *path, struct farm **out);
void farm_close(struct farm *f);
/* Root of the folder, an absolute path; belongs to the handle. */
const char *farm_folder(const struct farm *f);

/* A control file, whole, with a terminating NUL beyond *len (len may be NULL); the caller frees. */
FARM_MUSTUSE_ int farm_read(const struct farm *f, const char *file, char **text, size_t *len);
/* One command, one write. */
FARM_MUSTUSE_ int farm_write(const struct farm *f, const char *file, const void *cmd, size_t len);
/* Names in a control directory, sorted; `names` ends with a NULL; farm_free_names. */
FARM_MUSTUSE_ int farm_list(const struct farm *f, const char *dir, char ***names);
void farm_free_names(char **names);
/* A descriptor on a control file, to read and poll (events); the caller closes. */
FARM_MUSTUSE_ int farm_stream(const struct farm *f, const char *file, int *fd);
/* Until the stream can be read, at most `ms` milliseconds (-1: no limit): -ETIMEDOUT. Polls anew
 * every second, since a wake-up is lost when the daemon's worker is restarted meanwhile. */
FARM_MUSTUSE_ int farm_wait(int fd, int64_t ms);
/* Until every reachable node has all that was written here before; *answer (the caller frees) is
 * what the daemon said, without the line's end: "ok POSITION" or "missing NAME...".
 * -ETIMEDOUT after `ms` milliseconds (-1: no limit). */
FARM_MUSTUSE_ int farm_barrier(const struct farm *f, int64_t ms, char **answer);

#endif
