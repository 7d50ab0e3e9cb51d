#!/usr/bin/env bash
# Plants each mutant of mutants/*.patch in a copy of the contracts and runs the tests: they must fail. A mutant breaks the
# guarantee that its name says. One that the tests do not notice, that does not apply or does not compile, fails this script.
#
#   mutants.sh            all
#   mutants.sh NAME...    these
#
# Environment: JOBS  how many at a time (default: the number of processors)
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
build=$(readlink -f "$here/..")/.build
forge=$build/bin/forge
copies=$build/contracts/mutants
jobs=${JOBS:-$(nproc)}
"$here/setup.sh"
type -P patch >/dev/null || {
  echo "contracts/mutants.sh: no patch. Install it (Debian: patch)" >&2
  exit 1
}

# The gas of a mutant differs, which says nothing; a few runs of each fuzz test, since a guarantee that only the thousandth run
# tests is not tested. The campaigns are the last resort.
quick=(--fail-fast --no-match-contract 'GasSnapshot|Invariants')
campaigns=(--fail-fast --match-contract Invariants)
export FOUNDRY_PROFILE=mutants FOUNDRY_FUZZ_RUNS=32 FOUNDRY_INVARIANT_RUNS=16

tests_pass() { # in a copy
  "$forge" test "${quick[@]}" && "$forge" test "${campaigns[@]}"
}

plant() { # NAME: writes NAME.result
  local copy=$copies/$1
  rm -rf "$copy"
  cp -a "$copies/unchanged" "$copy"
  cd "$copy"
  if ! patch --batch --fuzz=0 --strip=1 <"$here/mutants/$1.patch"; then
    echo "does not apply" >"$copies/$1.result"
  elif ! "$forge" build; then
    echo "does not compile" >"$copies/$1.result"
  elif tests_pass; then
    echo "survived" >"$copies/$1.result"
  else
    # Forge's own words for the first test that failed.
    echo "killed by $(grep -m 1 -o '^\[FAIL.*' "$copies/$1.log" | sed 's/^.*\] //; s/(.*//')" >"$copies/$1.result"
  fi
  rm -rf "$copy"
}

mkdir -p "$copies"
rm -rf "${copies:?}"/*
# The copy that the others are copies of: compiled, and its tests pass, or every mutant would seem to be killed.
mkdir "$copies/unchanged"
cp -a "$here"/{src,test,bin,foundry.toml} "$copies/unchanged/"
ln -s "$here/node_modules" "$copies/unchanged/node_modules"
if ! (cd "$copies/unchanged" && tests_pass) >"$copies/unchanged.log" 2>&1; then
  tail -n 40 "$copies/unchanged.log" >&2
  echo "contracts/mutants.sh: the tests fail without any mutant" >&2
  exit 1
fi

if (($# == 0)); then
  for patch in "$here"/mutants/*.patch; do set -- "$@" "$(basename "$patch" .patch)"; done
fi
running=0
for name in "$@"; do
  if ((running == jobs)); then
    wait -n
    running=$((running - 1))
  fi
  (plant "$name") </dev/null >"$copies/$name.log" 2>&1 &
  running=$((running + 1))
done
wait

killed=0
for name in "$@"; do
  result=$(cat "$copies/$name.result" 2>/dev/null || echo "failed; see $copies/$name.log")
  printf '%-40s %s\n' "$name" "$result"
  case $result in killed*) killed=$((killed + 1)) ;; esac
done
echo "mutants=$# killed=$killed survived=$(($# - killed))"
((killed == $#))
