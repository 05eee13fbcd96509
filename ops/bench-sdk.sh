#!/usr/bin/env bash
# What memory costs a Python program (bench/sdk), measured as its user has it: the release wheel, in a virtual environment of its own
# (target/python/bench). Arguments go to the bench, for instance: ops/bench-sdk.sh --quick. WHEEL names a wheel that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
python=${PYTHON:-python3}
uv=$(ops/python-tools.sh)/uv
wheel=$(realpath "${WHEEL:-$(ops/wheel.sh)}")
requirements=bench/sdk/requirements.txt

export UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_NO_PROGRESS=1
# uv does not read pip's settings.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}

venv=$target/python/bench
made=made-of-$({ "$python" -VV; cat "$requirements"; sha256sum "$wheel"; } | sha256sum | cut -d ' ' -f 1)
if [ ! -f "$venv/$made" ]; then
  echo "making the virtual environment of the SDK's bench" >&2
  rm -rf "$venv"
  "$uv" venv --quiet --python "$python" "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --only-binary :all: --requirement "$requirements" "$wheel"
  touch "$venv/$made"
fi
exec "$venv/bin/python" bench/sdk "$@"
