#!/usr/bin/env bash
# Installs the compiler, forge, anvil, cast and OpenZeppelin, at the versions of package-lock.json, and links the programs
# into .build/bin. What is there already is left alone, so it can run any time.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
bin=$(readlink -f "$here/..")/.build/bin
lock=$here/package-lock.json
stamp=$here/node_modules/.gridstake-lock
foundry_version=1.7.1

fail() {
  echo "contracts/setup.sh: $*" >&2
  exit 1
}

type -P npm >/dev/null || fail "no npm. Install Node.js 20 or newer with npm"

install_packages() {
  if [ -f "$stamp" ] && cmp -s "$lock" "$stamp"; then return; fi
  (cd "$here" && npm ci --loglevel=error)
  cp "$lock" "$stamp"
}

link_program() { # NAME
  local name=$1 program
  # npm's packages are for Linux on amd64; elsewhere Foundry's own installation serves.
  for program in "$here/node_modules/@foundry-rs/$name"-*/bin/"$name" "$(PATH=${PATH//"$bin"/} type -P "$name" || true)"; do
    if [ -z "$program" ] || [ ! -x "$program" ]; then continue; fi
    case $("$program" --version) in
    *"$foundry_version"*)
      ln -sfn "$program" "$bin/$name"
      return
      ;;
    esac
  done
  fail "no $name $foundry_version for this machine ($(uname -sm)). Install Foundry $foundry_version: https://getfoundry.sh"
}

# Scripts that run at the same time wait for one installation.
mkdir -p "$bin"
exec 9>"$bin/.contracts.lock"
flock 9
install_packages
for name in forge cast anvil; do link_program "$name"; done
