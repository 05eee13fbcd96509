#!/usr/bin/env bash
# Builds the Python wheel and prints its path. Plain: the one for people (release, one for all CPython from 3.10 on, without a Kafka
# client, its TLS inside), in target/wheels. With --dev: what the workspace's own build made of the module, packed for tests, in
# target/wheels/dev.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$(ops/python-tools.sh)
export PATH="$tools:$PATH"

if [ "${1:-}" != --dev ]; then
  out=$target/wheels
  maturin build --release --locked --manifest-path ingest/python/Cargo.toml --features vendored-tls --out "$out" >&2
  ls -t "$out"/memori_stream-*.whl | head -n 1
  exit
fi

"${CARGO:-cargo}" build --locked --quiet --workspace >&2
out=$target/wheels/dev
packed=$(mktemp -d "${TMPDIR:-/tmp}/memori-wheel-XXXXXX")
trap 'rm -rf "$packed" "$packed.log"' EXIT
(cd ingest/python && maturin pep517 write-dist-info --compatibility linux --metadata-directory "$packed" >/dev/null 2>"$packed.log") || { cat "$packed.log" >&2; exit 1; }
mkdir "$packed/memori"
(cd ingest/python/memori && find . -name '*.py' -o -name '*.pyi' -o -name py.typed) | while read -r file; do
  install -D -m 644 "ingest/python/memori/$file" "$packed/memori/$file"
done
strip --strip-debug -o "$packed/memori/_core.abi3.so" "$target/debug/lib_core.so"
rm -rf "$out"
mkdir -p "$out"
python -m wheel pack --dest-dir "$out" "$packed" >/dev/null
ls "$out"/memori_stream-*.whl
