/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/config.h"
#include "base/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODE "[node]\nname = web1\n"
#define FOLDER "[folder]\nname = www\nid = 0123456789abcdef\ndir = /srv/www\n"
#define BASE NODE FOLDER /* lines 1 to 6 */
#define N63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define N100 N63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static char dir[] = "/tmp/farm-test-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) == NULL || chdir(dir) < 0;
}

static int remove_dir(void **state)
{
    (void)state;
    return chdir("/") < 0 || rmdir(dir) < 0;
}

static void write_text(const char *name, const char *text)
{
    assert_int_equal(io_write_file_at(AT_FDCWD, name, text, strlen(text), 0600), 0);
}

/* Run with stderr in a file; what was written there is returned (freed by the caller). */
static char *loud(int (*run)(const char *, const char *, struct config **), const char *a,
                  const char *b, int *result, struct config **c)
{
    int saved = dup(STDERR_FILENO);
    int fd = open("stderr", O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(fd, STDERR_FILENO);
    *result = run(a, b, c);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    char *text = NULL;
    size_t len;
    assert_int_equal(io_read_file_at(AT_FDCWD, "stderr", 65536, &text, &len), 0);
    unlink("stderr");
    return text;
}

static int load(const char *file, const char *unused, struct config **c)
{
    (void)unused;
    return config_load(file, c);
}

static void a_full_file(void **state)
{
    (void)state;
    struct config *c = NULL;
    write_text("c", "; a comment\n" BASE "state = /var/x\nstaging = /srv/.s ; beside it\n"
                    "ack = one\nseal-after = 500ms\n[ssh]\nuser = repl\nkey = /k\n"
                    "known-hosts = /kh\nrun-dir = /r\n"
                    "[peer web2]\n  address = 10.77.0.2\n\tport = 65535\n"
                    "# next\n[ peer  a" N63 "]\n");
    int r;
    char *text = loud(load, "c", NULL, &r, &c);
    assert_int_equal(r, FARM_ECONFIG); /* the last name has 64 characters */
    free(text);
    write_text(
        "c", BASE
        "state = /var/x\nstaging = /srv/.s ; beside it\n"
        "ack = one\nseal-after = 500ms\nretention = 90d\nbrake = 20%\nhistory = 36h\nhistory-quota = 20G\n"
        "conflicts-age = off\nconflicts-quota = off\nscrub = 20M\nscrub-every = 12h\n"
        "[ssh]\nuser = repl\nkey = /k\n"
        "known-hosts = /kh\nrun-dir = /r\n"
        "[peer web2]\n  address = 10.77.0.2\n\tport = 65535\n"
        "# next\n[ peer  " N63 " ]\nconnect=accept");
    assert_int_equal(config_load("c", &c), 0);
    assert_string_equal(c->file, "c");
    assert_string_equal(c->node, "web1");
    assert_string_equal(c->folder, "www");
    assert_true(c->folder_id == 0x0123456789abcdef);
    assert_string_equal(c->dir, "/srv/www");
    assert_string_equal(c->state, "/var/x");
    assert_string_equal(c->staging, "/srv/.s");
    assert_int_equal(c->ack, ACK_ONE);
    assert_int_equal(c->seal_after_ms, 500);
    assert_int_equal(c->history_age_s, 36 * 3600);
    assert_int_equal(c->retention_s, 90 * 86400);
    assert_int_equal(c->brake, 20);
    assert_int_equal(c->history_quota, 20ull << 30);
    assert_int_equal(c->conflicts_age_s, 0);
    assert_int_equal(c->conflicts_quota, 0);
    assert_int_equal(c->scrub_rate, 20 << 20);
    assert_int_equal(c->scrub_every_s, 12 * 3600);
    assert_string_equal(c->ssh_user, "repl");
    assert_string_equal(c->run_dir, "/r");
    assert_int_equal(c->npeers, 2);
    const struct config_peer *p = config_peer(c, "web2");
    assert_string_equal(p->address, "10.77.0.2");
    assert_int_equal(p->port, 65535);
    assert_int_equal(config_dials(c, p), 1);
    p = config_peer(c, N63);
    assert_int_equal(p->connect, CONNECT_ACCEPT);
    assert_int_equal(p->port, 22);
    assert_int_equal(config_dials(c, p), 0);
    assert_null(config_peer(c, "web3"));
    config_free(c);
    unlink("c");
}

static void defaults_and_who_dials(void **state)
{
    (void)state;
    struct config *c = NULL;
    write_text("c", BASE "staging =\n[peer web0]\naddress = a\n[peer web2]\naddress = b\n"
                         "[peer web00]\naddress = c\nconnect = dial\n");
    assert_int_equal(config_load("c", &c), 0);
    assert_string_equal(c->state, "/var/lib/farmfs/www");
    assert_null(c->staging);
    assert_int_equal(c->ack, ACK_LOCAL);
    assert_int_equal(c->seal_after_ms, 2000);
    assert_int_equal(c->history_age_s, 0);
    assert_int_equal(c->retention_s, 30 * 86400);
    assert_int_equal(c->brake, 50);
    assert_int_equal(c->history_quota, 1 << 30);
    assert_int_equal(c->conflicts_age_s, 30 * 86400);
    assert_int_equal(c->conflicts_quota, 1 << 30);
    assert_int_equal(c->scrub_rate, 10 << 20);
    assert_int_equal(c->scrub_every_s, 7 * 86400);
    assert_string_equal(c->ssh_user, "farmfs");
    assert_string_equal(c->ssh_key, "/etc/farmfs/id_ed25519");
    assert_string_equal(c->known_hosts, "/etc/farmfs/known_hosts");
    assert_string_equal(c->run_dir, "/run/farmfs");
    assert_int_equal(config_dials(c, config_peer(c, "web0")), 0);
    assert_int_equal(config_dials(c, config_peer(c, "web2")), 1);
    assert_int_equal(config_dials(c, config_peer(c, "web00")), 1);
    config_free(c);
    unlink("c");
}

static const struct {
    const char *text;
    const char *where; /* LINE: and the beginning of the message */
    const char *has;   /* somewhere in it */
} errors[] = {
    {"", "1: node.name is missing", "expected name = "},
    {NODE, "2: folder.name is missing", "in [folder]"},
    {FOLDER, "4: node.name is missing", ""},
    {NODE "[folder]\nname = www\ndir = /d\n", "3: folder.id is missing", ""},
    {NODE "[folder]\nid = 0123456789abcdef\ndir = /d\n", "3: folder.name is missing", ""},
    {NODE "[folder]\nname = www\nid = 0123456789abcdef\n", "3: folder.dir is missing", ""},
    {"x = 1\n" BASE, "1: key 'x' outside of a section", ""},
    {BASE "[nodes]\nname = x\n", "7: unknown section [nodes]", "expected one of [node], [folder]"},
    {BASE "[node x]\n", "7: unknown section [node x]", ""},
    {BASE "[peer]\n", "7: unknown section [peer]", "[peer NAME]"},
    {BASE "[]\n", "7: unknown section []", ""},
    {BASE "[peer web2\n", "7: section without its end", "expected ]"},
    {BASE "[ssh] x\n", "7: text 'x' behind a section", ""},
    {BASE "colour = red\n", "7: unknown key 'colour' in [folder]",
     "expected one of name, id, dir, state, staging, ack, seal-after, history, history-quota, "
     "conflicts-age, conflicts-quota, retention, brake, compare-rate, scrub, scrub-every"},
    {BASE "[peer web2]\nhost = a\n", "8: unknown key 'host' in [peer]", "address, port, connect"},
    {BASE "nonsense\n[what]\n", "7: not understood", "expected [SECTION]"},
    {BASE "dir = /b\n", "7: folder.dir is given twice", ""},
    {BASE "[peer web2]\naddress = a\n[peer web2]\n", "9: peer 'web2' is given twice", "line 7"},
    {BASE "[peer web2]\naddress = a\naddress = b\n", "9: peer.address is given twice", ""},
    {BASE "\n[peer web1]\naddress = a\n", "8: peer 'web1' is named like this node", ""},
    {"[peer web1]\naddress = a\n" BASE, "1: peer 'web1' is named like this node", ""},
    {BASE "[peer web2]\nport = 22\n", "7: peer 'web2' has no address", "connect = accept"},
    {BASE "[peer Web2]\n", "7: bad peer name 'Web2'", "expected 1 to 63"},
    {BASE "[peer a_b]\n", "7: bad peer name", ""},
    {BASE "[peer -oProxy]\n", "7: bad peer name", ""},
    {BASE "[peer a b]\n", "7: bad peer name 'a b'", ""},
    {"[node]\nname = " N63 "a\n" FOLDER, "2: bad node.name", ""},
    {"[node]\nname =\n" FOLDER, "2: bad node.name ''", ""},
    {NODE "[folder]\nname = a/b\n", "4: bad folder.name 'a/b'", ""},
    {NODE "[folder]\nid = 123\n", "4: bad folder.id '123'", "expected 16 hex digits"},
    {NODE "[folder]\nid = 0x23456789abcdef\n", "4: bad folder.id", ""},
    {NODE "[folder]\nid = 0123456789abcdef0\n", "4: bad folder.id", ""},
    {NODE "[folder]\ndir = srv\n", "4: bad folder.dir 'srv'", "expected an absolute path"},
    {BASE "state = ./x\n", "7: bad folder.state", ""},
    {BASE "state = /srv/www/.state\n", "3: folder.state /srv/www/.state is inside", ""},
    {BASE "ack = some\n", "7: bad folder.ack 'some'", "expected one of local, one, all"},
    {BASE "compare-rate = 0\n", "7: bad folder.compare-rate '0'", "names a second"},
    {BASE "compare-rate = 10k\n", "7: bad folder.compare-rate '10k'", ""},
    {BASE "compare-rate = 10000001\n", "7: bad folder.compare-rate", ""},
    {BASE "seal-after = 2\n", "7: bad folder.seal-after '2'", "such as 2s or 500ms"},
    {BASE "scrub = fast\n", "7: bad folder.scrub 'fast'", "expected on, off, or bytes"},
    {BASE "scrub = 0\n", "7: bad folder.scrub '0'", ""},
    {BASE "scrub = 20MB\n", "7: bad folder.scrub '20MB'", ""},
    {BASE "scrub = 2T\n", "7: bad folder.scrub '2T'", ""},
    {BASE "scrub-every = 7\n", "7: bad folder.scrub-every '7'", "such as 12h or 7d"},
    {BASE "scrub-every = 0d\n", "7: bad folder.scrub-every '0d'", ""},
    {BASE "scrub-every = off\n", "7: bad folder.scrub-every 'off'", ""},
    {BASE "brake = 0%\n", "7: bad folder.brake", "off, or 1% to 100%"},
    {BASE "brake = 50\n", "7: bad folder.brake", ""},
    {BASE "seal-after = 0s\n", "7: bad folder.seal-after", ""},
    {BASE "seal-after = -2s\n", "7: bad folder.seal-after", ""},
    {BASE "seal-after = 2 s\n", "7: bad folder.seal-after", ""},
    {BASE "seal-after = 3601s\n", "7: bad folder.seal-after", ""},
    {BASE "seal-after = 99999999999999999999s\n", "7: bad folder.seal-after", ""},
    {BASE "history = 7\n", "7: bad folder.history '7'", "such as 12h or 7d"},
    {BASE "history = 3651d\n", "7: bad folder.history", ""},
    {BASE "history = 0d\n", "7: bad folder.history", ""},
    {BASE "history-quota = 1\n", "7: bad folder.history-quota '1'", "such as 500M or 1G"},
    {BASE "conflicts-quota = 1GB\n", "7: bad folder.conflicts-quota '1GB'", ""},
    {BASE "[ssh]\nkey = id\n", "8: bad ssh.key 'id'", ""},
    {BASE "[ssh]\nuser = -l\n", "8: bad ssh.user '-l'", ""},
    {BASE "[ssh]\nrun-dir = /" N100 "\n", "7: ssh.run-dir is too long", "at most 98 bytes"},
    {BASE "[peer web2]\nport = 0\n", "8: bad peer.port '0'", "expected 1 to 65535"},
    {BASE "[peer web2]\nport = 65536\n", "8: bad peer.port", ""},
    {BASE "[peer web2]\nport = 22x\n", "8: bad peer.port", ""},
    {BASE "[peer web2]\naddress = -oX\n", "8: bad peer.address", ""},
    {BASE "[peer web2]\naddress = a b\n", "8: bad peer.address", ""},
    {BASE "[peer web2]\nconnect = yes\n", "8: bad peer.connect", "auto, dial, accept"},
    {BASE "state = /" N100 N100 "\n", "7: line too long", "expected at most"},
    {BASE "ack = some\nack = other\n[what]\n", "7: bad folder.ack", ""},
};

static void each_error_is_one_line_with_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct config *c = NULL;
        char want[256];
        int r;
        write_text("c", errors[i].text);
        char *text = loud(load, "c", NULL, &r, &c);
        snprintf(want, sizeof(want), "farmfs: c:%s", errors[i].where);
        if (r != FARM_ECONFIG || c != NULL || strncmp(text, want, strlen(want)) != 0 ||
            strstr(text, errors[i].has) == NULL || strstr(text, "(expected ") == NULL ||
            strchr(text, '\n') != text + strlen(text) - 1)
            fail_msg("row %zu: %d, got \"%s\" for \"%s\"", i, r, text, want);
        free(text);
    }
    unlink("c");
}

static void unreadable_files_and_bytes(void **state)
{
    (void)state;
    struct config *c = NULL;
    int r;
    char *text = loud(load, "none", NULL, &r, &c);
    assert_int_equal(r, FARM_ECONFIG);
    assert_string_equal(text, "farmfs: none: No such file or directory\n");
    free(text);
    text = loud(load, ".", NULL, &r, &c);
    assert_int_equal(r, FARM_ECONFIG);
    assert_string_equal(text, "farmfs: .: Is a directory\n");
    free(text);
    assert_int_equal(io_write_file_at(AT_FDCWD, "c", "[node]\nna\0me = x\n", 17, 0600), 0);
    text = loud(load, "c", NULL, &r, &c);
    assert_int_equal(r, FARM_ECONFIG);
    assert_string_equal(text, "farmfs: c:2: NUL byte (expected text)\n");
    free(text);
    assert_null(c);
    unlink("c");
}

static void too_many_peers(void **state)
{
    (void)state;
    struct config *c = NULL;
    char big[8192] = BASE;
    size_t n = strlen(big);
    for (int i = 0; i <= CONFIG_PEERS_MAX; i++)
        n += (size_t)snprintf(big + n, sizeof(big) - n, "[peer p%d]\naddress = a\n", i);
    int r;
    write_text("c", big);
    char *text = loud(load, "c", NULL, &r, &c);
    assert_int_equal(r, FARM_ECONFIG);
    assert_string_equal(text, "farmfs: c:135: too many peers (expected at most 64)\n");
    free(text);
    unlink("c");
}

static void write_conf(const char *file, const char *folder_dir)
{
    char text[512];
    snprintf(text, sizeof(text), NODE "[folder]\nname = www\nid = 0123456789abcdef\ndir = %s\n",
             folder_dir);
    write_text(file, text);
}

static void find_by_directory(void **state)
{
    (void)state;
    struct config *c = NULL;
    char path[64];
    int r;
    assert_int_equal(mkdir("etc", 0700), 0);
    assert_int_equal(mkdir("www", 0700), 0);
    assert_int_equal(symlink("www", "link"), 0);
    snprintf(path, sizeof(path), "%s/./www/", dir);
    write_conf("etc/b.conf", path);
    write_text("etc/a.conf", "[broken]\n");
    write_text("etc/ignored", "[broken]\n");

    char *text = loud(config_find, "etc", "link", &r, &c);
    assert_int_equal(r, 0);
    assert_string_equal(text, ""); /* the broken file is of another folder */
    assert_string_equal(c->file, "etc/b.conf");
    config_free(c);
    c = NULL;
    free(text);

    text = loud(config_find, "etc", "/nowhere", &r, &c);
    assert_int_equal(r, FARM_ECONFIG); /* the broken file could have been it */
    assert_ptr_equal(strstr(text, "farmfs: etc/a.conf:1: unknown section"), text);
    free(text);
    unlink("etc/a.conf");
    assert_int_equal(config_find("etc", "/nowhere", &c), -ENOENT);
    assert_int_equal(config_find("none", "www", &c), -ENOENT);

    snprintf(path, sizeof(path), "%s/absent", dir); /* need not exist to be found */
    write_conf("etc/c.conf", path);
    assert_int_equal(config_find("etc", "absent/", &c), 0);
    config_free(c);
    c = NULL;

    snprintf(path, sizeof(path), "%s/link", dir);
    write_conf("etc/c.conf", path);
    text = loud(config_find, "etc", "www", &r, &c);
    assert_int_equal(r, FARM_ECONFIG);
    assert_ptr_equal(strstr(text, "farmfs: etc/c.conf:3: folder.dir"), text);
    assert_null(c);
    free(text);
    unlink("etc/b.conf");
    unlink("etc/c.conf");
    unlink("etc/ignored");
    unlink("link");
    rmdir("etc");
    rmdir("www");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_file),
        cmocka_unit_test(defaults_and_who_dials),
        cmocka_unit_test(each_error_is_one_line_with_its_place),
        cmocka_unit_test(unreadable_files_and_bytes),
        cmocka_unit_test(too_many_peers),
        cmocka_unit_test(find_by_directory),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
