/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Records as bytes: the same form in frames and in the index. Version 1, integers little-endian:
 *   u8 kind | stamp (u64 node, u64 seq) | u64 hlc | id (u64 node, u64 n) | by kind:
 *   NAME:    inode id | parent id | u8 alive | u8 len, name | u8 prev_len [prev id, name] |
 *            vvec seen
 *   CONTENT: u8 type | u64 size | i64 mtime | vvec vv | stamp base | by type: REG 32 digest;
 *            LNK u16 len, target; CHR/BLK u32 major, u32 minor
 *   ATTR:    u32 mode | u32 uid | u32 gid | u8 len, owner | u8 len, group | i64 mtime |
 *            u64 mtime_hlc | u32 len, xattrs
 *   vvec:    u16 n | n x (u64 node, u64 seq), strictly ascending by node, seq >= 1
 * Decoding checks everything: kinds, types, lengths, order, that names are neither empty, ".", ".."
 * nor contain '/' or NUL, mode within 07777, the form of the xattr list, size <= SIZE_MAX_FILE.
 */
#ifndef WIRE_RECORD_H
#define WIRE_RECORD_H

#include "base/buf.h"
#include "core/record.h"

void record_encode(struct buf *b, const struct record *r);
/* From the cursor; target and xattrs point into its input. FARM_ECORRUPT. */
FARM_MUSTUSE int record_decode(struct cur *c, struct record *out);
void vvec_encode(struct buf *b, const struct vvec *v);
FARM_MUSTUSE int vvec_decode(struct cur *c, struct vvec *out);
/* Is this a name that may stand in a directory? */
bool name_valid(const uint8_t *name, size_t len);
/* Is this a well-formed xattr list (sorted, bounded)? */
bool xattrs_valid(const uint8_t *p, size_t len);

#endif
