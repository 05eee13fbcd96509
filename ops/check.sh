#!/usr/bin/env bash
# Format, lints, spelling, licences. Tools that are missing go into the user's cache folder, never into the system.
# A tool that cannot be had is named at the end; with CHECK_STRICT=1 that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

typos_version=1.52.0
deny_version=0.20.2
tools=${XDG_CACHE_HOME:-$HOME/.cache}/memori-stream/tools
log=$(mktemp)
trap 'rm -f "$log"' EXIT
missing=()

step() { printf '== %s\n' "$*" >&2; }

# Runs quietly; shows the end of what it said only where it fails.
quiet() { "$@" >"$log" 2>&1 || { tail -n 5 "$log" >&2; return 1; }; }

# typos, from PyPI as a wheel: nothing is compiled.
typos_command() {
    if command -v typos >/dev/null; then command -v typos; return; fi
    local venv=$tools/typos-$typos_version
    if [ ! -x "$venv/bin/typos" ]; then
        step "installing typos $typos_version into $tools"
        { quiet python3 -m venv "$venv" && quiet "$venv/bin/pip" install --quiet "typos==$typos_version"; } || { rm -rf "$venv"; return 1; }
    fi
    printf '%s\n' "$venv/bin/typos"
}

# cargo-deny, built from crates.io: some minutes, once.
deny_command() {
    if command -v cargo-deny >/dev/null; then command -v cargo-deny; return; fi
    if [ ! -x "$tools/bin/cargo-deny" ]; then
        step "building cargo-deny $deny_version into $tools (some minutes, once)"
        quiet cargo install --quiet --locked --root "$tools" --version "$deny_version" cargo-deny || return 1
    fi
    printf '%s\n' "$tools/bin/cargo-deny"
}

step "format"
cargo fmt --all -- --check

step "lints"
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

step "spelling"
if typos=$(typos_command); then "$typos"; else missing+=("typos: pip install typos==$typos_version"); fi

step "licences, bans, sources"
if deny=$(deny_command); then
    "$deny" --locked check --hide-inclusion-graph licenses bans sources
else
    missing+=("cargo-deny: cargo install --locked cargo-deny --version $deny_version")
fi

if [ ${#missing[@]} -gt 0 ]; then
    printf 'NOT CHECKED, because the tool could not be installed: %s\n' "${missing[@]}" >&2
    [ -z "${CHECK_STRICT:-}" ] || exit 1
else
    step "all is well"
fi
