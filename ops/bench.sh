#!/usr/bin/env bash
# Ratios to this machine's floors: builds everything optimised, starts its own Kafka and Postgres (durable), prints the table and
# writes target/bench/results.json. Arguments go to the bench, for instance: ops/bench.sh recall --quick
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo=${CARGO:-cargo}

ops/servers.sh fetch
# MEMORI_BENCH_PROFILE=dev shows whether it works, without an hour of optimising on a small machine.
profile=${MEMORI_BENCH_PROFILE:-release}
"$cargo" build --locked --profile "$profile" --workspace --bins
[ "$profile" = release ] || { WHEEL=$(ops/wheel.sh --dev); export WHEEL; }
MEMORI_TEST_BINARIES=built "$cargo" run --locked --profile "$profile" --quiet --package memori-bench -- "$@"
