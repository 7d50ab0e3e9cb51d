#!/usr/bin/env bash
# The chain of the demo and the tests: an anvil in the world of e2e/cluster/world.sh.
#
#   chain.sh up                      start it; one that runs is kept
#   chain.sh down                    remove it, and all that is on it
#   chain.sh url                     print the URL under which pods reach it
#   chain.sh run CMD...              run CMD where ETH_RPC_URL reaches it, with foundry's programs in PATH
#   chain.sh rpc METHOD [PARAMETER...]   call it; each parameter is JSON, or else a word
#   chain.sh warp SECONDS            let its clock jump ahead, and mine a block
#   chain.sh mine [BLOCKS]           mine at once
#   chain.sh stop                    halt the process: calls get no answer, and no block is mined
#   chain.sh start                   let it go on
#
# Environment: E2E_CLUSTER, E2E_WORLD as in world.sh
set -euo pipefail

self=$(readlink -f "$0")
here=$(dirname "$self")
checkout=$(readlink -f "$here/../..")
world() { "$here/../cluster/world.sh" "$@"; }
kubectl() { world run kubectl --namespace chain "$@"; }

fail() {
  echo "chain.sh: $*" >&2
  exit 1
}

up() {
  world run kubectl apply --filename "$here/anvil.yaml"
  kubectl rollout status deployment/anvil --timeout=60s
}

down() { world run kubectl delete --ignore-not-found --wait --timeout=60s --filename "$here/anvil.yaml"; }

url() { # there is no DNS in a native cluster
  local address
  address=$(kubectl get service anvil --ignore-not-found --output 'jsonpath={.spec.clusterIP}')
  [ -n "$address" ] || fail "the chain is not up; run $self up"
  echo "http://$address:8545"
}

# Run in the world: forwards a port of this network to the chain as long as the command runs.
forwarded() { # CMD...
  local line port forwarder status=0
  exec 3< <(exec kubectl --namespace chain port-forward deployment/anvil :8545 2>&1)
  forwarder=$!
  while read -r -u 3 line; do
    port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' <<<"$line")
    [ -z "$port" ] || break
  done
  if [ -z "${port:-}" ]; then fail "kubectl cannot reach the chain: ${line:-no answer}"; fi
  cat <&3 >/dev/null &
  env ETH_RPC_URL="http://127.0.0.1:$port" "$@" || status=$?
  kill "$forwarder" 2>/dev/null || true
  return "$status"
}

run() { # CMD...
  (($# > 0)) || fail "usage: chain.sh run CMD..."
  world run env PATH="$checkout/.build/bin:$PATH" bash "$self" forwarded "$@"
}

rpc() { # METHOD [PARAMETER...]
  (($# > 0)) || fail "usage: chain.sh rpc METHOD [PARAMETER...]"
  run python3 "$here/rpc.py" "$@"
}

warp() { # SECONDS
  [[ ${1:-} =~ ^[0-9]+$ ]] || fail "usage: chain.sh warp SECONDS"
  run bash -c "python3 '$here/rpc.py' evm_increaseTime $1 && python3 '$here/rpc.py' evm_mine" >/dev/null
}

mine() { rpc anvil_mine "${1:-1}" >/dev/null; }

signal() { kubectl exec deployment/anvil --container anvil -- sh -c "kill -$1 \$(pidof anvil)"; }
halt() { signal STOP; }
continue_() { signal CONT; }

if (($# == 0)); then
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$self" >&2
  exit 2
fi
verb=$1
shift
case $verb in
  up | down | url | run | rpc | warp | mine | forwarded) "$verb" "$@" ;;
  stop) halt ;;
  start) continue_ ;;
  *) fail "no verb '$verb'; there are up, down, url, run, rpc, warp, mine, stop and start" ;;
esac
