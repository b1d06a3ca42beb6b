#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What must not be lost with a worker: that the node was taken out of service, and the wake-up of
# those who poll its control files.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# drained stays drained, whatever becomes of the worker or the daemon, until told otherwise
echo now >"$W1/.farm/drain"
wait_until '[[ $(state web1) == draining ]]' 10
kill_worker web1
wait_until '[[ $(state web1) != absent ]]' 10
for i in {1..20}; do
    [[ $(state web1) =~ ^(draining|syncing)$ && $(<"$W1/.farm/health") == drain ]] ||
        fail "after $i looks: $(state web1), $(<"$W1/.farm/health")"
    sleep 0.05
done
wait_until '[[ $(state web1) == draining ]]' 10
echo now >"$W1/.farm/ready"
wait_until '[[ $(state web1) == ready ]]' 10
kill_worker web1
wait_until '[[ $(state web1) == ready ]]' 20

# one who polled the former worker is woken by the next
# Events settle first: the poll must begin with nothing to be read.
sleep 0.5
poke poll "$W1/.farm/events" "$(slower 20)" >"$TMP/poll" &
poller=$!
wait_until 'grep -q waiting "$TMP/poll"' 10
start=$(now_ms)
kill_worker web1
wait $poller || fail "a wake-up was lost with the worker: $(<"$TMP/poll")"
took=$(($(now_ms) - start))
figure "a poller of the events was woken $took ms after its worker was killed"
((took < $(slower 10) * 1000)) || fail "only its time limit woke it"
wait_until '[[ $(state web1) == ready ]]' 20
