# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What the scripts beside this file share: where the checkout is, how to speak, how to time a stage.
# Sourced, never run. It sets variables and defines functions and changes nothing else.

checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly checkout
# shellcheck disable=SC2034  # used by the scripts that source this file
readonly venv=$checkout/.venv

# One line of progress, on standard error so that a program's own output stays clean.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Ends the script; the message says what is wrong and what to do about it.
fail() {
    say "$*"
    exit 1
}

# Prints the comment block at the head of the calling script, which is its help.
usage() { sed -n '3,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

require_root() {
    [[ $EUID -eq 0 ]] || fail "needs root, because it $1. Run it as: sudo $0"
}
