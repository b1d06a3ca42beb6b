#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A burst of writes, made here or arriving from a peer, does not stall readers.
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
mkdir "$A/hot"
for i in {1..200}; do
    head -c 8192 /dev/urandom >"$A/hot/$i"
done
barrier web1
burst() { # DIR
    local i
    mkdir "$1"
    for i in {1..15}; do
        cp -r "$A/hot" "$1/$i"
    done
}
quiet=$(poke readers "$A/hot" 3)
burst "$A/burst" &
local_burst=$(poke readers "$A/hot" 3)
wait $!
burst "$B/burst2" &
peer_burst=$(poke readers "$A/hot" 3)
wait $!
figure "open+read 8K+close, quiet:             $quiet"
figure "the same during a burst written here:  $local_burst"
figure "the same during a burst from a peer:   $peer_burst"
for r in "$local_burst" "$peer_burst"; do
    awk -v limit="$(slower 500)" '{ for (i = 1; i < NF; i++) if ($i == "max-ms") exit !($(i + 1) < limit) }' <<<"$r" ||
        fail "a reader waited too long: $r"
done
barrier_all
same_all "www/$CASE"
