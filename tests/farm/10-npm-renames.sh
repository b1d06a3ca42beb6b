#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# npm ci of a small project, and the rename storms of a package manager that swaps directories.
# limit: 90
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
storm() ( # DIR: versions of 12 packages are unpacked beside, the old moved away, the new moved in
    cd "$1"
    mkdir vendor
    for round in 1 2 3 4 5; do
        for p in {1..12}; do
            mkdir -p "vendor/.tmp-$p/src"
            for f in {1..6}; do
                printf 'package %d file %d version %d\n' "$p" "$f" "$round" >"vendor/.tmp-$p/src/f$f"
            done
            printf '%d' "$round" >"vendor/.tmp-$p/version"
            if [[ -d vendor/p$p ]]; then
                mv "vendor/p$p" "vendor/.old-$p"
            fi
            mv "vendor/.tmp-$p" "vendor/p$p"
            rm -rf "vendor/.old-$p"
        done
        printf 'round %d\n' "$round" >vendor/.lock.new
        mv vendor/.lock.new vendor/lock
        mv vendor "vendor-$round" && mv "vendor-$round" vendor
    done
    find . | sort
    find . -type f -exec sha256sum {} + | sort
)
mkdir "$TMP/plain" "$A/storm"
diff <(storm "$TMP/plain") <(storm "$A/storm")
barrier web1
same_all "www/$CASE"

command -v npm >/dev/null || skip "no npm (rename storms passed)"
project() ( # DIR
    mkdir -p "$1/lib/bin"
    cd "$1"
    printf '{"name":"site","version":"1.0.0","private":true,"dependencies":{"lib":"file:./lib"}}' >package.json
    printf '{"name":"lib","version":"1.2.3","main":"index.js","bin":{"lib":"bin/lib.js"}}' >lib/package.json
    printf 'module.exports = 42;\n' >lib/index.js
    printf '#!/usr/bin/env node\nconsole.log(require(".."));\n' >lib/bin/lib.js
    cat >package-lock.json <<'JSON'
{"name":"site","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{
"":{"name":"site","version":"1.0.0","dependencies":{"lib":"file:./lib"}},
"lib":{"version":"1.2.3","bin":{"lib":"bin/lib.js"}},
"node_modules/lib":{"resolved":"lib","link":true}}}
JSON
    npm_config_cache="$TMP/npm-cache" npm_config_update_notifier=false \
        npm ci --offline --no-audit --no-fund --install-links=false >"$TMP/npm.log" 2>&1 || {
        cat "$TMP/npm.log"
        return 1
    }
    node -e 'console.log(require("lib"))'
    node node_modules/.bin/lib
    find . ! -name .package-lock.json | sort
)
diff <(project "$TMP/site") <(project "$A/site")
project "$A/site" >/dev/null # a second time: npm removes node_modules first
barrier web1
[[ $(cd "$B/site" && node -e 'console.log(require("lib"))') == 42 ]] || fail "the project does not run on web2"
same_all "www/$CASE"
