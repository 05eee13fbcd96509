#!/usr/bin/env bash
# What memory costs a Python program (bench/sdk), measured as its user has it: the release wheel, in a virtual environment of its own
# (target/python/bench). Arguments go to the bench, for instance: ops/bench-sdk.sh --quick. WHEEL names a wheel that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
python=${PYTHON:-python3}
wheel=$(realpath "${WHEEL:-$(ops/wheel.sh)}")
requirements=bench/sdk/requirements.txt

venv=$target/python/bench
wanted=$({ "$python" -VV; cat "$requirements"; } | sha256sum | cut -d ' ' -f 1)
if [ ! -f "$venv/made-of-$wanted" ]; then
  echo "making the virtual environment of the SDK's bench" >&2
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" "$wheel" >&2
  touch "$venv/made-of-$wanted"
fi
# The same version with other contents.
"$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps --no-index "$wheel" >&2
exec "$venv/bin/python" bench/sdk "$@"
