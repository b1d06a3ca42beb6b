/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * labwire MS PORT...
 *
 * The wire between the nodes of a lab, with a delay: for kernels that have no netem. PORT are the
 * host's ends of the nodes' veth pairs, whose bridge ports are isolated from each other, so that
 * frames between nodes go only through here; frames to and from the host take the bridge as
 * before. Every frame of one node for another is held MS milliseconds and sent on. Frames are taken
 * with their virtio header, so that checksum and segmentation offload of the veth stay valid.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS_MAX 32
#define FRAME_MAX (70 * 1024)
#define QUEUE_BYTES_MAX (64U * 1024 * 1024) /* more is dropped, as a full wire does */

struct frame {
    struct frame *next;
    int64_t due_us;
    int from;
    size_t len;
    unsigned char bytes[]; /* virtio header, then the Ethernet frame */
};

struct port {
    int fd;
    bool known; /* mac has been learnt from a frame this node sent */
    unsigned char mac[ETH_ALEN];
};

static struct port ports[PORTS_MAX];
static int port_count;
static struct frame *head;
static struct frame **tail = &head;
static size_t queued;

static void die(const char *what)
{
    fprintf(stderr, "labwire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void open_port(const char *name)
{
    struct sockaddr_ll addr = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    int on = 1;
    int big = 16 * 1024 * 1024;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

    addr.sll_ifindex = (int)if_nametoindex(name);
    if (fd < 0 || addr.sll_ifindex == 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof(big)) < 0 ||
        bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die(name);
    }
    ports[port_count++] = (struct port){.fd = fd};
}

static void receive(int from, int64_t delay_us)
{
    static unsigned char buf[FRAME_MAX];
    const unsigned char *eth = buf + sizeof(struct virtio_net_hdr);

    for (;;) {
        ssize_t n = recv(ports[from].fd, buf, sizeof(buf), MSG_DONTWAIT);
        struct frame *f;

        if (n < (ssize_t)(sizeof(struct virtio_net_hdr) + ETH_HLEN)) {
            return;
        }
        memcpy(ports[from].mac, eth + ETH_ALEN, ETH_ALEN);
        ports[from].known = true;
        if (queued + (size_t)n > QUEUE_BYTES_MAX) {
            continue;
        }
        f = malloc(sizeof(*f) + (size_t)n);
        if (f == NULL) {
            continue;
        }
        *f = (struct frame){.due_us = now_us() + delay_us, .from = from, .len = (size_t)n};
        memcpy(f->bytes, buf, (size_t)n);
        queued += f->len;
        *tail = f;
        tail = &f->next;
    }
}

/* As a bridge does: to the owner of the address, and to all if it is multicast or nobody's yet. */
static void deliver(const struct frame *f)
{
    const unsigned char *to = f->bytes + sizeof(struct virtio_net_hdr);
    int owner = -1;

    for (int i = 0; i < port_count; i++) {
        if (ports[i].known && memcmp(ports[i].mac, to, ETH_ALEN) == 0) {
            owner = i;
        }
    }
    for (int i = 0; i < port_count; i++) {
        if (i != f->from && (owner < 0 || owner == i)) {
            (void)!send(ports[i].fd, f->bytes, f->len, MSG_DONTWAIT);
        }
    }
}

static void send_due(void)
{
    while (head != NULL && head->due_us <= now_us()) {
        struct frame *f = head;

        head = f->next;
        if (head == NULL) {
            tail = &head;
        }
        queued -= f->len;
        deliver(f);
        free(f);
    }
}

int main(int argc, char **argv)
{
    int64_t delay_us = argc > 1 ? (int64_t)(strtod(argv[1], NULL) * 1000) : 0;
    struct pollfd fds[PORTS_MAX];

    if (argc < 4 || argc - 2 > PORTS_MAX || delay_us <= 0) {
        fprintf(stderr, "usage: labwire MS PORT PORT...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        open_port(argv[i]);
    }
    for (int i = 0; i < port_count; i++) {
        fds[i] = (struct pollfd){.fd = ports[i].fd, .events = POLLIN};
    }
    for (;;) {
        struct timespec wait = {.tv_sec = 1};

        if (head != NULL) {
            int64_t left = head->due_us - now_us();

            left = left > 0 ? left : 0;
            wait = (struct timespec){.tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000};
        }
        if (ppoll(fds, (nfds_t)port_count, &wait, NULL) < 0 && errno != EINTR) {
            die("poll");
        }
        for (int i = 0; i < port_count; i++) {
            if ((fds[i].revents & POLLIN) != 0) {
                receive(i, delay_us);
            }
        }
        send_due();
    }
}
