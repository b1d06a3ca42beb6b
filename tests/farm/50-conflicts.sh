#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The rules of farmfs-conflicts(7), each made by two nodes that cannot reach each other; after
# healing the tree and .farm/conflicts are as the manual says; losers are restored, explained,
# survive restarts, and are dropped.
# lab: own --option 'history = 1d'
# limit: 150
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

on() { farmctl --folder "$FARM_LAB/$1/www" "${@:2}"; } # NODE COMMAND...
says() { # FILE-OR-TEXT REGEX
    [[ $1 =~ $2 ]] || fail "does not say $2: $1"
}
id_of() { # NODE PATH KIND: of the one kept thing with that path
    on "$1" conflicts --json | python3 -c '
import json, sys
ids = [k["id"] for k in json.load(sys.stdin) if k["path"] == sys.argv[1] and k["kind"] == sys.argv[2]]
print(*ids)' "$2" "$3"
}

# ---- before: what both nodes know
mkdir "$W1"/{gone-dir,moved,a,b}
for f in page same both edited seen named mv; do
    printf 'base' >"$W1/$f"
done
printf 'old' >"$W1/gone-dir/old"
setfattr -n user.text -v hello "$W1/page"
setfacl -m u:1234:rw- "$W1/page"
barrier web1
[[ $(on web1 conflicts) == 'no conflicts' ]] || fail "conflicts in a new folder"

# ---- web1 on its own, then, later by the clock, web2
lab cut web1
head -c 3000000 /dev/urandom >"$W1/page"
loser=$(sha256sum <"$W1/page")
printf 'equal' >"$W1/same"
chmod 0640 "$W1/both"
rm "$W1/edited" && rm -r "$W1/gone-dir"
printf 'one' >"$W1/two-files"
mkdir "$W1/two-dirs" && printf '1' >"$W1/two-dirs/of-web1"
printf 'a file' >"$W1/dir-and-file"
wait_until '[[ $(on web1 why edited 2>&1) =~ is\ not\ there.*by\ web1,\ .*deleted\ it ]]' 20
mv "$W1/mv" "$W1/moved/by-web1"
mv "$W1/a" "$W1/b/a"
chown 1234 "$W1/named"
sleep 0.3
printf 'page of web2' >"$W2/page"
printf 'equal' >"$W2/same"
printf 'edit of web2' >"$W2/both"
printf 'edited by web2' >"$W2/edited"
printf 'new' >"$W2/gone-dir/new"
printf 'two' >"$W2/two-files"
mkdir "$W2/two-dirs" && printf '2' >"$W2/two-dirs/of-web2"
mkdir "$W2/dir-and-file"
mv "$W2/mv" "$W2/moved/by-web2"
mv "$W2/b" "$W2/a/b"
mv "$W2/named" "$W2/renamed"
sleep 0.5
start=$(now_ms)
lab heal
converge 30
figure "equal $(($(now_ms) - start)) ms after healing"

# ---- contents
[[ $(<"$W1/page") == 'page of web2' ]] || fail "the later version is the file's content"
id=$(id_of web1 page conflict)
[[ -n $id && $id != *' '* ]] || fail "not one loser of page on web1: '$id'"
[[ $(sha256sum <"$W1/.farm/conflicts/$id") == "$loser" ]] || fail "the loser is not what web1 had written"
[[ $(stat -c '%s %a %u' "$W1/.farm/conflicts/$id") == '3000000 440 0' ]] || fail "size or mode of the loser"
json=$(<"$W1/.farm/conflicts/$id.json")
says "$json" '"node": "web1"'
says "$json" '"why": "changed on two nodes at once"'
says "$json" '"when": "20[0-9-]+T[0-9:]+\.[0-9]{9}Z"'
[[ $(python3 -c 'import json,sys; print(json.load(sys.stdin)["winner"]["node"])' <<<"$json") == web2 ]] || fail "winner"
[[ -z $(id_of web1 same conflict) ]] || fail "equal contents are no conflict"
[[ $(<"$W3/both") == 'edit of web2' && $(stat -c %a "$W3/both") == 640 ]] || fail "a change of mode and an edit both survive"
[[ $(stat -c %u "$W3/renamed") == 1234 && ! -e $W3/named ]] || fail "a rename and a change of owner both survive"

# ---- deletions
[[ $(<"$W1/edited") == 'edited by web2' ]] || fail "an edit beats a deletion made at the same time"
[[ -e $W1/gone-dir/new && ! -e $W1/gone-dir/old ]] || fail "something new beats the deletion of its directory"
rm "$W2/edited" && barrier web2
[[ ! -e $W1/edited ]] || fail "a deletion by someone who had seen the edit stands"

# ---- names
[[ -e $W1/two-dirs/of-web1 && -e $W1/two-dirs/of-web2 ]] || fail "two directories become one"
[[ -d $W1/dir-and-file ]] || fail "a directory and a file: the directory has the name"
[[ $(<"$W3/two-files") == two ]] || fail "two files: the later name has it"
for n in web1 web2 web3; do
    hidden=$(id_of $n two-files hidden)
    [[ $(<"$FARM_LAB/$n/www/.farm/conflicts/$hidden") == one ]] || fail "the hidden file is not listed on $n"
    file=$(id_of $n dir-and-file hidden)
    [[ $(<"$FARM_LAB/$n/www/.farm/conflicts/$file") == 'a file' ]] || fail "the file under a directory is not listed on $n"
done
mv "$W1/two-files" "$W1/two-files-moved" && barrier web1
[[ $(id_of web3 two-files-moved hidden) == "$hidden" ]] || fail "a hidden file goes where the name goes"
refused 1 'is hidden under' "$(bin farmctl)" --folder "$W3" conflicts --drop "$hidden"

# ---- moves
[[ -e $W1/moved/by-web2 && ! -e $W1/moved/by-web1 ]] || fail "the later move wins"
[[ -d $W1/b/a && ! -e $W1/a ]] || fail "of two moves into each other the later is undone"

# ---- why
says "$(on web1 why "$W1/page")" "content +by web2, .*lost +by web1, .*conflict $id: changed on two nodes"
says "$(on web3 why two-files-moved)" "hidden +by web1.* conflict $hidden"
wait_until '[[ $(on web3 why "$W3/two-files-moved") =~ node\ +web1\ has\ all\ of\ this ]]' 20
says "$(on web1 why gone-dir)" 'name +by '
says "$(on web1 why --json .)" '"there": true'
refused 1 'nothing is known' "$(bin farmctl)" --folder "$W1" why no/such/thing

# ---- restore: beside, never over
said=$(on web1 restore "$id" </dev/null)
[[ $said == "restored $W1/page.restored-1" ]] || fail "restore said: $said"
[[ $(on web1 restore "$id" </dev/null) == *page.restored-2 ]] || fail "the second restore"
on web3 restore "$hidden" --to "$W3/both-of-them" >/dev/null
barrier web1 && barrier web3
[[ $(sha256sum <"$W3/page.restored-1") == "$loser" && $(<"$W3/page") == 'page of web2' ]] || fail "restored, replicated, and nothing overwritten"
[[ $(getfattr --only-values -n user.text "$W2/page.restored-1") == hello ]] || fail "extended attributes are not restored"
getfacl -cp "$W2/page.restored-1" | grep -q '^user:1234:rw-' || fail "the access control list is not restored"
[[ $(<"$W1/both-of-them") == one ]] || fail "restored to another path"
refused 1 'nothing is kept' "$(bin farmctl)" --folder "$W1" restore 0123456789abcdef
refused 2 '16 hex digits' "$(bin farmctl)" --folder "$W1" restore xyz

# ---- kept over restarts; any number of them is listed; dropped
for ((i = 1; i <= 1500; i++)); do
    printf '%d' "$i" >"$FARM_LAB/web1/.farmfs.www/conflicts/$(printf %016x "$i")"
done
kill_worker web1
wait_until '[[ -e $W1/.farm/conflicts/$id ]]' 30
[[ $(sha256sum <"$W1/.farm/conflicts/$id") == "$loser" ]] || fail "the loser did not survive the worker"
(($(find "$W1/.farm/conflicts" -name '*.json' | wc -l) >= 1503)) || fail "not all are listed"
[[ $(<"$W1/.farm/conflicts/00000000000005dc") == 1500 ]] || fail "a file without a record is not listed"
on web1 conflicts --drop "$id"
[[ ! -e $W1/.farm/conflicts/$id ]] || fail "dropped, and still there"
says "$(on web1 conflicts --all)" '1500 dropped'
wait_until '[[ -z $(ls "$FARM_LAB/web1/.farmfs.www/conflicts") ]]' 10
rm "$W1/two-files-moved" && barrier web1
[[ -z $(id_of web3 two-files-moved hidden) && ! -e $W3/two-files-moved ]] || fail "nothing comes to light by a deletion"

# ---- history, of our own changes and of peers'
sleep 0.1
before=$(date -u +%FT%T.%NZ)
sleep 0.1
head -c 100000 /dev/urandom >"$W1/.new" && mv "$W1/.new" "$W1/page.restored-1"
rm -r "$W1/two-dirs" "$W1/moved"
barrier web1
for n in web1 web2; do
    says "$(on $n history two-dirs)" 'two-dirs/of-web1 \(deleted'
    [[ $(on $n history | grep -cE 'page.restored-1 \((replaced|deleted)') == 1 ]] || fail "replaced, and not in the history of $n"
done
says "$(on web2 undo --to "$before" --dry-run)" 'would restore moved/by-web2'
[[ ! -e $W2/moved ]] || fail "a dry run did something"
says "$(on web2 undo --to "$before")" ' restored'
barrier web2
[[ $(sha256sum <"$W1/page.restored-1") == "$loser" && -e $W1/two-dirs/of-web2 && -e $W1/moved/by-web2 ]] ||
    fail "undo did not put everything back"
[[ -z $(find "$W2" -xdev -name '.restore-*') ]] || fail "something was left behind"
same_all
figure "$(on web2 history | wc -l) lines of history on web2"
