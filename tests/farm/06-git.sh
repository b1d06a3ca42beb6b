#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# git works in the mount, and a clone arrives as a working clone.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
export GIT_CONFIG_GLOBAL=$TMP/gitconfig GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git config --global user.name farm
git config --global user.email farm@example.org
git config --global init.defaultBranch main
git config --global --add safe.directory '*'

git init -q "$TMP/origin"
for i in {1..150}; do
    mkdir -p "$TMP/origin/dir$((i % 10))"
    seq "$i" 400 >"$TMP/origin/dir$((i % 10))/file$i"
done
ln -s dir1 "$TMP/origin/link"
git -C "$TMP/origin" add . && git -C "$TMP/origin" commit -qm first

git clone -q "$TMP/origin" "$A/clone"
cd "$A/clone"
[[ -z $(git status --porcelain) ]] || fail "status after the clone is not clean"
git checkout -q -b work
for i in {1..20}; do
    printf 'change %d\n' "$i" >>"dir$((i % 10))/file$i"
    git commit -qam "change $i"
done
git mv dir3 moved && git commit -qm moved
git rebase -q --force-rebase main >/dev/null
git checkout -q main && git merge -q --no-ff -m merge work
git stash list >/dev/null
git gc -q
git fsck --strict >/dev/null
[[ -z $(git status --porcelain) ]] || fail "status after the work is not clean"
cd /
barrier web1
for d in "$B" "$C"; do
    git -C "$d/clone" fsck --strict >/dev/null || fail "fsck of the clone on a peer"
    [[ -z $(git -C "$d/clone" status --porcelain) ]] || fail "status on a peer is not clean"
    [[ $(git -C "$d/clone" rev-parse HEAD) == $(git -C "$A/clone" rev-parse HEAD) ]] || fail "another HEAD"
done
# git status refreshes the index there: let that arrive before comparing
barrier_all
converge 20 "www/$CASE"
