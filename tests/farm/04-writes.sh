#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Every way to change a file arrives: mappings, appends of several writers, a file kept open,
# truncation, holes, ranges in the middle of a large file, unlinked and unnamed files.
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs

# through a shared mapping, closed and kept
head -c 200000 /dev/zero | tr '\0' m >"$A/mapped"
barrier web1
poke mmap-write "$A/mapped" 100000 CHANGED
barrier web1
[[ $(tail -c +100001 "$B/mapped" | head -c 7) == CHANGED ]] || fail "a change through a mapping did not arrive"
mkfifo "$TMP/hold"
poke mmap-hold "$A/mapped" 150000 KEPT <"$TMP/hold" &
exec 6>"$TMP/hold"
wait_until '[[ $(tail -c +150001 "$B/mapped" | head -c 4) == KEPT ]]' 30
exec 6>&-
wait $!

# O_APPEND, several writers on one node
for w in 1 2 3 4; do
    poke append "$A/appended" 500 "writer-$w" &
done
wait
[[ $(wc -l <"$A/appended") == 2000 ]] || fail "appends got lost on the writing node: $(wc -l <"$A/appended")"
barrier web1
[[ $(sort "$B/appended" | uniq | wc -l) == 2000 ]] || fail "appends got lost on the way"

# a file that stays open is shipped while it grows
: >"$A/held" # known to the others: a new one waits for its close, or for a pause
barrier web1
poke hold "$A/held" "$(slower 8)" &
holder=$!
wait_until '[[ -s $B/held ]]' 15
first=$(wc -l <"$B/held")
wait_until "(( \$(wc -l <$B/held) > $first ))" 15
kill -0 $holder 2>/dev/null || fail "the file was shipped only after it was closed"
wait $holder
barrier web1
cmp "$A/held" "$B/held"

# truncations and holes
head -c 1000000 /dev/urandom >"$A/cut"
cp "$A/cut" "$A/punched"
cp "$A/cut" "$A/zeroed"
cp "$A/cut" "$A/collapsed"
barrier web1
truncate -s 123456 "$A/cut"
truncate -s 2000000 "$A/cut"
fallocate -p -o 100000 -l 400000 "$A/punched"
fallocate -z -o 4096 -l 8192 "$A/zeroed" || figure "no FALLOC_FL_ZERO_RANGE here"
fallocate -l 3000000 "$A/allocated"
truncate -s 0 "$A/collapsed"
barrier web1
for f in cut punched zeroed allocated collapsed; do
    cmp "$A/$f" "$B/$f"
    cmp "$A/$f" "$C/$f"
done
[[ $(stat -c %s "$B/allocated") == 3000000 ]] || fail "fallocate"

# small changes in a large file
head -c 20000000 /dev/urandom >"$A/large"
cp "$A/large" "$TMP/large"
barrier web1
for offset in 0 4095 7777777 19999990; do
    printf 'RANGE' | dd of="$A/large" bs=1 seek=$offset conv=notrunc status=none
    printf 'RANGE' | dd of="$TMP/large" bs=1 seek=$offset conv=notrunc status=none
done
barrier web1
cmp "$TMP/large" "$A/large"
cmp "$TMP/large" "$B/large"

# files without a name, copies by the kernel
poke unlinked "$A/orphan"
[[ ! -e $A/orphan ]] || fail "an unlinked file is still there"
if poke tmpfile "$A" from-tmpfile 'was unnamed' 2>"$TMP/err"; then
    barrier web1
    [[ $(<"$B/from-tmpfile") == 'was unnamed' ]] || fail "an O_TMPFILE file did not arrive"
else
    grep -q 'not supported' "$TMP/err" || fail "O_TMPFILE: $(<"$TMP/err")"
    figure "O_TMPFILE is not supported here"
fi
poke copy "$A/large" "$A/large-copy"
barrier web1
cmp "$TMP/large" "$C/large-copy"
barrier_all
same_all "www/$CASE"
