#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# SQLite with a write-ahead log and with a rollback journal, several writers on one node.
# limit: 90
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own_dirs
rounds=$(fewer 60)
writer() { # DB TAG
    local i
    for ((i = 0; i < rounds; i++)); do
        sqlite3 -cmd '.timeout 20000' "$1" "insert into t(who, n, text) values('$2', $i, hex(randomblob(200)));" ||
            return 1
    done
}
for mode in wal delete truncate; do
    db=$A/$mode.db
    sqlite3 "$db" "pragma journal_mode=$mode; create table t(id integer primary key, who text, n int, text text);" >/dev/null
    pids=()
    for w in a b c; do
        writer "$db" "$w" &
        pids+=($!)
    done
    for p in "${pids[@]}"; do
        wait "$p" || fail "a writer in mode $mode"
    done
    [[ $(sqlite3 "$db" 'select count(*) from t') == $((rounds * 3)) ]] || fail "$mode: rows got lost"
    [[ $(sqlite3 "$db" 'pragma integrity_check') == ok ]] || fail "$mode: integrity"
done
sqlite3 "$A/wal.db" 'pragma wal_checkpoint(truncate)' >/dev/null
barrier web1
for mode in wal delete truncate; do
    [[ $(sqlite3 "file:$B/$mode.db?immutable=1" 'pragma integrity_check') == ok ]] || fail "$mode: integrity on web2"
    [[ $(sqlite3 "file:$B/$mode.db?immutable=1" 'select count(*) from t') == $((rounds * 3)) ]] || fail "$mode: rows on web2"
done
# killed in the middle of a transaction: the rollback journal works
sqlite3 "$A/delete.db" 'begin immediate; delete from t; select load_extension("/none");' >/dev/null 2>&1 || true
[[ $(sqlite3 "$A/delete.db" 'select count(*) from t') == $((rounds * 3)) ]] || fail "rollback"
barrier web1
same_all "www/$CASE"
