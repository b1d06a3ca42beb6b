#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The backing disk of one node is full: its own writers get ENOSPC, what peers send waits and comes
# when there is room again, and nothing is lost.
# lab: none
# limit: 150
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export FARM_LAB=$TMP/lab
[[ -e /dev/loop-control ]] || skip "no loop devices here"
mkdir -p "$FARM_LAB/web2/disk"
truncate -s 60M "$TMP/disk.img"
mkfs.ext4 -q -m 0 "$TMP/disk.img"
mount -o loop "$TMP/disk.img" "$FARM_LAB/web2/disk" 2>/dev/null || skip "cannot mount a loop device here"
mkdir "$FARM_LAB/web2/disk/www"
ln -s disk/www "$FARM_LAB/web2/www"
cleanup() {
    lab down >/dev/null 2>&1 || true
    umount "$FARM_LAB/web2/disk" 2>/dev/null || true
}
trap cleanup EXIT
W1=$FARM_LAB/web1/www W2=$FARM_LAB/web2/www
lab up --nodes 2 --folders www >/dev/null

printf 'before' >"$W1/before"
barrier web1
! head -c 100000000 /dev/zero 2>/dev/null | dd of="$W2/filler" bs=1M status=none 2>"$TMP/err" || fail "100 MB fit into 60"
grep -q 'No space left' "$TMP/err" || fail "the writer got another error: $(<"$TMP/err")"
[[ $(<"$W2/before") == before && $(state web2) != absent ]] || fail "the node is not well"

head -c 20000000 /dev/urandom >"$W1/incoming"
for i in {1..20}; do
    printf '%d' "$i" >"$W1/small-$i"
done
sleep 3
[[ ! -s $W2/incoming ]] || cmp "$W1/incoming" "$W2/incoming" || fail "half a file is visible"
figure "while full, web2 is \`$(state web2)'"
rm "$W2/filler"
wait_until '[[ -e $W2/incoming && -e $W2/small-20 ]]' 60
wait_until '[[ ! -e $W1/filler ]]' 30
converge 60
