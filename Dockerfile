# The images of Gridstake, one per target: operator, device-agent, simulated-gpus.
#
#   docker build --target operator -t gridstake-operator .
#
# Their contents are laid out by e2e/images/rootfs.sh, which also makes the images of the tests.
ARG RUST_IMAGE=rust:1.95-bookworm

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

FROM scratch AS operator
COPY --from=build /rootfs/operator /
USER 65532:65532
ENTRYPOINT ["/usr/bin/gridstake-operator"]

# It reads the kubelet's pod-resources socket, which only root can open; the chart drops every capability.
FROM scratch AS device-agent
COPY --from=build /rootfs/device-agent /
ENTRYPOINT ["/usr/bin/gridstake-device-agent"]

FROM scratch AS simulated-gpus
COPY --from=build /rootfs/simulated-gpus /
ENTRYPOINT ["/usr/bin/gridstake-simulated-gpus"]
