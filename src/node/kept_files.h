/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What the control files say of kept things and of single paths: conflicts/ and history/
 * (kept_files.c), why/ and why.json/ (why_files.c). On the control thread; paths and errors as in
 * mount/control.h. All use n->files_reader.
 */
#ifndef NODE_KEPT_FILES_H
#define NODE_KEPT_FILES_H

#include "node/node.h"

#include <jansson.h>

/* Of a file in conflicts/ or history/. */
FARM_MUSTUSE int kept_stat(struct node *n, const char *path, struct control_stat *out);
FARM_MUSTUSE int kept_read(struct node *n, const char *path, struct buf *out);
FARM_MUSTUSE int kept_open(struct node *n, const char *path, int *fd);
/* path: "conflicts" or "history". */
FARM_MUSTUSE int kept_page(struct node *n, const char *path, uint64_t from, control_page f,
                           void *arg);

/* path: without why/ or why.json/. */
FARM_MUSTUSE int why_stat(struct node *n, const char *path, struct control_stat *out);
FARM_MUSTUSE int why_read(struct node *n, const char *path, bool json, struct buf *out);

/* Shared by both; with the reader begun. */
void kept_time_text(int64_t ns, char out[40]);
json_t *kept_text_json(const uint8_t *p, size_t n); /* what is no UTF-8 becomes '?' */
/* Members path and, when that is not exact, path_hex. */
void kept_put_path(json_t *o, const uint8_t *p, size_t n);
void kept_node_name(struct node *n, uint64_t node, char out[64]);
/* Members node, version, written. */
void kept_put_head(struct node *n, json_t *o, const struct rec_head *h);
/* Takes o. */
FARM_MUSTUSE int kept_dump(json_t *o, size_t flags, struct buf *out);

#endif
