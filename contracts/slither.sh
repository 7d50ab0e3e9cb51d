#!/usr/bin/env bash
# Static analysis (slither) of src/. Every finding is explained in slither/explained.txt or fails.
#
#   slither.sh            print what is not explained, and explanations of what is not found any more
#   slither.sh --write    write explained.txt anew: reasons are kept, new findings get the reason TODO
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
build=$(readlink -f "$here/..")/.build
"$here/setup.sh"
"$here/analysis.sh"
found=$build/contracts/slither/found.json
mkdir -p "$(dirname "$found")"
rm -f "$found"
cd "$here"
export FOUNDRY_PROFILE=slither PATH="$build/venv-contracts/bin:$build/bin:$PATH"
slither . --config-file slither/config.json --json "$found" --fail-none 2>"${found%.json}.log" || {
  tail -n 20 "${found%.json}.log" >&2
  exit 1
}
exec python3 slither/explained.py "$found" slither/explained.txt "$@"
