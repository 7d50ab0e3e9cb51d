#!/usr/bin/env bash
# Measures what docs/benchmarks.md records, on release builds and a native cluster made for it.
#
#   bench.sh
#
# Environment:
#   IDLE_SECONDS   how long to watch the idle cluster (default: 600)
#   INSTALLS       how often to install (default: 3)
#   JOBS           how many jobs to start, one after the other (default: 20)
#   PROFILE        release (default) or dev
#   KEEP           not empty: leave the cluster running
# Nothing else should run on the machine meanwhile.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
# The audit log, which counts writes, and the nodes' /proc are read; only the native cluster has both.
export E2E_CLUSTER=native E2E_WORLD=bench PROFILE=${PROFILE:-release} IMAGES_DIR=$checkout/.build/bench-images
# shellcheck source=e2e/steps.sh
. "$here/steps.sh"
world() { "$here/cluster/world.sh" "$@"; }

bash "$here/setup.sh"
step "compile, profile $PROFILE" env -C "$checkout" cargo build --workspace --locked --profile "$PROFILE"
step "pack the images" "$here/images/pack.sh"
step "bring the cluster up" env IMAGES="$IMAGES_DIR/pause.tar $IMAGES_DIR/busybox.tar" "$here/cluster/world.sh" up --fresh
step "load the images into its nodes" world images "$IMAGES_DIR"/*.tar
shown "install Gridstake with helm" world run python3 "$here/benches/install_bench.py" --install "$here/install.sh" --times "${INSTALLS:-3}"
shown "measure" world run python3 "$here/benches/cluster_bench.py" --world "$here/cluster/world.sh" \
  --images "$IMAGES_DIR" --audit-log "$checkout/.build/$E2E_WORLD/logs/audit.log" \
  --jobs "${JOBS:-20}" --idle-seconds "${IDLE_SECONDS:-600}" --profile "$PROFILE"

paid=gridstake-bench
market=$checkout/target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")/demo-market
step "start a chain" "$here/chain/chain.sh" up
step "deploy the contracts and let Gridstake settle on the chain, with helm" "$here/install.sh"
step "make a namespace for paid jobs" world run kubectl create namespace "$paid"
step "open the market" world run "$market" open "$paid"
shown "measure settlement" world run python3 "$here/benches/settlement_bench.py" --world "$here/cluster/world.sh" \
  --namespace "$paid" --jobs "${JOBS:-20}"
if [ -z "${KEEP:-}" ]; then step "remove the cluster" world down; fi
