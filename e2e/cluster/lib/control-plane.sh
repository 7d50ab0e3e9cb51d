#!/usr/bin/env bash
# Process 1 of a cluster: its network, its control plane, and one PID namespace per node.
# cluster.sh starts it in new network, mount and PID namespaces, with $dir, $id, $bin, $nodes and $grace exported.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=e2e/cluster/lib/addresses.sh
. "$here/addresses.sh"
# shellcheck source=e2e/cluster/lib/certificates.sh
. "$here/certificates.sh"
: "${dir:?}" "${id:?}" "${bin:?}" "${nodes:?}" "${grace:?}"
export PATH=$bin:$PATH KUBECONFIG=$dir/pki/admin.kubeconfig

make_network() {
  # No default route: what is not in the cluster cannot be reached, and fails at once.
  ip link set lo up
  ip link add machine-room type bridge
  ip addr add "$gateway/24" dev machine-room
  ip link set machine-room up
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

start_nodes() {
  local i
  exec 8</proc/self/ns/net # a node plugs its cable into this network
  for ((i = 1; i <= nodes; i++)); do
    supervise_node "${node_names[i - 1]}" "$i" 2>>"$dir/logs/${node_names[i - 1]}.log" >&2 &
  done
  exec 8<&-
}

supervise_node() { # NAME NUMBER: switches the node on, and again after it went down, unless it is to stay off
  while :; do
    until [ ! -e "$dir/run/$1.off" ]; do sleep 0.1; done
    unshare --net --uts --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
      bash "$here/node.sh" "$1" "$2" || true
    echo "$1 went down" >&2
    sleep 0.5
  done
}

make_identities() {
  local i name jobs=()
  make_authority
  make_identity admin /O=system:masters/CN=admin DNS:admin & jobs+=($!)
  make_certificate apiserver /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$gateway,IP:10.96.0.1,DNS:kubernetes.default.svc" & jobs+=($!)
  make_identity controller-manager /CN=system:kube-controller-manager DNS:controller-manager & jobs+=($!)
  make_identity scheduler /CN=system:kube-scheduler DNS:scheduler & jobs+=($!)
  make_identity proxy /CN=system:kube-proxy DNS:proxy & jobs+=($!)
  for ((i = 1; i <= nodes; i++)); do
    name=${node_names[i - 1]}
    make_identity "$name" "/O=system:nodes/CN=system:node:$name" "DNS:$name,IP:$(node_address "$i")" & jobs+=($!)
  done
  for i in "${jobs[@]}"; do wait "$i"; done
  touch "$dir/run/identities-ready"
}

start_control_plane() {
  # Who wrote what, for tests that count writes.
  cat >"$dir/pki/audit-policy.yaml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    verbs: [get, list, watch]
  - level: Metadata
YAML
  # Fewer collections of garbage: memory is there, and half of what a write costs on a large heap is that.
  supervise kube-apiserver "$dir/logs/kube-apiserver.log" env GOGC=300 kube-apiserver \
    --etcd-servers=http://127.0.0.1:2379 --advertise-address="$gateway" \
    --service-cluster-ip-range="$service_cidr" --client-ca-file="$dir/pki/ca.crt" \
    --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
    --service-account-key-file="$dir/pki/service-accounts.key" \
    --service-account-signing-key-file="$dir/pki/service-accounts.key" \
    --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged --enable-aggregator-routing \
    --kubelet-certificate-authority="$dir/pki/ca.crt" \
    --kubelet-client-certificate="$dir/pki/admin.crt" --kubelet-client-key="$dir/pki/admin.key" \
    --kubelet-preferred-address-types=InternalIP \
    --audit-policy-file="$dir/pki/audit-policy.yaml" --audit-log-path="$dir/logs/audit.log" --audit-log-maxsize=64 \
    --audit-log-maxbackup=1
  wait_for 120 kubectl get --raw /readyz
  touch "$dir/run/apiserver-ready" # the kubelets wait for this: their own retries back off for seconds

  # The default client limits are meant for big machines that have minutes; these two run on a busy one.
  supervise kube-controller-manager "$dir/logs/kube-controller-manager.log" kube-controller-manager \
    --kubeconfig="$dir/pki/controller-manager.kubeconfig" --root-ca-file="$dir/pki/ca.crt" \
    --service-account-private-key-file="$dir/pki/service-accounts.key" --use-service-account-credentials \
    --leader-elect=false --kube-api-qps=300 --kube-api-burst=600 \
    --node-monitor-grace-period="${grace}s" --node-monitor-period=2s
  supervise kube-scheduler "$dir/logs/kube-scheduler.log" kube-scheduler \
    --kubeconfig="$dir/pki/scheduler.kubeconfig" --authentication-kubeconfig="$dir/pki/scheduler.kubeconfig" \
    --authorization-kubeconfig="$dir/pki/scheduler.kubeconfig" \
    --leader-elect=false --kube-api-qps=500 --kube-api-burst=1000
}

wait_until_ready() {
  local i names=()
  for ((i = 1; i <= nodes; i++)); do names+=("node/${node_names[i - 1]}"); done
  for i in "${names[@]}" serviceaccount/default; do # several at once fail when two are missing
    kubectl wait --for=create "$i" --timeout=120s
  done
  kubectl wait --for=condition=Ready "${names[@]}" --timeout=120s
}

make_network
start_nodes # containerd starts and loads images while the certificates are made
# In memory: nothing is kept for longer than the cluster lives, and a disk that several clusters write to takes their time.
mount -t tmpfs -o mode=700 etcd "$dir/etcd"
supervise etcd "$dir/logs/etcd.log" etcd --data-dir "$dir/etcd/data" --unsafe-no-fsync --log-level warn
make_identities
start_control_plane
wait_until_ready
touch "$dir/run/ready"
reap
