#!/usr/bin/env bash
# Lays out the root file system of one image. The test images and the Dockerfile's last stages both come from here.
#
#   rootfs.sh IMAGE BINARIES OUT
#
#   IMAGE     operator | device-agent | simulated-gpus | anvil | busybox | pause
#   BINARIES  the folder of cargo's outputs: target/debug or target/release (not read for the last three)
#   OUT       the folder to fill; it is emptied first
#
# The programs are linked dynamically: NVML's library is loaded at run time (dlopen), which a static glibc program
# cannot do. So an image holds what ldd names, the parts of glibc that libnvidia-ml.so.1 itself needs, a CA bundle
# (a TLS client is not even built without one), two users, /tmp, and nothing else: no shell.
# Needs ldd and strip (binutils); anvil, busybox and pause need a static busybox, anvil also itself (contracts/setup.sh).
set -euo pipefail

if (($# != 3)); then
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
image=$1 binaries=$2 out=$3
umask 022 # modes are part of the image

fail() {
  echo "rootfs.sh: $*" >&2
  exit 1
}

base() { # what every image has
  rm -rf "$out"
  mkdir -p "$out"/{etc,dev,proc,sys,run,tmp}
  chmod 1777 "$out/tmp"
  printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$out/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$out/etc/group"
}

certificates() {
  local bundle
  for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    if [ -s "$bundle" ]; then
      install -D -m 644 "$bundle" "$out/etc/ssl/certs/ca-certificates.crt"
      return
    fi
  done
  fail "no CA bundle on this machine; install ca-certificates"
}

elf() { # SOURCE DESTINATION: a stripped copy, with the libraries it is linked to
  local library
  [ -e "$1" ] || fail "$1 does not exist; run 'make setup build' first"
  mkdir -p "$(dirname "$out$2")"
  strip --strip-unneeded -o "$out$2" "$1"
  chmod 755 "$out$2"
  for library in $(ldd "$1" | grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1); do copy_library "$library"; done
}

copy_library() { # FILE
  [ -e "$out$1" ] || install -D -m 755 "$(readlink -f "$1")" "$out$1"
}

driver_needs() { # what the real libnvidia-ml.so.1 is linked to, from where the C library is
  local libc name
  libc=$(cd "$out" && find . -name libc.so.6 | head -n 1)
  [ -n "$libc" ] || fail "the program is not linked to glibc; build for a *-linux-gnu target"
  for name in libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libgcc_s.so.1; do
    if [ -e "$(dirname "${libc#.}")/$name" ]; then copy_library "$(dirname "${libc#.}")/$name"; fi
  done
}

program() { # NAME
  base
  elf "$binaries/$1" "/usr/bin/$1"
  driver_needs
  certificates
}

shell() { # a tenant's small world: a shell and the usual commands
  local static name
  static=$(type -P busybox) || fail "no busybox on this machine; install busybox-static"
  if ldd "$static" >/dev/null 2>&1; then fail "$static is linked dynamically; install busybox-static"; fi
  base
  install -D -m 755 "$static" "$out/bin/busybox"
  for name in $("$static" --list); do
    if [ "$name" != busybox ]; then ln -s busybox "$out/bin/$name"; fi
  done
}

case $image in
  operator | device-agent) program "gridstake-$image" ;;
  simulated-gpus)
    program gridstake-simulated-gpus
    elf "$binaries/libgridstake_nvml_double.so" /usr/lib/gridstake/libnvidia-ml.so.1
    elf "$binaries/libgridstake_nvml_double_old_driver.so" /usr/lib/gridstake/old-driver/libnvidia-ml.so.1
    elf "$binaries/libgridstake_cuda_double.so" /usr/lib/gridstake/libcuda.so.1
    ;;
  anvil)
    shell
    elf "$(readlink -f "$(dirname "$0")/../..")/.build/bin/anvil" /usr/bin/anvil
    ;;
  busybox | pause) shell ;;
  *) fail "no image '$image'; there are operator, device-agent, simulated-gpus, anvil, busybox and pause" ;;
esac
