#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A peer that is dead, or cut off, does not slow local writes, and the workers' memory stays bounded
# while it is away: its backlog is a position, not memory.
# lab: own
# limit: 240
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

write_files() { # DIR COUNT: ms
    local start i
    mkdir "$1"
    start=$(now_ms)
    for ((i = 0; i < $2; i++)); do
        printf 'content %d' "$i" >"$1/$i"
    done
    printf '%s' $(($(now_ms) - start))
}
write_files "$W1/warm" 300 >/dev/null
barrier web1
count=$(fewer 1500)
with=$(write_files "$W1/with" "$count")
barrier web1
lab cut web3
cut=$(write_files "$W1/cut" "$count")
lab kill web2
dead=$(write_files "$W1/dead" "$count")
figure "$count small files written on web1: $with ms with both peers, $cut ms with one cut off, $dead ms with one cut off and one dead"
((cut < with * 2 + 1000 && dead < with * 2 + 1000)) || fail "absent peers slow local writes"

worker_before=$(rss_kb "$(worker web1)")
link_before=$(rss_kb "$(link_pid web1)")
megabytes=$(fewer 400)
for ((i = 0; i < megabytes / 20; i++)); do
    head -c 20000000 /dev/urandom >"$W1/big-$i"
done
write_files "$W1/more" "$((count * 2))" >/dev/null
sleep 2
worker_after=$(rss_kb "$(worker web1)")
link_after=$(rss_kb "$(link_pid web1)")
figure "memory while peers are away and $megabytes MB in $((count * 2 + megabytes / 20)) files were written: worker $((worker_before / 1024)) -> $((worker_after / 1024)) MB, link $((link_before / 1024)) -> $((link_after / 1024)) MB"
if [[ -z ${FARM_SANITIZER:-} ]]; then
    ((worker_after < 300000 && link_after < 150000)) || fail "memory is not bounded"
    ((worker_after - worker_before < 150000)) || fail "the backlog is kept in memory"
fi
lab heal
lab start web2
converge 90
worker_after=$(rss_kb "$(worker web1)")
figure "after the peers have caught up: worker $((worker_after / 1024)) MB"
[[ -n ${FARM_SANITIZER:-} ]] || ((worker_after < 400000)) || fail "memory is not bounded while peers catch up"
