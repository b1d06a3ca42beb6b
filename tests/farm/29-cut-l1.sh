#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A sample of tests/cut-l1: the worker is killed at some of the calls of two small workloads. Release
# build only; every call of every workload, and errors instead of kills, by hand.
# lab: none
# limit: 150
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ -z ${FARM_SANITIZER:-} ]] || skip "on the release build only"
"$ROOT/tests/cut-l1" --workload create --workload rename --kind kill --sample 10 --seconds 45 \
    --build "$FARM_BUILD" >"$TMP/cut" 2>&1 || fail "$(tail -n 40 "$TMP/cut")"
figure "$(tail -n 1 "$TMP/cut")"
