#!/usr/bin/env bash
# Runs the contracts' tests; arguments go to `forge test`. FOUNDRY_PROFILE=long runs the big campaigns.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
"$here/setup.sh"
cd "$here"
exec ../.build/bin/forge test "$@"
