#!/usr/bin/env bash
# The Python package's tests: its wheel, in a virtual environment for each of the supported lines of SDKs
# (ingest/python/tests/requirements-*.txt) and for each CPython that is there, in target/python. The newest line runs every test; the
# others what depends on the SDKs; each CPython the public API. Says one line for each, shows what failed, and goes on.
#
# LINES names some of the lines, WHEEL a wheel that is built already, PYTHON the Python of the lines (3.11 or newer). Arguments go to
# pytest, in place of the choice of tests.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
python=${PYTHON:-python3}
tests=$PWD/ingest/python/tests

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "the tests need Python 3.11 or newer: name one in PYTHON" >&2; exit 1; }
uv=$(ops/python-tools.sh)/uv
wheel=$(realpath "${WHEEL:-$(ops/wheel.sh --dev)}")
export MEMORI_BINARY=${MEMORI_BINARY:-$target/debug/memori}

export UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_NO_PROGRESS=1
# uv does not read pip's settings.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}

# prepare NAME LINE PYTHON: the virtual environment NAME with a line's packages and the wheel; says nothing when all is there
prepare() {
  local venv=$target/python/$1 requirements=$tests/requirements-$2.txt made wheels
  made=made-of-$({ "$3" -VV; cat "$requirements"; } | sha256sum | cut -d ' ' -f 1)
  if [ ! -f "$venv/$made" ]; then
    rm -rf "$venv"
    "$uv" venv --quiet --python "$3" "$venv" && "$uv" pip install --quiet --python "$venv/bin/python" --only-binary :all: --requirement "$requirements" || return
    touch "$venv/$made"
  fi
  # The same version may have other contents.
  wheels=wheel-$(sha256sum "$wheel" | cut -d ' ' -f 1)
  if [ ! -f "$venv/$wheels" ]; then
    rm -f "$venv"/wheel-*
    "$uv" pip install --quiet --python "$venv/bin/python" --reinstall --no-deps --offline "$wheel" || return
    touch "$venv/$wheels"
  fi
}

# check NAME LINE PYTHON ARGUMENT…: prepares, runs pytest with the arguments, and says what came of it
check() {
  local name=$1 line=$2 interpreter=$3 log=$target/python/$1.log rc=0
  shift 3
  if prepare "$name" "$line" "$interpreter" >"$log" 2>&1; then
    # From the tests' own folder, so that the package is the installed one.
    (cd "$tests" && exec "$target/python/$name/bin/python" -m pytest --quiet --durations 5 "$@") >"$log" 2>&1 || rc=$?
  else
    echo "its packages cannot be installed" >>"$log"
    rc=1
  fi
  # One after the other, not line by line in between.
  exec 8>"$target/python/said.lock"
  flock 8
  # 5: the arguments choose none of its tests.
  if [ $rc != 0 ] && [ $rc != 5 ]; then
    echo "$name" >>"$failed"
    cat "$log" >&2
  fi
  # pytest's count, behind which a dying process may still have said something
  echo "$name: $(grep -E '^[0-9]+ (passed|failed|skipped|error|deselected)' "$log" | tail -n 1)"
}

# Each in a process group of its own, so that an interrupt ends all that they started.
set -m
failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null; done; exit 130' INT TERM

# two ARGUMENT…: check, beside one other at most
two() {
  while [ "$(jobs -pr | wc -l)" -ge 2 ]; do wait -n || true; done
  check "$@" </dev/null &
}

for line in newest frameworks previous middle oldest; do
  case " ${LINES:-$line} " in *" $line "*) ;; *) continue ;; esac
  if [ $# != 0 ]; then
    chosen=("$@")
  else
    case $line in
      newest | frameworks) chosen=() ;; # conftest.py knows which are whose
      *) chosen=(test_surfaces.py test_context.py test_places.py test_seed.py) ;;
    esac
  fi
  two "$line" "$line" "$python" ${chosen[@]+"${chosen[@]}"}
  # Alone: some of its tests measure.
  [ "$line" != newest ] || wait
done

# interpreter VERSION: where it is, on PATH or among pyenv's
interpreter() {
  local found
  for found in "$("$uv" python find --no-project "$1" 2>/dev/null)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if [ -n "$found" ] && "$found" -c 'import ssl, sqlite3' 2>/dev/null; then echo "$found"; return; fi
  done
  return 1
}

case " ${LINES:-interpreters} " in *" interpreters "*)
  if [ $# != 0 ]; then chosen=("$@"); else chosen=(test_api.py); fi
  for version in 3.10 3.11 3.12 3.13 3.14; do
    found=$(interpreter "$version") || continue
    two "python$version" interpreters "$found" "${chosen[@]}"
  done
esac
wait

if [ -s "$failed" ]; then
  echo "failed: $(paste -sd ' ' "$failed")" >&2
  exit 1
fi
