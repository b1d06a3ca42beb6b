#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What is kept goes by quota and age, the oldest first, counted and told; what cannot be kept holds
# nothing up; what is deleted while it is open is kept as well.
# lab: own --option 'history = 1d' --option 'history-quota = 1M' --option 'conflicts-age = 2s'
# limit: 90
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

number() { # NODE MEMBER: of status.json
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$FARM_LAB/$1/www/.farm/status.json" "$2"
}
staged() { find "$FARM_LAB/$1/.farmfs.www/$2" -type f | wc -l; }

# ---- the quota of the history: 1 MiB holds three files of 300,000 bytes, the oldest goes first
for i in 1 2 3 4 5; do
    head -c 300000 /dev/urandom >"$W1/big-$i"
done
barrier web1
for i in 1 2 3 4 5; do
    rm "$W1/big-$i"
    sleep 0.02
done
barrier web1
for n in web1 web2; do
    wait_until "[[ \$(staged $n history) == 3 && \$(number $n history_bytes) == 900000 ]]" 15
    wait_until "[[ \$(number $n kept_evicted) == 2 ]]" 5
    listed=$(farmctl --folder "$FARM_LAB/$n/www" history | grep -o 'big-.' | tr '\n' ' ')
    [[ $listed == 'big-3 big-4 big-5 ' ]] || fail "$n has not the latest: $listed"
    grep -q 'evicted 2 of the oldest' "$FARM_LAB/$n/www/.farm/events" || fail "$n does not say it"
done

# ---- deleted while it is open: what was written until then
exec 7<>"$W1/big-open"
printf 'while open' >&7
wait_until '[[ -e $W2/big-open ]]' 45
rm "$W1/big-open"
wait_until '[[ $(farmctl --folder "$W1" history) == *big-open* ]]' 10
printf ' and later' >&7
[[ $(stat -L -c %h /proc/self/fd/7) == 0 ]] || fail "a deleted file has links"
exec 7>&-
wait_until '[[ -z $(ls "$FARM_LAB/web1/.farmfs.www/orphans") ]]' 10
id=$(farmctl --folder "$W1" history | awk '/big-open/ { print $1 }')
[[ $(<"$W1/.farm/history/$id") == 'while open and later' ]] || fail "not what was in it"

# ---- the age of conflicts; and a staging area that takes no losers
conflict() { # NAME
    printf 'base' >"$W1/$1"
    barrier web1
    lab cut web1
    printf 'of web1' >"$W1/$1"
    sleep 0.2
    printf 'of web2' >"$W2/$1"
    sleep 0.3
    lab heal
    converge 30
    [[ $(<"$W1/$1") == 'of web2' ]] || fail "the later one did not win"
}
conflict aged
mark web1
wait_until '[[ $(number web1 conflicts) == 0 && $(staged web1 conflicts) == 0 ]]' 20
[[ $(number web1 kept_lost) == 0 ]] || fail "lost, though there was room"
told web1 'evicted 1 of the oldest kept conflicts' 5
if chattr +i "$FARM_LAB/web1/.farmfs.www/conflicts" 2>/dev/null; then
    conflict lost
    chattr -i "$FARM_LAB/web1/.farmfs.www/conflicts"
    [[ $(number web1 kept_lost) == 1 ]] || fail "lost, and not counted"
    told web1 'event: note lost .*Operation not permitted' 5
    figure "a loser that could not be kept was counted; the change went on"
else
    figure "no immutable directories here: not tried what happens when losers cannot be kept"
fi
