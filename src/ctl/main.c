/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ctl/ctl.h"
#include "ctl/watchdog.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BARRIER_MS 60000
#define TIMEOUT_MAX_S 31536000.0

/* Options that only some commands have. */
enum {
    HAS_TIMEOUT = 1,
    HAS_FOLLOW = 2,
    HAS_LINES = 4,
    HAS_WAIT = 8,
    HAS_TO = 128,
    HAS_DROP = 16,
    HAS_ALL = 32,
    HAS_DRY_RUN = 64,
    HAS_REJECT = 256,
};

struct command {
    const char *name, *summary;
    unsigned has;
    int (*run)(const struct farm *f, const struct options *o);
    const char *help;
    int args_min, args_max;
    const char *arg; /* what it is */
};

static const struct command commands[] = {
    {"status", "how this node and its peers are", 0, ctl_status,
     "usage: farmctl [--folder DIR] status [--json]\n\n"
     "Shows how this node of the farm and its peers are.\n\n"
     "example: farmctl --folder /srv/www status\n",
     0, 0, NULL},
    {"peers", "a table of the peers: state, lag, backlog, traffic", 0, ctl_peers,
     "usage: farmctl [--folder DIR] peers [--json]\n\n"
     "Shows a table of the peers: state, how far they are behind and how much is on its way,\n"
     "round-trip time, traffic, and the last error.\n\n"
     "example: farmctl peers\n",
     0, 0, NULL},
    {"events", "what happened", HAS_FOLLOW | HAS_LINES, ctl_events,
     "usage: farmctl [--folder DIR] events [-f] [-n N] [--json]\n\n"
     "Shows what happened: what was raised, what was cleared, and notes.\n\n"
     "  -f, --follow   go on showing what happens (the last 10 lines first)\n"
     "  -n, --lines N  the last N lines only\n\n"
     "example: farmctl events -f\n",
     0, 0, NULL},
    {"barrier", "wait until every reachable node has all that was written here", HAS_TIMEOUT,
     ctl_barrier,
     "usage: farmctl [--folder DIR] barrier [--timeout S] [--json]\n\n"
     "Waits until every reachable node has all that was written here before.\n\n"
     "  --timeout S    give up after S seconds (60; 0: never) with exit code 4, saying which\n"
     "                 nodes are missing\n\n"
     "example: cp -a release/. /srv/www/ && farmctl --folder /srv/www barrier --timeout 30\n",
     0, 0, NULL},
    {"confirm", "let the deletions through that are held, or have the files brought back",
     HAS_REJECT, ctl_confirm,
     "usage: farmctl [--folder DIR] confirm [--reject]\n\n"
     "When a start finds that a large part of the folder is gone, nothing is deleted on the other\n"
     "nodes until this says that it is meant.\n\n"
     "  --reject       it is not meant: the files are brought back from the other nodes\n\n"
     "example: farmctl --folder /srv/www confirm --reject\n",
     0, 0, NULL},
    {"scrub", "compare all files with their digests now, repair what differs",
     HAS_WAIT | HAS_TIMEOUT, ctl_scrub,
     "usage: farmctl [--folder DIR] scrub [--wait] [--timeout S] [--json]\n\n"
     "Starts a full round of the scrub: every file is compared with its digest. What is damaged\n"
     "or missing is repaired from the other nodes.\n\n"
     "  -w, --wait     until the round is over, and say what it found; exit code 1 when something\n"
     "                 could not be repaired yet\n"
     "  --timeout S    wait no longer than S seconds (60; 0: no limit); exit code 4\n\n"
     "example: farmctl --folder /srv/www scrub --wait --timeout 0\n",
     0, 0, NULL},
    {"conflicts", "what lost against a change made at the same time", HAS_DROP | HAS_ALL,
     ctl_conflicts,
     "usage: farmctl [--folder DIR] conflicts [--json] [PATH]\n"
     "       farmctl [--folder DIR] conflicts --drop ID | --all\n\n"
     "Shows what lost against a change made at the same time, and is kept on this node.\n\n"
     "  --drop ID      discard one\n"
     "  --all          discard all (but those that are hidden under another file)\n\n"
     "example: farmctl conflicts\n",
     0, 1, "PATH"},
    {"history", "what was replaced or deleted", 0, ctl_history,
     "usage: farmctl [--folder DIR] history [--json] [PATH]\n\n"
     "Shows what was replaced or deleted, in all of the folder or under a path, and is kept on\n"
     "this node (history = 7d in its configuration).\n\n"
     "example: farmctl history wiki/pages\n",
     0, 1, "PATH"},
    {"restore", "put back what is in conflicts or history", HAS_TO, ctl_restore,
     "usage: farmctl [--folder DIR] restore ID [--to PATH]\n\n"
     "Puts back what `farmctl conflicts` or `farmctl history` shows, with owner, mode and time.\n"
     "It never overwrites: when the path exists, NAME.restored-1 and so on is taken.\n\n"
     "  --to PATH      there, and not at the path it had\n\n"
     "example: farmctl restore 00064425d38f0a2b --to /srv/www/page.txt.web1\n",
     1, 1, "ID"},
    {"undo", "put back what was changed or deleted since a time", HAS_TO | HAS_DRY_RUN, ctl_undo,
     "usage: farmctl [--folder DIR] undo --to TIME [--dry-run] [PATH]\n\n"
     "Puts back from this node's history what was changed or deleted since TIME, in all of the\n"
     "folder or under PATH. What it replaces goes to the history in turn. What was made since\n"
     "then stays.\n\n"
     "  --to TIME      30m, 2h or 3d ago, \"2026-11-22 10:00\" (local time),\n"
     "                 2026-11-22T10:00:00Z, or @SECONDS since 1970\n"
     "  --dry-run      only show what would be done\n\n"
     "example: farmctl undo --to 2h --dry-run wiki/pages\n",
     0, 1, "PATH"},
    {"why", "who made a path what it is, and by which rule", 0, ctl_why,
     "usage: farmctl [--folder DIR] why PATH [--json]\n\n"
     "Shows who made the name, the content and the attributes of a path what they are, by which\n"
     "rule, what lost against them, and which nodes have it.\n\n"
     "example: farmctl why /srv/www/index.html\n",
     1, 1, "PATH"},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *out)
{
    fputs("usage: farmctl [--folder DIR] [--json] [--no-color] COMMAND [OPTION...]\n\n"
          "Asks the daemon of a farmfs folder.\n\n",
          out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-14s %s\n", commands[i].name, commands[i].summary);
    fputs("\n"
          "  --folder DIR   the folder (default: the one the current directory is in, or else the\n"
          "                 only one mounted)\n"
          "  --json         for programs\n"
          "  --no-color     no colours (as with NO_COLOR set, or when stdout is no terminal)\n"
          "  --help         this text; after a command: its own\n"
          "  --version      the version\n\n"
          "example: farmctl --folder /srv/www status\n"
          "exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no farmfs folder or its daemon does not\n"
          "answer, 4 time limit\n",
          out);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static bool parse_count(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || v < 0)
        return false;
    *out = v;
    return true;
}

/* Seconds, fractions allowed, rounded up; 0 is no limit. (Not a number fails the comparison.) */
static bool parse_timeout(const char *text, int64_t *out)
{
    char *end;
    double s = strtod(text, &end);
    if (end == text || *end != '\0' || !(s >= 0 && s <= TIMEOUT_MAX_S))
        return false;
    *out = s > 0 ? (int64_t)(s * 1000) + 1 : -1;
    return true;
}

static bool want_colour(void)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && (none == NULL || none[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

enum {
    OPT_FOLDER = 256,
    OPT_JSON,
    OPT_NO_COLOR,
    OPT_TIMEOUT,
    OPT_VERSION,
    OPT_TO,
    OPT_DROP,
    OPT_ALL,
    OPT_DRY_RUN,
    OPT_REJECT,
};

struct command_line {
    struct options o;
    unsigned given; /* HAS_* */
    bool help, version;
};

/* One option; false: its value is wrong (said). */
static bool take_option(int opt, const char *value, struct command_line *c)
{
    switch (opt) {
    case OPT_FOLDER: c->o.folder = value; return true;
    case OPT_JSON: c->o.json = true; return true;
    case OPT_NO_COLOR: c->o.colour = false; return true;
    case OPT_VERSION: c->version = true; return true;
    case 'h': c->help = true; return true;
    case OPT_TO:
        c->o.to = value;
        c->given |= HAS_TO;
        return true;
    case OPT_DROP:
        c->o.drop = value;
        c->given |= HAS_DROP;
        return true;
    case OPT_ALL:
        c->o.all = true;
        c->given |= HAS_ALL;
        return true;
    case OPT_DRY_RUN:
        c->o.dry_run = true;
        c->given |= HAS_DRY_RUN;
        return true;
    case 'f':
        c->o.follow = true;
        c->given |= HAS_FOLLOW;
        return true;
    case 'w':
        c->o.wait = true;
        c->given |= HAS_WAIT;
        return true;
    case OPT_REJECT:
        c->o.reject = true;
        c->given |= HAS_REJECT;
        return true;
    case 'n':
        c->given |= HAS_LINES;
        if (parse_count(value, &c->o.lines))
            return true;
        fprintf(stderr, "farmctl: -n %s: expected a number of lines, such as 20\n", value);
        return false;
    default:
        c->given |= HAS_TIMEOUT;
        if (parse_timeout(value, &c->o.timeout_ms))
            return true;
        fprintf(stderr, "farmctl: --timeout %s: expected seconds, such as 30 or 0.5\n", value);
        return false;
    }
}

static bool parse_options(int argc, char **argv, struct command_line *c)
{
    static const struct option longs[] = {
        {"folder", required_argument, NULL, OPT_FOLDER},
        {"json", no_argument, NULL, OPT_JSON},
        {"no-color", no_argument, NULL, OPT_NO_COLOR},
        {"no-colour", no_argument, NULL, OPT_NO_COLOR},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"follow", no_argument, NULL, 'f'},
        {"lines", required_argument, NULL, 'n'},
        {"wait", no_argument, NULL, 'w'},
        {"to", required_argument, NULL, OPT_TO},
        {"drop", required_argument, NULL, OPT_DROP},
        {"all", no_argument, NULL, OPT_ALL},
        {"dry-run", no_argument, NULL, OPT_DRY_RUN},
        {"reject", no_argument, NULL, OPT_REJECT},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPT_VERSION},
        {0},
    };
    int opt;
    while ((opt = getopt_long(argc, argv, ":hfn:w", longs, NULL)) != -1) {
        if (opt == ':' || opt == '?') {
            fprintf(stderr, "farmctl: %s: %s (see farmctl --help)\n", argv[optind - 1],
                    opt == ':' ? "a value is missing" : "unknown option");
            return false;
        }
        if (!take_option(opt, optarg, c))
            return false;
    }
    return true;
}

static const struct command *parse_command(int argc, char **argv, const struct command_line *c)
{
    static const struct {
        unsigned has;
        const char *name;
    } special[] = {
        {HAS_TIMEOUT, "--timeout"}, {HAS_FOLLOW, "-f"},         {HAS_LINES, "-n"},
        {HAS_WAIT, "--wait"},       {HAS_TO, "--to"},           {HAS_DROP, "--drop"},
        {HAS_ALL, "--all"},         {HAS_DRY_RUN, "--dry-run"}, {HAS_REJECT, "--reject"}};
    if (optind == argc) {
        fputs("farmctl: expected a command, such as status (see farmctl --help)\n", stderr);
        return NULL;
    }
    const struct command *cmd = find_command(argv[optind]);
    if (cmd == NULL) {
        fprintf(stderr, "farmctl: unknown command: %s (see farmctl --help)\n", argv[optind]);
        return NULL;
    }
    int args = argc - optind - 1;
    if (args > cmd->args_max) {
        fprintf(stderr, "farmctl: %s takes no %sargument: %s\n", cmd->name,
                cmd->args_max > 0 ? "further " : "", argv[optind + 1 + cmd->args_max]);
        return NULL;
    }
    if (args < cmd->args_min && !c->help) {
        fprintf(stderr, "farmctl: %s: expected %s (see farmctl %s --help)\n", cmd->name, cmd->arg,
                cmd->name);
        return NULL;
    }
    for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++) {
        if (c->given & special[i].has & ~cmd->has) {
            fprintf(stderr, "farmctl: %s has no option %s (see farmctl %s --help)\n", cmd->name,
                    special[i].name, cmd->name);
            return NULL;
        }
    }
    return cmd;
}

static int no_folder(const char *dir, int err)
{
    const char *shown = dir != NULL ? dir : "the current directory";
    if (err == -ENOENT && dir != NULL && access(dir, F_OK) < 0)
        fprintf(stderr, "farmctl: %s: no such directory\n", dir);
    else if (err == -ENOENT && dir != NULL)
        fprintf(stderr,
                "farmctl: %s is in no farmfs folder: give --folder one that farmfs serves "
                "now\n",
                dir);
    else if (err == -ENOENT)
        fputs("farmctl: the current directory is in no farmfs folder and none is mounted: start "
              "farmfs, or give --folder DIR\n",
              stderr);
    else if (err == -ENOTUNIQ)
        fputs("farmctl: several farmfs folders are mounted: choose one with --folder DIR\n",
              stderr);
    else if (err == -ENOTCONN || err == -ECONNABORTED)
        fprintf(stderr, "farmctl: the daemon of %s is gone: umount it, then start farmfs again\n",
                shown);
    else if (err == -EACCES)
        fputs("farmctl: permission denied: be root or a member of the group farm (sudo farmctl)\n",
              stderr);
    else
        fprintf(stderr, "farmctl: %s: %s\n", shown, strerror(-err));
    return err == -EACCES ? EXIT_FAILED : EXIT_NO_DAEMON;
}

int main(int argc, char **argv)
{
    struct command_line c = {
        .o = {.colour = want_colour(), .timeout_ms = BARRIER_MS, .lines = -1},
    };
    opterr = 0;
    if (!parse_options(argc, argv, &c))
        return EXIT_USAGE;
    if (c.version) {
        puts("farmctl " FARM_VERSION);
        return EXIT_OK;
    }
    if (c.help && optind == argc) {
        usage(stdout);
        return EXIT_OK;
    }
    const struct command *cmd = parse_command(argc, argv, &c);
    if (cmd == NULL)
        return EXIT_USAGE;
    if (c.help) {
        fputs(cmd->help, stdout);
        return EXIT_OK;
    }
    c.o.args = argv + optind + 1;
    c.o.nargs = argc - optind - 1;
    (void)watchdog_set(ANSWER_MS);
    struct farm *f;
    int err = farm_open(c.o.folder, &f);
    if (err < 0)
        return no_folder(c.o.folder, err);
    int code = cmd->run(f, &c.o);
    farm_close(f);
    if (fflush(stdout) != 0 && code == EXIT_OK) {
        fprintf(stderr, "farmctl: cannot write the output: %s\n", strerror(errno));
        code = EXIT_FAILED;
    }
    return code;
}
