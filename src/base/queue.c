/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/queue.h"

#include "base/log.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int queue_init(struct queue *q, size_t cap)
{
    farm_assert(cap > 0);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *q = (struct queue){.cap = cap, .eventfd = fd};
    q->tail = &q->head;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->room, NULL);
    pthread_cond_init(&q->data, NULL);
    return 0;
}

void queue_fini(struct queue *q)
{
    farm_assert(q->n == 0);
    pthread_cond_destroy(&q->data);
    pthread_cond_destroy(&q->room);
    pthread_mutex_destroy(&q->lock);
    close(q->eventfd);
    q->eventfd = -1;
}

/* The eventfd's counter is 1 while there are messages and 0 otherwise; neither call can block. */
static void raise_event(struct queue *q)
{
    int r = eventfd_write(q->eventfd, 1);
    farm_assert(r == 0);
}

static void lower_event(struct queue *q)
{
    eventfd_t ignored;
    int r = eventfd_read(q->eventfd, &ignored);
    farm_assert(r == 0);
}

static void append_locked(struct queue *q, struct qnode *m)
{
    m->next = NULL;
    *q->tail = m;
    q->tail = &m->next;
    if (q->n++ == 0)
        raise_event(q);
    pthread_cond_signal(&q->data);
}

static struct qnode *pop_locked(struct queue *q)
{
    struct qnode *m = q->head;
    if (m == NULL)
        return NULL;
    q->head = m->next;
    if (--q->n == 0) {
        q->tail = &q->head;
        lower_event(q);
    }
    pthread_cond_signal(&q->room);
    m->next = NULL;
    return m;
}

int queue_push(struct queue *q, struct qnode *m)
{
    pthread_mutex_lock(&q->lock);
    while (q->n >= q->cap && !q->closed)
        pthread_cond_wait(&q->room, &q->lock);
    int r = q->closed ? FARM_ECLOSED : 0;
    if (r == 0)
        append_locked(q, m);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int queue_try_push(struct queue *q, struct qnode *m)
{
    pthread_mutex_lock(&q->lock);
    int r = q->closed ? FARM_ECLOSED : q->n >= q->cap ? FARM_EFULL : 0;
    if (r == 0)
        append_locked(q, m);
    pthread_mutex_unlock(&q->lock);
    return r;
}

struct qnode *queue_try_pop(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    struct qnode *m = pop_locked(q);
    pthread_mutex_unlock(&q->lock);
    return m;
}

struct qnode *queue_pop(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    while (q->n == 0 && !q->closed)
        pthread_cond_wait(&q->data, &q->lock);
    struct qnode *m = pop_locked(q);
    pthread_mutex_unlock(&q->lock);
    return m;
}

struct qnode *queue_take_all(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    struct qnode *list = q->head;
    if (list != NULL) {
        q->head = NULL;
        q->tail = &q->head;
        q->n = 0;
        lower_event(q);
        pthread_cond_broadcast(&q->room);
    }
    pthread_mutex_unlock(&q->lock);
    return list;
}

void queue_close(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->room);
    pthread_cond_broadcast(&q->data);
    pthread_mutex_unlock(&q->lock);
}
