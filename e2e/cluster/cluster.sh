#!/usr/bin/env bash
# A real Kubernetes cluster on one Linux machine: no Docker, no virtual machine, no outside network.
#
#   cluster.sh up         DIR              start it; one that runs already is removed first
#   cluster.sh down       DIR              remove every process, mount, cgroup, network namespace and file of it
#   cluster.sh status     DIR              its nodes, and the memory of its programs; fails unless it runs
#   cluster.sh kubeconfig DIR              print the path of the administrator's kubeconfig
#   cluster.sh exec       DIR CMD...       run CMD in the cluster's network (this machine's files, our kubectl first)
#   cluster.sh node       DIR NODE CMD...  run CMD on a node: its network, processes, /run, /var/lib and /var/log
#   cluster.sh images     DIR TAR...       load image archives into every node
#   cluster.sh restart    DIR NODE NAME    kill containerd, kubelet or kube-proxy of a node; it is started again
#   cluster.sh power      DIR NODE off|on  cut a node's power, or give it back
#   cluster.sh cable      DIR NODE off|mute|deaf|on  take a node off the network; let nothing out of it, or nothing in; or put
#                                          it back
#   cluster.sh api-server DIR off|kill|on  let the API server hang (it takes connections and never answers), kill it (it is
#                                          started again), or let it go on
#   cluster.sh etcd       DIR backup FILE  take a snapshot of etcd, from the running one
#   cluster.sh etcd       DIR restore FILE  stop the API server and etcd, make etcd's data anew from a snapshot, and start both
#                                          again. What was written since is gone; nothing else is stopped
#
# Environment of `up`:
#   KUBE_BIN  folder with kube-all and its links (default: .build/bin of this checkout)
#   IMAGES    image archives to load; one must be localhost/pause:1 (default: .build/images/{pause,busybox}.tar)
#   NODES     number of nodes, named node-a, node-b, ...: 1 to 9 (default 2)
#   GRACE     seconds without a heartbeat until a node is NotReady (default 16; 60 with hundreds of fake nodes)
#
# Everything in DIR but DIR/logs goes with `down`; a DIR that holds something else is refused.
# Needs root and: containerd, runc, the CNI plugins, iproute2, nftables, openssl, util-linux.
set -euo pipefail

self=$(readlink -f "$0")
here=$(dirname "$self")
usage() { sed -n '3,/^# Needs root/s/^# \{0,1\}//p' "$self"; }
if (($# < 2)); then
  usage >&2
  exit 2
fi
command=$1 dir=$(readlink -m "$2")
shift 2
id=gridstake-$(printf %s "$dir" | sha256sum | cut -c1-8) # one cgroup tree per DIR

checkout=$(readlink -f "$here/../..")
bin=$(readlink -m "${KUBE_BIN:-$checkout/.build/bin}")
nodes=${NODES:-2}
grace=${GRACE:-16}
export dir id bin nodes grace

# shellcheck source=e2e/cluster/lib/addresses.sh
. "$here/lib/addresses.sh"
# shellcheck source=e2e/cluster/lib/cgroups.sh
. "$here/lib/cgroups.sh"

fail() {
  echo "cluster.sh: $*" >&2
  exit 1
}

check_host() {
  local program missing=()
  [ "$(uname -s)" = Linux ] || fail "the native cluster needs Linux; use E2E_CLUSTER=kind here"
  [ "$(id -u)" = 0 ] || fail "the native cluster needs root (namespaces, cgroups); run as root, or use E2E_CLUSTER=kind"
  for program in containerd ctr runc ip nft openssl unshare nsenter; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  ((${#missing[@]} == 0)) || fail "not installed: ${missing[*]}; run e2e/setup.sh"
  [ -x "$bin/kubelet" ] || fail "no kubelet in $bin; run e2e/setup.sh, or set KUBE_BIN"
  ((nodes >= 1 && nodes <= ${#node_names[@]})) || fail "NODES=$nodes; it must be 1 to ${#node_names[@]}"
}

check_node() { # NAME
  [ -d "$dir/nodes/${1:?node name}" ] || fail "no node '$1' in $dir; there are: $(cd "$dir/nodes" 2>/dev/null && echo *)"
}

cluster_process() { # prints process 1 of the cluster
  first_process "$id/control-plane" 1 || { echo "cluster.sh: no cluster runs in $dir" >&2 && return 1; }
}

node_process() { # NAME: prints process 1 of the node
  first_process "$id/$1/system" 2 || { echo "cluster.sh: $1 of $dir is not running" >&2 && return 1; }
}

on_node() { # NAME CMD...
  local process
  check_node "$1"
  process=$(node_process "$1")
  shift
  # nsenter leaves the working directory behind with the mounts.
  PATH=/run/kubernetes/bin:$PATH nsenter --target "$process" --net --uts --pid --mount -- "$@"
}

has_no_processes() { [ -z "$(cgroup_pids "$id")" ]; }

remove() {
  local pid
  for pid in $(cgroup_pids "$id"); do kill -9 "$pid" 2>/dev/null || true; done
  wait_for 20 has_no_processes
  wait_for 20 cgroup_remove "$id"
  rm -rf "$dir"/{etcd,nodes,pki,run,archive}
}

claim_directory() {
  if [ -d "$dir" ] && [ ! -e "$dir/.gridstake-cluster" ] && [ -n "$(ls -A "$dir")" ]; then
    fail "$dir holds files that are no cluster's; name an empty or new directory"
  fi
  mkdir -p "$dir"
  touch "$dir/.gridstake-cluster"
  exec 9>"$dir/.gridstake-cluster" # one `up` or `down` at a time
  flock --wait 120 9 || fail "another up or down of $dir is taking more than 120 s"
}

load_images() { # TAR...: into every node; one archive after the other, the nodes at once
  local name tar job jobs
  for tar; do
    jobs=()
    for name in "$dir"/nodes/*/; do
      on_node "$(basename "$name")" ctr --namespace k8s.io images import --all-platforms - <"$tar" >/dev/null &
      jobs+=($!)
    done
    for job in "${jobs[@]}"; do
      wait "$job" || { echo "cluster.sh: cannot load image archive $tar" >&2 && return 1; }
    done
  done
}

has_ended() { [ -e "$dir/run/ready" ] || ! first_process "$id/control-plane" 1; }

containerds_run() {
  local i
  for ((i = 0; i < nodes; i++)); do [ -e "$dir/run/${node_names[i]}.containerd-ready" ] || return 1; done
}

explain_failure() {
  echo "cluster.sh: the cluster did not start; the last lines of $dir/logs:" >&2
  tail -n 4 "$dir"/logs/*.log | grep -v '^$' | cut -c1-240 >&2
}

up() {
  local images
  check_host
  read -ra images <<<"${IMAGES:-$checkout/.build/images/pause.tar $checkout/.build/images/busybox.tar}"
  for tar in "${images[@]}"; do [ -e "$tar" ] || fail "no image archive $tar; run e2e/images/pack.sh, or set IMAGES"; done
  claim_directory
  remove
  rm -rf "$dir/logs"
  mkdir -p "$dir"/{etcd,logs,nodes,pki,run}
  cgroup_create "$id" inner
  cgroup_create "$id/control-plane" leaf
  # Its own session: Ctrl-C in this terminal does not reach the cluster. The lock stays with this script.
  (
    cgroup_enter "$id/control-plane" "$BASHPID"
    exec setsid unshare --net --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
      bash "$here/lib/control-plane.sh"
  ) </dev/null >"$dir/logs/start.log" 2>&1 9>&- &
  if ! { wait_for 60 containerds_run && load_images "${images[@]}" && touch "$dir/run/images-loaded" &&
    wait_for 240 has_ended && [ -e "$dir/run/ready" ]; }; then
    explain_failure
    remove
    return 1
  fi
}

down() {
  if [ ! -d "$dir" ] && has_no_processes; then return; fi
  [ "$(id -u)" = 0 ] || fail "needs root"
  claim_directory
  remove
}

status() {
  cluster_process >/dev/null
  exec_ kubectl get nodes --output wide --request-timeout=10s | awk '{ print $1, $2, $5, $6 }' | column -t
  # shellcheck disable=SC2046 # one argument per process
  ps -o rss=,comm= -p $(cgroup_pids "$id" | paste -sd,) | awk '
    { sum[$2] += $1; total += $1 }
    END { for (name in sum) printf "%6.0f MiB %s\n", sum[name] / 1024, name; printf "%6.0f MiB total\n", total / 1024 }' |
    sort -rn
}

kubeconfig() { echo "$dir/pki/admin.kubeconfig"; }

exec_() { # CMD...
  local process
  process=$(cluster_process)
  KUBECONFIG=$(kubeconfig) PATH=$bin:$PATH nsenter --target "$process" --net -- "$@"
}

restart() { # NODE NAME
  local name=${2:?containerd, kubelet or kube-proxy}
  case $name in
    containerd | kubelet | kube-proxy) on_node "$1" pkill -KILL -x "$name" ;;
    *) fail "a node has containerd, kubelet and kube-proxy, no '$name'" ;;
  esac
}

power() { # NODE off|on
  local process
  check_node "$1"
  case ${2:-} in
    on) rm -f "$dir/run/$1.off" ;;
    off)
      process=$(node_process "$1")
      touch "$dir/run/$1.off"
      kill -9 "$process"
      ;;
    *) fail "usage: cluster.sh power DIR NODE off|on" ;;
  esac
}

# What is neither sent out nor let in stays within the node: its own programs still reach one another.
silence() { # NODE output|input: drops what passes that hook, and what the node forwards for its pods
  local others
  case $2 in output) others='oifname != "lo"' ;; input) others='iifname != "lo"' ;; esac
  on_node "$1" nft -f - <<NFT
table inet e2e_cable {
  chain $2 { type filter hook $2 priority -300; policy accept; $others drop; }
  chain forward { type filter hook forward priority -300; policy drop; }
}
NFT
}

cable() { # NODE off|mute|deaf|on
  check_node "$1"
  case ${2:-} in
    on)
      exec_ ip link set "$1" up
      on_node "$1" nft delete table inet e2e_cable 2>/dev/null || true
      ;;
    off) exec_ ip link set "$1" down ;;
    mute) silence "$1" output ;;
    deaf) silence "$1" input ;;
    *) fail "usage: cluster.sh cable DIR NODE off|mute|deaf|on" ;;
  esac
}

control_plane() { # NAME: prints the process numbers of one of its programs
  local process
  for process in $(cgroup_pids "$id/control-plane"); do
    if [ "$(cat "/proc/$process/comm" 2>/dev/null)" = "$1" ]; then echo "$process"; fi
  done
}

api_server() { # off|kill|on
  local signal process found=
  case ${1:-} in
    off) signal=STOP ;;
    kill) signal=KILL ;;
    on) signal=CONT ;;
    *) fail "usage: cluster.sh api-server DIR off|kill|on" ;;
  esac
  for process in $(control_plane kube-apiserver); do
    kill "-$signal" "$process"
    found=yes
  done
  [ -n "$found" ] || fail "no API server of $dir is running"
}

is_gone() { [ -z "$(control_plane "$1")" ]; }

hold() { # NAME: stops one of the control plane's programs, which is not started again until it is let go
  local process
  touch "$dir/run/$1.held"
  for process in $(control_plane "$1"); do kill -TERM "$process" 2>/dev/null || true; done
  # An API server waits for a minute for those who watch to go.
  wait_for 5 is_gone "$1" 2>/dev/null || for process in $(control_plane "$1"); do kill -KILL "$process" 2>/dev/null || true; done
  wait_for 10 is_gone "$1"
}

let_go() { rm -f "$dir/run/$1.held"; } # NAME

on_its_disk() { # CMD...: where etcd's data can be seen: they are in the control plane's memory, and nowhere else
  local process
  process=$(cluster_process)
  PATH=$bin:$PATH nsenter --target "$process" --mount -- "$@"
}

# As upstream says for Kubernetes: who watches holds revisions that the snapshot does not have. They must neither come again with
# another content nor lie in the future, so the numbers go on far above them, and what is below counts as compacted: everybody lists anew.
# By the clock, so that it holds for a second restore as well.
restore_etcd() { # FILE
  local file=$1 bump
  bump=$(($(date +%s) * 1000))
  [ -s "$file" ] || fail "no snapshot $file"
  hold kube-apiserver
  hold etcd
  on_its_disk rm -rf "$dir/etcd/restored"
  if ! on_its_disk etcdutl snapshot restore "$file" --data-dir "$dir/etcd/restored" --bump-revision "$bump" --mark-compacted \
    >>"$dir/logs/etcd-restore.log" 2>&1; then
    let_go etcd
    let_go kube-apiserver
    fail "the snapshot is not restored: $(tail -n 1 "$dir/logs/etcd-restore.log")"
  fi
  on_its_disk rm -rf "$dir/etcd/data"
  on_its_disk mv "$dir/etcd/restored" "$dir/etcd/data"
  let_go etcd
  wait_for 60 exec_ etcdctl endpoint health
  let_go kube-apiserver
  wait_for 120 exec_ kubectl get --raw /readyz
}

etcd() { # backup|restore FILE
  [ -x "$bin/etcdutl" ] || fail "no etcdutl in $bin; run e2e/setup.sh"
  case ${1:-}/${2:+file} in
    backup/file) exec_ etcdctl snapshot save "$(readlink -m "$2")" >>"$dir/logs/etcd-backup.log" 2>&1 ;;
    restore/file) restore_etcd "$(readlink -m "$2")" ;;
    *) fail "usage: cluster.sh etcd DIR backup|restore FILE" ;;
  esac
}

case $command in
  up | down | status | kubeconfig | restart | power | cable | etcd) "$command" "$@" ;;
  exec) exec_ "$@" ;;
  api-server) api_server "$@" ;;
  node) on_node "$@" ;;
  images) load_images "$@" ;;
  *)
    usage >&2
    exit 2
    ;;
esac
