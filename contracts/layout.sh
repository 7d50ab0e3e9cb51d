#!/usr/bin/env bash
# Writes layout/<contract>.txt: which variable lies in which slot. docs/contracts.md tells which of them others may read.
#
#   layout.sh            write
#   layout.sh --check    fail if what is committed is not what the sources compile to
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
"$here/setup.sh"
cd "$here"
../.build/bin/forge build --quiet --skip test
exec node bin/layout.mjs "$@"
