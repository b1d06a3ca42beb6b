#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# tar x, rsync in and out, cp -a --reflink=auto give the same as in a plain directory.
# limit: 90
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
zoo "$TMP/zoo"
tar -C "$TMP" --xattrs --acls -cf "$TMP/zoo.tar" zoo
mkdir "$A/tar" && tar -C "$A/tar" --xattrs --xattrs-include='user.*' --acls -xf "$TMP/zoo.tar"

rsync -aHAX --modify-window=-1 --numeric-ids "$TMP/zoo/" "$A/rsync/"
cp -a --reflink=auto "$A/rsync" "$A/copy"
cp -a --sparse=always "$TMP/zoo" "$A/sparse-copy"
barrier web1
for d in tar/zoo rsync copy sparse-copy; do
    same_trees "$TMP/zoo" "$A/$d" || fail "$d on web1"
    same_trees "$TMP/zoo" "$B/$d" || fail "$d on web2"
done
rsync -aHAX --modify-window=-1 --numeric-ids "$B/rsync/" "$TMP/out/"
same_trees "$TMP/zoo" "$TMP/out" || fail "rsync out"

# a second run with changes: rsync's own temporary files and --delete, --inplace
(
    cd "$TMP/zoo"
    printf 'changed' >plain
    rm -r many && mkdir many && : >many/new
    head -c 100 /dev/urandom | dd of=big bs=1 seek=5000 conv=notrunc status=none
)
rsync -aHAX --modify-window=-1 --numeric-ids --delete "$TMP/zoo/" "$B/rsync/"
rsync -aHAX --modify-window=-1 --numeric-ids --delete --inplace "$TMP/zoo/" "$B/copy/"
barrier web2
for d in rsync copy; do
    same_trees "$TMP/zoo" "$A/$d" || fail "second run: $d on web1"
    same_trees "$TMP/zoo" "$C/$d" || fail "second run: $d on web3"
done
tar -C "$C/tar" --xattrs --acls -cf - zoo | tar -C "$TMP" --xattrs --acls -tf - | wc -l >"$TMP/count"
[[ $(<"$TMP/count") == $(tar -tf "$TMP/zoo.tar" | wc -l) ]] || fail "tar out"
