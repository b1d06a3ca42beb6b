# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What every end-to-end case has. The runner sets: CASE (the case's name), TMP (a private directory
# outside every mount), FARM_LAB, FARM_BUILD, FARM_SLOW (1; more under sanitizers), and for cases
# with a lab W1 W2 W3, C1 C2 C3 (the mounts) exist as functions of it below.
#
# A case exits 0, or 77 to be skipped, or with anything else to fail. A line that starts with "# "
# is a figure for the reader of the test's output.

set -Eeuo pipefail
trap 'printf "failed: %s line %d: %s\n" "${BASH_SOURCE[0]:-}" "$LINENO" "$BASH_COMMAND" >&2' ERR

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LAB=$ROOT/scripts/lab
FARM_SLOW=${FARM_SLOW:-1}
W1=${FARM_LAB:-}/web1/www W2=${FARM_LAB:-}/web2/www W3=${FARM_LAB:-}/web3/www
export W1 W2 W3

fail() {
    printf 'failed: %s\n' "$*" >&2
    trap - ERR
    exit 1
}

skip() {
    printf 'skip: %s\n' "$*"
    exit 77
}

figure() { printf '# %s\n' "$*"; }

bin() { # NAME: a program of the build under test
    local d
    for d in "$FARM_BUILD" "$FARM_BUILD/bin" "$FARM_BUILD/src" "$FARM_BUILD/src/ctl" "$FARM_BUILD/tests/tools" "$FARM_BUILD/tests/cut"; do
        if [[ -f $d/$1 && -x $d/$1 ]]; then
            printf '%s' "$d/$1"
            return
        fi
    done
    fail "no $1 in $FARM_BUILD"
}

poke() { "$(bin farmpoke)" "$@"; }
farmctl() { "$(bin farmctl)" "$@"; }
lab() { "$LAB" "$@"; }

mount_of() { printf '%s/%s/%s' "$FARM_LAB" "$1" "$2"; }

now_ms() {
    local t=${EPOCHREALTIME/[.,]/}
    printf '%s' "$((t / 1000))"
}

slower() { printf '%s' $(($1 * FARM_SLOW)); }
fewer() { printf '%s' $(($1 / FARM_SLOW > 0 ? $1 / FARM_SLOW : 1)); }

wait_until() { # COMMAND LIMIT_S: evaluates it every 50 ms
    local start limit
    start=$(now_ms)
    limit=$(slower "$2")
    until eval "$1"; do
        (($(now_ms) - start < limit * 1000)) || fail "not within $limit s: $1"
        sleep 0.05
    done
}

barrier() { # NODE [FOLDER] [LIMIT_S]: what was written there is on every reachable node
    farmctl --folder "$(mount_of "$1" "${2:-www}")" barrier --timeout "$(slower "${3:-30}")" >/dev/null ||
        fail "barrier on $1 ${2:-www}"
}

barrier_all() { # [FOLDER]
    local n
    for n in $(nodes); do
        barrier "$n" "${1:-www}"
    done
}

nodes() {
    local d
    for d in "$FARM_LAB"/web*/; do
        d=${d%/}
        printf '%s\n' "${d##*/}"
    done | sort
}

digest() { "$(bin treedigest)" "$1"; }

same_trees() { # DIR DIR: by rsync both as it sees them and by digest; says what differs
    local out
    if [[ $(digest "$1") != $(digest "$2") ]]; then
        diff <("$(bin treedigest)" -l "$1") <("$(bin treedigest)" -l "$2") | head -n 20 >&2 || true
        return 1
    fi
    out=$(rsync -aHAXnc --delete --itemize-changes --numeric-ids --exclude=/.farm "$1/" "$2/") || return 1
    if [[ -n $out ]]; then
        printf '%s\n' "$out" | head -n 20 >&2
        return 1
    fi
}

same() { # NODE NODE [FOLDER[/SUB]]
    same_trees "$(mount_of "$1" "${3:-www}")" "$(mount_of "$2" "${3:-www}")" ||
        fail "$1 and $2 differ in ${3:-www}"
}

same_all() { # [FOLDER[/SUB]]: all nodes equal to the first
    local n
    for n in $(nodes | tail -n +2); do
        same web1 "$n" "${1:-www}"
    done
}

equal_digests() { # FOLDER[/SUB]: quietly, for waiting
    local n first='' d
    for n in $(nodes); do
        d=$(digest "$(mount_of "$n" "$1")" 2>/dev/null) || return 1
        first=${first:-$d}
        [[ $d == "$first" ]] || return 1
    done
}

converge() { # LIMIT_S [FOLDER[/SUB]]: all nodes become equal within that time
    local start limit
    start=$(now_ms)
    limit=$(slower "$1")
    until equal_digests "${2:-www}"; do
        if (($(now_ms) - start > limit * 1000)); then
            same_all "${2:-www}"
            fail "not equal within $limit s: ${2:-www}"
        fi
        sleep 0.1
    done
    same_all "${2:-www}"
}

# own_dirs: a directory for the case on web1's www, seen everywhere; A, B, C are it on web1, 2, 3.
own_dirs() {
    A=$W1/$CASE B=$W2/$CASE C=$W3/$CASE
    mkdir "$A"
    barrier web1
    [[ -d $B ]] || fail "$B is not there after the barrier"
    if [[ -d $W3 ]]; then
        [[ -d $C ]] || fail "$C is not there after the barrier"
    fi
}

worker() { cat "$FARM_LAB/$1/state/${2:-www}/worker.pid"; } # NODE [FOLDER]
link_pid() { cat "$FARM_LAB/$1/state/${2:-www}/link.pid"; }
state() { timeout 5 cat "$(mount_of "$1" "${2:-www}")/.farm/state" 2>/dev/null || printf absent; }
log_of() { printf '%s/%s/log/%s.log' "$FARM_LAB" "$1" "${2:-www}"; }

kill_worker() { # NODE [FOLDER]: kill -9, and wait for the next one
    local old
    old=$(worker "$@")
    kill -KILL "$old" 2>/dev/null || true
    wait_until "[[ \$(worker $* 2>/dev/null || echo $old) != $old ]]" 20
}

rss_kb() { # PID
    awk '/^VmRSS:/ { print $2 }' "/proc/$1/status"
}

# zoo DIR: one of everything a file system has, made in DIR.
zoo() {
    local d=$1 i name
    mkdir -p "$d"
    (
        cd "$d"
        umask 022
        printf 'plain\n' >plain
        : >empty
        mkdir empty-dir sticky setgid 'dir with spaces'
        chmod 1777 sticky
        chgrp 33 setgid
        chmod 2775 setgid
        : >setgid/inherits
        head -c 1000000 /dev/urandom >big
        printf 'linked' >hard-1
        mkdir links
        ln hard-1 hard-2
        ln hard-1 links/hard-3
        ln -s plain sym-relative
        ln -s /nowhere/at/all sym-absolute
        ln -s missing sym-dangling
        ln -s "$(printf 'x%.0s' {1..3000})" sym-long
        ln -s .. links/sym-up
        mkfifo fifo
        truncate -s 5M sparse
        printf 'middle' | dd of=sparse bs=1 seek=3000000 conv=notrunc status=none
        printf 'mode' >mode-0000
        printf 'mode' >mode-0444
        printf 'mode' >mode-0777
        chmod 0000 mode-0000
        chmod 0444 mode-0444
        chmod 0777 mode-0777
        printf 'owner' >owner
        chown 1234:5678 owner
        mkdir owned-dir
        chown 33:33 owned-dir
        chown -h 1234:33 sym-relative
        printf 'xattr' >xattr
        setfattr -n user.text -v hello xattr
        setfattr -n user.binary -v 0x00ff00fe xattr
        setfattr -n user.long -v "$(printf 'v%.0s' {1..2000})" xattr
        setfattr -n user.empty xattr
        setfattr -n user.on-a-directory -v yes empty-dir
        printf 'acl' >acl
        setfacl -m u:1234:rw-,g:33:r--,m::rw- acl
        mkdir acl-dir
        setfacl -m u:33:rwx,d:u:33:rwx,d:g:5678:r-x,d:m::rwx acl-dir
        : >acl-dir/inherits-acl
        mkdir acl-dir/inherits-acl-too
        for i in 1 9 10 13 27 32 34 39 42 63 92 127 128 160 192 255; do
            name=$(printf 'byte-\\x%02x-end' "$i")
            printf -v name '%b' "$name"
            printf '%d' "$i" >"$name"
        done
        name=$(printf 'n%.0s' {1..255})
        printf 'long' >"$name"
        printf 'utf' >'žluťoučký kůň 漢字 🐎'
        printf 'dots' >...
        printf 'dash' >-dash
        mkdir deep
        (
            cd deep
            name=$(printf 'd%.0s' {1..100})
            for i in {1..30}; do
                mkdir "$name"
                cd "./$name"
            done
            printf 'bottom' >bottom
        )
        mkdir -p many
        for ((i = 0; i < 200; i++)); do
            printf '%d' "$i" >"many/$i"
        done
        touch -d '2001-02-03 04:05:06.123456789Z' plain
        touch -d '1969-12-31 23:59:58.5Z' empty
        touch -d '2038-01-19 03:14:08.999999999Z' mode-0777
        touch -h -d '2010-10-10 10:10:10.101010101Z' sym-dangling
        touch -d '2005-05-05 05:05:05.555555555Z' empty-dir
        touch -d '2006-06-06 06:06:06.666666666Z' many
    )
}

# refused CODE REGEX COMMAND...: the command ends with that exit code (or "any" but 0) within 20 s and
# says one line that matches.
refused() {
    local want=$1 regex=$2 rc=0 out
    shift 2
    out=$(timeout -k 2 "$(slower 20)" "$@" 2>&1 </dev/null) || rc=$?
    if [[ $want == any ]]; then
        ((rc != 0 && rc != 124)) || fail "exit $rc of: $* ($out)"
    else
        ((rc == want)) || fail "exit $rc instead of $want of: $* ($out)"
    fi
    [[ $(wc -l <<<"$out") == 1 && -n $out ]] || fail "not one line: $out"
    [[ $out =~ $regex ]] || fail "does not say $regex: $out"
    [[ -n ${FARM_SANITIZER:-} ]] || figure "$out"
}

# mark NODE: what `told` looks for must be said after this
declare -A MARK=()
mark() {
    MARK[$1]=$(stat -c %s "$(log_of "$1")")
}

said() { # NODE REGEX: since the mark, in the log (events are logged) or in a peer's error file
    tail -c "+$((${MARK[$1]:-0} + 1))" "$(log_of "$1")" | grep -qE -- "$2" ||
        cat "$(mount_of "$1" www)"/.farm/peers/*/error 2>/dev/null | grep -qE -- "$2"
}

told() { # NODE REGEX [LIMIT_S]
    wait_until "said '$1' '$2'" "${3:-15}"
}
