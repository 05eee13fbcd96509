#!/usr/bin/env bash
# Everything: fetches the servers once, starts one Kafka and one Postgres in a temporary folder for the whole run, runs every
# test of the workspace, and ends the servers and removes the folder however it went. Arguments go to `cargo test`, for
# instance: ops/test.sh -p memori-writer. Where it fails, the servers' logs are kept and named.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

# An error is a line, not a stack; a panic keeps its own.
export RUST_LIB_BACKTRACE="${RUST_LIB_BACKTRACE:-0}"

# not below target/: another run may clean that
work=$(mktemp -d "${TMPDIR:-/tmp}/memori-test-XXXXXX")
finish() {
  local rc=$?
  trap - EXIT INT TERM
  "$here/servers.sh" stop "$work" || true
  if [ $rc != 0 ] && [ -f "$work/kafka/log" ]; then
    local logs; logs=$(mktemp -d "${TMPDIR:-/tmp}/memori-test-logs-XXXXXX")
    cp "$work/kafka/log" "$logs/kafka.log"; cp "$work/postgres/log" "$logs/postgres.log" 2>/dev/null || true
    echo "the tests failed (status $rc); the servers' logs: $logs/kafka.log $logs/postgres.log" >&2
  fi
  rm -rf "$work"
  exit $rc
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$here/servers.sh" fetch

# Lints /metrics. Without it one check is skipped, and says so.
if ! command -v promtool >/dev/null 2>&1; then
  as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
  apt=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  { "${apt[@]}" install -y -qq --no-install-recommends prometheus || { "${apt[@]}" update -qq && "${apt[@]}" install -y -qq --no-install-recommends prometheus; }; } \
    >/dev/null 2>&1 || echo "promtool could not be installed (Debian: apt-get install prometheus): metrics will not be linted" >&2
fi

if [ -z "${MEMORI_TEST_KAFKA:-}" ] || [ -z "${MEMORI_TEST_POSTGRES:-}" ]; then
  "$here/servers.sh" start "$work" >/dev/null
  while IFS='=' read -r name value; do export "$name=$value"; done <"$work/env"
fi

if [ $# = 0 ]; then
  # End-to-end tests run the real programs; the Python package's tests, the module.
  "${CARGO:-cargo}" build --locked --workspace
  export MEMORI_TEST_BINARIES=built
  # Each part to its end, whatever came of the others.
  failed=()
  python3 "$here/tests.py" || failed+=("the workspace's tests")
  "${CARGO:-cargo}" test --locked --workspace --doc --quiet || failed+=("the examples in the docs")
  "$here/python.sh" || failed+=("the Python package's tests")
  "$here/platform.sh" || failed+=("the platform's checks")
  if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
  fi
else
  "${CARGO:-cargo}" test --locked "$@"
fi
