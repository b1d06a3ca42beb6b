#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A folder that cannot be: missing, not a directory, on a file system that lacks something (which is
# said), served already by another daemon, or with the state of another folder.
# lab: own --nodes 2
# limit: 120
# expect-log: .
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

farmfs=$(bin farmfs)
conf=$FARM_LAB/web1/etc/www.conf
printf 'precious' >"$W1/file"
barrier web1

with() { # SED-EXPRESSION: a configuration like web1's, in a file of its own
    sed -e "$1" "$conf" >"$TMP/other.conf"
}

refused any 'another farmfs|already|running|in use|locked' "$farmfs" -f -c "$conf"
with "s|^state = .*|state = $TMP/state2|"
mkdir "$TMP/state2"
refused any 'already|mounted' "$farmfs" -f -c "$TMP/other.conf"
[[ $(state web1) == ready && $(<"$W1/file") == precious ]] || fail "the first daemon was disturbed"

with "s|^state = .*|state = $TMP/state2|; s|^dir = .*|dir = $TMP/missing|"
refused any "$TMP/missing.*(No such file|does not exist)" "$farmfs" -f -c "$TMP/other.conf"
: >"$TMP/file"
with "s|^state = .*|state = $TMP/state2|; s|^dir = .*|dir = $TMP/file|"
refused any "$TMP/file.*([Nn]ot a directory|not a folder)" "$farmfs" -f -c "$TMP/other.conf"
mkdir "$TMP/ram"
mount -t ramfs ram "$TMP/ram"
mkdir "$TMP/ram/dir"
with "s|^state = .*|state = $TMP/state2|; s|^dir = .*|dir = $TMP/ram/dir|"
refused any "$TMP/ram/dir.*(handle|xattr|extended)" "$farmfs" -f -c "$TMP/other.conf"
umount "$TMP/ram"

# the state of another folder
lab stop web1
mkdir "$TMP/dir3" "$TMP/state3"
with 's|^id = .*|id = 00000000deadbeef|; s|^name = www|name = other|; s|^state = .*|state = '"$TMP/state3"'|; s|^dir = .*|dir = '"$TMP/dir3"'|'
"$farmfs" -f -c "$TMP/other.conf" 2>"$TMP/other.log" &
wait_until '[[ -s $TMP/state3/worker.pid && $(cat "$TMP/dir3/.farm/state" 2>/dev/null) == ready ]]' 20
kill "$(cat "$TMP/state3/pid")"
wait $! || true
mv "$FARM_LAB/web1/state/www" "$FARM_LAB/web1/state/www.own"
mv "$TMP/state3" "$FARM_LAB/web1/state/www"
refused any 'another folder|other folder|belongs to|folder' "$farmfs" -f -c "$conf"
[[ $(<"$W1/file") == precious ]] || fail "the folder was touched"
mv "$FARM_LAB/web1/state/www" "$TMP/state3"

# the state lost: the node comes back with all its files, and nobody loses anything
mkdir "$FARM_LAB/web1/state/www"
printf 'written while web1 has no state' >"$W2/meanwhile"
lab start web1
converge 30
[[ $(<"$W1/file") == precious && $(<"$W2/file") == precious && -s $W1/meanwhile ]] || fail "something got lost"
printf 'goes on' >"$W1/after"
wait_until '[[ $(cat "$W2/after" 2>/dev/null) == "goes on" ]]' 10
