#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The state of a stopped node is damaged, lost, or cut off from its power: it says so, rebuilds what
# it had from the folder and the peers without a command, nothing is lost, comes back or conflicts.
# lab: own
# limit: 300
# expect-log: is damaged
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

STATE=$FARM_LAB/web1/state/www
rot() { "$(bin farmrot)" "$@"; }
conflicts() { sed -n 's/^conflicts    //p' "$(mount_of "$1" www)/.farm/status"; }
no_conflicts() {
    local n
    sleep 1.5 # they are counted once a second
    for n in $(nodes); do
        [[ $(conflicts "$n") == 0 ]] || fail "$1: conflicts on $n: $(cat "$(mount_of "$n" www)/.farm/conflicts")"
    done
}

# Others go on while it is away; on its return all is equal and nobody was harmed.
damaged() { # WHAT REGEX COMMAND...
    local what=$1 regex=$2 start
    shift 2
    printf '%s' "$what" >"$W1/d/before-$what"
    barrier web1
    lab stop web1
    mark web1
    "$@"
    printf 'peer' >"$W2/d/while-$what"
    printf 'changed while it was away: %s' "$what" >"$W2/d/changing"
    rm "$W3/d/gone-$what"
    start=$(now_ms)
    lab start web1
    [[ -z $regex ]] || told web1 "$regex"
    converge 60
    figure "$what: equal $(($(now_ms) - start)) ms after the start"
    [[ $(<"$W1/d/before-$what") == "$what" && $(<"$W1/d/while-$what") == peer ]] || fail "$what: lost"
    [[ ! -e $W1/d/gone-$what && ! -e $W2/d/gone-$what ]] || fail "$what: what was deleted is back"
    printf 'still written: %s' "$what" >"$W1/d/after-$what"
    barrier web1
    [[ $(<"$W3/d/after-$what") == "still written: $what" ]] || fail "$what: not replicated afterwards"
}

zoo "$W1/zoo"
mkdir "$W1/d"
for what in intents zeros cut power index lost; do
    printf 'to be deleted: %s' "$what" >"$W1/d/gone-$what"
done
printf 'first' >"$W1/d/changing"
barrier web1

damaged intents 'intent log is damaged' rot flip "$STATE/intents" 200 1
damaged zeros 'intent log is damaged' truncate -s 0 "$STATE/intents"
damaged cut '' truncate -s 100 "$STATE/index.mark"
no_conflicts 'without losing the index'

# A power cut: the node dies at once, and of its state there is what was synced. What it wrote last
# is in the folder, and its peers have it under the name that it had.
printf 'written last' >"$W1/d/last"
mkdir "$W1/d/last-dir"
printf 'in it' >"$W1/d/last-dir/file"
printf 'last change' >"$W1/d/changing"
barrier web1
mark web1
lab kill web1
rot power "$STATE" 7
start=$(now_ms)
lab start web1
told web1 'machine stopped without notice'
converge 60
figure "power: equal $(($(now_ms) - start)) ms after the start"
[[ $(<"$W2/d/last") == 'written last' && $(<"$W1/d/changing") == 'last change' ]] || fail "the last writes"
no_conflicts 'after a power cut'
damaged power '' true

# The index itself. A file that others changed meanwhile is theirs; what was here is kept.
before=$(digest "$W2/zoo")
damaged index 'index is damaged' rot flip "$STATE/index.mdb" 3000 3
[[ -e $STATE/index.mdb.damaged ]] || fail "the damaged index was not set aside"
[[ $(digest "$W1/zoo") == "$before" && $(digest "$W3/zoo") == "$before" ]] || fail "the zoo was touched"
damaged lost 'there is no index' rm "$STATE/index.mdb"
# What was here of `changing`, and of what was deleted, was not what the peers have: kept each time.
sleep 1.5
figure "kept: $(conflicts web1) on web1, $(conflicts web2) on web2, $(conflicts web3) on web3"
(($(conflicts web1) <= 4 && $(conflicts web2) == 0 && $(conflicts web3) == 0)) ||
    fail "more is kept than differed: $(cat "$W1/.farm/conflicts")"
