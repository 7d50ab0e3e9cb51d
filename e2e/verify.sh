#!/usr/bin/env bash
# What `make test` runs, and its parts.
#
#   verify.sh all        everything below, in this order; a part that fails does not hide the others
#   verify.sh check      formatting, lints, generated files, charts, scripts
#   verify.sh unit       unit and property tests
#   verify.sh stories    the user stories on real clusters, made for them and removed after them: those of a cluster where
#                        nothing is owed on one, and at the same time, on another one with a chain, those in which use is
#                        paid. On an existing cluster, one after the other
#
#   verify.sh long       what is too long for every run, by itself: stories and tests that are marked `ignore`
#
# Environment: E2E_CLUSTER, E2E_VALUES as in e2e/cluster/world.sh
#   STORY   only the stories whose file name holds this word
#   KEEP    not empty: leave the clusters running after the stories
#
# The cluster with a chain is the world $E2E_WORLD-paid, unless all is told on one.
# The last line counts the tests, from the lines that the test programs themselves print.
# shellcheck disable=SC2317 # steps are called through their names
set -euo pipefail

self=$(readlink -f "$0")
here=$(dirname "$self")
checkout=$(readlink -f "$here/..")
bin=$checkout/.build/bin
export E2E_WORLD=${E2E_WORLD:-test}
part=${1:-all}
# shellcheck source=e2e/steps.sh
. "$here/steps.sh"
steps_logs=$checkout/.build/logs/verify/$part
rm -rf "$steps_logs"
cd "$checkout"
world() { "$here/cluster/world.sh" "$@"; }

check_scripts() {
  local scripts
  mapfile -t scripts < <(find e2e charts operator contracts release -name node_modules -prune -o -name '*.sh' -print && printf '%s\n' .ci/run device-agent/bench.sh)
  "$bin/shellcheck" --external-sources --source-path="$checkout" "${scripts[@]}"
}

check_workflows() { "$bin/actionlint" -shellcheck "$bin/shellcheck" -pyflakes= -color=false; }

check_dockerfile() {
  local image toolchain
  "$bin/hadolint" Dockerfile
  # The image's own toolchain compiles: .dockerignore keeps rust-toolchain.toml out.
  image=$(sed -n 's/^ARG RUST_IMAGE=rust:\([0-9.]*\)-.*/\1/p' Dockerfile)
  toolchain=$(sed -n 's/^channel = "\([0-9.]*\)"/\1/p' rust-toolchain.toml)
  if [ "$image" != "$toolchain" ]; then
    echo "Dockerfile compiles with Rust $image, all else with $toolchain (rust-toolchain.toml); make RUST_IMAGE rust:$toolchain-..."
    return 1
  fi
}

# The compiler forbids unsafe code in every crate that takes the workspace's lints: all but the doubles of NVML and CUDA, and what
# loads CUDA to measure.
check_unsafe() {
  local lenient expected
  lenient=$(find . -name node_modules -prune -o -path ./target -prune -o -path ./.build -prune -o -name Cargo.toml ! -path ./Cargo.toml \
    -exec grep -L '^\[lints\]$' {} + | LC_ALL=C sort)
  expected=$(printf './%s/Cargo.toml\n' device-agent/cuda e2e/simulated-gpus/cuda e2e/simulated-gpus/nvml{-old-driver,})
  diff <(echo "$expected") <(echo "$lenient") || {
    echo "these crates do not take the workspace's lints, which forbid unsafe code; give them [lints] workspace = true"
    return 1
  }
  grep -q '^unsafe_code = "forbid"$' Cargo.toml
}

# What the release workflow makes beside images: a bill of materials of each program, and the plugin's manifest for krew.
check_release() {
  local program folder
  folder=$(mktemp -d)
  for program in gridstake-operator gridstake-device-agent gridstake-simulated-gpus kubectl-gridstake; do
    release/sbom.py "$program" >"$folder/$program.cdx.json"
  done
  touch "$folder/kubectl-gridstake-linux-amd64.tar.gz" "$folder/kubectl-gridstake-linux-arm64.tar.gz"
  release/krew.sh v0.1.0 https://example.com/gridstake https://example.com/gridstake/v0.1.0 "$folder" >"$folder/gridstake.yaml"
  "$bin/validate-krew-manifest" -skip-install -manifest "$folder/gridstake.yaml"
  rm -r "$folder"
}

# Whether advisories tell of one of the crates is asked daily by .github/workflows/advisories.yml: that takes a network.
check_dependencies() { "$bin/cargo-deny" --locked check --hide-inclusion-graph bans licenses sources; }

check_go() {
  local unformatted
  unformatted=$(gofmt -l e2e/cluster)
  if [ -n "$unformatted" ]; then
    echo "not formatted; run gofmt -w: $unformatted"
    return 1
  fi
}

# With one selection of packages, cargo builds each dependency once.
compile() { step "compile" cargo build --workspace --all-targets --locked; }

check() {
  steps_go_on=yes
  step "formatting" cargo fmt --all --check
  step "lints" cargo clippy --workspace --all-targets --locked -- --deny warnings
  compile
  step "generated manifests are up to date" "${CARGO_TARGET_DIR:-target}/debug/crdgen" --check
  step "charts and manifests" charts/check.sh
  step "the contracts' ABI is up to date" contracts/abi.sh --check
  step "the contracts' storage layout is up to date" contracts/layout.sh --check
  step "shell scripts" check_scripts
  step "Go sources" check_go
  step "workflows" check_workflows
  step "Dockerfile" check_dockerfile
  step "licences and sources of dependencies" check_dependencies
  step "unsafe code is where it may be" check_unsafe
  step "each threat has its tests" "$here/threats.py"
  step "what a release holds" check_release
}

# Chosen by target, not by package: leaving a package out would change the features of its dependencies, and cargo
# would build them once more.
unit() {
  local test targets=(--lib --bins)
  for test in {crds,ledger,operator,device-agent,kubectl-gridstake,e2e/simulated-gpus}/tests/{*.rs,*/main.rs}; do
    if [ ! -e "$test" ]; then continue; fi
    test=${test%/main.rs}
    targets+=(--test "$(basename "$test" .rs)")
  done
  step "the contracts' tests" contracts/test.sh
  shown "unit and property tests" cargo test --workspace --locked --no-fail-fast "${targets[@]}"
}

story_programs() { # prints NAME PATH of each story's test program
  cargo test --workspace --no-run --locked --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    target = message.get("target", {})
    if message.get("executable") and target.get("kind") == ["test"] and "#gridstake-e2e@" in message["package_id"]:
        print(target["name"], message["executable"])' | sort
}

fresh_world() { if [ "$(world which)" = existing ]; then world up; else world up --fresh; fi; }

# Which of the stories in $stories_list are told: those of a world with a chain are those that ask for one.
chosen_stories() { # paid|unpaid: prints NAME PATH of each
  local name program kind
  while read -r name program; do
    if grep -qs 'paid_story(' "$here/tests/$name.rs"; then kind=paid; else kind=unpaid; fi
    if [ "$which" = ignored ] && ! grep -qs '#\[ignore = "long' "$here/tests/$name.rs"; then continue; fi
    if [ "$kind" = "$1" ] && [[ $name == *"${STORY:-}"* ]]; then echo "$name $program"; fi
  done < <(grep -E '^[^ ]+ /[^ ]+$' "$stories_list")
}

tell() { # paid|unpaid
  local name program arguments=()
  if [ "$which" = ignored ]; then arguments=(--ignored); fi
  while read -r -u 3 name program; do
    # As cargo would run it, but in the cluster's network. An error tells its story; where in our code it was made does not.
    shown "story: $name" world run env -C "$here" CARGO_MANIFEST_DIR="$here" RUST_LIB_BACKTRACE=0 "$program" "${arguments[@]}"
  done 3< <(chosen_stories "$1")
}

# Told on the world $E2E_WORLD: unpaid, paid, or one after the other.
told_on_one_world() { # KIND...
  local kind
  step "bring the $(world which) cluster up" fresh_world
  step "load the images into its nodes" world images
  for kind in "$@"; do
    if [ -z "$(chosen_stories "$kind")" ]; then continue; fi
    if [ "$kind" = paid ]; then
      step "start a chain" "$here/chain/chain.sh" up
      step "deploy the contracts and let Gridstake settle on the chain, with helm" "$here/install.sh"
    else
      step "install Gridstake with helm" "$here/install.sh"
    fi
    steps_go_on=yes
    tell "$kind"
    steps_go_on=no
  done
  steps_go_on=yes
  if ((steps_failed > 0)); then
    say "the cluster is kept. To look around: E2E_WORLD=$E2E_WORLD e2e/cluster/world.sh run bash; to remove it: make world-down"
  elif [ -z "${KEEP:-}" ]; then
    step "remove the cluster" world down
  fi
}

# For the upgrade that a later commit tells of.
keep_for_later() { if ((steps_failed == 0)) && [ -z "${STORY:-}" ]; then step "keep this commit's charts and images" "$here/before.sh" keep; fi; }

stories() { # all|ignored
  local which=$1 paid=$checkout/.build/logs/verify/$part-paid.txt pid
  compile
  step "pack the images" "$here/images/pack.sh"
  step "list the stories" story_programs
  local stories_list=$step_log
  if [ -z "$(chosen_stories paid)" ]; then
    told_on_one_world unpaid
  elif [ -z "$(chosen_stories unpaid)" ]; then
    told_on_one_world paid
  elif [ "$(world which)" = existing ]; then
    told_on_one_world unpaid paid
  else
    say "the stories in which use is paid are told at the same time on the world $E2E_WORLD-paid, and shown afterwards"
    (
      export E2E_WORLD=$E2E_WORLD-paid
      steps_logs=$steps_logs-paid
      rm -rf "$steps_logs"
      told_on_one_world paid
      exit $((steps_failed > 0))
    ) >"$paid" 2>&1 &
    pid=$!
    # shellcheck disable=SC2064 # this pid
    trap "kill -TERM $pid 2>/dev/null" EXIT
    told_on_one_world unpaid
    say "wait for the stories in which use is paid"
    wait "$pid" || steps_failed=$((steps_failed + 1))
    trap - EXIT
    cat "$paid"
  fi
}

long() {
  stories ignored
  steps_go_on=yes
  shown "long tests on a chain" cargo test --workspace --locked --test chain -- --ignored --skip campaign::campaign_of
}

count_tests() { # FOLDER of logs
  find "$1" -name '*.log' -exec cat {} + 2>/dev/null | awk '
    /^test result: / { for (i = 1; i < NF; i++) { if ($(i + 1) == "passed;") passed += $i; if ($(i + 1) == "failed;") failed += $i } }
    END { printf "%d passed, %d failed\n", passed, failed }'
}

all() {
  local part status=0 failed=()
  for part in check unit stories; do
    bash "$self" "$part" || { status=$? && failed+=("$part"); }
  done
  if ((status != 0)); then say "failed: ${failed[*]}; logs: $checkout/.build/logs/verify"; fi
  count_tests "$checkout/.build/logs/verify"
  exit "$status"
}

case $part in
  all)
    rm -rf "$checkout/.build/logs/verify"
    all
    ;;
  stories)
    bash "$here/setup.sh"
    stories all
    keep_for_later
    ;;
  check | unit | long)
    bash "$here/setup.sh"
    "$part"
    ;;
  *)
    sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$self" >&2
    exit 2
    ;;
esac
if ((steps_failed > 0)); then exit 1; fi
