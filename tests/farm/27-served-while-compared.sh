#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The folder is served while it is compared with the index: what was changed in the plain directory
# is met by readers, by writers through the mount and by a peer's changes before its turn comes. The
# comparison is made slow, so that it is still under way.
# lab: own --nodes 2 --option 'compare-rate = 100'
# limit: 90
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

compared() { grep -q '^compared     all' "$(mount_of "$1" www)/.farm/status"; }
under_way() { ! compared web1 || fail "the comparison is over already: $1"; }
conflicts() { sed -n 's/^conflicts    //p' "$W1/.farm/status"; }

# walked in the order in which directories were made: z is the last
mkdir "$W1/a" "$W1/late" "$W1/z"
for i in {1..450}; do
    printf 'a file' >"$W1/a/$i"
done
# larger than a block, so that a part of it can be written alone
head -c 400000 /dev/zero >"$W1/z/large"
for i in {1..20}; do
    printf 'old %d' "$i" >"$W1/z/$i"
done
ln "$W1/z/20" "$W1/z/20-link"
wait_until 'compared web1' 30
barrier web1

inode3=$(stat -c %i "$W2/z/3")

lab stop web1
(
    cd "$W1/z"
    printf 'offline' >./1              # changed, then appended to through the mount
    printf 'offline' | dd of=large bs=1 seek=300000 conv=notrunc status=none
    printf 'OLD 2' >./2 && touch -d '2021-01-01Z' ./2 # changed, then chmod through the mount
    mv 3 3-moved                       # renamed here, then renamed on through the mount
    mv 4 4-kept                        # renamed here, then its old name is used anew
    rm 5                               # removed here, then made anew
    printf 'offline' >new && mv new 6  # replaced as editors do, then appended to
    printf 'offline' >./7                # changed here and by the peer
    printf 'offline' >unknown          # new, and the peer makes the same name
    mv 8 8-moved                       # renamed here, changed by the peer
    rm 9                               # removed here, changed by the peer
    printf 'offline' >./10               # changed here, removed by the peer
    mkdir new-dir && printf 'inside' >new-dir/inside # found and moved through the mount
    mv 11 11-moved                     # renamed here, then removed through the mount
    rm 12
    printf 'offline' >./13               # nobody looks at it
    mv 14 ../late/14                   # to a directory that is compared before
    rm 20-link                         # one of two names
    mv 15 16                           # over another
)
printf 'peer 7' >"$W2/z/7"
printf 'peer unknown' >"$W2/z/unknown"
printf 'peer 8' >"$W2/z/8"
printf 'peer 9' >"$W2/z/9"
rm "$W2/z/10"

lab start web1
under_way "ready after a stop in order"
[[ $(<"$W1/z/13") == offline && ! -e $W1/z/12 && $(<"$W1/z/new-dir/inside") == inside ]] || fail "not read as it is"
printf ' mounted' >>"$W1/z/1"
printf 'mounted' | dd of="$W1/z/large" bs=1 seek=10 conv=notrunc status=none
chmod 600 "$W1/z/2"
mv "$W1/z/3-moved" "$W1/3-moved" # the root is compared first
printf 'mounted' >"$W1/z/4"
printf 'mounted' >"$W1/z/5"
printf ' mounted' >>"$W1/z/6"
mv "$W1/z/new-dir" "$W1/a/new-dir"
rm "$W1/z/11-moved"
wait_until "[[ \$(cat '$W2/z/5') == mounted ]]" 10
wait_until "[[ \$(cat '$W1/z/9' 2>/dev/null) == 'peer 9' ]]" 10
under_way "changes through the mount and of the peer"
figure "$(sed -n 's/^compared *//p' "$W1/.farm/status")"
wait_until 'compared web1' 30
converge 30

is() { # FILE CONTENT
    [[ $(cat "$W2/$1" 2>/dev/null || printf absent) == "$2" ]] || fail "$1 is not \`$2' but \`$(cat "$W2/$1")'"
}
is z/1 'offline mounted'
[[ $(dd if="$W2/z/large" bs=1 skip=300000 count=7 status=none) == offline ]] || fail "the other part of a large file"
[[ $(dd if="$W2/z/large" bs=1 skip=10 count=7 status=none) == mounted ]] || fail "the part written through the mount"
is z/2 'OLD 2'
[[ $(stat -c %a "$W2/z/2") == 600 ]] || fail "a mode"
is 3-moved 'old 3'
[[ $(stat -c %i "$W2/3-moved") == "$inode3" ]] || fail "a renamed file is another one"
is z/4 mounted
is z/4-kept 'old 4'
is z/5 mounted
is z/6 'offline mounted'
is z/9 'peer 9'
is z/10 offline
is a/new-dir/inside inside
is z/13 offline
is late/14 'old 14'
is z/16 'old 15'
[[ ! -e $W2/z/3 && ! -e $W2/z/3-moved && ! -e $W2/z/11 && ! -e $W2/z/11-moved && ! -e $W2/z/12 && ! -e $W2/z/15 &&
    ! -e $W2/z/14 && ! -e $W2/z/new-dir && ! -e $W2/z/20-link && $(stat -c %h "$W2/z/20") == 1 ]] ||
    fail "names that are gone: $(ls "$W2/z")"
# what lost is kept: 7 and unknown were changed on both sides
(($(conflicts) + $(sed -n 's/^conflicts    //p' "$W2/.farm/status") >= 1)) || fail "nothing is kept of what lost"
grep -qrx -e 'old 8' "$W2/z" || fail "the renamed file is gone"
grep -qrx -e 'peer 8' "$W2/z" || fail "the peer's change of a renamed file is gone"

# after a stop that was not in order: recovering, readable and writable at once
lab kill web1
printf 'crashed' >"$W1/z/13"
lab start web1 &
starting=$!
wait_until '[[ $(state web1) == recovering ]]' 20
[[ $(<"$W1/z/13") == crashed && $(<"$W1/z/1") == 'offline mounted' ]] || fail "not readable while recovering"
printf 'written' >"$W1/z/while-recovering"
[[ $(cat "$W1/.farm/health") == down#recovering* ]] || fail "the balancer is told $(cat "$W1/.farm/health")"
[[ $(state web1) == recovering ]] || fail "it recovered too fast"
wait $starting || fail "not ready"
converge 30
is z/13 crashed
is z/while-recovering written
