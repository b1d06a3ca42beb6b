/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A bounded queue of owned messages between threads (many producers, one consumer).
 * A message embeds struct qnode as its first member. Full means the producer waits.
 */
#ifndef BASE_QUEUE_H
#define BASE_QUEUE_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct qnode {
    struct qnode *next;
};

struct queue {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t room, data;
    struct qnode *head, **tail;
    size_t n, cap;
    bool closed;
    int eventfd; /* readable while the queue is not empty; for epoll */
};

FARM_MUSTUSE int queue_init(struct queue *q, size_t cap);
/* Must be empty or drained by the caller. */
void queue_fini(struct queue *q);
/* Takes the message on success; waits for room. FARM_ECLOSED after queue_close. */
FARM_MUSTUSE int queue_push(struct queue *q, struct qnode *m);
/* Never waits: FARM_EFULL when there is no room. */
FARM_MUSTUSE int queue_try_push(struct queue *q, struct qnode *m);
/* The oldest message, or NULL when empty (try) / when closed and empty (wait). */
struct qnode *queue_try_pop(struct queue *q);
struct qnode *queue_pop(struct queue *q);
/* The whole list at once (linked by next), NULL when empty. */
struct qnode *queue_take_all(struct queue *q);
void queue_close(struct queue *q);

#endif
