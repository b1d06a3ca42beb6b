/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <unistd.h>

#define PRODUCERS 4
#define EACH 5000

struct message {
    struct qnode node;
    unsigned producer, number;
};

static int readable(struct queue *q)
{
    struct pollfd p = {.fd = q->eventfd, .events = POLLIN};
    return poll(&p, 1, 0);
}

static void order_bounds_and_event(void **state)
{
    (void)state;
    struct queue q;
    struct qnode m[4];
    assert_int_equal(queue_init(&q, 3), 0);
    assert_null(queue_try_pop(&q));
    assert_int_equal(readable(&q), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(queue_try_push(&q, &m[i]), 0);
    assert_int_equal(queue_try_push(&q, &m[3]), FARM_EFULL);
    assert_int_equal(readable(&q), 1);
    assert_ptr_equal(queue_pop(&q), &m[0]);
    assert_int_equal(queue_push(&q, &m[3]), 0);
    struct qnode *list = queue_take_all(&q);
    assert_ptr_equal(list, &m[1]);
    assert_ptr_equal(list->next, &m[2]);
    assert_ptr_equal(list->next->next, &m[3]);
    assert_null(list->next->next->next);
    assert_int_equal(readable(&q), 0);
    assert_null(queue_take_all(&q));

    assert_int_equal(queue_push(&q, &m[0]), 0);
    queue_close(&q);
    assert_int_equal(queue_try_push(&q, &m[1]), FARM_ECLOSED);
    assert_int_equal(queue_push(&q, &m[1]), FARM_ECLOSED);
    assert_ptr_equal(queue_pop(&q), &m[0]); /* what was accepted is still delivered */
    assert_null(queue_pop(&q));
    queue_fini(&q);
}

struct producer {
    struct queue *q;
    struct message *messages;
    unsigned accepted;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (unsigned i = 0; i < EACH; i++) {
        if (queue_push(p->q, &p->messages[i].node) != 0)
            break;
        p->accepted++;
    }
    return NULL;
}

static struct message store[PRODUCERS][EACH];

static void start(struct queue *q, struct producer *p, pthread_t *t)
{
    for (unsigned i = 0; i < PRODUCERS; i++) {
        for (unsigned n = 0; n < EACH; n++)
            store[i][n] = (struct message){.producer = i, .number = n};
        p[i] = (struct producer){.q = q, .messages = store[i]};
        assert_int_equal(pthread_create(&t[i], NULL, produce, &p[i]), 0);
    }
}

static void many_producers_keep_their_order(void **state)
{
    (void)state;
    struct queue q;
    struct producer p[PRODUCERS];
    pthread_t t[PRODUCERS];
    unsigned next[PRODUCERS] = {0};
    assert_int_equal(queue_init(&q, 8), 0);
    start(&q, p, t);
    for (unsigned i = 0; i < PRODUCERS * EACH; i++) {
        struct message *m = (struct message *)queue_pop(&q);
        assert_int_equal(m->number, next[m->producer]++);
    }
    for (unsigned i = 0; i < PRODUCERS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(readable(&q), 0);
    queue_fini(&q);
}

static size_t queued(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t n = q->n;
    pthread_mutex_unlock(&q->lock);
    return n;
}

static void close_wakes_waiting_producers(void **state)
{
    (void)state;
    struct queue q;
    struct producer p[PRODUCERS];
    pthread_t t[PRODUCERS];
    assert_int_equal(queue_init(&q, 2), 0);
    start(&q, p, t);
    while (queued(&q) < 2) /* let them fill it and wait */
        usleep(1000);
    queue_close(&q);
    unsigned accepted = 0, drained = 0;
    for (unsigned i = 0; i < PRODUCERS; i++) {
        pthread_join(t[i], NULL);
        accepted += p[i].accepted;
    }
    while (queue_pop(&q) != NULL)
        drained++;
    assert_int_equal(accepted, 2);
    assert_int_equal(drained, accepted);
    queue_fini(&q);
}

static void *consume(void *arg)
{
    return queue_pop(arg);
}

static void close_wakes_a_waiting_consumer(void **state)
{
    (void)state;
    struct queue q;
    pthread_t t;
    void *got = &q;
    assert_int_equal(queue_init(&q, 2), 0);
    assert_int_equal(pthread_create(&t, NULL, consume, &q), 0);
    usleep(10000);
    queue_close(&q);
    pthread_join(t, &got);
    assert_null(got);
    queue_fini(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_bounds_and_event),
        cmocka_unit_test(many_producers_keep_their_order),
        cmocka_unit_test(close_wakes_waiting_producers),
        cmocka_unit_test(close_wakes_a_waiting_consumer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
