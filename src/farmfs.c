/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The command: farmfs, and what mount(8) and umount(8) call for mounts of this type. */
#include "base/log.h"
#include "super/super.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
    "Usage: farmfs [-f] [-c FILE] [DIR]\n"
    "Mount the replicated folder DIR over itself and keep it the same on all nodes of the farm.\n"
    "\n"
    "  -c, --config FILE   its configuration (default: the one in /etc/farmfs with dir = DIR)\n"
    "  -f, --foreground    stay in the foreground\n"
    "  -h, --help          this text\n"
    "  -V, --version       the version\n"
    "\n"
    "Without -f the command returns when DIR is mounted and served. To unmount: umount DIR (umount -R\n"
    "where umount.fuse.farmfs is not installed), or SIGTERM to the process named in the state\n"
    "directory's file `pid`. Called by mount(8): farmfs SOURCE DIR -o OPTIONS, with `remount` too.\n"
    "\n"
    "Example: farmfs /srv/www\n";

struct options {
    const char *file, *dir, *mount; /* mount: -o of mount(8), which also gives a source */
    bool foreground;
};

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"config", 1, NULL, 'c'},
                                          {"foreground", 0, NULL, 'f'},
                                          {"help", 0, NULL, 'h'},
                                          {"version", 0, NULL, 'V'},
                                          {NULL, 0, NULL, 0}};
    int c;
    opterr = 0; /* said in our words */
    while ((c = getopt_long(argc, argv, ":c:fho:V", longs, NULL)) >= 0) {
        switch (c) {
        case 'c': o->file = optarg; break;
        case 'f': o->foreground = true; break;
        case 'o': o->mount = optarg; break;
        case 'h': fputs(help, stdout); return 1;
        case 'V': puts("farmfs " FARM_VERSION); return 1;
        case ':': return super_complain("%s needs a value (see farmfs --help)", argv[optind - 1]);
        default: return super_complain("unknown option %s (see farmfs --help)", argv[optind - 1]);
        }
    }
    if (o->mount != NULL && argc - optind == 2)
        optind++;
    o->dir = optind < argc ? argv[optind++] : NULL;
    if (optind < argc)
        return super_complain("%s: one folder at a time (see farmfs --help)", argv[optind]);
    if (o->dir == NULL && o->file == NULL)
        return super_complain("no folder given (expected: farmfs DIR, or farmfs -c FILE)");
    return 0;
}

static bool has_option(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *s = list; s != NULL; s = strchr(s, ',')) {
        s += *s == ',';
        if (strncmp(s, name, n) == 0 && (s[n] == ',' || s[n] == '\0'))
            return true;
    }
    return false;
}

static int remount(const struct options *o)
{
    static const struct {
        const char *name;
        unsigned long flag;
    } known[] = {{"ro", MS_RDONLY},     {"nosuid", MS_NOSUID},   {"nodev", MS_NODEV},
                 {"noexec", MS_NOEXEC}, {"noatime", MS_NOATIME}, {"sync", MS_SYNCHRONOUS}};
    unsigned long flags = MS_REMOUNT;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (has_option(o->mount, known[i].name))
            flags |= known[i].flag;
    if (mount(NULL, o->dir, NULL, flags, NULL) < 0)
        return super_complain("remount of %s: %s", o->dir, strerror(errno)), 1;
    return 0;
}

/* umount.fuse.farmfs DIR [-l]: umount(8) alone would find `.farm` in the way. */
static int umount_main(int argc, char **argv)
{
    int flags = 0, c;
    while ((c = getopt(argc, argv, "flnrvN:t:")) >= 0) {
        if (c == '?')
            return 2;
        flags |= c == 'l' ? MNT_DETACH : c == 'f' ? MNT_FORCE : 0;
    }
    if (optind + 1 != argc)
        return super_complain("usage: umount.fuse.farmfs [-l] DIR"), 2;
    int r = super_unmount(argv[optind], flags);
    if (r < 0)
        super_complain("%s: %s", argv[optind], err_text(r));
    return r < 0 ? 1 : 0;
}

static int load(const struct options *o, struct config **out)
{
    int r = o->file != NULL ? config_load(o->file, out) : config_find("/etc/farmfs", o->dir, out);
    if (r == -ENOENT)
        return super_complain("no configuration in /etc/farmfs has dir = %s", o->dir);
    if (r < 0 && r != FARM_ECONFIG)
        return super_complain("%s: %s", o->file != NULL ? o->file : "/etc/farmfs", err_text(r));
    if (r < 0)
        return r;
    /* The operator's own path may lead over symlinks; the kernel mounts over what they end at. */
    char *real = realpath((*out)->dir, NULL);
    if (real != NULL) {
        free((*out)->dir);
        (*out)->dir = real;
    }
    return 0;
}

/* The parent waits until the mount stands; only the child returns. */
static int into_background(int *ready_fd)
{
    int p[2];
    char byte;
    if (pipe2(p, O_CLOEXEC) < 0)
        return super_complain("pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        return super_complain("fork: %s", strerror(errno));
    if (pid > 0) {
        close(p[1]);
        ssize_t n;
        do
            n = read(p[0], &byte, 1);
        while (n < 0 && errno == EINTR);
        _exit(n == 1 ? 0 : 1);
    }
    close(p[0]);
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, 0);
        dup2(null, 1);
        close(null);
    }
    *ready_fd = p[1];
    return 0;
}

static int catch_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* What ps shows is written over the arguments. */
static char **copy_args(int argc, char **argv)
{
    char **copy = calloc((size_t)argc + 1, sizeof *copy);
    for (int i = 0; i < argc && copy != NULL; i++)
        copy[i] = strdup(argv[i]);
    return copy;
}

/* The same program from its beginning; it is in the background already. */
static void start_again(char **args)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setenv("FARMFS_AGAIN", "1", 1);
    execv("/proc/self/exe", args);
    log_error_code(-errno, "starting again");
}

int main(int argc, char **argv)
{
    struct options o = {0};
    static char **args; /* as long as the process lives */
    args = copy_args(argc, argv);
    bool again = getenv("FARMFS_AGAIN") != NULL;
    struct config *config;
    char name[160];
    if (strncmp(basename(argv[0]), "umount.", 7) == 0)
        return umount_main(argc, argv);
    int r = parse(argc, argv, &o);
    if (r != 0)
        return r > 0 ? 0 : 2;
    if (o.mount != NULL && o.dir != NULL && has_option(o.mount, "remount"))
        return remount(&o);
    if (load(&o, &config) < 0)
        return 2;
    static struct super s = {.lock_fd = -1,
                             .listen_fd = -1,
                             .mount_fd = -1,
                             .ready_fd = -1,
                             .super_fd = -1,
                             .worker = {.name = "worker"},
                             .link = {.name = "link"}};
    s.config = config;
    s.args.config = config;
    s.title = argv[0];
    s.title_size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
    snprintf(name, sizeof(name), "%s/%s", config->node, config->folder);
    log_init(name, LOG_INFO_);
    umask(022);
    if (geteuid() != 0)
        return super_complain("must be started by root"), 1;
    unsetenv("FARMFS_AGAIN");
    if (!o.foreground && !again && into_background(&s.ready_fd) < 0)
        return 1;
    s.signal_fd = catch_signals();
    if (super_prepare(&s) < 0)
        return 1;
    super_title(&s, "supervisor");
    super_run(&s);
    if (s.again && args != NULL)
        start_again(args);
    return s.failed ? 1 : 0;
}
