# shellcheck shell=bash
# SPDX-License-Identifier: GPL-3.0-or-later
# What the scripts share: one-line errors, steps with progress, builds, Debian packages as data.
# The caller has set -euo pipefail.

FARM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
FARM_CACHE=${FARM_CACHE:-/var/cache/farmfs-lab}
FARM_PROGRAM=${FARM_PROGRAM:-$(basename "$0")}

# shellcheck disable=SC2034 # for the scripts that read this file
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    C_BOLD=$'\e[1m' C_GREEN=$'\e[32m' C_RED=$'\e[31m' C_DIM=$'\e[2m' C_OFF=$'\e[0m'
else
    C_BOLD='' C_GREEN='' C_RED='' C_DIM='' C_OFF=''
fi

die() {
    printf '%s: %s\n' "$FARM_PROGRAM" "$*" >&2
    exit 1
}

usage_error() {
    printf '%s: %s (see %s --help)\n' "$FARM_PROGRAM" "$*" "$FARM_PROGRAM" >&2
    exit 2
}

need_root() {
    ((EUID == 0)) || die "must be run as root (sudo $0)"
}

now_ms() {
    local t=${EPOCHREALTIME/[.,]/}
    printf '%s' "$((t / 1000))"
}

seconds_since() { # MS of now_ms -> "3.4 s"
    local d=$(($(now_ms) - $1))
    printf '%d.%d s' $((d / 1000)) $((d % 1000 / 100))
}

spin() { # PID TEXT: a spinner with the elapsed seconds until PID ends
    local pid=$1 text=$2 start=$SECONDS i=0
    local -r marks='|/-\ '
    while kill -0 "$pid" 2>/dev/null; do
        printf '\r  %s %s %s%ds%s\e[K' "${marks:i++%4:1}" "$text" "$C_DIM" $((SECONDS - start)) "$C_OFF"
        sleep 0.2
    done
    printf '\r\e[K'
}

# step TEXT COMMAND...: runs it with output in a log; one line says what and how long. If it fails,
# says so with the tail of the log and returns the command's exit code.
step() {
    local text=$1 log start rc=0 pid
    shift
    log=$(mktemp)
    start=$(now_ms)
    if [[ -t 1 ]]; then
        "$@" >"$log" 2>&1 </dev/null &
        pid=$!
        spin "$pid" "$text"
        wait "$pid" || rc=$?
    else
        "$@" >"$log" 2>&1 </dev/null || rc=$?
    fi
    if ((rc == 0)); then
        printf '  %sok%s %s %s(%s)%s\n' "$C_GREEN" "$C_OFF" "$text" "$C_DIM" "$(seconds_since "$start")" "$C_OFF"
    else
        printf '  %sFAILED%s %s (exit %d after %s); the end of its output:\n' \
            "$C_RED" "$C_OFF" "$text" "$rc" "$(seconds_since "$start")" >&2
        tail -n 40 "$log" | sed 's/^/    /' >&2
    fi
    rm -f "$log"
    return "$rc"
}

missing_packages() { # names that are not installed, one a line
    local have
    have=" $({ dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true; } |
        awk '$2 == "installed" { printf "%s ", $1 }') "
    local p
    for p; do
        [[ $have == *" $p "* ]] || printf '%s\n' "$p"
    done
}

build_dir_of() { # PRESET
    case $1 in
        release) printf '%s' "$FARM_ROOT/build" ;;
        dev | asan | tsan | coverage) printf '%s' "$FARM_ROOT/build-$1" ;;
        *) die "no such preset: $1 (dev, release, asan, tsan or coverage)" ;;
    esac
}

configure_build() { # PRESET DIR
    local type=RelWithDebInfo sanitize='' werror=OFF flags=''
    case $1 in
        dev) type=Debug werror=ON ;;
        asan) sanitize=address,undefined ;;
        tsan) sanitize=thread ;;
        coverage) type=Debug flags=--coverage ;;
    esac
    cmake -S "$FARM_ROOT" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=$type -DFARM_SANITIZE=$sanitize \
        -DFARM_WERROR=$werror -DCMAKE_C_FLAGS="$flags" -DCMAKE_C_COMPILER_LAUNCHER="$(command -v ccache || true)"
}

find_binary() { # BUILD NAME: its path; the layout of a build tree is the build's own affair
    local d
    for d in "$1" "$1/bin" "$1/src" "$1/src/ctl" "$1/tests/tools"; do
        if [[ -f $d/$2 && -x $d/$2 ]]; then
            printf '%s' "$d/$2"
            return 0
        fi
    done
    return 1
}

package_lists() { # PACKAGE: apt's lists are there and know it, or are fetched
    apt-cache show "$1" >/dev/null 2>&1 || apt-get -q update >&2 || true
}

# debian_tree PACKAGE...: unpacks Debian packages as data, without installing them (they would pull
# in a database and another web server), and prints the directory: the files below it are as in /.
debian_tree() {
    local package=$1 dir work
    dir=$FARM_CACHE/$package
    if [[ ! -e $dir/.complete ]]; then
        package_lists "$package"
        mkdir -p "$FARM_CACHE"
        work=$(mktemp -d "$FARM_CACHE/.unpack.XXXXXX")
        chmod 755 "$work"
        if ! (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$@") >&2; then
            rm -rf "$work"
            die "cannot download the Debian package $package (is there a mirror in the apt sources? try: apt-get update)"
        fi
        local deb
        for deb in "$work"/*.deb; do
            dpkg-deb -x "$deb" "$work/tree"
        done
        rm -rf "$dir"
        mv "$work/tree" "$dir"
        touch "$dir/.complete"
        rm -rf "$work"
    fi
    printf '%s' "$dir"
}

# wordpress_tree DIR: Debian's WordPress as one tree of its own.
wordpress_tree() {
    local from
    from=$(debian_tree wordpress) || return
    mkdir -p "$1"
    cp -a "$from/usr/share/wordpress/." "$1/"
}

# dokuwiki_tree DIR: Debian's DokuWiki made self-contained (the packages spread it over /usr, /etc and
# /var/lib) and open to edits without a login.
dokuwiki_tree() {
    local from to=$1 part
    local -a libraries
    package_lists dokuwiki
    mapfile -t libraries < <(apt-cache depends dokuwiki 2>/dev/null |
        awk '$1 == "Depends:" && $2 ~ /^(lib)?php-/ && $2 != "php-xml" { print $2 }')
    from=$(debian_tree dokuwiki "${libraries[@]}") || return
    mkdir -p "$to"
    cp -a "$from/usr/share/dokuwiki/." "$to/"
    # links out of the tree, and the file that sends DokuWiki to /etc
    find "$to" -type l -delete
    rm -f "$to/inc/preload.php"
    mkdir -p "$to/conf" "$to/data" "$to/lib/plugins" "$to/lib/tpl" "$to/vendor/php"
    cp -a "$from/etc/dokuwiki/." "$to/conf/"
    find "$to/conf" -type l -delete
    cp -a "$from/var/lib/dokuwiki/data/." "$to/data/"
    for part in plugins tpl; do
        cp -a "$from/var/lib/dokuwiki/lib/$part/." "$to/lib/$part/"
    done
    for part in attic cache index locks log media media_attic media_meta meta pages tmp; do
        mkdir -p "$to/data/$part"
    done
    # the PHP libraries, which the package expects in /usr/share
    cp -aL "$from/usr/share/php/." "$to/vendor/php/" 2>/dev/null || true
    cp -aL "$from"/usr/share/php-* "$to/vendor/" 2>/dev/null || true
    sed -i -e "s|\$vendorDir \. '/usr/share|'/usr/share|" -e "s|'/usr/share/php|__DIR__ . '/../php|" \
        "$to"/vendor/composer/*.php
    sed -i "s|'/usr/share/php|__DIR__ . '/../vendor/php|" "$to"/inc/*.php
    cat >"$to/conf/local.php" <<'PHP'
<?php
$conf['title'] = 'farm';
$conf['useacl'] = 0;
$conf['savedir'] = './data';
$conf['updatecheck'] = 0;
PHP
    printf '====== Hello ======\nThis page is a file.\n' >"$to/data/pages/start.txt"
}
