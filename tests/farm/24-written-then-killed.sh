#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Files that all nodes have are rewritten while the core is busy (it hashes a large file), and the
# worker is killed with -9 before it could look at them: what it knew in memory is lost, and yet
# what was written arrives although nobody touches it again.
# lab: own
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir "$W1/small"
for ((i = 0; i < 50; i++)); do
    printf 'the first text\n' >"$W1/small/$i"
done
head -c 300M /dev/urandom >"$TMP/large"
cp "$TMP/large" "$W1/large"
barrier web1 www 60
for ((round = 1; round <= $(fewer 2); round++)); do
    dd if="$TMP/large" of="$W1/large" bs=1M conv=notrunc status=none
    for ((i = 0; i < 50; i++)); do
        printf 'round %d, longer than the first text\n' "$round" >"$W1/small/$i"
    done
    kill_worker web1
    wait_until '[[ $(state web1) == ready ]]' 30
    barrier web1 www 60
    same_all
done
