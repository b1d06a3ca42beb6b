#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Mistakes in the configuration and on the command line: one line with file, line and what was
# expected, exit 2; nothing in the folder is touched.
# lab: none
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

farmfs=$(bin farmfs)
mkdir "$TMP/dir" "$TMP/state"
printf 'precious' >"$TMP/dir/file"
good() {
    cat <<TEXT
[node]
name = web1
[folder]
name = www
id = 0123456789abcdef
dir = $TMP/dir
state = $TMP/state
[ssh]
key = $TMP/key
known-hosts = $TMP/known_hosts
run-dir = $TMP/run
[peer web2]
address = 127.0.0.2
TEXT
}
# wrong SED-EXPRESSION REGEX: the good file, edited, is refused in those words
wrong() {
    good | sed -e "$1" >"$TMP/bad.conf"
    refused 2 "$2" "$farmfs" -f -c "$TMP/bad.conf"
}
wrong 's/^name = web1/name = Web One!/' 'bad.conf:2: .*expected'
wrong 's/^id = .*/id = 12zz/' 'bad.conf:5: .*expected'
wrong '/^id = /d' 'id'
wrong '/^dir = /d' 'dir'
wrong 's/^dir = .*/dir = relative\/path/' 'bad.conf:6: .*expected'
wrong '5a seal-after = soon' 'bad.conf:6: .*expected'
wrong '5a ack = maybe' 'bad.conf:6: .*expected'
wrong '5a colour = blue' 'bad.conf:6: .*colour'
wrong 's/^\[ssh\]/[ssl]/' 'ssl'
wrong '$a port = 99999' 'bad.conf:14: .*expected'
wrong '$a connect = sometimes' 'bad.conf:14: .*expected'
wrong 's/^address = .*/port = 22/' 'address'
wrong 's/^\[peer web2\]/[peer web1]/' 'web1'
wrong '3s/.*/[folder/' 'bad.conf:3: '
wrong '2s/.*/name/' 'bad.conf:2: '
printf '%4000s' x >"$TMP/bad.conf"
refused 2 'bad.conf:1: ' "$farmfs" -f -c "$TMP/bad.conf"
refused 2 'nowhere.conf.*No such file' "$farmfs" -f -c "$TMP/nowhere.conf"
refused 2 'is-a-dir' "$farmfs" -f -c "$(mkdir -p "$TMP/is-a-dir" && printf '%s' "$TMP/is-a-dir")"
refused 2 'frobnicate|usage|help' "$farmfs" --frobnicate
refused any "$TMP/dir" "$farmfs" "$TMP/dir"
"$farmfs" --help | grep -q -- '-c' || fail "no help"
"$farmfs" --version | grep -qE '[0-9]+\.[0-9]+' || fail "no version"
[[ $(<"$TMP/dir/file") == precious && $(find "$TMP/dir" | wc -l) == 2 ]] || fail "the folder was touched"
refused any 'frobnicate' "$(bin farmctl)" frobnicate
refused any "$TMP/dir|no farmfs" "$(bin farmctl)" --folder "$TMP/dir" status
