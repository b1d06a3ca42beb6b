#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A file that is open on one node while another node replaces, rewrites or removes it keeps its old
# content for who has it open, as after a rename; a new open sees the new.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
head -c 400000 /dev/zero | tr '\0' o >"$A/renamed"
cp "$A/renamed" "$A/rewritten"
cp "$A/renamed" "$A/removed"
cp "$A/renamed" "$A/mapped"
barrier web1
old=$(sha256sum <"$B/renamed")

exec 3<"$B/renamed" 4<"$B/rewritten" 5<"$B/removed"
coproc WATCH { poke mmap-watch "$B/mapped"; }
exec 6<&"${WATCH[0]}" 7>&"${WATCH[1]}"
see() { # what the mapping shows now
    echo >&7
    head -c 400000 <&6 | sha256sum
}
[[ $(see) == "$old" ]] || fail "the mapping shows something else than the file"

printf 'short' >"$A/.tmp" && mv "$A/.tmp" "$A/renamed"
printf 'short' >"$A/rewritten"
printf 'short' >"$A/mapped"
rm "$A/removed"
barrier web1

[[ $(<"$B/renamed") == short && $(<"$B/rewritten") == short && ! -e $B/removed ]] || fail "a new open must see the new"
for fd in 3 4 5; do
    [[ $(sha256sum <&"$fd") == "$old" ]] || fail "descriptor $fd: the open file's content changed"
done
[[ $(see) == "$old" ]] || fail "the mapping's content changed"
