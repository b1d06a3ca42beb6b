/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Attributes of a backing inode <-> attr records: mode, owner, times, extended attributes. */
#ifndef STORE_ATTRS_H
#define STORE_ATTRS_H

#include "base/buf.h"
#include "core/record.h"

#include <sys/stat.h>

/* Which xattrs travel: user.*, system.posix_acl_access, system.posix_acl_default. */
bool attrs_xattr_replicated(const char *name);
/* Fill an attr record's mode, uid, gid, owner names and xattrs from the inode behind the descriptor
 * (O_PATH allowed: /proc/self/fd is used) and its stat. Xattrs are encoded into `x`, which must
 * live as long as the record is used. mtime fields are left alone. */
FARM_MUSTUSE int attrs_read(int fd, const struct stat *st, struct buf *x, struct attr_rec *a);
/* Are two equal in everything that replicates (not head, not mtime)? */
bool attrs_same(const struct attr_rec *a, const struct attr_rec *b);
/* Make the inode so: owner (by name where this node knows the name, else by number), mode, xattrs
 * (those that replicate and are not listed are removed), mtime when mtime_ns is not NULL. Only what
 * differs is touched. */
FARM_MUSTUSE int attrs_apply(int fd, const struct attr_rec *a, const int64_t *mtime_ns);
/* Times only (atime left alone). */
FARM_MUSTUSE int attrs_set_mtime(int fd, int64_t mtime_ns);

#endif
