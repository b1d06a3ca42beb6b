#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# ack = all: when fsync returns, every node that can be reached has the file, though it is still
# open; a node that cannot be reached is not waited for, and an event says when there is none.
# lab: own --option 'ack = all'
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

synced() { # NUMBER FILE: writes, and returns when fsync has
    printf 'synced %d\n' "$1" | dd of="$W1/$2" conv=fsync status=none
}
shows() { # FILE NUMBER MOUNT...
    local m
    for m in "${@:3}"; do
        [[ $(cat "$m/$1" 2>&1) == "synced $2" ]] || fail "$m/$1 does not have what fsync promised: $2"
    done
}

for ((i = 1; i <= 40; i++)); do
    synced "$i" new-"$i"
    shows new-"$i" "$i" "$W2" "$W3"
    synced "$i" again
    shows again "$i" "$W2" "$W3"
done

# Written, synced, and kept open.
exec 7>"$W1/open"
printf 'synced 1\n' >&7
sync "$W1/open"
shows open 1 "$W2" "$W3"
exec 7>&-

# A node that is connected and does not answer is waited for.
kill -STOP "$(worker web3)"
synced 2 again &
writer=$!
wait_until '[[ $(cat "$W2/again") == "synced 2" ]]' 10
kill -0 $writer 2>/dev/null || fail "fsync returned although web3 could not have answered"
kill -CONT "$(worker web3)"
wait $writer
shows again 2 "$W2" "$W3"

# One that is lost is not; with none left, the data is here only, and that is said.
lab cut web1 web3 --dir "$FARM_LAB"
synced 3 again
shows again 3 "$W2"
lab cut web1 web2 --dir "$FARM_LAB"
synced 4 again
wait_until 'grep -q "raised ack" "$W1/.farm/events"' 5
lab heal --dir "$FARM_LAB"
converge 20

# The worker is killed while an fsync waits: the caller gets its answer from the next one.
kill -STOP "$(worker web3)"
synced 5 again &
writer=$!
wait_until '[[ $(cat "$W2/again") == "synced 5" ]]' 10
kill_worker web1
kill -CONT "$(worker web3)"
wait $writer || fail "fsync failed when the worker was replaced"
shows again 5 "$W2" "$W3"
