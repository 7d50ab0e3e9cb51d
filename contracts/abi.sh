#!/usr/bin/env bash
# Writes abi/<contract>.json ({"abi", "bytecode", "deployedBytecode"}), which the Rust bindings include.
#
#   abi.sh            write
#   abi.sh --check    fail if what is committed is not what the sources compile to
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
"$here/setup.sh"
cd "$here"
../.build/bin/forge build --quiet --skip test
exec node bin/abi.mjs "$@"
