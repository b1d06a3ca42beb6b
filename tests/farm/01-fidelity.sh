#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# One of everything a file system has, made through the mount and copied into it, in both
# directions, and then changed: every property is equal on every node.
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs

# made through the mount, on each node in turn
for n in 1 2 3; do
    zoo "$FARM_LAB/web$n/www/$CASE/made-$n"
done
barrier_all
same_all "www/$CASE"

# copied in from a plain directory: equal to it
zoo "$TMP/plain"
cp -a "$TMP/plain" "$B/copied"
barrier web2
same_trees "$TMP/plain" "$A/copied" || fail "the copy on web1 is not the original"
same_trees "$TMP/plain" "$C/copied" || fail "the copy on web3 is not the original"

# changed in place, each by another node than made it
(
    cd "$C/copied"
    chmod 0640 plain
    chown 77:88 owner
    touch -d '1999-09-09 09:09:09.099999999Z' big
    setfattr -x user.text xattr
    setfattr -n user.binary -v 0x01 xattr
    setfacl -m u:4321:r-- acl
    setfacl -b acl-dir
    ln hard-1 hard-4
    rm links/hard-3
    mv deep deeper
    mv 'dir with spaces' owned-dir/moved
    ln -sfn elsewhere sym-relative
    rm -r many
    chmod 0700 setgid
    printf 'more' >>plain
    truncate -s 2M sparse
)
barrier web3
same_all "www/$CASE"
[[ $(stat -c %a "$A/copied/plain") == 640 && $(stat -c %u:%g "$A/copied/owner") == 77:88 ]] ||
    fail "mode or owner did not arrive"
[[ $(stat -c %h "$A/copied/hard-1") == 3 ]] || fail "link count $(stat -c %h "$A/copied/hard-1") instead of 3"
[[ ! -e $A/copied/many && -d $A/copied/deeper ]] || fail "a removal or a rename did not arrive"
[[ $(stat -c %Y.%y "$B/copied/big") == $(stat -c %Y.%y "$C/copied/big") ]] || fail "times differ"
