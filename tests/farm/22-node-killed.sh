#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# All processes of a node killed at once, under load, and started again: it repairs itself, nothing
# that was written before is lost, and what the others wrote meanwhile arrives.
# lab: own
# limit: 180
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for round in 1 2 3; do
    mkdir "$W1/load-$round" "$W2/load-$round-peer"
    "$(bin farmload)" -k -p 2 -t 30 "$W1/load-$round" >/dev/null 2>&1 &
    load=$!
    sleep 2
    printf 'kept %d' "$round" >"$W1/kept-$round"
    head -c 3000000 /dev/urandom >"$W1/kept-big-$round"
    before=$(sha256sum <"$W1/kept-big-$round")
    lab kill web1
    wait $load 2>/dev/null || true
    [[ ! -e $W1/.farm ]] || fail "the mount is still there"
    [[ $(<"$W1/kept-$round") == "kept $round" && $(sha256sum <"$W1/kept-big-$round") == "$before" ]] ||
        fail "the plain directory does not hold what was written"
    "$(bin farmload)" -k -p 1 -t 2 "$W2/load-$round-peer" >/dev/null || fail "web2 cannot write while web1 is dead"
    rm -f "$W3/kept-$((round - 1))"
    start=$(now_ms)
    lab start web1
    figure "round $round: ready $(($(now_ms) - start)) ms after the start"
    converge 60
    [[ $(<"$W3/kept-$round") == "kept $round" && $(sha256sum <"$W2/kept-big-$round") == "$before" ]] ||
        fail "what web1 had written did not survive"
    [[ ! -e $W1/kept-$((round - 1)) ]] || fail "a file removed meanwhile is back"
done
# and all nodes at once
lab kill web1
lab kill web2
lab kill web3
lab start web1
lab start web2
lab start web3
converge 60
