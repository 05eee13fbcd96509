#!/usr/bin/env bash
# Installs what builds and installs Python packages here, by exact version, once, into target/python/tools, and prints its folder of
# programs. Quiet when all is there; two that ask at once get the same.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python/tools
packages=(maturin==1.16.0 wheel==0.48.0 uv==0.13.9)
python=${PYTHON:-python3}
wanted=$({ "$python" -VV; echo "${packages[@]}"; } | sha256sum | cut -d ' ' -f 1)

mkdir -p "$(dirname "$tools")"
exec 9>"$tools.lock"
flock 9
if [ ! -f "$tools/made-of-$wanted" ]; then
  "$python" -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make a virtual environment: run 'make setup' (Debian: apt-get install python3-venv)" >&2; exit 1; }
  echo "installing ${packages[*]} into $tools" >&2
  rm -rf "$tools"
  "$python" -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${packages[@]}" >&2
  touch "$tools/made-of-$wanted"
fi
echo "$tools/bin"
