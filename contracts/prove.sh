#!/usr/bin/env bash
# Proves by symbolic execution (halmos) what proofs/*.t.sol states, of the contracts as they are deployed. A proof that does not
# end within its time, or that cuts a loop short, counts as failed. Arguments go to halmos: `--function checkLong_` tries the two
# that have not come to an end yet.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
build=$(readlink -f "$here/..")/.build
"$here/setup.sh"
"$here/analysis.sh"
result=$build/contracts/proofs/result.json
mkdir -p "$(dirname "$result")"
rm -f "$result"
cd "$here"
export FOUNDRY_PROFILE=proofs PATH="$build/venv-contracts/bin:$build/bin:$PATH"
status=0
halmos --root . --forge-build-out ../.build/contracts/proofs/out --match-contract 'Proofs$' --loop 6 \
  --solver-timeout-assertion 600s --no-status --json-output "$result" "$@" || status=$?
python3 - "$result" <<'P' || status=1
import json, sys

results = [test for tests in json.load(open(sys.argv[1]))["test_results"].values() for test in tests]
proven = [test for test in results if test["exitcode"] == 0 and not test["num_bounded_loops"]]
for test in results:
    if test not in proven:
        print(f"not proven: {test['name']}")
print(f"proofs={len(results)} proven={len(proven)} failed={len(results) - len(proven)}")
sys.exit(len(proven) != len(results) or not results)
P
exit "$status"
