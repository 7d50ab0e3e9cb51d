#!/usr/bin/env bash
# Packs images into .build/images/IMAGE.tar, without a Docker engine, and prints their sizes.
#
#   pack.sh [IMAGE...]     operator, device-agent, simulated-gpus, anvil, busybox, pause (default: all)
#
# Environment:
#   PROFILE      dev (default), bench or release: which of cargo's outputs to pack
#   TAG          tag of our images (default: dev)
#   SUFFIX       added to the names of our images (default: nothing)
#   IMAGES_DIR   where the archives go (default: .build/images)
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/../..")
profile=${PROFILE:-dev}
case $profile in
  dev) folder=debug ;;
  release | bench) folder=release ;;
  *) echo "pack.sh: PROFILE=$profile; it must be dev, bench or release" >&2 && exit 1 ;;
esac
binaries=${CARGO_TARGET_DIR:-$checkout/target}/$folder
archives=${IMAGES_DIR:-$checkout/.build/images}
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
mkdir -p "$archives"

pack() { # IMAGE NAME:TAG [ARCHIVE_OPTION...]
  local image=$1 name=$2
  shift 2
  "$here/rootfs.sh" "$image" "$binaries" "$rootfs/$image"
  python3 "$here/archive.py" "$rootfs/$image" "$archives/$image.tar" "$name" "$@"
  printf '%-16s %6.1f MB  %s\n' "$image" "$(stat -c %s "$archives/$image.tar" | awk '{ print $1 / 1e6 }')" "$name"
}

if (($# == 0)); then set -- operator device-agent simulated-gpus anvil busybox pause; fi
for image; do
  case $image in
    operator) pack operator "localhost/gridstake-operator${SUFFIX:-}:${TAG:-dev}" --entrypoint /usr/bin/gridstake-operator --user 65532:65532 ;;
    device-agent) pack device-agent "localhost/gridstake-device-agent${SUFFIX:-}:${TAG:-dev}" --entrypoint /usr/bin/gridstake-device-agent ;;
    simulated-gpus) pack simulated-gpus "localhost/gridstake-simulated-gpus${SUFFIX:-}:${TAG:-dev}" --entrypoint /usr/bin/gridstake-simulated-gpus ;;
    anvil) pack anvil localhost/anvil:1 --entrypoint /usr/bin/anvil --user 65532:65532 ;;
    busybox) pack busybox localhost/busybox:1 ;;
    pause) pack pause localhost/pause:1 --entrypoint /bin/busybox --entrypoint sleep --entrypoint 2147483647 ;;
    *) echo "pack.sh: no image '$image'; there are operator, device-agent, simulated-gpus, anvil, busybox and pause" >&2 && exit 1 ;;
  esac
done
