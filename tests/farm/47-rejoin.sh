#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A node that is away past the retention rejoins: nothing that was deleted comes back, nothing that
# the others have is deleted, and its own unsent changes are kept as conflicts and listed. Then one
# whose state was lost: what is equal is adopted quietly.
# lab: own --option 'retention = 3s'
# limit: 200
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

collected() { jq .collected "$(mount_of "$1" www)/.farm/status.json"; }
conflicts() { jq .conflicts "$(mount_of "$1" www)/.farm/status.json"; }
events() { cat "$(mount_of "$1" www)/.farm/events"; }

rejoined() { # NODE TIMES: so often in all
    wait_until "(( \$(events $1 | grep -c 'rejoined from web') == $2 ))" 40
}

zoo "$W1/zoo"
mkdir "$W1/dir" "$W1/dir/sub" "$W1/other"
for i in {1..40}; do
    printf 'file %d' "$i" >"$W1/dir/$i"
    printf 'other %d' "$i" >"$W1/other/$i"
done
printf 'deep' >"$W1/dir/sub/deep"
converge 30

lab cut web3
wait_until '[[ $(cat "$W1/.farm/peers/web3/state") != connected && $(cat "$W2/.farm/peers/web3/state") != connected ]]' 20
seen=$(collected web1)
rm -r "$W1/dir/sub" "$W1/zoo/many" "$W1"/dir/{1..10}
printf 'edited by web2' >"$W2/dir/20"
mv "$W2/dir/21" "$W2/dir/moved"
printf 'new on web2' >"$W2/new"
# and on web3, unsent
printf 'edited by web3, deleted there' >"$W3/dir/5"
printf 'edited by web3' >"$W3/dir/22"
printf 'new on web3' >"$W3/dir/fresh"
wait_until "(( \$(collected web1) > $seen && \$(collected web2) > 0 ))" 30
converged=$(digest "$W1")
[[ $(digest "$W2") == "$converged" ]] || fail "web1 and web2 differ"
lab heal
rejoined web3 1
converge 60
[[ ! -e $W1/dir/1 && ! -e $W1/dir/5 && ! -e $W1/dir/sub && ! -e $W1/zoo/many ]] || fail "something deleted is back"
[[ $(<"$W3/dir/20") == 'edited by web2' && $(<"$W3/new") == 'new on web2' && -e $W3/dir/moved ]] || fail "something is missing"
for text in 'edited by web3, deleted there' 'edited by web3' 'new on web3'; do
    grep -rqFx -- "$text" "$FARM_LAB/web3/.farmfs.www/conflicts" || fail "not kept: $text"
done
(($(conflicts web3) == 3)) || fail "$(conflicts web3) conflicts listed, expected 3"
[[ $(digest "$W1") == "$converged" ]] || fail "the others were changed by it"
figure "$(grep -o 'rejoined from.*' <<<"$(events web3)" | tail -n 1)"
printf 'goes on' >"$W3/after"
wait_until '[[ $(cat "$W1/after" 2>/dev/null) == "goes on" ]]' 10

# the state is lost, something was deleted meanwhile
lab stop web2
rm -rf "$FARM_LAB/web2/state/www" "$W1/other/7"
mkdir "$FARM_LAB/web2/state/www"
printf 'alone' >"$FARM_LAB/web2/www/alone"
converged=$(digest "$W1")
before=$(find "$FARM_LAB/web2/.farmfs.www/conflicts" -type f | wc -l)
lab start web2
rejoined web2 1
converge 60
[[ ! -e $W1/other/7 && ! -e $W1/alone && $(digest "$W1") == "$converged" ]] || fail "the others were changed by it"
now=$(find "$FARM_LAB/web2/.farmfs.www/conflicts" -type f | wc -l)
((now - before == 2)) || fail "$((now - before)) conflicts, expected 2: other/7 and alone"
figure "$(grep -o 'rejoined from.*' <<<"$(events web2)" | tail -n 1)"
