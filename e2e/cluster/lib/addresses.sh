# shellcheck shell=bash
# Names and addresses inside the cluster, and two functions that every script here uses.
# Each cluster has network namespaces of its own, so these never collide with the host or with another cluster.
# shellcheck disable=SC2034 # they are used where this file is included

gateway=10.89.0.1             # the control plane; nodes reach it through a bridge
service_cidr=10.96.0.0/16     # the API server is 10.96.0.1
pod_cidr=10.244.0.0/16        # node number I has 10.244.I.0/24

node_names=(node-a node-b node-c node-d node-e node-f node-g node-h node-i)

node_address() { echo "10.89.0.1$1"; }  # NUMBER, from 1
node_pods() { echo "10.244.$1.0/24"; }  # NUMBER, from 1

wait_for() { # SECONDS CMD...: until CMD succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS >= end)); then
      echo "timed out: $*" >&2
      return 1
    fi
    sleep 0.1
  done
}

supervise() { # NAME LOG_FILE CMD...: starts CMD in the background, and again whenever it ends, but not while it is held
  local name=$1 log=$2 held=${dir:?}/run/$1.held
  shift 2
  (
    while :; do
      until [ ! -e "$held" ]; do sleep 0.1; done
      status=0
      "$@" || status=$?
      echo "$name ended with status $status and is started again" >&2
      sleep 1
    done
  ) </dev/null >>"$log" 2>&1 &
}

reap() { # as process 1 of a PID namespace: collects orphans until the end
  while :; do
    sleep 3600 &
    wait $! || true
  done
}
