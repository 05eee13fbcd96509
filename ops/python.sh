#!/usr/bin/env bash
# The Python package's tests: its wheel, in a virtual environment for each of the supported lines of SDKs
# (ingest/python/tests/requirements-*.txt), in target/python. Arguments go to pytest; LINES names some of the lines,
# and WHEEL a wheel that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
python=${PYTHON:-python3}
tests=ingest/python/tests

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "the Python package needs Python 3.10 or newer: name one in PYTHON" >&2; exit 1; }
wheel=$(realpath "${WHEEL:-$(ops/wheel.sh --dev)}")

for requirements in "$tests"/requirements-*.txt; do
  line=$(basename "$requirements" .txt); line=${line#requirements-}
  case " ${LINES:-$line} " in *" $line "*) ;; *) continue ;; esac
  venv=$target/python/$line
  wanted=$({ "$python" -VV; cat "$requirements"; } | sha256sum | cut -d ' ' -f 1)
  if [ ! -f "$venv/made-of-$wanted" ]; then
    echo "making the virtual environment of the line $line" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" "$wheel" >&2
    touch "$venv/made-of-$wanted"
  fi
  # The same version with other contents.
  "$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps --no-index "$wheel" >&2
  echo "the Python package with the SDKs of the line $line" >&2
  # From the tests' own folder, so that the package is the installed one.
  (cd "$tests" && "$venv/bin/python" -m pytest --quiet "$@")
done
