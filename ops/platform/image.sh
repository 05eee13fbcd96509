#!/usr/bin/env bash
# The image's last stage, built and run: image.sh TARGET-FOLDER. Needs root and buildah.
#
# The bases that the Dockerfile names come from an image registry, which tests do without. So a Debian of the same release (debootstrap)
# stands in for the one, and programs that are built already for what the first stage makes; the last stage is the Dockerfile's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$1
models=${XDG_CACHE_HOME:-$HOME/.cache}/memori-stream/models

work=$(mktemp -d)
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
storage=(--root "$work/storage" --runroot "$work/run")
finish() {
  umount "$work/ro" 2>/dev/null || true
  buildah "${storage[@]}" umount --all >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT
die() { echo "FAILED: $*" >&2; exit 1; }
passed=0
that() { if "$@"; then passed=$((passed + 1)); else die "$*"; fi; }

# what the distroless base has: glibc, OpenSSL, certificates
mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
debootstrap --variant=minbase --include=libssl3,libgcc-s1,ca-certificates bookworm "$work/debian" "${mirror:-}" >"$work/debootstrap.log" 2>&1 \
  || { tail -n 5 "$work/debootstrap.log" >&2; die "debootstrap"; }
rm -rf "$work/debian/var/cache/apt" "$work/debian/var/lib/apt/lists" "$work/debian/usr/share/doc"
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add -q "$base" "$work/debian" / >/dev/null
buildah "${storage[@]}" commit -q "$base" localhost/memori-base >/dev/null
rm -rf "$work/debian"

context=$work/context
mkdir -p "$context/image/usr/local/bin" "$context/image/usr/share/memori/models" "$context/data/spool" "$context/archive"
for program in memori memori-ingest memori-augment-worker memori-writer; do
  strip -o "$context/image/usr/local/bin/$program" "$target/$program"
done
cp "$models"/*.bin "$context/image/usr/share/memori/models/"
{ echo 'ARG RUNTIME_IMAGE'; echo 'FROM scratch AS build'; echo 'COPY . /'; sed -n '/^FROM ${RUNTIME_IMAGE}/,$p' Dockerfile; } >"$work/Dockerfile"
grep -q '^USER 65532' "$work/Dockerfile" || die "the Dockerfile has no last stage"
buildah "${storage[@]}" bud -q --build-arg RUNTIME_IMAGE=localhost/memori-base -t localhost/memori-stream -f "$work/Dockerfile" "$context" >/dev/null

of_image() { buildah "${storage[@]}" inspect --type image --format "{{$1}}" localhost/memori-stream; }
that [ "$(of_image .OCIv1.Config.User)" = 65532:65532 ]
that [ "$(of_image .OCIv1.Config.Cmd)" = "[memori --help]" ]
variables=$(of_image '.OCIv1.Config.Env')
that [ "${variables/MEMORI__EMBEDDING__MODEL_DIR=\/usr\/share\/memori\/models/}" != "$variables" ]

# as compose and the chart run it: as nobody in particular, on a root file system that is read only
made=$(buildah "${storage[@]}" from localhost/memori-stream)
root=$(buildah "${storage[@]}" mount "$made")
for folder in memori/spool memori-archive; do that [ "$(stat -c %u:%g "$root/var/lib/$folder")" = 65532:65532 ]; done
mkdir "$work/ro"
mount --bind "$root" "$work/ro"
mount -o remount,ro,bind "$work/ro"
inside() { env -i PATH=/usr/local/bin:/usr/bin:/bin MEMORI__EMBEDDING__MODEL_DIR=/usr/share/memori/models "${@:2}" "$(command -v chroot)" --userspec=65532:65532 "$work/ro" $1; }
for program in memori memori-ingest memori-augment-worker memori-writer; do
  that inside "$program --version" >/dev/null
  [ $program = memori ] || that inside "$program --print-config" >/dev/null
done
if inside "touch /x" 2>/dev/null; then die "the root file system can be written"; fi
inside memori-writer MEMORI__POSTGRES__URL=postgres://127.0.0.1:1/x MEMORI__START__DEADLINE_MS=500 2>"$work/said" && die "a writer without Postgres goes on" || status=$?
that [ "$status" = 75 ]
size=$(du -sm "$context/image" | cut -f 1)
echo "image: $passed passed, 0 failed; ${size} MB beside its base"
