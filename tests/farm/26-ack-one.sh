#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# ack = one: fsync returns when one other node has the file, whichever; the slow one is not waited
# for.
# lab: own --option 'ack = one'
# limit: 60
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for slow in web3 web2; do
    quick=$W2
    [[ $slow == web3 ]] || quick=$W3
    kill -STOP "$(worker $slow)"
    printf 'while %s sleeps\n' $slow | timeout 20 dd of="$W1/file" conv=fsync status=none ||
        fail "fsync waited for $slow"
    [[ $(cat "$quick/file") == "while $slow sleeps" ]] || fail "fsync returned and no peer has the file"
    kill -CONT "$(worker $slow)"
    converge 20
done
# Both asleep: it waits.
kill -STOP "$(worker web2)" "$(worker web3)"
printf 'while both sleep\n' | dd of="$W1/file" conv=fsync status=none &
writer=$!
wait_until '[[ $(cat "$W1/file") == "while both sleep" ]]' 5
sleep 0.3
kill -0 $writer 2>/dev/null || fail "fsync returned although nobody could have answered"
kill -CONT "$(worker web2)"
wait $writer
[[ $(cat "$W2/file") == "while both sleep" ]] || fail "fsync returned and no peer has the file"
kill -CONT "$(worker web3)"
converge 20

# A barrier names the node that is lost while it is waited for.
kill -STOP "$(worker web3)"
printf 'more\n' >"$W1/file"
farmctl --folder "$W1" barrier --timeout 30 >"$TMP/answer" 2>&1 &
asking=$!
wait_until '[[ $(cat "$W2/file") == more ]]' 10
lab cut web1 web3 --dir "$FARM_LAB"
! wait $asking || fail "the barrier does not miss web3: $(cat "$TMP/answer")"
grep -q 'missing on: web3' "$TMP/answer" || fail "the barrier said: $(cat "$TMP/answer")"
kill -CONT "$(worker web3)"
lab heal --dir "$FARM_LAB"
converge 20
