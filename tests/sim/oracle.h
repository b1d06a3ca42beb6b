/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The view a second time, from all records at once and as simply as it can be said: what the
 * incremental one is compared with. Directories are one when their paths are equal.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include "memrecords.h"

/* The place of every name record, in the order of `names`: out has room for n. */
void oracle_places_of(const struct name_rec *const *names, size_t n,
                      const struct content_rec *const *contents, size_t ncontents,
                      struct place *out);
/* The same of a whole memrecords, in the order of m->names; malloced. */
struct place *oracle_places(const struct memrecords *m);

#endif
