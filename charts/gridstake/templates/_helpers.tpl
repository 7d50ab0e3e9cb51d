{{/* Names are fixed, not derived from the release's: the policies, the operator and the agents agree on them, and a
second installation in a cluster must fail rather than fight with the first. */}}

{{/* Labels of every object. Arguments: dict "root" $ "component" NAME. */}}
{{- define "gridstake.labels" -}}
{{ include "gridstake.selectorLabels" . }}
app.kubernetes.io/part-of: gridstake
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that select a component's pods; they never change. */}}
{{- define "gridstake.selectorLabels" -}}
app.kubernetes.io/name: gridstake
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of a component's pods: nothing that changes with the chart's version alone, which would restart them. */}}
{{- define "gridstake.podLabels" -}}
{{ include "gridstake.selectorLabels" . }}
app.kubernetes.io/part-of: gridstake
{{- end }}

{{/* An image. Arguments: dict "root" $ "image" .Values.x.image. */}}
{{- define "gridstake.image" -}}
{{ .root.Values.image.registry }}/{{ .image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* How the API server calls the operator and the agents. */}}
{{- define "gridstake.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:gridstake-operator
{{- end }}
{{- define "gridstake.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:gridstake-device-agent
{{- end }}

{{/* Where simulated GPUs keep their state on a node; the same path inside the containers. */}}
{{- define "gridstake.simulationDirectory" -}}
/run/gridstake/simulated-gpus
{{- end }}

{{/* matchConditions that let the operator and the break-glass groups pass. */}}
{{- define "gridstake.notOperator" -}}
- name: not-the-operator
  expression: request.userInfo.username != '{{ include "gridstake.operatorUser" . }}'
{{- with .Values.policies.breakGlassGroups }}
- name: not-in-a-break-glass-group
  expression: "!has(request.userInfo.groups) || !request.userInfo.groups.exists(g, g in {{ toJson . | replace "\"" "'" }})"
{{- end }}
{{- end }}

{{/* matchConditions that let Kubernetes itself clean up: its garbage collector, the end of a namespace, a migration
of stored versions. The second name is that of a controller manager that uses one account for all of them. */}}
{{- define "gridstake.notKubernetes" -}}
- name: not-kubernetes-itself
  expression: >-
    !(request.userInfo.username in [
    'system:kube-controller-manager',
    'system:serviceaccount:kube-system:generic-garbage-collector',
    'system:serviceaccount:kube-system:namespace-controller',
    'system:serviceaccount:kube-system:storage-version-migrator-controller'])
{{- end }}

{{/* The chain whose contracts a hook deploys, if there is one; else empty. */}}
{{- define "gridstake.deploysContracts" -}}
{{- range .Values.chains }}{{ if dig "deploy" "enabled" false . }}true{{ end }}{{ end }}
{{- end }}

{{/* The ConfigMap that holds the operator's chains file: of the chart, or of the hook that deploys the contracts. */}}
{{- define "gridstake.chainsConfigMap" -}}
gridstake-chains{{ if include "gridstake.deploysContracts" . }}-deployed{{ end }}
{{- end }}

{{/* The operator's chains file; with `deploy`, what the hook makes it from. As JSON, which is YAML: an address without
quotes would be a number. */}}
{{- define "gridstake.chainsFile" -}}
{{- $folder := "/etc/gridstake/keys" }}
{{- $chains := list }}
{{- range .Values.chains }}
{{- $keys := dict "laneSigner" (printf "%s/lane-signer" $folder) "gas" (printf "%s/gas" $folder) }}
{{- if dig "slash" true .keys }}{{ $_ := set $keys "slash" (printf "%s/slash" $folder) }}{{ end }}
{{- $chains = append $chains (set (omit . "keys" "deploy") "keys" $keys) }}
{{- end }}
{{- dict "chains" $chains | toPrettyJson }}
{{- end }}
