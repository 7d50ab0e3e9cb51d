# The images of Gridstake, one per target: operator, device-agent, simulated-gpus (also called sim-gpu).
#
#   docker build --target operator -t gridstake-operator .
#
# Their contents are laid out by e2e/images/rootfs.sh, which also makes the images of the tests: the program, the libraries that
# it is linked to, a CA bundle, two users; no shell. Nothing in them is written to, so the chart mounts their root read-only.
# e2e/images/dockerfile-build.sh builds them all and compares.

# The version is rust-toolchain.toml's (`make check` holds them together): that file stays out of the build, lest rustup fetches
# the linters that it names.
ARG RUST_IMAGE=rust:1.95.0-bookworm

FROM ${RUST_IMAGE} AS build
# release, or dev for a quick build
ARG PROFILE=release
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile "${PROFILE}" \
      -p gridstake-operator -p gridstake-device-agent -p gridstake-simulated-gpus \
      -p gridstake-nvml-double -p gridstake-nvml-double-old-driver -p gridstake-cuda-double \
    && for image in operator device-agent simulated-gpus; do \
         e2e/images/rootfs.sh "$image" "target/$([ "${PROFILE}" = dev ] && echo debug || echo "${PROFILE}")" "/rootfs/$image" || exit 1; \
       done

# For clusters without GPUs: its programs run beside the kubelet, as root, and see the node's processes.
FROM scratch AS simulated-gpus
COPY --from=build /rootfs/simulated-gpus /
ENTRYPOINT ["/usr/bin/gridstake-simulated-gpus"]

FROM simulated-gpus AS sim-gpu

# It reads the kubelet's pod-resources socket, which only root can open; the chart drops every capability.
FROM scratch AS device-agent
COPY --from=build /rootfs/device-agent /
ENTRYPOINT ["/usr/bin/gridstake-device-agent"]

FROM scratch AS operator
COPY --from=build /rootfs/operator /
USER 65532:65532
ENTRYPOINT ["/usr/bin/gridstake-operator"]
