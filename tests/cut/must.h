/* SPDX-License-Identifier: GPL-3.0-or-later */
/* assert() of every build; its argument is evaluated. */
#ifndef CUT_MUST_H
#define CUT_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(x) ((x) ? (void)0 : must_failed(#x, __FILE__, __LINE__))

__attribute__((noreturn)) static inline void must_failed(const char *what, const char *file,
                                                         int line)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    abort();
}

#endif
