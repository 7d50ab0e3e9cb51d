#!/usr/bin/env bash
# Runs the contracts' tests; arguments go to `forge test`. FOUNDRY_PROFILE=long runs the big campaigns.
# Without arguments it also counts the calls of the random campaigns and fails if they are fewer than 100,000.
set -euo pipefail

least_calls=100000
here=$(dirname "$(readlink -f "$0")")
"$here/setup.sh"
cd "$here"
if (($# > 0)); then exec ../.build/bin/forge test "$@"; fi

log=../.build/contracts/test.log
mkdir -p "$(dirname "$log")"
../.build/bin/forge test | tee "$log"
# Of each campaign forge says: [PASS] invariant_name() (runs: 128, calls: 51200, reverts: 0)
awk -v least="$least_calls" '
  / invariant_.*\(runs: [0-9]+, calls: [0-9]+, reverts: [0-9]+\)/ {
    for (i = 1; i < NF; i++) {
      if ($i == "calls:") calls += $(i + 1)
      if ($i == "reverts:") reverts += $(i + 1)
    }
    campaigns++
  }
  END {
    printf "invariants campaigns=%d calls=%d reverts=%d\n", campaigns, calls, reverts
    exit calls < least || reverts > 0
  }' "$log"
