#!/usr/bin/env bash
# The cluster that the demo and the tests run on, whichever kind it is.
#
#   world.sh which                 print which kind is used: native, kind or existing
#   world.sh folder                print the world's folder on this machine
#   world.sh up [--fresh]          bring it up; one that is up is kept, unless --fresh (never with existing)
#   world.sh down                  remove it (an existing cluster is left alone)
#   world.sh status                say whether it is up and what its nodes are; fails unless it is
#   world.sh env                   print the variables to set: eval "$(world.sh env)"
#   world.sh run CMD...            run CMD where the API server can be reached, with kubectl, helm and KUBECONFIG set
#   world.sh images [TAR...]       load image archives into every node (default: .build/images/*.tar), those that
#                                  changed since; prints the names of what it loaded
#   world.sh on-node NODE CMD...   run CMD on a node, as root, in its host namespaces
#   world.sh power NODE off|on     cut a node's power, or give it back
#   world.sh cable NODE off|mute|deaf|on  take a node off the network; let nothing out of it, or nothing in (native only); or
#                                  put it back
#   world.sh api-server off|kill|on  let the API server hang, kill it (it is started again), or let it go on
#   world.sh restart NODE NAME     kill containerd or kubelet of a node with SIGKILL; it is started again
#   world.sh etcd backup FILE      take a snapshot of etcd (native only)
#   world.sh etcd restore FILE     let the API server be as it was when that was taken: it and etcd are stopped, and started with
#                                  the snapshot's data. Nodes, controllers and Gridstake run on (native only)
#
# Environment:
#   E2E_CLUSTER   native    a cluster of its own on this machine, without Docker; needs root (see cluster.sh)
#                 kind      a kind cluster; needs kind and a running Docker engine
#                 existing  the cluster of KUBECONFIG; its nodes must be able to pull the images
#                 not set: existing if KUBECONFIG is set, else kind if it can run here, else native
#   E2E_WORLD     the world's name (default: test); two names are two clusters, side by side
#   E2E_VALUES    with existing: a Helm values file that names images which the nodes can pull
#   KIND_IMAGE    with kind: the node image (default: kind's own)
set -euo pipefail

self=$(readlink -f "$0")
here=$(dirname "$self")
checkout=$(readlink -f "$here/../..")
bin=$checkout/.build/bin
world=${E2E_WORLD:-test}
dir=$checkout/.build/$world
kind_name=gridstake-$world

fail() {
  echo "world.sh: $*" >&2
  exit 1
}

can_run_kind() { type -P kind >/dev/null && type -P docker >/dev/null && timeout 10 docker info >/dev/null 2>&1; }

choose() {
  case ${E2E_CLUSTER:-} in
    native | kind | existing) echo "$E2E_CLUSTER" ;;
    '') if [ -n "${KUBECONFIG:-}" ]; then echo existing; elif can_run_kind; then echo kind; else echo native; fi ;;
    *) fail "E2E_CLUSTER=$E2E_CLUSTER; it must be native, kind or existing" ;;
  esac
}

which_world() { echo "$cluster"; }

fingerprint() { # of what a native cluster is made from
  { cat "$bin/.kube-all.stamp" && cat "$here/cluster.sh" "$here"/lib/*.sh; } 2>/dev/null | sha256sum | cut -d' ' -f1
}

kubeconfig() {
  case $cluster in
    native) "$here/cluster.sh" kubeconfig "$dir" ;;
    kind) echo "$dir/kubeconfig" ;;
    existing) echo "${KUBECONFIG:-$HOME/.kube/config}" ;;
  esac
}

is_up() { run kubectl get --raw /readyz --request-timeout=5s >/dev/null 2>&1; }

up() {
  local fresh=${1:-}
  [ -z "$fresh" ] || [ "$fresh" = --fresh ] || fail "usage: world.sh up [--fresh]"
  if [ -z "$fresh" ] && is_up && { [ "$cluster" != native ] || [ "$(cat "$dir/run/fingerprint" 2>/dev/null)" = "$(fingerprint)" ]; }; then
    echo "the $cluster cluster '$world' is up already"
    return
  fi
  case $cluster in
    native)
      "$here/cluster.sh" up "$dir"
      fingerprint >"$dir/run/fingerprint"
      ;;
    kind)
      can_run_kind || fail "E2E_CLUSTER=kind needs kind and a running Docker engine ('docker info' must work)"
      mkdir -p "$dir"
      rm -rf "$dir/loaded"
      kind delete cluster --name "$kind_name" --kubeconfig "$dir/kubeconfig"
      kind create cluster --name "$kind_name" --kubeconfig "$dir/kubeconfig" --config "$here/kind.yaml" --wait 180s \
        ${KIND_IMAGE:+--image "$KIND_IMAGE"}
      ;;
    existing) fail "cannot reach the cluster of $(kubeconfig): kubectl get --raw /readyz fails" ;;
  esac
  echo "the $cluster cluster '$world' is up"
}

down() {
  case $cluster in
    native) "$here/cluster.sh" down "$dir" ;;
    kind)
      kind delete cluster --name "$kind_name" --kubeconfig "$dir/kubeconfig"
      rm -rf "$dir/loaded"
      ;;
    existing) echo "the cluster of $(kubeconfig) is not ours: it is left as it is" ;;
  esac
}

status() {
  case $cluster in
    native) "$here/cluster.sh" status "$dir" ;;
    *)
      is_up || fail "the $cluster cluster '$world' is not up"
      run kubectl get nodes --output wide
      ;;
  esac
}

environment() {
  printf 'export %s=%q\n' E2E_CLUSTER "$cluster" E2E_WORLD "$world" KUBECONFIG "$(kubeconfig)" PATH "$bin:$PATH" \
    E2E_RUN "$self run"
  if [ "$cluster" = native ]; then
    echo "# The API server listens in the cluster's own network: begin commands with \$E2E_RUN, or start \$E2E_RUN bash."
  fi
}

run() { # CMD...
  (($# > 0)) || fail "usage: world.sh run CMD..."
  local variables=(E2E_CLUSTER="$cluster" E2E_WORLD="$world" KUBECONFIG="$(kubeconfig)" PATH="$bin:$PATH" E2E_RUN=env)
  case $cluster in
    native) "$here/cluster.sh" exec "$dir" env "${variables[@]}" "$@" ;;
    *) env "${variables[@]}" "$@" ;;
  esac
}

loaded_record() { # prints the folder that remembers what was loaded; it goes with the cluster
  case $cluster in
    native) echo "$dir/run/loaded" ;;
    *) echo "$dir/loaded" ;;
  esac
}

load_images() { # TAR...
  local tar name record changed=()
  if (($# == 0)); then set -- "$checkout"/.build/images/*.tar; fi
  if [ "$cluster" = existing ]; then
    if [ -z "${E2E_VALUES:-}" ]; then
      fail "images cannot be loaded into the nodes of an existing cluster. Push them to a registry that the nodes can
pull from (Dockerfile has a target per image), and name them in a Helm values file: image.registry, image.repository
and image.tag of each part. Then set E2E_VALUES to that file"
    fi
    echo "images come from where ${E2E_VALUES} says" >&2
    return
  fi
  record=$(loaded_record)
  mkdir -p "$record"
  for tar; do
    [ -e "$tar" ] || fail "no image archive $tar; run e2e/images/pack.sh"
    [ "$(sha256sum <"$tar")" = "$(cat "$record/$(basename "$tar")" 2>/dev/null)" ] || changed+=("$tar")
  done
  if ((${#changed[@]} == 0)); then return; fi
  case $cluster in
    native) "$here/cluster.sh" images "$dir" "${changed[@]}" ;;
    kind) for tar in "${changed[@]}"; do kind load image-archive --name "$kind_name" "$tar" >&2; done ;;
  esac
  for tar in "${changed[@]}"; do
    name=$(basename "$tar")
    sha256sum <"$tar" >"$record/$name"
    echo "${name%.tar}"
  done
}

power() { # NODE off|on
  local node=${1:?NODE} state=${2:-}
  case $cluster/$state in
    native/*) "$here/cluster.sh" power "$dir" "$node" "$state" ;;
    kind/off) docker kill "$node" >/dev/null ;;
    kind/on) docker start "$node" >/dev/null ;;
    existing/*) fail "the nodes of an existing cluster cannot be switched off" ;;
    *) fail "usage: world.sh power NODE off|on" ;;
  esac
}

cable() { # NODE off|mute|deaf|on
  local node=${1:?NODE} state=${2:-}
  case $cluster/$state in
    native/*) "$here/cluster.sh" cable "$dir" "$node" "$state" ;;
    kind/off) docker network disconnect kind "$node" ;;
    kind/on) docker network connect kind "$node" ;;
    existing/*) fail "the nodes of an existing cluster cannot be taken off their network" ;;
    *) fail "usage: world.sh cable NODE off|on, and with native mute|deaf" ;;
  esac
}

api_server() { # off|kill|on
  local signal
  case ${1:-} in off) signal=STOP ;; kill) signal=KILL ;; on) signal=CONT ;; *) fail "usage: world.sh api-server off|kill|on" ;; esac
  case $cluster in
    native) "$here/cluster.sh" api-server "$dir" "$1" ;;
    kind) docker exec "$kind_name-control-plane" pkill "-$signal" -x kube-apiserver ;;
    existing) fail "the API server of an existing cluster cannot be stopped" ;;
  esac
}

restart() { # NODE NAME
  local node=${1:?NODE} name=${2:?containerd or kubelet}
  case $cluster in
    native) "$here/cluster.sh" restart "$dir" "$node" "$name" ;;
    kind) docker exec "$node" pkill -KILL -x "$name" ;;
    existing) fail "the services of an existing cluster's nodes cannot be killed" ;;
  esac
}

etcd() { # backup|restore FILE
  case $cluster in
    native) "$here/cluster.sh" etcd "$dir" "$@" ;;
    *) fail "etcd can be restored in a native cluster alone" ;;
  esac
}

on_node() { # NODE CMD...
  (($# > 1)) || fail "usage: world.sh on-node NODE CMD..."
  local node=$1
  case $cluster in
    native) "$here/cluster.sh" node "$dir" "$@" ;;
    kind) docker exec --interactive "$node" "${@:2}" ;;
    existing) fail "commands cannot be run on the nodes of an existing cluster" ;;
  esac
}

if (($# == 0)); then
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$self" >&2
  exit 2
fi
verb=$1
shift
cluster=$(choose)
case $verb in
  which) which_world ;;
  folder) echo "$dir" ;;
  up | down | status | run | power | cable | restart | etcd) "$verb" "$@" ;;
  api-server) api_server "$@" ;;
  env) environment ;;
  images) load_images "$@" ;;
  on-node) on_node "$@" ;;
  *) fail "no verb '$verb'; there are which, folder, up, down, status, env, run, images, on-node, power, cable, restart, api-server and etcd" ;;
esac
