#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Changes made in the plain directory while it is not mounted are taken up, beside what the others
# changed meanwhile. And unmounted it is a plain directory.
# lab: own
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

zoo "$W1/zoo"
mkdir "$W1/d"
for i in {1..9}; do
    printf 'old %d' "$i" >"$W1/d/$i"
done
barrier web1
plain_before=$(digest "$W1")

lab stop web1
[[ ! -e $W1/.farm ]] || fail "stopped, and still mounted"
[[ $(digest "$W1") == "$plain_before" ]] || fail "the plain directory is not what the mount showed"
(
    cd "$W1/d"
    printf 'changed offline' >./1
    rm 2
    mv 3 renamed
    chmod 600 4
    setfattr -n user.offline -v yes 5
    ln 6 linked
    mkdir new-dir && printf 'new' >new-dir/new
    printf 'same time' >./7 && touch -d '2021-01-01 00:00:00Z' 7
    ln -s nowhere link
    mv ../zoo/many ../many-moved
)
printf 'peer' >"$W2/d/8"
rm "$W2/d/9"
printf 'peer new' >"$W3/d/from-3"
lab start web1
converge 30
[[ $(<"$W2/d/1") == 'changed offline' ]] || fail "a change"
[[ ! -e $W2/d/2 && ! -e $W2/d/3 && $(<"$W2/d/renamed") == 'old 3' ]] || fail "a removal or a rename"
[[ $(stat -c %a "$W3/d/4") == 600 ]] || fail "a mode"
[[ $(getfattr --only-values -n user.offline "$W3/d/5" 2>/dev/null) == yes ]] || fail "an xattr"
[[ $(stat -c %h "$W3/d/6") == 2 && $(<"$W3/d/linked") == 'old 6' ]] || fail "a hard link"
[[ $(<"$W2/d/new-dir/new") == new && $(<"$W2/d/7") == 'same time' && -L $W2/d/link ]] || fail "new things"
[[ $(<"$W1/d/8") == peer && ! -e $W1/d/9 && $(<"$W1/d/from-3") == 'peer new' ]] || fail "the peers' changes"
[[ -d $W3/many-moved && ! -e $W3/zoo/many ]] || fail "a moved directory"
