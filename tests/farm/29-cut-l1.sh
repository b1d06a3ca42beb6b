#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A sample of tests/cut-l1: the worker is killed, or given EIO or ENOSPC, at some of the calls of
# every small workload. Release build only; all calls by hand. FARM_CUT_L1_SECONDS (45).
# lab: none
# limit: 150
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ -z ${FARM_SANITIZER:-} ]] || skip "on the release build only"
"$ROOT/tests/cut-l1" --sample 1 --seed "${FARM_CUT_L1_SEED:-1}" --seconds "${FARM_CUT_L1_SECONDS:-45}" \
    --build "$FARM_BUILD" >"$TMP/cut" 2>&1 || fail "$(tail -n 40 "$TMP/cut")"
figure "$(tail -n 1 "$TMP/cut")"
