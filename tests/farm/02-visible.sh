#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What a peer changed is seen at once through the mount: no cache of the kernel shows the old state
# after the barrier, whatever was looked at before.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
changed() { barrier web1; } # after this, B must show it

printf 'old' >"$A/file"
mkdir "$A/dir"
changed
[[ $(<"$B/file") == old && $(poke mmap-read "$B/file") == old ]] || fail "new content"

printf 'new' >"$A/file"
changed
[[ $(<"$B/file") == new ]] || fail "read shows old content"
[[ $(poke mmap-read "$B/file") == new ]] || fail "mmap shows old content"

printf ' and longer' >>"$A/file"
changed
[[ $(stat -c %s "$B/file") == 14 && $(<"$B/file") == 'new and longer' ]] || fail "size"

chmod 600 "$A/file"
changed
[[ $(stat -c %a "$B/file") == 600 ]] || fail "mode"

touch -d '2020-01-01 00:00:00.5Z' "$A/file"
changed
[[ $(stat -c %.9Y "$B/file") == 1577836800.500000000 ]] || fail "mtime $(stat -c %.9Y "$B/file")"

for i in {1..20}; do
    [[ ! -e $B/dir/n$i ]] || fail "a name from nowhere"
done
[[ -z $(ls -A "$B/dir") ]] || fail "the directory should be empty"
for i in {1..20}; do
    printf '%d' "$i" >"$A/dir/n$i"
done
changed
for i in {1..20}; do
    [[ $(<"$B/dir/n$i") == "$i" ]] || fail "a name looked up in vain before is not seen"
done
[[ $(find "$B/dir" -type f | wc -l) == 20 ]] || fail "readdir misses new names"

rm "$A"/dir/n{1..10}
changed
for i in {1..10}; do
    [[ ! -e $B/dir/n$i ]] || fail "a removed name is still seen"
done
[[ $(find "$B/dir" -type f | wc -l) == 10 ]] || fail "readdir shows removed names"

mv "$A/dir/n11" "$A/dir/renamed"
mv "$A/dir" "$A/dir2"
changed
[[ ! -e $B/dir && ! -e $B/dir2/n11 && $(<"$B/dir2/renamed") == 11 ]] || fail "renames"

rm "$A/file"
mkdir "$A/file"
printf 'x' >"$A/file/inside"
changed
[[ -d $B/file && $(<"$B/file/inside") == x ]] || fail "a directory in place of a file"

ln "$A/file/inside" "$A/second"
changed
[[ $(stat -c %h "$B/second") == 2 && $(stat -c %i "$B/second") == $(stat -c %i "$B/file/inside") ]] ||
    fail "a hard link"

# and without a barrier: within moments, and never half a file
head -c 3000000 /dev/zero | tr '\0' a >"$A/swap"
changed
(
    for c in b c d e f g h; do
        head -c 3000000 /dev/zero | tr '\0' $c >"$TMP/swap"
        cp "$TMP/swap" "$A/.swap" && mv "$A/.swap" "$A/swap"
    done
) &
writer=$!
while kill -0 $writer 2>/dev/null; do
    kinds=$(fold -w 1000 "$B/swap" | sort -u | wc -l)
    [[ $kinds == 1 && $(stat -c %s "$B/swap") == 3000000 ]] || fail "half a file was seen"
done
wait $writer
wait_until '[[ $(head -c 1 "$B/swap") == h ]]' 10
same web1 web2 "www/$CASE"
