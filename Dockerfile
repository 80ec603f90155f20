# RaftKV: a small image with the server and the command line. Needs nothing but the base images and the crates.
#
#   docker build --tag raftkv .
#   docker run --publish 127.0.0.1:50051:50051 --volume raftkv:/var/lib/raft_data raftkv --id 1

FROM rust:1-slim-bookworm AS toolchain
WORKDIR /build

# The manifests and the lock file, with an empty program wherever a crate begins, or a benchmark that a manifest names.
FROM toolchain AS manifests
COPY . .
RUN find . -type f ! -name 'Cargo.*' ! -name lib.rs ! -name main.rs ! -name build.rs ! -path '*/benches/*.rs' -delete \
 && find . -name '*.rs' | while read -r file; do echo 'fn main() {}' > "$file"; done

# What the emptied workspace needs is what RaftKV needs from others. It is built in a layer that an edit to the code does not touch.
FROM toolchain AS build
COPY --from=manifests /build .
RUN cargo build --release --locked --bin raftkv-server --bin raftkv-cli
COPY . .
# Cargo goes by times: a source file must not look older than the empty program that it replaces.
RUN find . -name '*.rs' ! -path './target/*' -exec touch {} + \
 && cargo build --release --locked --bin raftkv-server --bin raftkv-cli

FROM debian:bookworm-slim
RUN groupadd --gid 10001 raftkv \
 && useradd --uid 10001 --gid raftkv --no-create-home --home-dir /var/lib/raft_data --shell /usr/sbin/nologin raftkv \
 && install --directory --owner raftkv --group raftkv --mode 0700 /var/lib/raft_data
COPY --from=build /build/target/release/raftkv-server /build/target/release/raftkv-cli /usr/local/bin/
# By number, so that a scheduler can see that it is not root.
USER 10001:10001
VOLUME /var/lib/raft_data
# Every flag can be given as an environment variable. These two are named since their defaults do not fit a container: nobody reaches its
# loopback, and a folder to fall back to would be outside of the volume.
ENV RAFTKV_LISTEN=0.0.0.0 RAFTKV_DATA_DIR=/var/lib/raft_data
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["raftkv-server", "health"]
ENTRYPOINT ["raftkv-server"]
