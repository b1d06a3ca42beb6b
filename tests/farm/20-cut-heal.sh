#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# All links cut while all three nodes write, also the same names; healed: all equal. Then one link
# cut: what its ends write reaches the other end through the third node.
# Length of the cut: FARM_CUT_SECONDS (10).
# lab: own
# limit: 240
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

seconds=${FARM_CUT_SECONDS:-10}
mkdir "$W1/own" "$W1/same"
for i in {1..20}; do
    printf 'base' >"$W1/same/$i"
done
barrier web1
zoo "$W1/before"
barrier web1

lab cut web1 web2
lab cut web2 web3
lab cut web1 web3
start=$SECONDS
load() { # N: the node's own tree, and names all three use
    local i=0 w=$FARM_LAB/web$1/www
    mkdir "$w/own/$1"
    "$(bin farmload)" -k -p 1 -t "$seconds" -s "$1" "$w/own/$1" >"$TMP/load.$1" || return 1
    while ((SECONDS - start < seconds || i < 20)); do
        i=$((i + 1))
        printf 'web%d %d' "$1" "$i" >"$w/same/$((i % 20 + 1))"
        printf 'new of web%d' "$1" >"$w/same/new-$((i % 10))"
        sleep 0.05
    done
    rm -f "$w/same/$1"
    mv "$w/before/many" "$w/before/many-$1"
    rm -r "$w/before/links"
    printf 'late %d' "$1" >"$w/before/late-$1"
}
pids=()
for n in 1 2 3; do
    load $n &
    pids+=($!)
done
for p in "${pids[@]}"; do
    wait "$p" || fail "a write failed during the cut: $(cat "$TMP"/load.*)"
done
figure "cut for $((SECONDS - start)) s: $(cat "$TMP"/load.* | awk '{ ops += $3; bad += $5 } END { print ops " calls, " bad + 0 " failures" }')"
lab heal
start=$(now_ms)
converge 60
figure "equal $(($(now_ms) - start)) ms after the links were healed"
for n in 1 2 3; do
    [[ -d $W1/own/$n/w0 ]] || fail "what web$n wrote is missing"
    [[ -e $W2/before/late-$n ]] || fail "late-$n is missing"
done

lab cut web1 web2
printf 'around' >"$W1/forwarded"
wait_until '[[ $(cat "$W2/forwarded" 2>/dev/null) == around ]]' 20
printf 'back' >"$W2/forwarded"
wait_until '[[ $(cat "$W1/forwarded" 2>/dev/null) == back ]]' 20
figure "one link cut: changes go around through the third node"
lab heal
converge 60

# what was deleted is forgotten once all have seen it
collected() { # NODE
    jq .collected "$(mount_of "$1" www)/.farm/status.json"
}
for n in web1 web2 web3; do
    wait_until "(( \$(collected $n) > 0 ))" 20
done
figure "inodes collected: $(collected web1), $(collected web2), $(collected web3)"
converge 60
