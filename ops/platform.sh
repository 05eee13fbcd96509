#!/usr/bin/env bash
# What a platform runs, held: the chart, compose, rules, dashboards. Parts by name, or all:
#
#   ops/platform.sh [chart] [metrics] [contract] [compose] [cluster] [scale] [image]
#
#   chart     lint, values against the API's schemas, hostile values, security of every pod
#   metrics   rules and dashboards against docs/metrics.md, every alert firing and clearing, runbooks
#   contract  the HTTP API against its OpenAPI document: no 5xx, nothing that it does not name, nothing without a key
#   compose   docker-compose.yml read by Compose itself, then every service as a plain process: a conversation, a scrape, alerts in incidents
#   cluster   the chart on a real API server: install, upgrade, rollback. Its control plane takes about eight minutes to build, once: it is
#             built where MEMORI_PLATFORM=1, MEMORI_SOAK or its name asks, and used wherever the cache has it
#   scale     workers 1 → 8 → 2 by what the chart's ScaledObject says, while the load goes up and down: four minutes, where one of these asks
#   image     the Dockerfile's last stage, built with buildah and run on a read-only file system: likewise, as root
#
# Programs are taken from CARGO_TARGET_DIR/debug, which must be built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

parts=("$@")
named=$#
[ ${#parts[@]} -gt 0 ] || parts=(chart metrics contract compose cluster scale image)

if ! command -v promtool >/dev/null 2>&1 || ! command -v prometheus >/dev/null 2>&1; then
  as=(); [ "$(id -u)" = 0 ] || as=(sudo -n)
  apt=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  { "${apt[@]}" install -y -qq --no-install-recommends prometheus || { "${apt[@]}" update -qq && "${apt[@]}" install -y -qq --no-install-recommends prometheus; }; } \
    >/dev/null 2>&1 || { echo "platform.sh: prometheus is missing: install it (Debian: apt-get install prometheus)" >&2; exit 1; }
fi
command -v openssl >/dev/null 2>&1 || { echo "platform.sh: openssl is missing: install it (Debian: apt-get install openssl)" >&2; exit 1; }

# The folders of tools, which are made where they are absent.
tools() { "$here/tools.sh" "$@"; }
# not local: it is asked once
python=$(tools yaml)/python
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug

chart() {
  local helm kubeconform schemas
  { read -r helm; read -r kubeconform; read -r schemas; } < <(tools helm kubeconform schemas)
  "$python" ops/platform/chart.py "$helm/helm" "$kubeconform/kubeconform" "$schemas" promtool
}

metrics() {
  python3 ops/grafana/build.py --check
  "$python" ops/platform/metrics.py
}

contract() {
  [ -x "$target/memori" ] || { echo "platform.sh: $target has no programs: cargo build --workspace" >&2; exit 1; }
  local more=(); [ -z "${MEMORI_SOAK:-}" ] || more=(--examples 200)
  "$python" ops/platform/contract.py "$(tools schemathesis)/schemathesis" "$target/memori" "${more[@]}"
}

compose() {
  local compose registry
  { read -r compose; read -r registry; } < <(tools compose registry)
  [ -x "$target/memori-ingest" ] || { echo "platform.sh: $target has no programs: cargo build --workspace" >&2; exit 1; }
  "$here/servers.sh" fetch
  "$python" ops/platform/compose.py "$compose/docker-compose" "$target" "$registry"
}

cluster() {
  if ! tools have kubernetes etcd kwok && [ -z "${MEMORI_PLATFORM:-}${MEMORI_SOAK:-}" ] && [ "$named" = 0 ]; then
    echo "SKIPPED: the chart on a real API server: its control plane is not in the cache, and building it takes about eight minutes; ops/platform.sh cluster does both" >&2
    return 0
  fi
  local made helm kubernetes etcd kwok schemas
  if ! made=$(tools helm kubernetes etcd kwok schemas); then
    echo "SKIPPED: the chart on a real API server: its control plane could not be built, see above" >&2
    # where it was asked for it is no success
    [ -z "${MEMORI_PLATFORM:-}" ] && [ "$named" = 0 ]
    return
  fi
  { read -r helm; read -r kubernetes; read -r etcd; read -r kwok; read -r schemas; } <<<"$made"
  [ -x "$target/memori" ] || { echo "platform.sh: $target has no programs: cargo build --workspace" >&2; exit 1; }
  "$python" ops/platform/cluster.py "$helm" "$kubernetes" "$etcd" "$kwok" "$schemas" "$target"
}

# For what takes long: whether it was asked for, by name or for all.
asked() {
  [ -z "${MEMORI_PLATFORM:-}${MEMORI_SOAK:-}" ] && [ "$named" = 0 ] || return 0
  echo "SKIPPED: $1: MEMORI_PLATFORM=1 asks for it" >&2
  return 1
}

scale() {
  asked "workers scaled under load" || return 0
  local compose registry helm
  { read -r compose; read -r registry; read -r helm; } < <(tools compose registry helm)
  "$here/servers.sh" fetch
  "$python" ops/platform/scale.py "$compose/docker-compose" "$target" "$registry" "$helm/helm"
}

image() {
  asked "the image" || return 0
  if ! command -v buildah >/dev/null 2>&1 || ! command -v debootstrap >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: the image: it needs root, and Debian's buildah and debootstrap" >&2
    return 0
  fi
  ops/platform/image.sh "$target"
}

for part in "${parts[@]}"; do
  case $part in
    chart|metrics|contract|compose|cluster|scale|image) "$part" ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
