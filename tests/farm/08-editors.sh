#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# How editors save: sed -i, vim (also with a backup), nano through a terminal.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
for f in sed vim backup nano; do
    printf 'first line\nsecond line\n' >"$A/$f.txt"
    chmod 640 "$A/$f.txt"
    chown 33:33 "$A/$f.txt"
done
sed -i 's/first/FIRST/' "$A/sed.txt"

vi=$(command -v vim.basic || command -v vim.tiny || command -v vim) || skip "no vim"
"$vi" -u NONE -es -c 'set nocp' -c '%s/first/FIRST/' -c 'wq' "$A/vim.txt" </dev/null
"$vi" -u NONE -es -c 'set nocp' -c 'set backup backupcopy=no' -c '%s/first/FIRST/' -c 'wq' "$A/backup.txt" </dev/null

export TERM=xterm
{
    sleep 1
    printf 'FIRST '
    sleep 0.3
    printf '\x0f'
    sleep 0.3
    printf '\r'
    sleep 0.5
    printf '\x18'
    sleep 0.5
} | timeout 20 script -qec "nano -I '$A/nano.txt'" /dev/null >"$TMP/nano.log"

barrier web1
for f in sed vim backup; do
    [[ $(head -n 1 "$B/$f.txt") == 'FIRST line' ]] || fail "$f: $(head -n 1 "$B/$f.txt")"
    [[ $(stat -c '%a %u %g' "$B/$f.txt") == '640 33 33' ]] || fail "$f: $(stat -c '%a %u %g' "$B/$f.txt")"
done
[[ $(head -n 1 "$B/nano.txt") == 'FIRST first line' ]] || fail "nano: $(head -n 1 "$B/nano.txt")"
[[ -e $B/backup.txt~ ]] || fail "vim's backup file is missing"
[[ -z $(find "$A" "$B" -name '*.sw?' -o -name 'sed??????') ]] || fail "an editor's temporary file was left"
same_all "www/$CASE"
