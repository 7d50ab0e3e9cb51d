#!/usr/bin/env bash
# Writes what is generated from charts/gridstake: manifests/install/gridstake.yaml, the install for those who use no Helm, and the
# pages docs/values.md and docs/access.md.
#
#   render.sh            write them
#   render.sh --check    fail if one differs from what the chart gives now
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
helm=${HELM:-$checkout/.build/bin/helm}
target=$checkout/manifests/install/gridstake.yaml

render() {
  cat <<'YAML'
# Gridstake with the default values of charts/gridstake; charts/render.sh writes this file. Apply manifests/crds first.
# The images are localhost/...: load them into the nodes, or replace the registry, for example with kustomize.
apiVersion: v1
kind: Namespace
metadata:
  name: gridstake-system
  labels:
    # The device agent needs hostPID and hostPath. The operator itself keeps to "restricted".
    pod-security.kubernetes.io/enforce: privileged
YAML
  # The two labels that say that Helm manages an object would be untrue.
  "$helm" template gridstake "$here/gridstake" --namespace gridstake-system --kube-version 1.34.0 |
    sed '/^ *app.kubernetes.io\/managed-by: Helm$/d; /^ *helm.sh\/chart: /d'
}

case ${1:-} in
  --check)
    "$here/values_page.py" --check
    "$here/access_page.py" --check
    if ! difference=$(render | diff "$target" -); then
      echo "render.sh: $target is not what the chart gives; run charts/render.sh"
      head -n 20 <<<"$difference"
      exit 1
    fi
    ;;
  "")
    rendered=$(render)
    printf '%s\n' "$rendered" >"$target"
    "$here/values_page.py"
    "$here/access_page.py"
    ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
