#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# How long after close() a change is visible on a peer.
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
"$(bin farmlatency)" "$A" "$B" "$(fewer 300)" >"$TMP/latency"
while IFS= read -r line; do
    figure "close to visible on a peer: $line"
done <"$TMP/latency"
awk -v limit="$(slower 1000)" '{ for (i = 1; i < NF; i++) if ($i == "p99" && !($(i + 1) < limit)) exit 1 }' "$TMP/latency" ||
    fail "p99 is past $(slower 1000) ms"
