#!/usr/bin/env bash
# The demo: a real cluster with simulated GPUs and a real chain, Gridstake installed by its charts, two staked providers, a
# payer, and one GPU job that runs to its end and is paid.
#
#   demo.sh          can run again at any time; what is in place is kept, the job is submitted anew
#   demo.sh down     remove the demo's cluster (an existing cluster: remove Gridstake from it)
#
# Environment: E2E_CLUSTER, E2E_VALUES as in e2e/cluster/world.sh
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
export E2E_WORLD=${E2E_WORLD:-demo}
# shellcheck source=e2e/steps.sh
. "$here/steps.sh"
sample=$checkout/manifests/samples/hello-gpu.yaml
job=hello-gpu
namespace=gridstake-demo # the tenant's; its annotations say who pays
world() { "$here/cluster/world.sh" "$@"; }
kubectl() { world run kubectl "$@"; }
tenant() { kubectl --namespace "$namespace" "$@"; }
market() { world run "${CARGO_TARGET_DIR:-$checkout/target}/debug/demo-market" "$@"; }

if [ "${1:-}" = down ]; then
  if [ "$(world which)" = existing ]; then
    kubectl delete --ignore-not-found namespace "$namespace"
    "$here/chain/chain.sh" down
    world run helm uninstall gridstake --namespace gridstake-system --wait --ignore-not-found
    world run helm uninstall gridstake-crds --namespace gridstake-system --wait --ignore-not-found
  fi
  world down
  exit
fi

# Images of the same name are new: pods that run the old ones have to go.
restart_parts() { # IMAGE...
  local kinds=()
  if printf '%s\n' "$@" | grep -qx operator; then kinds+=(deployment); fi
  if printf '%s\n' "$@" | grep -qxE 'device-agent|simulated-gpus'; then kinds+=(daemonset); fi
  if ((${#kinds[@]} == 0)); then return; fi
  for kind in "${kinds[@]}"; do
    kubectl rollout restart "$kind" --namespace gridstake-system --selector app.kubernetes.io/name=gridstake
    kubectl rollout status "$kind" --namespace gridstake-system --selector app.kubernetes.io/name=gridstake --timeout=120s
  done
}

nodes_are_offered() {
  local node
  for node in $(kubectl get nodes --selector '!node-role.kubernetes.io/control-plane' --output name); do
    kubectl wait --for=create "gpunode/${node#node/}" --timeout=120s
    kubectl wait --for=condition=Offered "gpunode/${node#node/}" --timeout=120s
  done
}

# Prints each condition of the job when it changes, until the job is complete or has failed.
follow_job() {
  local line condition end=failed
  declare -A seen=()
  # A watch ends with its time or with a failure, not with the job: it runs beside the loop that reads it.
  # (No jsonpath: kubectl 1.36 ends a watch at the second event when it has a range in it.)
  exec 3< <(timeout 300 "$here/cluster/world.sh" run kubectl --namespace "$namespace" get computejob "$job" --watch --output 'go-template=
    {{- range .status.conditions}}{{.type}}={{.status}}:{{.reason}} {{end}}
    {{- with .status.placement}}{{range .nodes}}{{.node}} {{end}}{{end}}{{"\n"}}')
  local watcher=$!
  while read -r -u 3 line; do
    for condition in $line; do
      case $condition in
        *=*:*)
          if [ "${seen[${condition%%=*}]:-}" != "$condition" ]; then
            seen[${condition%%=*}]=$condition
            case $condition in *=True:*) say "  ${condition%%=*} (${condition#*:})" ;; esac
          fi
          ;;
        *)
          if [ -z "${seen[node $condition]:-}" ]; then say "  placed on $condition"; fi
          seen[node $condition]=yes
          ;;
      esac
    done
    case " $line" in
      *' Complete=True:'*) end=complete && break ;;
      *' Failed=True:'*) break ;;
    esac
  done
  exec 3<&-
  kill "$watcher" 2>/dev/null || true
  if [ "$end" = complete ]; then return; fi
  say "the job did not complete:"
  tenant describe computejob "$job" >&2
  return 1
}

make_namespace() {
  kubectl create namespace "$namespace" --dry-run=client --output yaml | kubectl apply --filename -
}

# Says each line of a command's output with the elapsed time.
told() { # CMD...
  local line
  "$@" | while read -r line; do say "  $line"; done
}

# In the same shell, so that its seconds count on.
steps_logs=$checkout/.build/logs/demo
bash "$here/setup.sh"
step "compile Gridstake (the first time some minutes)" env -C "$checkout" cargo build --workspace --locked
step "pack the images" "$here/images/pack.sh"
step "bring the $(world which) cluster up" world up
say "load the images into its nodes"
loaded=$(world images)
step "start a chain: anvil, a block a second" "$here/chain/chain.sh" up
step "deploy the contracts and install Gridstake with helm" "$here/install.sh"
# shellcheck disable=SC2086 # one argument per image
if [ -n "$loaded" ]; then step "start the parts whose images changed" restart_parts $loaded; fi
step "remove the job of the last time" tenant delete --ignore-not-found --wait --timeout=60s --filename "$sample"
step "make the tenant's namespace" make_namespace
say "open the market: two staked providers, and a payer that consents"
told market open "$namespace"
step "wait until every node's GPUs are on offer" nodes_are_offered
say "kubectl apply --namespace $namespace -f manifests/samples/hello-gpu.yaml"
tenant apply --filename "$sample" >/dev/null
follow_job
step "wait until the job is paid for good: condition Settled" \
  kubectl --namespace "$namespace" wait "computejob/$job" --for=condition=Settled --timeout=120s
say "read back from the chain what was paid"
told market show "$namespace" "$job"

echo
echo "The job's log:"
tenant logs --selector "gridstake.dev/job=$job" --tail=-1 | sed 's/^/    /'
echo
kubectl get gn,cjob,sb,ur,batch --all-namespaces
cat <<TEXT

The cluster keeps running. To look around:
    E2E_WORLD=$E2E_WORLD e2e/cluster/world.sh run bash       a shell with kubectl and helm for this cluster
    kubectl explain computejob.spec                  (in that shell)
    kubectl describe -n $namespace computejob $job            (in that shell)
    E2E_WORLD=$E2E_WORLD e2e/chain/chain.sh run cast block latest       the chain
To run the job again: make demo. To stop and remove everything: make demo-down.
TEXT
