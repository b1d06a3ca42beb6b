#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What FUSE file systems usually get wrong: each line is done in a plain directory and in the mount,
# and must show the same.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
mkdir "$TMP/plain"
chmod 755 "$TMP" "$TMP/.."

semantics() ( # DIR: does it all there, prints what is seen
    cd "$1"
    chmod 777 .
    poke as 1234 5678 create by-user 664
    poke as 33 33 append by-www 3 line
    stat -c '%n %u %g %a %s' by-user by-www
    mkdir sg && chgrp 33 sg && chmod 2777 sg
    poke as 1234 5678 create sg/file 600
    (cd sg && mkdir sub)
    stat -c '%n %u %g %a' sg/file sg/sub
    mkdir acl && setfacl -m d:u:33:rwx,d:g:5678:rx,d:m::rwx,d:o::--- acl && chmod 777 acl
    poke as 1234 5678 create acl/file 666
    getfacl -nc acl/file
    for how in write truncate chown fallocate; do
        printf 'x' >suid-$how && chown 1234:5678 suid-$how && chmod 6755 suid-$how && chmod o+w suid-$how
    done
    poke as 33 33 append suid-write 1 x
    poke as 33 33 append suid-fallocate 1 x
    chown 33:33 suid-chown
    truncate -s 0 suid-truncate
    stat -c '%n %a' suid-write suid-truncate suid-chown suid-fallocate
    printf 1 >one && printf 2 >two
    poke noreplace one two 2>&1 || true
    poke noreplace one three && ls three
    poke exchange two three && cat two three && echo
    mkdir d1 && printf d >d1/f && poke exchange d1 two && cat two/f d1 && echo
    rmdir sg 2>&1 | sed 's/.*: //' || true
    mkdir full && : >full/x && { mv -T d1 full 2>&1 | sed 's/.*: //'; } || true
    ln one-missing x 2>&1 | sed 's/.*: //' || true
    poke lock lockfile && echo locks
    poke unlinked orphan && echo orphan
    truncate -s 1M holes && printf x | dd of=holes bs=1 seek=700000 conv=notrunc status=none
    poke holes holes
    mkfifo fifo && (printf through >fifo & cat fifo; wait) && echo
    mkdir sticky && chmod 1777 sticky && : >sticky/roots
    setpriv --reuid 33 --regid 33 --clear-groups rm -f sticky/roots 2>&1 | sed 's/.*: //' || true
    setpriv --reuid 33 --regid 33 --clear-groups chmod 777 by-user 2>&1 | sed 's/.*: //' || true
    for i in 1 2 3; do : >suid-acl-$i && chown 1234:33 suid-acl-$i && chmod 2775 suid-acl-$i; done
    mkdir suid-acl-dir && chown 1234:33 suid-acl-dir && chmod 2775 suid-acl-dir
    setpriv --reuid 1234 --regid 1234 --clear-groups setfacl -m u:5678:rw- suid-acl-1 suid-acl-dir
    setpriv --reuid 1234 --regid 33 --clear-groups setfacl -m u:5678:rw- suid-acl-2
    setpriv --reuid 1234 --regid 1234 --groups 33 setfacl -m u:5678:rw- suid-acl-3
    stat -c '%n %a' suid-acl-*
    printf 'secret' >private && chmod 600 private
    setpriv --reuid 33 --regid 33 --clear-groups cat private 2>&1 | sed 's/.*: //' || true
    printf 'group' >shared && chown 0:33 shared && chmod 640 shared
    setpriv --reuid 1234 --regid 5678 --groups 33 cat shared && echo
    n=$(printf 'n%.0s' {1..256}); : 2>/dev/null >"$n" || echo "name too long"
    : >before && sleep 0.02 && : >after && [[ after -nt before ]] && echo newer
    old=$(stat -c %.9Y one-x 2>/dev/null || stat -c %.9Y three) && sleep 0.02
    poke mmap-write three 0 M && [[ $(stat -c %.9Y three) != "$old" ]] && echo mapped writes set the time
    old=$(stat -c %.9Z three) && sleep 0.02 && chmod 600 three && [[ $(stat -c %.9Z three) != "$old" ]] && echo ctime
    mkdir dirtime && old=$(stat -c %.9Y dirtime) && sleep 0.02 && : >dirtime/x && [[ $(stat -c %.9Y dirtime) != "$old" ]] && echo directory time
    stat -c '%n %h' . sg full
    df . >/dev/null && echo df
    find . -mindepth 1 -maxdepth 1 | sort | tr '\n' ' '
)

semantics "$TMP/plain" >"$TMP/plain.out" 2>&1
semantics "$A" >"$TMP/mount.out" 2>&1
diff "$TMP/plain.out" "$TMP/mount.out"
[[ -z $(find "$W1" -maxdepth 1 -name .farm) ]] || fail ".farm is listed"
[[ -r $W1/.farm/state ]] || fail ".farm is not there"
! setpriv --reuid 33 --regid 33 --clear-groups cat "$W1/.farm/state" 2>/dev/null || fail ".farm is open to www-data"

# changes of a read-only remount are refused, then allowed again
if mount -o remount,ro "$W1"; then
    ! : 2>/dev/null >"$A/not-now" || fail "a write on a read-only mount"
    mount -o remount,rw "$W1"
    : >"$A/now"
fi
barrier web1
# set-id bits do not travel by default, so those files are not compared
rm -rf "$A"/suid-*
barrier web1
same_all "www/$CASE"
