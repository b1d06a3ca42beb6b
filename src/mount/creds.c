/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mount/mount_i.h"

#include <errno.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>

/*
 * With NO_SETUID_FIXUP a change of the fsuid leaves the capabilities alone: a new file belongs to
 * the caller, while permissions stay what the kernel has checked on the mount already. Both the
 * secure bits and, after unshare, the umask are this thread's own.
 */
int creds_start(struct mount_thread *t)
{
    if (unshare(CLONE_FS) < 0 ||
        prctl(PR_SET_SECUREBITS, (unsigned long)SECBIT_NO_SETUID_FIXUP) < 0)
        return -errno;
    umask(0);
    t->mask = 0;
    t->fsuid = 0;
    t->fsgid = 0;
    return 0;
}

int creds_become(struct mount_thread *t, const struct fuse_ctx *who)
{
    if (t->mask != who->umask) {
        umask(who->umask);
        t->mask = who->umask;
    }
    if (t->fsgid != who->gid) {
        setfsgid(who->gid);
        if ((gid_t)setfsgid((gid_t)-1) != who->gid)
            return -EPERM;
        t->fsgid = who->gid;
    }
    if (t->fsuid != who->uid) {
        setfsuid(who->uid);
        if ((uid_t)setfsuid((uid_t)-1) != who->uid)
            return -EPERM;
        t->fsuid = who->uid;
    }
    return 0;
}
