/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"
#include "ctl/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int ctl_failed(const struct farm *f, const char *file, int err)
{
    const char *dir = farm_folder(f);
    switch (err) {
    case -ENOTCONN:
    case -ECONNABORTED:
    case -ENODEV:
        fprintf(stderr, "farmctl: the daemon of %s is gone: umount it, then start farmfs again\n",
                dir);
        return EXIT_NO_DAEMON;
    case -ENOENT:
        fprintf(stderr,
                "farmctl: %s/.farm has no %s: farmctl and the daemon are of different "
                "versions, install the same\n",
                dir, file);
        return EXIT_FAILED;
    default:
        fprintf(stderr, "farmctl: cannot read %s/.farm/%s: %s\n", dir, file, strerror(-err));
        return EXIT_FAILED;
    }
}

int ctl_status(const struct farm *f, const struct options *o)
{
    const char *file = o->json ? "status.json" : "status";
    char *text;
    int err = farm_read(f, file, &text, NULL);
    if (err < 0)
        return ctl_failed(f, file, err);
    format_text(stdout, o->colour && !o->json, text);
    free(text);
    return EXIT_OK;
}
