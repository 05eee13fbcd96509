#!/usr/bin/env bash
# Pins all that the lines' requirements (requirements-*.in) lead to, for every Python that they are tested with, in requirements-*.txt.
# Pins that are there and still fit stay; `--upgrade` among the arguments takes the newest.
set -euo pipefail
cd "$(dirname "$0")"

uv=$(../../../ops/python-tools.sh)/uv
for requirements in requirements-*.in; do
  oldest=3.11 # as FastAPI and Pydantic AI want it
  [ "$requirements" != requirements-interpreters.in ] || oldest=3.10
  "$uv" pip compile --quiet --universal --python-version "$oldest" --no-annotate --no-emit-index-url --no-emit-find-links \
    --custom-compile-command ingest/python/tests/compile-requirements.sh "$@" "$requirements" --output-file "${requirements%.in}.txt" >&2
done
