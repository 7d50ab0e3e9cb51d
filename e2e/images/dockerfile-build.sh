#!/usr/bin/env bash
# Builds every target of the Dockerfile with a Docker engine, and holds each image to the one that pack.sh makes: the same files,
# the same start, and a program that runs on a read-only root without a capability.
#
#   dockerfile-build.sh
#
# Where no engine runs, Debian's (package docker.io) is unpacked into .build/docker and started for the build, without a bridge and
# without rules of its own in the machine's firewall; that takes root. Where the image of the Rust toolchain cannot be pulled, one
# made of Debian's packages (debootstrap) and this machine's toolchain stands in for it, and the last line says so.
#
# Environment:
#   PROFILE    which of cargo's profiles: dev (default, to be ready sooner; releases are built with release). pack.sh must find
#              its outputs in target
#   KEEP       not empty: leave engine, images and layers where they are
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/../..")
work=$checkout/.build/docker
profile=${PROFILE:-dev}
targets=(operator device-agent simulated-gpus sim-gpu)
# shellcheck source=e2e/steps.sh
. "$here/../steps.sh"

fail() {
  echo "dockerfile-build.sh: $*" >&2
  exit 1
}

clean_up() {
  if [ -n "${KEEP:-}" ]; then return; fi
  if [ -s "$work/docker.pid" ]; then
    local pid
    pid=$(<"$work/docker.pid")
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    rm -rf --one-file-system "$work"
  fi
}

unpack_engine() { # Debian's, which is not installed: that would start it as a service
  local folder=$work/debian
  rm -rf "$folder"
  mkdir -p "$folder"
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends containerd runc debootstrap libdevmapper1.02.1
  (cd "$folder" && apt-get --option APT::Sandbox::User= download docker.io)
  dpkg-deb --extract "$folder"/docker.io_*.deb "$folder"
}

start_engine() {
  local socket=$work/docker.sock
  mkdir -p "$work"
  setsid "$work/debian/usr/sbin/dockerd" --host "unix://$socket" --data-root "$work/data" --exec-root "$work/exec" \
    --pidfile "$work/docker.pid" --storage-driver vfs --iptables=false --ip6tables=false --bridge none --userland-proxy=false \
    --exec-opt native.cgroupdriver=cgroupfs >"$work/dockerd.log" 2>&1 &
  local pid=$! tries
  for ((tries = 0; tries < 300; tries++)); do
    if docker version >/dev/null 2>&1; then return; fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 20 "$work/dockerd.log" >&2
  fail "the engine does not start, see above"
}

find_engine() { # sets docker, a command with options, and engine, its name
  docker_command=docker
  engine="this machine's engine"
  if timeout 10 docker info >/dev/null 2>&1; then return; fi
  [ "$(id -u)" = 0 ] || fail "no Docker engine runs. Start one, or run as root on Debian: Debian's is started then"
  type -P apt-get >/dev/null || fail "no Docker engine runs. Start one"
  docker_command=$work/debian/usr/bin/docker
  export DOCKER_HOST=unix://$work/docker.sock
  if [ ! -x "$docker_command" ]; then step "Debian's Docker engine" unpack_engine; fi
  engine="Debian's engine"
  step "start it" start_engine
}

docker() { DOCKER_BUILDKIT=1 command "$docker_command" "$@"; }

stand_in() { # of a toolchain image: the distribution that its tag ends with, this machine's toolchain
  local image=$1 root=$work/base sysroot
  sysroot=$(cd "$checkout" && rustc --print sysroot)
  rm -rf "$root"
  debootstrap --variant=minbase --include=binutils,ca-certificates,gcc,libc6-dev "${image##*-}" "$root"
  # This machine's authorities: there may be a proxy of its own on the way to the registry.
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  mkdir -p "$root/usr/local/rust"
  cp -a "$sysroot/bin" "$sysroot/lib" "$root/usr/local/rust"
  tar -C "$root" -c . | docker import --change 'ENV PATH=/usr/local/rust/bin:/usr/bin:/bin CARGO_HOME=/usr/local/cargo' - "$1"
  rm -rf "$root"
}

toolchain_image() { # sets rust_image and toolchain, what it is
  local wanted
  wanted=$(sed -n 's/^ARG RUST_IMAGE=//p' "$checkout/Dockerfile")
  rust_image=$wanted
  toolchain=$wanted
  if docker image inspect "$wanted" >/dev/null 2>&1 || timeout 600 "$docker_command" pull --quiet "$wanted" >/dev/null 2>&1; then return; fi
  rust_image=localhost/stand-in-$wanted
  toolchain="a stand-in for $wanted"
  if docker image inspect "$rust_image" >/dev/null 2>&1; then return; fi
  step "$toolchain" stand_in "$rust_image"
}

build() { # TARGET
  # The host's network serves to fetch crates: the engine may have no bridge.
  docker build --progress plain --network host --target "$1" --tag "localhost/dockerfile-$1" \
    --build-arg RUST_IMAGE="$rust_image" --build-arg PROFILE="$profile" "$checkout"
}

compare() { # TARGET
  local packed=$1
  if [ "$1" = sim-gpu ]; then packed=simulated-gpus; fi
  docker save --output "$work/$1.tar" "localhost/dockerfile-$1"
  "$here/same_files.py" "$work/$1.tar" "$work/packed/$packed.tar"
  rm "$work/$1.tar"
}

runs() { # TARGET
  docker run --rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges "localhost/dockerfile-$1" --version
}

docker_command=docker
engine=
rust_image=
toolchain=
trap clean_up EXIT
mkdir -p "$work"
find_engine
toolchain_image
step "pack the same images without the engine" env PROFILE="$profile" IMAGES_DIR="$work/packed" "$here/pack.sh" operator device-agent simulated-gpus
for target in "${targets[@]}"; do
  step "docker build --target $target" build "$target"
  shown "$target: the files are those of pack.sh" compare "$target"
  shown "$target: runs on a read-only root" runs "$target"
done
say "$((2 * ${#targets[@]})) checks passed, with $engine and $toolchain, profile $profile"
