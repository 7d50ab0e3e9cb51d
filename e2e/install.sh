#!/usr/bin/env bash
# Installs Gridstake from the charts of this checkout into the world of e2e/cluster/world.sh, or upgrades it.
#
#   install.sh [HELM_OPTION...]    options go to the main chart, e.g. --set simulation.gpus=4
#
# Where a chain is up (e2e/chain/chain.sh) Gridstake settles on it, by values-chain.yaml: the chart's hook deploys the
# contracts. On a native cluster there is an archive, in the folder archive of the world.
#
# Environment: E2E_CLUSTER, E2E_WORLD, E2E_VALUES as in world.sh
#   NAMESPACE   where it is installed (default: gridstake-system)
#   FROM        take charts/ and e2e/values-*.yaml from this folder, which has them of another commit (see before.sh)
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
from=$(readlink -f "${FROM:-$here/..}")
charts=$from/charts
namespace=${NAMESPACE:-gridstake-system}
values=(--values "$from/e2e/values-world.yaml")
if [ -n "${E2E_VALUES:-}" ]; then values+=(--values "$E2E_VALUES"); fi
run() { "$here/cluster/world.sh" run "$@"; }

run helm upgrade --install gridstake-crds "$charts/gridstake-crds" --namespace "$namespace" --create-namespace
run kubectl wait --for=condition=Established --timeout=60s \
  crd/{gpunodes,computejobs,stakebindings,usagerecords,settlementbatches,incidents}.gridstake.dev
if url=$("$here/chain/chain.sh" url 2>/dev/null); then
  values+=(--values "$from/e2e/values-chain.yaml" --set "chains[0].rpc={$url}")
  run kubectl apply --namespace "$namespace" --filename "$here/chain/keys.yaml"
fi
if [ "$("$here/cluster/world.sh" which)" = native ]; then
  archive=$("$here/cluster/world.sh" folder)/archive
  mkdir -p "$archive"
  chmod 1777 "$archive"
  # The nodes are on this machine, so one folder of it is a volume that all of them share.
  run kubectl apply --filename - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: gridstake-archive}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  hostPath: {path: $archive}
  claimRef: {namespace: $namespace, name: gridstake-archive}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: gridstake-archive, namespace: $namespace}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: gridstake-archive
  resources: {requests: {storage: 10Gi}}
YAML
  values+=(--set archive.volume.persistentVolumeClaim.claimName=gridstake-archive)
fi
run helm upgrade --install gridstake "$charts/gridstake" --namespace "$namespace" "${values[@]}" --wait --timeout 180s "$@"
