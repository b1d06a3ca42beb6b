/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"

#include <stdio.h>
#include <string.h>

int ctl_confirm(const struct farm *f, const struct options *o)
{
    const char *file = o->reject ? "reject" : "confirm";
    int err = farm_write(f, file, "1\n", 2);

    return err < 0 ? ctl_failed(f, file, err) : EXIT_OK;
}
