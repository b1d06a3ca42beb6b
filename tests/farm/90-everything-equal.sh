#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# After all the cases that shared this lab: the whole folder is equal on every node.
# limit: 120
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

barrier_all
converge 60
figure "$(find "$W1" -xdev | wc -l) files and directories, $(du -smx "$W1" | cut -f 1) MB, equal on $(nodes | wc -l) nodes"
for n in $(nodes); do
    figure "$n: worker $(($(rss_kb "$(worker "$n")") / 1024)) MB, link $(($(rss_kb "$(link_pid "$n")") / 1024)) MB resident"
done
