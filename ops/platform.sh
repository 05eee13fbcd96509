#!/usr/bin/env bash
# What a platform runs, held: the chart, compose, rules, dashboards. Parts by name, or all:
#
#   ops/platform.sh [chart] [metrics] [compose] [cluster]
#
#   chart     lint, values against the API's schemas, hostile values, security of every pod
#   metrics   rules and dashboards against docs/metrics.md, every alert firing and clearing, runbooks
#   compose   docker-compose.yml read by Compose itself, then every service as a plain process: a conversation, a scrape, alerts in incidents
#   cluster   the chart on a real API server: install, upgrade, rollback. Its control plane takes about eight minutes to build, once: it is
#             built where MEMORI_PLATFORM=1 or MEMORI_SOAK asks, and used wherever the cache has it
#
# Programs are taken from CARGO_TARGET_DIR/debug, which must be built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(chart metrics compose cluster)

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

compose() {
  local compose registry
  { read -r compose; read -r registry; } < <(tools compose registry)
  [ -x "$target/memori-ingest" ] || { echo "platform.sh: $target has no programs: cargo build --workspace" >&2; exit 1; }
  "$here/servers.sh" fetch
  "$python" ops/platform/compose.py "$compose/docker-compose" "$target" "$registry"
}

cluster() {
  if ! tools have kubernetes etcd kwok && [ -z "${MEMORI_PLATFORM:-}${MEMORI_SOAK:-}" ]; then
    echo "SKIPPED: the chart on a real API server: its control plane is not in the cache, and building it takes about eight minutes; MEMORI_PLATFORM=1 ops/platform.sh cluster does both" >&2
    return 0
  fi
  local made helm kubernetes etcd kwok schemas
  if ! made=$(tools helm kubernetes etcd kwok schemas); then
    echo "SKIPPED: the chart on a real API server: its control plane could not be built, see above" >&2
    # where it was asked for by name it is no success
    [ -z "${MEMORI_PLATFORM:-}" ]
    return
  fi
  { read -r helm; read -r kubernetes; read -r etcd; read -r kwok; read -r schemas; } <<<"$made"
  "$python" ops/platform/cluster.py "$helm" "$kubernetes" "$etcd" "$kwok" "$schemas"
}

for part in "${parts[@]}"; do
  case $part in
    chart|metrics|compose|cluster) "$part" ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
