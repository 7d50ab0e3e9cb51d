#!/usr/bin/env bash
# The demo: a real cluster with simulated GPUs, Gridstake installed by its charts, and one GPU job that runs to its end.
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
world() { "$here/cluster/world.sh" "$@"; }
kubectl() { world run kubectl "$@"; }

if [ "${1:-}" = down ]; then
  if [ "$(world which)" = existing ]; then
    kubectl delete --ignore-not-found --filename "$sample"
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
  exec 3< <(timeout 300 "$here/cluster/world.sh" run kubectl get computejob "$job" --watch --output 'go-template=
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
  kubectl describe computejob "$job" >&2
  return 1
}

gpu_seconds() { # prints milliseconds of GPU time as seconds
  local millis
  # The bill waits for the agent's last word.
  kubectl wait "computejob/$job" --for=condition=Metered --timeout=60s >/dev/null
  millis=$(kubectl get computejob "$job" --output 'jsonpath={.status.usage.gpuMillis}')
  awk -v millis="${millis:-0}" 'BEGIN { printf "%.3f\n", millis / 1000 }'
}

# In the same shell, so that its seconds count on.
steps_logs=$checkout/.build/logs/demo
bash "$here/setup.sh"
step "compile Gridstake (the first time some minutes)" env -C "$checkout" cargo build --workspace --locked
step "pack the images" "$here/images/pack.sh"
step "bring the $(world which) cluster up" world up
say "load the images into its nodes"
loaded=$(world images)
step "install Gridstake with helm" "$here/install.sh"
# shellcheck disable=SC2086 # one argument per image
if [ -n "$loaded" ]; then step "start the parts whose images changed" restart_parts $loaded; fi
step "wait until every node's GPUs are on offer" nodes_are_offered
step "remove the job of the last time" kubectl delete --ignore-not-found --wait --timeout=60s --filename "$sample"
say "kubectl apply -f manifests/samples/hello-gpu.yaml"
kubectl apply --filename "$sample" >/dev/null
follow_job

echo
echo "The job's log:"
kubectl logs --selector "gridstake.dev/job=$job" --tail=-1 | sed 's/^/    /'
echo
echo "GPU-seconds used: $(gpu_seconds)"
echo
kubectl get gpunodes,computejobs
cat <<TEXT

The cluster keeps running. To look around:
    E2E_WORLD=$E2E_WORLD e2e/cluster/world.sh run bash       a shell with kubectl and helm for this cluster
    kubectl explain computejob.spec                  (in that shell)
    kubectl describe computejob $job            (in that shell)
To run the job again: make demo. To stop and remove everything: make demo-down.
TEXT
