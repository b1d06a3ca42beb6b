#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# One node's clock is an hour ahead: it is told, the farm converges, and who writes later wins even
# if his clock says earlier.
# lab: own
# limit: 120
# expect-log: .
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v faketime >/dev/null || skip "no faketime"
lib=$(find /usr/lib -name 'libfaketimeMT.so.1' | head -n 1)
[[ -n $lib && -z ${FARM_SANITIZER:-} ]] || skip "no libfaketime, or it does not go with this build"
printf 'before' >"$W1/file"
barrier web1
printf 'LD_PRELOAD=%s\nFAKETIME=+1h\nFAKETIME_DONT_FAKE_MONOTONIC=1\nFAKETIME_DONT_RESET=1\n' "$lib" >"$FARM_LAB/web2/etc/env"
mark web1
lab restart web2
told web1 'clock|skew' 30
for i in 1 2 3; do
    printf 'web2 %d' "$i" >"$W2/file"
    wait_until "[[ \$(cat '$W1/file') == 'web2 $i' && \$(cat '$W3/file') == 'web2 $i' ]]" 15
    printf 'web1 %d' "$i" >"$W1/file"
    wait_until "[[ \$(cat '$W2/file') == 'web1 $i' && \$(cat '$W3/file') == 'web1 $i' ]]" 15
done
rm "$FARM_LAB/web2/etc/env"
lab restart web2
printf 'right again' >"$W2/file"
wait_until '[[ $(cat "$W1/file") == "right again" ]]' 15
converge 30
