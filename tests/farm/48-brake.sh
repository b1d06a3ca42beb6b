#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A folder that is found empty, or more than half gone, at the start: the deletions are held and asked
# about; rejected, the files come back from the peers; confirmed, they are deleted. A directory
# that is not the one that was served before is refused in one line.
# lab: own --nodes 2
# limit: 120
# expect-log: brake
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

brake() { grep -c "$2 brake" "$(mount_of "$1" www)/.farm/events" || true; } # NODE raised|cleared
mkdir "$W1/d" "$W1/d/sub"
for ((i = 0; i < 1400; i++)); do
    printf '%d' "$i" >"$W1/d/sub/$i"
done
ln "$W1/d/sub/1" "$W1/d/linked"
ln -s linked "$W1/d/sym"
for ((i = 0; i < 300; i++)); do
    printf '%d' "$i" >"$W1/stays-$i"
done
converge 60
before=$(digest "$W1/d")

# rsync --delete from an empty directory, while nobody looked; rejected
lab stop web2 www
find "$FARM_LAB/web2/www" -mindepth 1 -delete
lab_start=$(now_ms)
lab start web2 www >/dev/null 2>&1 &
starting=$!
wait_until '(( $(brake web2 raised) == 1 ))' 30
figure "held $(($(now_ms) - lab_start)) ms after the start"
wait_until '[[ $(state web2) == recovering ]]' 10
grep -q 'held: 170[0-9] of 170[0-9] names' "$W2/.farm/status" || fail "the state does not say what is held: $(<"$W2/.farm/status")"
printf 'goes on' >"$W1/meanwhile"
wait_until '[[ $(cat "$W2/meanwhile" 2>/dev/null) == "goes on" ]]' 10
[[ $(find "$W1" -path "$W1/.farm" -prune -o -type f -print | wc -l) == 1702 ]] || fail "something was deleted on web1"
rm "$W1/meanwhile"
farmctl --folder "$W2" confirm --reject
converge 60
[[ $(digest "$W1/d") == "$before" ]] || fail "web1 has changed"
[[ $(find "$W2" -maxdepth 1 -name 'stays-*' | wc -l) == 300 ]] || fail "not all is back"
wait_until '(( $(brake web2 cleared) == 1 )) && [[ $(state web2) == ready ]]' 20
wait $starting || fail "web2 did not become ready"

# more than half, and it is meant
lab stop web2 www
rm -r "$FARM_LAB/web2/www/d"
lab start web2 www >/dev/null 2>&1 &
starting=$!
wait_until '(( $(brake web2 raised) == 2 ))' 30
[[ $(digest "$W1/d") == "$before" ]] || fail "something was deleted before it was confirmed"
farmctl --folder "$W2" confirm
converge 60
[[ ! -e $W1/d && $(<"$W1/stays-7") == 7 ]] || fail "what was confirmed was not done"
wait $starting || fail "web2 did not become ready"

# another file system
lab stop web2 www
mv "$FARM_LAB/web2/.farmfs.www" "$FARM_LAB/web2/.farmfs.away"
refused any 'not the directory that was served before' "$(bin farmfs)" -f -c "$FARM_LAB/web2/etc/www.conf"
rm -r "$FARM_LAB/web2/.farmfs.www"
mv "$FARM_LAB/web2/.farmfs.away" "$FARM_LAB/web2/.farmfs.www"
lab start web2 www
converge 30
