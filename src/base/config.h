/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The configuration file of one folder on one node: see farmfs.conf(5). Read once, then constant.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define CONFIG_NAME_MAX 63
#define CONFIG_PEERS_MAX 64

enum config_connect { CONNECT_AUTO, CONNECT_DIAL, CONNECT_ACCEPT };
enum config_ack { ACK_LOCAL, ACK_ONE, ACK_ALL };

struct config_peer {
    char name[CONFIG_NAME_MAX + 1];
    char *address;
    uint16_t port; /* 22 */
    enum config_connect connect;
};

struct config {
    char *file; /* where it was read from */
    char node[CONFIG_NAME_MAX + 1];
    char folder[CONFIG_NAME_MAX + 1];
    uint64_t folder_id;
    char *dir;     /* absolute, as given */
    char *state;   /* /var/lib/farmfs/<folder> */
    char *staging; /* NULL: choose a sibling of dir */
    enum config_ack ack;
    uint32_t seal_after_ms;   /* 2000 */
    uint32_t compare_rate;    /* names a second that are compared after a start; 0: no limit */
    uint64_t history_age_s;   /* 0: no history */
    uint64_t history_quota;   /* bytes; 1 GiB */
    uint64_t conflicts_age_s; /* 0: however old; 30 days */
    uint32_t brake;           /* per cent of the names; 0: off; 50 */
    uint64_t retention_s;     /* how long an absent peer is waited for; 0: for ever; 30 days */
    uint64_t conflicts_quota; /* bytes, 0: however many; 1 GiB */
    uint64_t scrub_rate;      /* bytes a second at most; 0: off; 10 MiB */
    uint64_t scrub_every_s;   /* a round of the scrub takes about this long; 7 days */
    char *ssh_user;           /* farmfs */
    char *ssh_key;            /* /etc/farmfs/id_ed25519 */
    char *known_hosts;        /* /etc/farmfs/known_hosts */
    char *run_dir;            /* /run/farmfs */
    struct config_peer *peers;
    size_t npeers;
};

/* Reads a file. On an error prints one line to stderr, `farmfs: FILE:LINE: what (expected ...)`,
 * and returns FARM_ECONFIG. The result is freed with config_free. */
FARM_MUSTUSE int config_load(const char *file, struct config **out);
/* The file in `confdir` whose folder.dir is `dir` (both resolved); -ENOENT, or FARM_ECONFIG. */
FARM_MUSTUSE int config_find(const char *confdir, const char *dir, struct config **out);
void config_free(struct config *c);
const struct config_peer *config_peer(const struct config *c, const char *name);
/* Do we dial this peer (or wait for it)? */
int config_dials(const struct config *c, const struct config_peer *p);

#endif
