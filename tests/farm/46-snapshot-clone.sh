#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A snapshot of web2 (state, tree, staging) is put back after the farm has gone on: nobody loses
# anything, web2 comes back equal, under a new node id. Then web3 is replaced by a copy of web2: that
# is noticed, and both go on.
# lab: own
# limit: 200
# expect-log: newer than|identity
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

id_of() { jq -r .id "$(mount_of "$1" www)/.farm/status.json"; }
collected() { jq .collected "$(mount_of "$1" www)/.farm/status.json"; }
copy_out() { # NODE DIR: what a snapshot of the machine would hold of the folder
    mkdir "$2"
    cp -a "$FARM_LAB/$1/www" "$2/tree"
    cp -a "$FARM_LAB/$1/state/www" "$2/state"
    cp -a "$FARM_LAB/$1/.farmfs.www" "$2/staging"
}
copy_in() { # NODE DIR
    rm -rf "$FARM_LAB/$1/www" "$FARM_LAB/$1/state/www" "$FARM_LAB/$1/.farmfs.www"
    cp -a "$2/tree" "$FARM_LAB/$1/www"
    cp -a "$2/state" "$FARM_LAB/$1/state/www"
    cp -a "$2/staging" "$FARM_LAB/$1/.farmfs.www"
}

zoo "$W1/zoo"
mkdir "$W2/dir" "$W2/gone"
for i in {1..30}; do
    printf 'before %d' "$i" >"$W2/dir/$i"
    printf 'before %d' "$i" >"$W2/gone/$i"
done
converge 30
lab stop web2
copy_out web2 "$TMP/snapshot"
lab start web2
was=$(id_of web2)

# an hour of work
for i in {1..20}; do
    printf 'web2 after %d' "$i" >"$W2/dir/$i"
    printf 'web2 new %d' "$i" >"$W2/dir/new-$i"
    printf 'web1 new %d' "$i" >"$W1/zoo/new-$i"
done
printf 'web1 was here' >"$W1/dir/25"
rm -r "$W3/gone" "$W1/zoo/many"
mv "$W1/zoo/links" "$W1/moved"
converge 30
wait_until '(( $(collected web1) > 0 && $(collected web3) > 0 ))' 20
before=$(digest "$W1")
lab stop web2
copy_in web2 "$TMP/snapshot"
printf 'changed in the old copy, which nobody had' >"$FARM_LAB/web2/www/dir/30"
mark web2
start=$(now_ms)
lab start web2
told web2 'new node id'
converge 60
figure "the snapshot was equal again $(($(now_ms) - start)) ms after its start, $(collected web1) inodes had been forgotten"
[[ $(id_of web2) != "$was" ]] || fail "web2 goes on under its old id"
for i in {1..20}; do
    [[ $(<"$W1/dir/$i") == "web2 after $i" && $(<"$W3/dir/new-$i") == "web2 new $i" ]] || fail "work of web2 was lost: $i"
done
[[ $(<"$W3/dir/25") == 'web1 was here' && ! -e $W3/gone && ! -e $W1/zoo/many && -d $W3/moved ]] ||
    fail "what had been done was undone"
grep -rq 'changed in the old copy' "$W1/dir/30" "$FARM_LAB/web2/.farmfs.www/conflicts" ||
    fail "the change made in the old copy is nowhere"
[[ $(<"$W1/dir/30") == changed* || $(digest "$W1") == "$before" ]] || fail "the tree is another one"
printf 'goes on' >"$W2/dir/goes-on"
wait_until '[[ $(cat "$W3/dir/goes-on" 2>/dev/null) == "goes on" ]]' 10

# a clone
lab stop web2
lab stop web3
copy_out web2 "$TMP/clone"
copy_in web3 "$TMP/clone"
lab start web2
mark web3
lab start web3
told web3 'identity the state is that of web2'
[[ $(id_of web2) != "$(id_of web3)" ]] || fail "web2 and web3 have one id"
for i in {1..20}; do
    printf 'clone %d' "$i" >"$W3/dir/clone-$i"
    printf 'original %d' "$i" >"$W2/dir/original-$i"
    printf 'both' >"$W3/dir/both-$i"
    printf 'both' >"$W2/dir/both-$i"
done
converge 60
[[ $(<"$W1/dir/clone-20") == 'clone 20' && $(<"$W1/dir/original-20") == 'original 20' ]] || fail "one of the two was not heard"
