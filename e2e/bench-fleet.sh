#!/usr/bin/env bash
# Measures how soon jobs are placed on a large fleet, on a real control plane whose nodes kwok plays.
#
#   bench-fleet.sh
#
# Environment:
#   FLEET     nodes of eight GPUs (default: 1000)
#   BURST     jobs that are created at once (default: 500)
#   DURATION  for how long jobs are created one after the other (default: 60); AT_ONCE of them unbound (default: 100)
#   PENDING   jobs that find no place at once (default: 0, none)
#   PROFILE   bench (default), release or dev
#   KEEP      not empty: leave the cluster running
# Nothing else should run on the machine meanwhile.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
export E2E_CLUSTER=native E2E_WORLD=bench PROFILE=${PROFILE:-bench} IMAGES_DIR=$checkout/.build/bench-images GRACE=60
# shellcheck source=e2e/steps.sh
. "$here/steps.sh"
world() { "$here/cluster/world.sh" "$@"; }
nodes=${FLEET:-1000}
load=$checkout/target/$([ "$PROFILE" = dev ] && echo debug || echo release)/bench-scheduling
audit_log=$checkout/.build/$E2E_WORLD/logs/audit.log

start_kwok() {
  local pid_file=$checkout/.build/$E2E_WORLD/run/kwok.pid
  world run "$checkout/.build/bin/kwok" --config "$here/benches/kwok-stages.yaml" --manage-all-nodes=false \
    --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake --node-lease-duration-seconds=200 \
    >"$checkout/.build/$E2E_WORLD/logs/kwok.log" 2>&1 &
  echo $! >"$pid_file"
}

# The writes of the operator that the audit log shows since a time, dry runs and events apart, and how many jobs ended by then.
count_writes() { # SINCE JOBS
  python3 - "$audit_log" "$1" "$2" <<'PY'
import json, sys
log, since, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
counts = {}
for line in open(log, encoding="utf-8"):
    event = json.loads(line)
    if event["stageTimestamp"] < since or not event["user"]["username"].endswith(":gridstake-operator"):
        continue
    what = event.get("objectRef", {})
    if "dryRun=All" in event["requestURI"] or what.get("resource") in ("events", "leases"):
        continue
    name = f'{event["verb"]} {what.get("resource")}{"/" + what["subresource"] if "subresource" in what else ""}'
    code = event.get("responseStatus", {}).get("code", 0)
    if code >= 300:
        name += f", answered {code}"
    counts[name] = counts.get(name, 0) + 1
total = sum(counts.values())
print(f"writes jobs={jobs} total={total} per_job={total / jobs:.2f}")
for name, count in sorted(counts.items(), key=lambda item: -item[1]):
    print(f"  {name}: {count} ({count / jobs:.2f} a job)")
PY
}

resident() { # prints what the larger of the operator's replicas takes
  ps -o rss=,args= -C gridstake-operator | sort -rn | awk 'NR == 1 { printf "operator resident_mib=%.0f\n", $1 / 1024 }'
}

bash "$here/setup.sh"
step "install kwok" env GOBIN="$checkout/.build/bin" CGO_ENABLED=0 GOFLAGS=-trimpath go install sigs.k8s.io/kwok/cmd/kwok@v0.8.0
step "compile, profile $PROFILE" env -C "$checkout" cargo build --workspace --locked --profile "$PROFILE"
step "pack the images" "$here/images/pack.sh"
step "bring the cluster up" env IMAGES="$IMAGES_DIR/pause.tar $IMAGES_DIR/busybox.tar" "$here/cluster/world.sh" up --fresh
step "load the images into its nodes" world images "$IMAGES_DIR"/*.tar
# Making the fake nodes takes longer than the usual patience with an agent; only then are their heartbeats played.
step "install Gridstake with helm" "$here/install.sh" --set failover.silentAfterSeconds=65535 --set canary.enabled=false
start_kwok
trap 'kill "$(cat "$checkout/.build/$E2E_WORLD/run/kwok.pid")" ${beats:+"$beats"} 2>/dev/null || true' EXIT
shown "make a fleet of $nodes nodes" world run "$load" fleet "$nodes"
world run "$load" beats &
beats=$!
since=$(date -u +%Y-%m-%dT%H:%M:%S)
shown "a burst of ${BURST:-500} jobs" world run "$load" burst "${BURST:-500}"
step "until their use is settled" sleep 30 # ten seconds of work, and what comes after it
shown "writes" count_writes "$since" "${BURST:-500}"
shown "one job after the other" world run "$load" sustained "${DURATION:-60}" "${AT_ONCE:-100}"
shown "memory" resident
if ((${PENDING:-0} > 0)); then
  shown "${PENDING} jobs that wait" world run "$load" pending "$PENDING"
  shown "memory with them" resident
fi
if [ -z "${KEEP:-}" ]; then step "remove the cluster" world down; fi
