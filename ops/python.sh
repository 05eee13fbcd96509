#!/usr/bin/env bash
# The Python package's tests: its wheel, in a virtual environment for each of the supported lines of SDKs
# (ingest/python/tests/requirements-*.txt) and for each CPython that is there, in target/python. The newest line runs every test; the
# others what depends on the SDKs; each CPython the public API. Says one line for each, shows what failed, and goes on to the next.
#
# LINES names some of the lines, WHEEL a wheel that is built already, PYTHON the Python of the lines (3.11 or newer). Arguments go to
# pytest, in place of the choice of tests.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
python=${PYTHON:-python3}
tests=$PWD/ingest/python/tests
interpreters=(3.10 3.11 3.12 3.13 3.14)

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
    echo "making the virtual environment $1" >&2
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

failed=()
# check NAME LINE PYTHON ARGUMENT…: prepares, then runs pytest with the arguments
check() {
  local name=$1 line=$2 interpreter=$3 log=$target/python/$1.log rc=0 result
  shift 3
  if ! prepare "$name" "$line" "$interpreter"; then
    echo "$name: its packages cannot be installed" >&2
    failed+=("$name")
    return
  fi
  # From the tests' own folder, so that the package is the installed one.
  (cd "$tests" && exec "$target/python/$name/bin/python" -m pytest --quiet --durations 5 "$@") >"$log" 2>&1 || rc=$?
  result=$(tail -n 1 "$log")
  # 5: the arguments choose none of its tests.
  if [ $rc != 0 ] && [ $rc != 5 ]; then
    failed+=("$name")
    cat "$log" >&2
  fi
  echo "$name: $result"
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
  check "$line" "$line" "$python" ${chosen[@]+"${chosen[@]}"}
done

case " ${LINES:-interpreters} " in *" interpreters "*)
  for version in "${interpreters[@]}"; do
    found=$("$uv" python find --no-project "$version" 2>/dev/null) || continue
    if [ $# != 0 ]; then chosen=("$@"); else chosen=(test_api.py); fi
    check "python$version" interpreters "$found" "${chosen[@]}"
  done
esac

if [ ${#failed[@]} != 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
