#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# kill -9 of the worker, FARM_KILLS (50) times under load: not one failed system call, and equal at
# the end. The peers' workers are killed as well, now and then.
# lab: own
# limit: 240
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kills=${FARM_KILLS:-$(fewer 50)}
mkdir "$W1/load" "$W2/load2"
barrier web1
barrier web2
: >"$TMP/go"
rounds() { # DIR PROCS SEED: loads one after the other, each a new tree, until told to stop
    local r=0
    while [[ -e $TMP/go ]]; do
        r=$((r + 1))
        mkdir "$1/$r"
        "$(bin farmload)" -k -p "$2" -t 5 -s "$r$3" "$1/$r" || return 1
        if ((r > 2)); then
            rm -r "${1:?}/$((r - 2))" || return 1
        fi
    done
}
rounds "$W1/load" 3 1 >"$TMP/load1" 2>"$TMP/err1" &
load1=$!
rounds "$W2/load2" 1 2 >"$TMP/load2" 2>"$TMP/err2" &
load2=$!
complaints() { # of the daemon whose worker is killed: why a caller got an error stands there
    grep -hE ' (warn|error) ' "$(log_of web1)" | grep -v 'was killed by signal 9' | tail -n 20 >&2 || true
}
worst=0
for ((i = 1; i <= kills; i++)); do
    start=$(now_ms)
    kill_worker web1
    wait_until '[[ $(state web1) == ready ]]' 20
    took=$(($(now_ms) - start))
    ((took <= worst)) || worst=$took
    ((i % 10 != 0)) || kill_worker web2
    kill -0 $load1 2>/dev/null || complaints
    kill -0 $load1 2>/dev/null || fail "the load ended early: $(cat "$TMP/load1" "$TMP/err1")"
    sleep "0.$((RANDOM % 5 + 1))"
done
rm "$TMP/go"
bad=0
wait $load1 || bad=1
wait $load2 || bad=1
cat "$TMP/err1" "$TMP/err2" >&2
sum=$(cat "$TMP/load1" "$TMP/load2" | awk '{ ops += $3; failures += $5; if ($7 > worst) worst = $7 }
    END { printf "%d system calls, %d failed, worst stall %.0f ms", ops, failures, worst }')
figure "$kills times kill -9 of the worker: $sum; ready again after at most $worst ms"
((bad == 0)) || complaints
((bad == 0)) || fail "system calls failed while the worker was killed: $sum"
converge 60
