#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A short chaos run (tests/chaos): writers with a ledger and readers on three nodes while links are
# cut, workers and nodes killed, clocks moved and disks filled. Release build only; longer ones and
# other seeds by hand. FARM_CHAOS_SECONDS (40), FARM_CHAOS_SEED (2).
# lab: none
# limit: 300
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ -z ${FARM_SANITIZER:-} ]] || skip "on the release build only"
[[ -e /dev/loop-control ]] || skip "no loop devices here"
"$ROOT/tests/chaos" --seconds "${FARM_CHAOS_SECONDS:-40}" --seed "${FARM_CHAOS_SEED:-2}" \
    --build "$FARM_BUILD" >"$TMP/chaos" 2>&1 || fail "$(tail -n 60 "$TMP/chaos")"
awk '$1 == "writer" { calls += $4 + $6; bad += $8 } $1 == "reader" { reads += $4 }
    END { printf "# %d operations, %d failed, %d files read whole\n", calls, bad, reads }' "$TMP/chaos"
figure "$(grep '^judge' "$TMP/chaos")"
figure "$(tail -n 2 "$TMP/chaos" | tr '\n' ' ')"
