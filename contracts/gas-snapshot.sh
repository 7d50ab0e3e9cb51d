#!/usr/bin/env bash
# Writes gas-snapshot/*.json: the gas of each call that test/GasSnapshot.t.sol measures. `git diff` shows what a change costs.
# Every run of the tests compares them and fails where they differ; `gas-snapshot.sh --check` is that comparison alone.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
"$here/setup.sh"
cd "$here"
case ${1:-} in
"") export FORGE_SNAPSHOT_CHECK=false FORGE_SNAPSHOT_EMIT=true ;;
--check) ;;
*) echo "gas-snapshot.sh: only --check is an option" >&2 && exit 2 ;;
esac
exec ../.build/bin/forge test --match-contract GasSnapshot
