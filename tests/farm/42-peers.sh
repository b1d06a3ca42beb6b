#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Peers that are not who they should be: an unknown or changed host key (refused, with the
# fingerprint), a key that is not admitted, another folder, an unknown folder, garbage in the stream.
# Each is told in one clear line, and what is right goes on working.
# lab: own
# limit: 180
# expect-log: .
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

etc1=$FARM_LAB/web1/etc etc2=$FARM_LAB/web2/etc
works() { # TEXT: web1 -> web3 is not disturbed
    printf '%s' "$1" >"$W1/works"
    wait_until "[[ \$(cat '$W3/works' 2>/dev/null) == '$1' ]]" 15
}
works start

# web1 dials web2 (the smaller name dials): so web1 is the one to judge the host key
cp "$etc1/known_hosts" "$TMP/known_hosts"
ssh-keygen -q -t ed25519 -N '' -f "$TMP/wrong"
print=$(ssh-keygen -lf "$etc2/ssh_host_ed25519.pub" | grep -o 'SHA256:[^ ]*')
print=${print//+/[+]} # as a regular expression
sed -i "s|^\($("$LAB" addr web2)\) .*|\1 $(cut -d ' ' -f 1,2 "$TMP/wrong.pub")|" "$etc1/known_hosts"
mark web1
lab restart web1 www
told web1 "$print"
works changed-host-key
printf 'not by this way' >"$W1/via-3"
wait_until '[[ -e $W2/via-3 ]]' 15 # through web3, which is trusted

grep -v "^$("$LAB" addr web2) " "$TMP/known_hosts" >"$etc1/known_hosts"
mark web1
lab restart web1 www
told web1 "unknown.*$print|$print.*unknown"
works unknown-host-key
cp "$TMP/known_hosts" "$etc1/known_hosts"

# a key nobody admits
cp -p "$etc1/id_ed25519" "$TMP/id_ed25519"
cat "$TMP/wrong" >"$etc1/id_ed25519"
mark web1
lab restart web1 www
told web1 'refuses our key'
printf 'local' >"$W1/local-write"
cat "$TMP/id_ed25519" >"$etc1/id_ed25519"
lab restart web1 www
wait_until '[[ -e $W2/local-write ]]' 20
works key-restored

# a peer that talks of another folder under the same name
cp "$etc2/www.conf" "$TMP/www.conf"
sed -i 's/^id = .*/id = 00000000deadbeef/' "$etc2/www.conf"
lab stop web2 www
mv "$FARM_LAB/web2/state/www" "$FARM_LAB/web2/state/www.own"
mv "$FARM_LAB/web2/.farmfs.www" "$FARM_LAB/web2/.farmfs.www.own"
mkdir "$FARM_LAB/web2/state/www"
mark web1
lab start web2 www
told web1 'another folder|folder id|00000000deadbeef'
printf 'secret of another folder' >"$W2/foreign"
works other-folder
sleep 2
[[ ! -e $W1/foreign && ! -e $W3/foreign ]] || fail "another folder's files came in"
lab stop web2 www
rm -r "$FARM_LAB/web2/state/www" "$FARM_LAB/web2/.farmfs.www" "$W2/foreign"
mv "$FARM_LAB/web2/.farmfs.www.own" "$FARM_LAB/web2/.farmfs.www"
mv "$FARM_LAB/web2/state/www.own" "$FARM_LAB/web2/state/www"
cp "$TMP/www.conf" "$etc2/www.conf"
lab start web2 www
converge 30

# what a node gets from a stranger who holds another node's key. web2 is the one that is called by
# web1 (the smaller name dials), whose own farmfs is stopped while we speak in its name.
relay=("$LAB" exec web1 -- ssh -T -i "$etc1/id_ed25519" -o "UserKnownHostsFile=$etc1/known_hosts"
    -o BatchMode=yes -o StrictHostKeyChecking=yes "farmfs@$("$LAB" addr web2)") # then COMMAND
refused any 'nosuch' "${relay[@]}" 'farmfs-relay nosuch'
refused any 'folder|command' "${relay[@]}" 'farmfs-relay ../../etc/passwd'
refused any 'folder|command' "${relay[@]}" 'farmfs-relay www; id'
refused any 'command' "${relay[@]}" id
refused any 'only' "${relay[@]}"
speak() { # COMMAND...: web2 reads its output as from web1, and a while of silence
    mark web2
    { "$@" </dev/null && sleep 2; } | timeout 20 "${relay[@]}" 'farmfs-relay www' >"$TMP/answer" 2>&1 || true
}
still_works() { # TEXT: web2 goes on with web3
    printf '%s' "$1" >"$W2/works"
    wait_until "[[ \$(cat '$W3/works' 2>/dev/null) == '$1' ]]" 15
}
id=$(sed -n 's/^id = //p' "$etc1/www.conf")
lab stop web1 www
speak "$(bin farmhello)" 999 "$id" web1 www
told web2 'protocol'
speak "$(bin farmhello)" ours 00000000deadbeef web1 www
told web2 'another folder|folder id|00000000deadbeef'
speak "$(bin farmhello)" ours "$id" web3 www # web1's key, another's name
told web2 'web3.*web1|web1.*web3'
speak "$(bin farmhello)" ours "$id" web1 www 4 # then RECORDS that are none
still_works bad-records
for bytes in 1 23 100 100000; do
    speak head -c "$bytes" /dev/urandom
done
told web2 'frame|garbage|malformed|corrupt|dropped|understood'
still_works garbage
lab start web1 www
converge 30
