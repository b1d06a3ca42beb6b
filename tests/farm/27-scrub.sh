#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The scrub: bytes that rotted are found, repaired from a peer and kept; what was removed behind the
# mount comes back; what was changed behind it is taken up; what no peer has stays raised.
# lab: own
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The backing tree of web1: a bind of the directory above shows what the mount covers.
mkdir "$TMP/behind"
mount --bind "$FARM_LAB/web1" "$TMP/behind"
trap 'umount "$TMP/behind" 2>/dev/null || true' EXIT
BACK=$TMP/behind/www

count() { # NODE KEY: of .farm/scrub
    awk -v key="$2" '$1 == key { print $2 }' "$FARM_LAB/$1/www/.farm/scrub"
}
scrub() { # NODE: a whole round
    farmctl --folder "$FARM_LAB/$1/www" scrub --wait --timeout "$(slower 60)" || true
}
flip() { # FILE OFFSET: one byte, times as they were
    touch -r "$1" "$TMP/times"
    printf '\377' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
    touch -r "$TMP/times" "$1"
}

mkdir -p "$W1/dir/below"
head -c 100000 /dev/zero >"$W1/small"
head -c 3000000 /dev/urandom >"$W1/large"
printf 'untouched' >"$W1/good"
printf 'linked' >"$W1/link-1"
ln "$W1/link-1" "$W1/link-2"
ln -s small "$W1/dir/symlink"
printf 'deep' >"$W1/dir/below/file"
printf 'to be deleted' >"$W1/gone"
printf 'to be written' >"$W1/written"
chmod 640 "$W1/written"
barrier web1
cp "$W1/large" "$TMP/large"

scrub web1
[[ $(count web1 found) == 0 && $(count web1 taken-up) == 0 ]] || fail "found something where nothing is wrong: $(<"$W1/.farm/scrub")"
scrub web2
[[ $(count web2 found) == 0 && $(count web2 taken-up) == 0 ]] || fail "found something in what was received: $(<"$W2/.farm/scrub")"

# rot
flip "$BACK/small" 5000
flip "$BACK/large" 2500000
cmp -s "$BACK/large" "$TMP/large" && fail "nothing was damaged"
start=$(now_ms)
scrub web1
wait_until '[[ $(count web1 repaired) == 2 ]]' 15
figure "two damaged files found and repaired in $(($(now_ms) - start)) ms"
[[ $(count web1 found) == 2 && $(count web1 open) == 0 ]] || fail "counts: $(<"$W1/.farm/scrub")"
cmp "$BACK/large" "$TMP/large"
cmp "$W1/large" "$TMP/large"
cmp "$BACK/small" <(head -c 100000 /dev/zero)
grep -q 'raised scrub-.* large differs from its digest' "$W1/.farm/events" || fail "not raised"
grep -q 'cleared scrub-.* large was repaired' "$W1/.farm/events" || fail "not cleared"
grep -q 'large: differed from its digest; what lost is kept as conflict' "$W1/.farm/events" || fail "not kept"
[[ $(farmctl --folder "$W1" status --json | jq .scrub.repaired) == 2 ]] || fail "status.json"
[[ $(grep -c differed "$W2/.farm/events") == 0 ]] || fail "the rot went round"

# gone behind the mount: a file, a second name, a directory with what is in it
rm "$BACK/gone" "$BACK/link-2"
rm -r "$BACK/dir"
scrub web1
for round in 1 2 3; do # what is in a directory is found missing when the directory is back
    wait_until '[[ $(count web1 open) == 0 ]]' 15
    [[ ! -e $BACK/dir/below/file || ! -L $BACK/dir/symlink ]] || break
    scrub web1
done
figure "a removed directory was whole again after $round rounds"
[[ $(<"$W1/gone") == 'to be deleted' && $(<"$W1/dir/below/file") == deep ]] || fail "not put back"
[[ $(readlink "$W1/dir/symlink") == small ]] || fail "a symbolic link"
[[ $(stat -c %i "$BACK/link-1") == $(stat -c %i "$BACK/link-2") ]] || fail "a hard link"
same_all

# written behind the mount: a local change, as if it had been found before serving
printf 'behind the mount' >"$BACK/written"
chmod 600 "$BACK/good"
printf 'saved by an editor' >"$BACK/.new"
mv "$BACK/.new" "$BACK/gone"
before=$(count web1 found)
scrub web1
[[ $(count web1 found) == "$before" && $(count web1 taken-up) == 3 ]] || fail "counts: $(<"$W1/.farm/scrub")"
barrier web1
[[ $(<"$W2/written") == 'behind the mount' && $(<"$W3/gone") == 'saved by an editor' ]] || fail "not taken up"
[[ $(stat -c %a "$W2/good") == 600 ]] || fail "a mode"
[[ $(<"$W1/written") == 'behind the mount' ]] || fail "shown on this node: $(<"$W1/written")"

# nobody has it: said, and raised until somebody has; kept over a restart
lab cut web1 --dir "$FARM_LAB"
mark web1
flip "$BACK/good" 3
scrub web1
told web1 'good is damaged here and none of the .* connected peers has it' 30
[[ $(count web1 open) == 1 ]] || fail "open: $(<"$W1/.farm/scrub")"
kill_worker web1
lab heal --dir "$FARM_LAB"
wait_until '[[ $(<"$BACK/good") == untouched ]]' 30
same_all

# a name that is free because its file was removed behind the mount
rm "$BACK/written"
printf 'again' >"$W1/dir/other"
mv "$W1/dir/other" "$W1/written"
barrier web1
[[ $(<"$W3/written") == again ]] || fail "a rename over what was removed behind the mount"
same_all

# records: a lost update and lost records on one node are found by the sums, and healed by the merge
chmod 640 "$W1/large"
chmod 644 "$W1/large"
barrier web1
lab stop web2 --dir "$FARM_LAB"
"$(bin farmindex)" "$FARM_LAB/web2/state/www" older large
"$(bin farmindex)" "$FARM_LAB/web2/state/www" lose small
lab start web2 --dir "$FARM_LAB"
start=$(now_ms)
scrub web1
wait_until '[[ $(count web1 healed) == 1 ]]' 20
figure "records that differed were found and healed in $(($(now_ms) - start)) ms"
[[ $(count web1 differing) == 1 ]] || fail "counts: $(<"$W1/.farm/scrub")"
grep -q 'raised scrub-records-web2 ' "$W1/.farm/events" || fail "not raised"
wait_until 'grep -q "cleared scrub-records-web2 " "$W1/.farm/events"' 10
scrub web2
[[ $(count web2 differing) == 0 ]] || fail "web2 still differs: $(<"$W2/.farm/scrub")"
scrub web3
[[ $(count web3 differing) == 0 ]] || fail "web3: $(<"$W3/.farm/scrub")"
wait_until '[[ $(stat -c %a "$W2/large") == 644 && $(stat -c %s "$W2/small") == 100000 ]]' 15
same_all

# quiet while changes are in flight
for ((i = 0; i < 150; i++)); do
    printf '%d' "$i" >"$W1/busy-$((i % 20))"
    printf '%d' "$i" >"$W2/busy-$((i % 20))-2"
done &
writer=$!
scrub web1
scrub web3
wait $writer
[[ $(count web1 differing) == 1 && $(count web3 differing) == 0 && $(count web1 open) == 0 ]] ||
    fail "changes under way were taken for a difference: $(<"$W1/.farm/scrub")"
barrier_all
same_all
