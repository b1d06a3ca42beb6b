/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * inih takes the lines apart; sections are recognised here, in the reader it calls for each line,
 * since inih cuts their names at 49 bytes and does not tell of empty ones. The first error wins and
 * ends the reading.
 */
#include "base/config.h"

#include "base/cleanup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define SEAL_AFTER_MAX_MS 3600000u
#define AGE_MAX_DAYS 3650ul
#define COMPARE_RATE_MAX 10000000ul
#define SCRUB_RATE (10ul << 20)
#define SCRUB_RATE_MAX (1ul << 40)
#define SCRUB_EVERY_S (7u * 86400u)

enum section { SECTION_NONE, SECTION_NODE, SECTION_FOLDER, SECTION_SSH, SECTION_PEER, SECTION_END };

static const char *const section_names[SECTION_END] = {"", "node", "folder", "ssh", "peer"};

struct key {
    enum section section;
    const char *name;
    size_t offset;                              /* in struct config, or in struct config_peer */
    int (*set)(void *field, const char *value); /* 0, -EINVAL or -ENOMEM */
    bool required;
    bool may_be_empty; /* which leaves the default */
    const char *expected;
};

struct parse {
    struct config *c;
    const char *file;
    FILE *in;
    unsigned line;
    enum section section;
    uint32_t seen;                      /* keys given, by index; those of a peer for this peer */
    unsigned section_line[SECTION_END]; /* where it was first opened, 0: not */
    unsigned peer_line[CONFIG_PEERS_MAX];
    bool failed;
    unsigned error_line; /* 0: of the file as a whole */
    char error[512];
};

/* The first error is the one that is told. */
__attribute__((format(printf, 3, 4))) static int fail(struct parse *p, unsigned line,
                                                      const char *fmt, ...)
{
    if (p->failed)
        return FARM_ECONFIG;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->error, sizeof(p->error), fmt, ap);
    va_end(ap);
    p->failed = true;
    p->error_line = line;
    return FARM_ECONFIG;
}

static void tell(const struct parse *p)
{
    if (p->error_line > 0)
        fprintf(stderr, "farmfs: %s:%u: %s\n", p->file, p->error_line, p->error);
    else
        fprintf(stderr, "farmfs: %s: %s\n", p->file, p->error);
}

/* -- values -- */

/* A leading '-' would read as an option where the name becomes an argument. */
static bool is_name(const char *v, bool underscore)
{
    size_t n = strlen(v);
    if (n == 0 || n > CONFIG_NAME_MAX || v[0] == '-')
        return false;
    for (; *v != '\0'; v++)
        if (!(*v >= 'a' && *v <= 'z') && !(*v >= '0' && *v <= '9') && *v != '-' &&
            !(underscore && *v == '_'))
            return false;
    return true;
}

static int set_text(void *field, const char *v)
{
    char *copy = strdup(v);
    if (copy == NULL)
        return -ENOMEM;
    free(*(char **)field);
    *(char **)field = copy;
    return 0;
}

static int set_node_name(void *field, const char *v)
{
    if (!is_name(v, false))
        return -EINVAL;
    memcpy(field, v, strlen(v) + 1);
    return 0;
}

static int set_folder_name(void *field, const char *v)
{
    if (!is_name(v, true))
        return -EINVAL;
    memcpy(field, v, strlen(v) + 1);
    return 0;
}

static int set_id(void *field, const char *v)
{
    if (strlen(v) != 16 || strspn(v, "0123456789abcdefABCDEF") != 16)
        return -EINVAL;
    *(uint64_t *)field = strtoull(v, NULL, 16);
    return 0;
}

static int set_path(void *field, const char *v)
{
    return v[0] == '/' ? set_text(field, v) : -EINVAL;
}

static int set_word(void *field, const char *v)
{
    if (v[0] == '\0' || v[0] == '-')
        return -EINVAL;
    for (const char *s = v; *s != '\0'; s++)
        if (!isgraph((unsigned char)*s))
            return -EINVAL;
    return set_text(field, v);
}

/* Digits up to max, and what follows them. */
static int get_number(const char *v, unsigned long max, unsigned long *out, const char **rest)
{
    if (!isdigit((unsigned char)v[0]))
        return -EINVAL;
    char *end;
    errno = 0;
    unsigned long n = strtoul(v, &end, 10);
    if (errno != 0 || n > max)
        return -EINVAL;
    *out = n;
    *rest = end;
    return 0;
}

static int set_duration(void *field, const char *v)
{
    unsigned long n;
    const char *unit;
    if (get_number(v, SEAL_AFTER_MAX_MS, &n, &unit) < 0)
        return -EINVAL;
    if (strcmp(unit, "s") == 0)
        n *= 1000;
    else if (strcmp(unit, "ms") != 0)
        return -EINVAL;
    if (n == 0 || n > SEAL_AFTER_MAX_MS)
        return -EINVAL;
    *(uint32_t *)field = (uint32_t)n;
    return 0;
}

/* Of things that are kept: 90s, 30m, 12h, 7d; off: 0. */
static int set_age(void *field, const char *v)
{
    static const struct {
        const char *unit;
        unsigned s;
    } units[] = {{"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    unsigned long n;
    const char *unit;
    if (strcmp(v, "off") == 0) {
        *(uint64_t *)field = 0;
        return 0;
    }
    if (get_number(v, AGE_MAX_DAYS * 86400ul, &n, &unit) < 0 || n == 0)
        return -EINVAL;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].unit) != 0)
            continue;
        if (n > AGE_MAX_DAYS * 86400ul / units[i].s)
            return -EINVAL;
        *(uint64_t *)field = (uint64_t)n * units[i].s;
        return 0;
    }
    return -EINVAL;
}

/* Bytes: 500M, 1G, 2T; off: 0, no bound. */
static int set_quota(void *field, const char *v)
{
    static const char units[] = "KMGT";
    unsigned long n;
    const char *unit;
    if (strcmp(v, "off") == 0) {
        *(uint64_t *)field = 0;
        return 0;
    }
    if (get_number(v, 1ul << 20, &n, &unit) < 0 || n == 0 || unit[0] == '\0' || unit[1] != '\0')
        return -EINVAL;
    const char *at = strchr(units, unit[0]);
    if (at == NULL)
        return -EINVAL;
    *(uint64_t *)field = (uint64_t)n << (10 * (at - units + 1));
    return 0;
}

static int set_brake(void *field, const char *v)
{
    unsigned long n = 0;
    const char *rest = "%";
    if (strcmp(v, "off") != 0 &&
        (get_number(v, 100, &n, &rest) < 0 || strcmp(rest, "%") != 0 || n == 0))
        return -EINVAL;
    *(uint32_t *)field = (uint32_t)n;
    return 0;
}

static int set_compare_rate(void *field, const char *v)
{
    unsigned long n;
    const char *rest;
    if (get_number(v, COMPARE_RATE_MAX, &n, &rest) < 0 || *rest != '\0' || n == 0)
        return -EINVAL;
    *(uint32_t *)field = (uint32_t)n;
    return 0;
}

/* on | off | bytes a second: 500K, 20M. */
static int set_rate(void *field, const char *v)
{
    uint64_t rate = SCRUB_RATE;
    if (strcmp(v, "on") != 0) {
        int r = set_quota(&rate, v);
        if (r < 0 || rate > SCRUB_RATE_MAX)
            return -EINVAL;
    }
    *(uint64_t *)field = rate;
    return 0;
}

static int set_period(void *field, const char *v)
{
    return strcmp(v, "off") == 0 ? -EINVAL : set_age(field, v);
}

static int set_port(void *field, const char *v)
{
    unsigned long n;
    const char *rest;
    if (get_number(v, UINT16_MAX, &n, &rest) < 0 || *rest != '\0' || n == 0)
        return -EINVAL;
    *(uint16_t *)field = (uint16_t)n;
    return 0;
}

static int set_ack(void *field, const char *v)
{
    enum config_ack *ack = field;
    if (strcmp(v, "local") == 0)
        *ack = ACK_LOCAL;
    else if (strcmp(v, "one") == 0)
        *ack = ACK_ONE;
    else if (strcmp(v, "all") == 0)
        *ack = ACK_ALL;
    else
        return -EINVAL;
    return 0;
}

static int set_connect(void *field, const char *v)
{
    enum config_connect *connect = field;
    if (strcmp(v, "auto") == 0)
        *connect = CONNECT_AUTO;
    else if (strcmp(v, "dial") == 0)
        *connect = CONNECT_DIAL;
    else if (strcmp(v, "accept") == 0)
        *connect = CONNECT_ACCEPT;
    else
        return -EINVAL;
    return 0;
}

#define NODE_NAME_RULE "1 to 63 of a-z 0-9 -, the first not -"
#define FOLDER_NAME_RULE "1 to 63 of a-z 0-9 _ -, the first not -"
#define PATH_RULE "an absolute path"
#define AGE_RULE "off, or a time such as 12h or 7d, at most 3650d"
#define QUOTA_RULE "off, or a size such as 500M or 1G"
#define OF(field) offsetof(struct config, field)
#define OF_PEER(field) offsetof(struct config_peer, field)

/* clang-format off */
static const struct key keys[] = {
    {SECTION_NODE, "name", OF(node), set_node_name, true, false, NODE_NAME_RULE},
    {SECTION_FOLDER, "name", OF(folder), set_folder_name, true, false, FOLDER_NAME_RULE},
    {SECTION_FOLDER, "id", OF(folder_id), set_id, true, false, "16 hex digits"},
    {SECTION_FOLDER, "dir", OF(dir), set_path, true, false, PATH_RULE},
    {SECTION_FOLDER, "state", OF(state), set_path, false, true, PATH_RULE},
    {SECTION_FOLDER, "staging", OF(staging), set_path, false, true, PATH_RULE},
    {SECTION_FOLDER, "ack", OF(ack), set_ack, false, false, "one of local, one, all"},
    {SECTION_FOLDER, "seal-after", OF(seal_after_ms), set_duration, false, false,
     "a duration up to 3600s such as 2s or 500ms"},
    {SECTION_FOLDER, "history", OF(history_age_s), set_age, false, false, AGE_RULE},
    {SECTION_FOLDER, "history-quota", OF(history_quota), set_quota, false, false, QUOTA_RULE},
    {SECTION_FOLDER, "conflicts-age", OF(conflicts_age_s), set_age, false, false, AGE_RULE},
    {SECTION_FOLDER, "conflicts-quota", OF(conflicts_quota), set_quota, false, false, QUOTA_RULE},
    {SECTION_FOLDER, "retention", OF(retention_s), set_age, false, false, AGE_RULE},
    {SECTION_FOLDER, "brake", OF(brake), set_brake, false, false, "off, or 1% to 100%"},
    {SECTION_FOLDER, "compare-rate", OF(compare_rate), set_compare_rate, false, false,
     "names a second, 1 to 10000000"},
    {SECTION_FOLDER, "scrub", OF(scrub_rate), set_rate, false, false,
     "on, off, or bytes a second such as 20M"},
    {SECTION_FOLDER, "scrub-every", OF(scrub_every_s), set_period, false, false,
     "a time such as 12h or 7d, at most 3650d"},
    {SECTION_SSH, "user", OF(ssh_user), set_word, false, false, "a user name"},
    {SECTION_SSH, "key", OF(ssh_key), set_path, false, false, PATH_RULE},
    {SECTION_SSH, "known-hosts", OF(known_hosts), set_path, false, false, PATH_RULE},
    {SECTION_SSH, "run-dir", OF(run_dir), set_path, false, false, PATH_RULE},
    {SECTION_PEER, "address", OF_PEER(address), set_word, false, false, "a host name or address"},
    {SECTION_PEER, "port", OF_PEER(port), set_port, false, false, "1 to 65535"},
    {SECTION_PEER, "connect", OF_PEER(connect), set_connect, false, false,
     "one of auto, dial, accept"},
};
/* clang-format on */

#define NKEYS (sizeof(keys) / sizeof(keys[0]))

/* -- sections -- */

static int open_peer(struct parse *p, const char *name)
{
    struct config *c = p->c;
    if (!is_name(name, false))
        return fail(p, p->line, "bad peer name '%s' (expected %s)", name, NODE_NAME_RULE);
    for (size_t i = 0; i < c->npeers; i++)
        if (strcmp(c->peers[i].name, name) == 0)
            return fail(p, p->line, "peer '%s' is given twice (expected once, it is at line %u)",
                        name, p->peer_line[i]);
    if (c->npeers == CONFIG_PEERS_MAX)
        return fail(p, p->line, "too many peers (expected at most %d)", CONFIG_PEERS_MAX);
    p->peer_line[c->npeers] = p->line;
    struct config_peer *peer = &c->peers[c->npeers++];
    *peer = (struct config_peer){.port = 22, .connect = CONNECT_AUTO};
    memcpy(peer->name, name, strlen(name) + 1);
    for (size_t i = 0; i < NKEYS; i++)
        if (keys[i].section == SECTION_PEER)
            p->seen &= ~(1u << i);
    return 0;
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1]))
        s[--n] = '\0';
    return s;
}

/* text: a copy of the line after its '['. */
static int open_section(struct parse *p, char *text)
{
    char *end = strchr(text, ']');
    if (end == NULL)
        return fail(p, p->line, "section without its end (expected ])");
    *end = '\0';
    const char *after = trim(end + 1);
    if (*after != '\0' && *after != ';' && *after != '#')
        return fail(p, p->line, "text '%s' behind a section (expected nothing)", after);
    char *name = trim(text);
    size_t n = strcspn(name, " \t");
    bool has_arg = name[n] != '\0';
    for (enum section s = SECTION_NODE; s < SECTION_END; s++) {
        if (strlen(section_names[s]) != n || strncmp(name, section_names[s], n) != 0 ||
            has_arg != (s == SECTION_PEER))
            continue;
        p->section = s;
        if (p->section_line[s] == 0)
            p->section_line[s] = p->line;
        return s == SECTION_PEER ? open_peer(p, trim(name + n)) : 0;
    }
    return fail(p, p->line,
                "unknown section [%s] (expected one of [node], [folder], [ssh], [peer NAME])",
                name);
}

/* -- lines -- */

/* Gives inih one line, without its indentation, which inih would take for a continuation. */
static char *read_line(char *to, int size, void *stream)
{
    struct parse *p = stream;
    CLEANUP_FREE char *line = NULL;
    size_t room = 0;
    if (p->failed)
        return NULL;
    ssize_t n = getline(&line, &room, p->in);
    if (n < 0) {
        if (ferror(p->in))
            fail(p, 0, "%s", err_text(-errno));
        return NULL;
    }
    p->line++;
    if (strlen(line) != (size_t)n) {
        fail(p, p->line, "NUL byte (expected text)");
        return NULL;
    }
    /* what remains must end in a newline: inih would take the rest for another line */
    char *text = trim(line);
    size_t len = strlen(text);
    if (len + 2 > (size_t)size) {
        fail(p, p->line, "line too long (expected at most %d bytes)", size - 2);
        return NULL;
    }
    memcpy(to, text, len);
    memcpy(to + len, "\n", 2);
    if (text[0] == '[' && open_section(p, text + 1) < 0)
        return NULL;
    return to;
}

static int unknown_key(struct parse *p, const char *name)
{
    char list[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < NKEYS; i++)
        if (keys[i].section == p->section && n < sizeof(list))
            n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", n > 0 ? ", " : "",
                                  keys[i].name);
    return fail(p, p->line, "unknown key '%s' in [%s] (expected one of %s)", name,
                section_names[p->section], list);
}

static int set_key(struct parse *p, const char *name, const char *value)
{
    if (p->section == SECTION_NONE)
        return fail(p, p->line, "key '%s' outside of a section (expected a section first)", name);
    size_t i = 0;
    while (i < NKEYS && (keys[i].section != p->section || strcmp(keys[i].name, name) != 0))
        i++;
    if (i == NKEYS)
        return unknown_key(p, name);
    const struct key *k = &keys[i];
    if (p->seen & (1u << i))
        return fail(p, p->line, "%s.%s is given twice (expected once)", section_names[k->section],
                    name);
    p->seen |= 1u << i;
    if (value[0] == '\0' && k->may_be_empty)
        return 0;
    char *base = k->section == SECTION_PEER ? (char *)&p->c->peers[p->c->npeers - 1] : (char *)p->c;
    int r = k->set(base + k->offset, value);
    if (r == -EINVAL)
        return fail(p, p->line, "bad %s.%s '%s' (expected %s)", section_names[k->section], name,
                    value, k->expected);
    return r < 0 ? fail(p, p->line, "%s", err_text(r)) : 0;
}

/* inih's handler: nonzero is success. */
static int on_pair(void *user, const char *section, const char *name, const char *value)
{
    (void)section; /* possibly cut: p->section is the true one */
    struct parse *p = user;
    return !p->failed && set_key(p, name, value) == 0;
}

/* -- the whole -- */

/* Is path the directory dir or below it, as written? */
static bool is_inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    while (n > 0 && dir[n - 1] == '/')
        n--;
    return strncmp(path, dir, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

static int check_peers(struct parse *p)
{
    const struct config *c = p->c;
    for (size_t i = 0; i < c->npeers; i++) {
        const struct config_peer *peer = &c->peers[i];
        if (strcmp(peer->name, c->node) == 0)
            return fail(p, p->peer_line[i],
                        "peer '%s' is named like this node (expected another name)", peer->name);
        if (peer->address == NULL && peer->connect != CONNECT_ACCEPT)
            return fail(p, p->peer_line[i],
                        "peer '%s' has no address (expected address = HOST, or connect = accept)",
                        peer->name);
    }
    return 0;
}

static int set_default(char **field, const char *value)
{
    return *field != NULL ? 0 : set_text(field, value);
}

static int set_defaults(struct config *c)
{
    char state[sizeof("/var/lib/farmfs/") + CONFIG_NAME_MAX];
    snprintf(state, sizeof(state), "/var/lib/farmfs/%s", c->folder);
    int r = set_default(&c->state, state);
    if (r == 0)
        r = set_default(&c->ssh_user, "farmfs");
    if (r == 0)
        r = set_default(&c->ssh_key, "/etc/farmfs/id_ed25519");
    if (r == 0)
        r = set_default(&c->known_hosts, "/etc/farmfs/known_hosts");
    if (r == 0)
        r = set_default(&c->run_dir, "/run/farmfs");
    return r;
}

static int check_whole(struct parse *p)
{
    struct config *c = p->c;
    for (size_t i = 0; i < NKEYS; i++) {
        const struct key *k = &keys[i];
        unsigned line = p->section_line[k->section];
        if (k->required && !(p->seen & (1u << i)))
            return fail(p,
                        line > 0      ? line
                        : p->line > 0 ? p->line
                                      : 1,
                        "%s.%s is missing (expected %s = ... in [%s])", section_names[k->section],
                        k->name, k->name, section_names[k->section]);
    }
    int r = set_defaults(c);
    if (r < 0)
        return fail(p, 0, "%s", err_text(r));
    unsigned line = p->section_line[SECTION_FOLDER];
    /* the state changes with every change in the folder: inside, it would replicate itself */
    if (is_inside(c->state, c->dir))
        return fail(p, line, "folder.state %s is inside folder.dir (expected it elsewhere)",
                    c->state);
    struct sockaddr_un sun;
    size_t room = sizeof(sun.sun_path) - sizeof("/.sock") - strlen(c->folder);
    if (strlen(c->run_dir) > room)
        return fail(p, p->section_line[SECTION_SSH],
                    "ssh.run-dir is too long for a socket (expected at most %zu bytes)", room);
    return check_peers(p);
}

static int parse_stream(struct parse *p)
{
    int r = ini_parse_stream(read_line, p, on_pair, p);
    /* inih goes on after a line it does not understand: such a line may precede our error */
    if (r > 0 && (!p->failed || (unsigned)r < p->error_line)) {
        p->failed = false;
        return fail(p, (unsigned)r, "not understood (expected [SECTION], KEY = VALUE or ; TEXT)");
    }
    if (r < 0)
        return fail(p, 0, "%s", err_text(-ENOMEM));
    return p->failed ? FARM_ECONFIG : check_whole(p);
}

/* As config_load, but the error stays in *p, to be told or not. p->file must outlive it. */
static int load(struct parse *p, const char *file, struct config **out)
{
    *p = (struct parse){.file = file};
    p->in = fopen(file, "re");
    if (p->in == NULL)
        return fail(p, 0, "%s", err_text(-errno));
    p->c = calloc(1, sizeof(*p->c));
    if (p->c != NULL) {
        p->c->seal_after_ms = 2000;
        p->c->brake = 50;
        p->c->history_quota = p->c->conflicts_quota = 1ull << 30;
        p->c->conflicts_age_s = p->c->retention_s = 30 * 86400;
        p->c->scrub_rate = SCRUB_RATE;
        p->c->scrub_every_s = SCRUB_EVERY_S;
        p->c->file = strdup(file);
        p->c->peers = calloc(CONFIG_PEERS_MAX, sizeof(*p->c->peers));
    }
    int r = p->c != NULL && p->c->file != NULL && p->c->peers != NULL
                ? parse_stream(p)
                : fail(p, 0, "%s", err_text(-ENOMEM));
    fclose(p->in);
    if (r == 0)
        *out = p->c;
    else
        config_free(p->c);
    p->c = NULL;
    return r;
}

int config_load(const char *file, struct config **out)
{
    struct parse p;
    int r = load(&p, file, out);
    if (r < 0)
        tell(&p);
    return r;
}

/* realpath, except that the last component need not exist or answer: a folder whose daemon died
 * leaves a mount that cannot be looked at. NULL when nothing can be told. */
static char *resolve(const char *path)
{
    char *real = realpath(path, NULL);
    if (real != NULL)
        return real;
    CLEANUP_FREE char *copy = strdup(path);
    if (copy == NULL)
        return NULL;
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = '\0';
    char *slash = strrchr(copy, '/');
    const char *base = slash != NULL ? slash + 1 : copy;
    if (strcmp(base, "") == 0 || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return NULL;
    if (slash != NULL)
        *slash = '\0';
    CLEANUP_FREE char *parent = realpath(slash == NULL ? "." : slash == copy ? "/" : copy, NULL);
    if (parent == NULL ||
        asprintf(&real, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, base) < 0)
        return NULL;
    return real;
}

static int is_conf(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 5 && e->d_name[0] != '.' && strcmp(e->d_name + n - 5, ".conf") == 0;
}

/* If this file describes the folder at `want`, it becomes *found, which must be the only one. */
static int try_file(struct parse *p, const char *file, const char *want, struct config **found)
{
    struct config *c = NULL;
    int r = load(p, file, &c);
    if (r < 0)
        return r;
    CLEANUP_FREE char *dir = resolve(c->dir);
    if (strcmp(dir != NULL ? dir : c->dir, want) != 0) {
        config_free(c);
        return 0;
    }
    if (*found == NULL) {
        *found = c;
        return 0;
    }
    r = fail(p, p->section_line[SECTION_FOLDER],
             "folder.dir %s is also that of %s (expected one file a directory)", c->dir,
             (*found)->file);
    config_free(c);
    config_free(*found);
    *found = NULL;
    return r;
}

/* A broken file of another folder must not keep this one from starting: the first such error is
 * told only when no file has the directory. */
static int find_among(struct dirent **list, int n, const char *confdir, const char *want,
                      struct config **out)
{
    struct config *found = NULL;
    struct parse bad = {0};
    CLEANUP_FREE char *bad_file = NULL;
    for (int i = 0; i < n; i++) {
        CLEANUP_FREE char *file = NULL;
        if (asprintf(&file, "%s/%s", confdir, list[i]->d_name) < 0) {
            config_free(found);
            return -ENOMEM;
        }
        struct parse p;
        bool had = found != NULL;
        if (try_file(&p, file, want, &found) == 0)
            continue;
        bool twice = had && found == NULL;
        if (bad_file == NULL || twice) {
            free(bad_file);
            bad = p;
            bad_file = take_ptr(file);
            bad.file = bad_file;
        }
        if (twice)
            break;
    }
    if (found != NULL) {
        *out = found;
        return 0;
    }
    if (bad_file == NULL)
        return -ENOENT;
    tell(&bad);
    return FARM_ECONFIG;
}

int config_find(const char *confdir, const char *dir, struct config **out)
{
    CLEANUP_FREE char *want = resolve(dir);
    if (want == NULL)
        return -ENOENT;
    struct dirent **list = NULL;
    int n = scandir(confdir, &list, is_conf, alphasort);
    if (n < 0)
        return -errno;
    int r = find_among(list, n, confdir, want, out);
    for (int i = 0; i < n; i++)
        free(list[i]);
    free(list);
    return r;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->npeers; i++)
        free(c->peers[i].address);
    free(c->peers);
    free(c->file);
    free(c->dir);
    free(c->state);
    free(c->staging);
    free(c->ssh_user);
    free(c->ssh_key);
    free(c->known_hosts);
    free(c->run_dir);
    free(c);
}

const struct config_peer *config_peer(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->npeers; i++)
        if (strcmp(c->peers[i].name, name) == 0)
            return &c->peers[i];
    return NULL;
}

int config_dials(const struct config *c, const struct config_peer *p)
{
    if (p->connect == CONNECT_AUTO)
        return strcmp(c->node, p->name) < 0;
    return p->connect == CONNECT_DIAL;
}
