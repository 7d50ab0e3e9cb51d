#!/usr/bin/env bash
# Checks both charts without a cluster: lint, the objects that they give against the API's schemas, values that must be
# refused, the reasons of the roles' rules, what is generated, alerts, dashboards and the list of metrics.
# charts/gridstake/tests/policies.py tries the admission policies on a cluster, e2e/tests/story_40_access.rs the roles.
#
# Needs helm, kubeconform and promtool (HELM, KUBECONFORM, PROMTOOL; default .build/bin) and the schemas of e2e/setup.sh
# (SCHEMAS; default .build/schemas).
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
helm=${HELM:-$checkout/.build/bin/helm}
kubeconform=${KUBECONFORM:-$checkout/.build/bin/kubeconform}
promtool=${PROMTOOL:-$checkout/.build/bin/promtool}
schemas=${SCHEMAS:-$checkout/.build/schemas}
oldest=1.34.0 # the oldest Kubernetes that Chart.yaml allows
chart=$here/gridstake
mistakes=0

mistake() {
  echo "check.sh: $*" >&2
  mistakes=$((mistakes + 1))
}

own=$(mktemp -d) # schemas of our own kinds
trap 'rm -rf "$own"' EXIT

as_json() { # YAML-FILE...: prints each as JSON, one a line. Helm turns YAML into JSON, which Python reads without help
  rm -rf "$own/chart"
  mkdir -p "$own/chart/templates" "$own/chart/yaml"
  printf 'apiVersion: v2\nname: documents\nversion: 0.0.0\n' >"$own/chart/Chart.yaml"
  cp "$@" "$own/chart/yaml"
  cat >"$own/chart/templates/json.yaml" <<'YAML'
{{- range $path, $_ := .Files.Glob "yaml/*.yaml" }}
---
{{ $.Files.Get $path | fromYaml | toJson }}
{{- end }}
YAML
  "$helm" template documents "$own/chart"
}

conform() { # the Prometheus operator's kinds are known only where it is installed
  "$kubeconform" -strict -skip ServiceMonitor,PrometheusRule -schema-location "$own/{{.ResourceKind}}{{.KindSuffix}}.json" \
    -schema-location "$schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"
}

check() { # CHART [VALUES]
  local lint
  lint=$("$helm" lint --strict --quiet --kube-version "$oldest" "$1" ${2:+--values "$2"} 2>&1) ||
    mistake "helm lint ${1##*/} ${2##*/}: $lint"
  "$helm" template gridstake "$1" --namespace gridstake-system --kube-version "$oldest" ${2:+--values "$2"} | conform ||
    mistake "${1##*/} ${2:+with ${2##*/} }gives objects that the API would refuse, see above"
}

is_refused() { # VALUES, whose first line is "# refused: WORDS OF THE MESSAGE"
  local expected message
  expected=$(sed -n '1s/^# refused: //p' "$1")
  [ -n "$expected" ] || { mistake "$1: the first line must be '# refused: ' and words of the message" && return; }
  if message=$("$helm" template gridstake "$chart" --kube-version "$oldest" --values "$1" 2>&1 >/dev/null); then
    mistake "${1##*/} is accepted; it should be refused: $expected"
  elif [[ $message != *"$expected"* ]]; then
    mistake "${1##*/} is refused with other words than '$expected': $message"
  fi
}

promtool() { # SUBCOMMAND... FILE...: what it says is shown if it finds mistakes
  local said
  said=$("$promtool" "$@" 2>&1) || mistake "promtool $1 $2: $said"
}

# Alerts and dashboards fit the metrics, and alerts do what they say, also in the form that the chart gives.
check_monitoring() {
  local rules=$chart/files/alerts.yaml tests=("$chart"/tests/alerts*_test.yaml)
  if as_json "$rules" "${tests[@]}" | "$here/monitoring.py" "$own/panels.json"; then
    promtool check rules "$own/panels.json"
  else
    mistake "alerts, dashboards and docs/metrics.md do not fit, see above"
  fi
  promtool check rules "$rules"
  promtool test rules "${tests[@]}"
  "$helm" template gridstake "$chart" --kube-version "$oldest" --values "$chart/tests/accepted/everything.yaml" \
    --show-only templates/monitoring/rules.yaml | sed '1,/^spec:$/d; s/^  //' >"$own/rules.yaml"
  promtool check rules "$own/rules.yaml"
  # As they are, but for the address of the runbook.
  diff <(sed 's|docs/runbook.md#|https://example.com/gridstake/&|' "$rules") "$own/rules.yaml" ||
    mistake "the PrometheusRule is not files/alerts.yaml with links to monitoring.rules.runbookUrl"
}

# The comments of templates stay in what helm renders, so each role is looked at in every form that it takes.
check_roles() {
  local values rendered=("$checkout"/manifests/install/*.yaml)
  for values in "$chart"/tests/accepted/*.yaml; do
    rendered+=("$own/roles-$(basename "$values")")
    "$helm" template gridstake "$chart" --kube-version "$oldest" --values "$values" >"${rendered[-1]}"
  done
  "$here/role_reasons.py" "${rendered[@]}" || mistake "roles: see above"
}

as_json "$checkout"/manifests/crds/*.yaml | "$here/crd_schemas.py" "$own"
check "$here/gridstake-crds"
check "$chart"
for values in "$checkout/e2e/values-world.yaml" "$chart"/tests/accepted/*.yaml; do check "$chart" "$values"; done
for values in "$chart"/tests/refused/*.yaml; do is_refused "$values"; done
"$here/refusals.py" "$helm" || mistake "values.schema.json takes what is wrong, see above"
check_roles
# A patch is no whole object.
conform -ignore-filename-pattern '/samples/patches/' "$checkout/manifests" || mistake "manifests: see above"
check_monitoring
"$here/render.sh" --check || mistake "what is generated from the chart has drifted from it"
if ((mistakes > 0)); then exit 1; fi
echo "charts: $(find "$chart/tests/accepted" -name '*.yaml' | wc -l) sets of values accepted, $(find "$chart/tests/refused" -name '*.yaml' | wc -l) refused"
