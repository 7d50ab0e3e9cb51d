#!/usr/bin/env bash
# Shows that the campaign finds what it is for: plants each bug of bugs/ in a copy of the sources, and requires the campaign
# to fail for it in the way that the bug's first line says.
#
#   bugs.sh [WORD]      only those whose name holds the word
#
# Environment: RUNS (default 300) and SEED as for `make campaign`. No run is begun after four have gone wrong: one that is stuck
# takes a hundred times as long as a good one.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/../../../..")
copy=$checkout/.build/planted/src
export CARGO_TARGET_DIR=$checkout/.build/planted/target RUNS=${RUNS:-300} SEED=${SEED:-1} STOP_AFTER=4 RUST_BACKTRACE=0

campaign() {
  cargo test --quiet --workspace --locked --test chain --manifest-path "$copy/Cargo.toml" -- \
    --ignored --nocapture campaign::campaign_of
}

rm -rf "$copy"
mkdir -p "$copy"
(cd "$checkout" && git ls-files --cached --others --exclude-standard -z |
  while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
  tar --null --files-from=- --create --file=-) | tar --extract --directory="$copy"
if [ ! -d "$CARGO_TARGET_DIR" ] && [ -d "$checkout/target/debug" ]; then
  mkdir -p "$CARGO_TARGET_DIR/debug"
  cp -a --reflink=auto "$checkout"/target/debug/{.fingerprint,build,deps} "$CARGO_TARGET_DIR/debug/"
fi

planted=0 found=0
for patch in "$here"/bugs/*"${1:-}"*.patch; do
  name=$(basename "$patch" .patch)
  expected=$(sed -n '1s/^Makes the campaign fail with: //p' "$patch")
  patch --quiet --directory="$copy" --strip=1 <"$patch"
  planted=$((planted + 1))
  log=$checkout/.build/planted/$name.log
  if campaign >"$log" 2>&1; then failed=no; else failed=yes; fi
  line=$(grep '^runs=' "$log" || true)
  if [ "$failed" = yes ] && grep -qE "^runs=.* $expected=[1-9]" "$log"; then
    found=$((found + 1))
    echo "found    $name: $line"
  else
    echo "MISSED   $name: ${line:-it does not compile; see $log}"
  fi
  patch --quiet --reverse --directory="$copy" --strip=1 <"$patch"
done
echo "bugs=$planted found=$found missed=$((planted - found))"
((planted > 0 && planted == found))
