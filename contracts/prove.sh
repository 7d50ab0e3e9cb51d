#!/usr/bin/env bash
# Proves by symbolic execution (halmos) what proofs/*.t.sol states, of the contracts as they are deployed. A proof that does not
# end within its time, or that cuts a loop short, counts as failed. Arguments go to halmos: `--function checkLong_` tries the two
# that have not come to an end yet.
#
# Environment: LIMIT  seconds for all of them, after which those that have not ended have failed (default 900; all take about 1 min)
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
timeout --kill-after 10 "${LIMIT:-900}" halmos --root . --forge-build-out ../.build/contracts/proofs/out --match-contract 'Proofs$' --loop 6 \
  --solver-timeout-assertion 120s --no-status --json-output "$result" "$@" || status=$?
python3 - "$result" <<'P' || status=1
import json, pathlib, sys

if not pathlib.Path(sys.argv[1]).exists():
    print("not proven: halmos did not come to an end within its time")
    sys.exit(1)
results = [test for tests in json.load(open(sys.argv[1]))["test_results"].values() for test in tests]
proven = [test for test in results if test["exitcode"] == 0 and not test["num_bounded_loops"]]
for test in results:
    if test not in proven:
        print(f"not proven: {test['name']}")
print(f"proofs={len(results)} proven={len(proven)} failed={len(results) - len(proven)}")
sys.exit(len(proven) != len(results) or not results)
P
exit "$status"
