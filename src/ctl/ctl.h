/* SPDX-License-Identifier: GPL-3.0-or-later */
/* farmctl: a command a file, all over libfarm. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include "farmfs/farm.h"

enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NO_DAEMON = 3, /* no farmfs folder, or its daemon does not answer */
    EXIT_LATE = 4,      /* time limit */
};

#define ANSWER_MS 10000 /* a daemon that takes longer for one file does not answer */

struct options {
    const char *folder; /* NULL: find it */
    bool json, colour, follow, wait, reject;
    int64_t timeout_ms; /* barrier, scrub; -1: none */
    int64_t lines;      /* events; -1: all */
    const char *to;     /* restore: a path; undo: a time */
    const char *drop;   /* conflicts: an id */
    bool all, dry_run;
    char **args; /* what follows the command */
    int nargs;
};

/* Commands print their result, or one line on stderr, and return the exit code. */
int ctl_status(const struct farm *f, const struct options *o);
int ctl_peers(const struct farm *f, const struct options *o);
int ctl_events(const struct farm *f, const struct options *o);
int ctl_barrier(const struct farm *f, const struct options *o);
int ctl_confirm(const struct farm *f, const struct options *o);
int ctl_scrub(const struct farm *f, const struct options *o);
int ctl_conflicts(const struct farm *f, const struct options *o);
int ctl_history(const struct farm *f, const struct options *o);
int ctl_restore(const struct farm *f, const struct options *o);
int ctl_undo(const struct farm *f, const struct options *o);
int ctl_why(const struct farm *f, const struct options *o);

/* One line about a control file that could not be read, saying what to do; the exit code. */
int ctl_failed(const struct farm *f, const char *file, int err);
/* First line of a peer's control file in `out` (at most n-1 bytes); "" when there is none. */
void ctl_peer_text(const struct farm *f, const char *peer, const char *file, char *out, size_t n);

#endif
