#!/usr/bin/env bash
# Process 1 of a node: containerd, kubelet and kube-proxy in network, mount, host name and PID namespaces of their own.
# control-plane.sh starts it; killing it is the node's power cut.
#
#   node.sh NAME NUMBER
#
# Some paths are fixed in the kubelet's source (/var/lib/kubelet/device-plugins) or in other programs, and a pod that
# mounts them from the host must find its own node's. So each node sees its own /var/lib, /var/log and /run, kept in
# $dir/nodes/NAME; nothing of the host's is written. Once these are in place, what the node needs is below
# /run/kubernetes: $dir itself may be hidden by them.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=e2e/cluster/lib/addresses.sh
. "$here/addresses.sh"
# shellcheck source=e2e/cluster/lib/cgroups.sh
. "$here/cgroups.sh"
: "${dir:?}" "${id:?}" "${bin:?}" "${nodes:?}"
name=$1 number=$2
address=$(node_address "$number")
root=$dir/nodes/$name
config=$root/run/kubernetes # /run/kubernetes, later

cni_plugins() {
  local dir
  for dir in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    if [ -x "$dir/bridge" ]; then
      echo "$dir"
      return
    fi
  done
  echo "no CNI plugins (bridge, host-local, loopback) in /usr/lib/cni, /opt/cni/bin or /usr/libexec/cni" >&2
  return 1
}

snapshotter() { # overlayfs does not work on top of every file system (another overlayfs, for one)
  local probe=$root/overlay-probe
  mkdir -p "$probe"/{lower,upper,work,merged}
  if mount -t overlay overlay -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
    umount "$probe/merged"
    echo overlayfs
  else
    echo native
  fi
  rm -rf "$probe"
}

join_network() {
  local i
  nsenter --net=/proc/self/fd/8 ip link del "$name" 2>/dev/null || true # of a node that just went down
  ip link set lo up
  ip link add eth0 type veth peer name "$name" netns /proc/self/fd/8
  ip addr add "$address/24" dev eth0
  ip link set eth0 up
  nsenter --net=/proc/self/fd/8 ip link set "$name" master machine-room up
  nsenter --net=/proc/self/fd/8 ip route replace "$(node_pods "$number")" via "$address"
  ip route add default via "$gateway"
  for ((i = 1; i <= nodes; i++)); do
    if ((i != number)); then ip route add "$(node_pods "$i")" via "$(node_address "$i")"; fi
  done
  echo 1 >/proc/sys/net/ipv4/ip_forward
  exec 8<&-
}

write_configuration() {
  local cni
  cni=$(cni_plugins)
  # Cluster DNS does not exist: lookups fail at once.
  echo 'nameserver 10.96.0.10' >"$config/resolv.conf"
  cat >"$config/containerd.toml" <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$(snapshotter)"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni"
    conf_dir = "/run/kubernetes/cni"
TOML
  mkdir -p "$config/cni"
  cat >"$config/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(node_pods "$number")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
JSON
  # Heartbeats come often so that a node that goes down is noticed within the test cluster's grace period.
  cat >"$config/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /run/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /run/kubernetes/node.crt
tlsPrivateKeyFile: /run/kubernetes/node.key
cgroupDriver: cgroupfs
cgroupRoot: /$id/$name
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [10.96.0.10]
resolvConf: /run/kubernetes/resolv.conf
healthzPort: 0
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
evictionHard: {nodefs.available: "0%", imagefs.available: "0%", memory.available: "50Mi"}
imageGCHighThresholdPercent: 100
YAML
}

shield_host() { # the kubelet sets these for the whole machine unless they have its values: it shall see them so
  local setting key value
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    key=${setting%=*} value=${setting#*=}
    if [ -e "/proc/sys/$key" ]; then
      echo "$value" >"$config/${key//\//.}"
      mount --bind "$config/${key//\//.}" "/proc/sys/$key"
    fi
  done
}

enter_own_directories() {
  mkdir -p "$config"/{bin,logs,cluster}
  mount --bind "$bin" "$config/bin"
  mount --bind "$dir/logs" "$config/logs"
  mount --bind "$dir/run" "$config/cluster"
  cd /
  mount --rbind "$root/var/lib" /var/lib
  mount --rbind "$root/var/log" /var/log
  mount --rbind "$root/run" /run
  mount --make-rshared / # for pods that ask for mount propagation; last, or mounts would show up at both ends of a bind
}

copy_identity() {
  cp "$dir/pki/ca.crt" "$config/ca.crt"
  cp "$dir/pki/$name.crt" "$config/node.crt"
  cp "$dir/pki/$name.key" "$config/node.key"
  cp "$dir/pki/$name.kubeconfig" "$config/kubelet.kubeconfig"
  cp "$dir/pki/proxy.kubeconfig" "$config/proxy.kubeconfig"
}

cgroup_create "$id/$name" inner
cgroup_create "$id/$name/system" leaf
cgroup_enter "$id/$name/system" "$BASHPID"
hostname "$name"
rm -rf "$root/run" # as a real /run, it does not survive a power cut
mkdir -p "$root"/{run/kubernetes,var/lib,var/log}
join_network
write_configuration
shield_host
wait_for 60 test -e "$dir/run/identities-ready"
copy_identity
enter_own_directories

export PATH=/run/kubernetes/bin:$PATH
log=/run/kubernetes/logs/$name
supervise containerd "$log-containerd.log" containerd --config /run/kubernetes/containerd.toml
wait_for 30 ctr version
touch "/run/kubernetes/cluster/$name.containerd-ready"
wait_for 180 test -e /run/kubernetes/cluster/apiserver-ready
wait_for 60 test -e /run/kubernetes/cluster/images-loaded
supervise kubelet "$log-kubelet.log" kubelet --config=/run/kubernetes/kubelet.yaml \
  --kubeconfig=/run/kubernetes/kubelet.kubeconfig --hostname-override="$name" --node-ip="$address"
supervise kube-proxy "$log-kube-proxy.log" kube-proxy --kubeconfig=/run/kubernetes/proxy.kubeconfig \
  --proxy-mode=nftables --hostname-override="$name" --cluster-cidr="$pod_cidr" --conntrack-max-per-core=0
reap
