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

{{/* The pod template of a canary, which keeps to Pod Security "restricted"; the operator fills in node and GPUs. NVIDIA's runtime
puts the driver's compute libraries into it. */}}
{{- define "gridstake.canaryPod" -}}
metadata:
  labels: {{- include "gridstake.podLabels" (dict "root" $ "component" "canary") | nindent 4 }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- if and (not .Values.simulation.enabled) .Values.deviceAgent.nvml.runtimeClassName }}
  runtimeClassName: {{ .Values.deviceAgent.nvml.runtimeClassName }}
  {{- end }}
  {{- with .Values.deviceAgent.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: measure
      image: {{ include "gridstake.image" (dict "root" $ "image" .Values.deviceAgent.image) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - measure
        {{- with .Values.canary.cudaLibraryPath }}
        - --cuda-library={{ . }}
        {{- end }}
      env:
        - {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}
        # Where device plugins mount the driver that do without NVIDIA's runtime; what it loads itself is there too.
        - {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}
        # The root file system is read-only, and its kernel is made in a moment.
        - {name: CUDA_CACHE_DISABLE, value: "1"}
      resources: {{- toYaml .Values.canary.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
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

{{/* Not empty if there is a chain whose contracts a hook deploys. */}}
{{- define "gridstake.deploysContracts" -}}
{{- range .Values.chains }}{{ if dig "deploy" "enabled" false . }}true{{ end }}{{ end }}
{{- end }}

{{/* The ConfigMap that holds the operator's chains file: of the chart, or of the hook that deploys the contracts. */}}
{{- define "gridstake.chainsConfigMap" -}}
gridstake-chains{{ if include "gridstake.deploysContracts" . }}-deployed{{ end }}
{{- end }}

{{/* Refuses chains that contradict each other, in the words of the operator, which would not start with them. */}}
{{- define "gridstake.checkChains" -}}
{{- range $index, $chain := .Values.chains }}
{{- range $before, $other := slice $.Values.chains 0 $index }}
{{- $there := printf "as that of chains[%d] (%s)" $before $other.name }}
{{- if eq $chain.name $other.name }}
{{- fail (printf "chains[%d].name is %q, %s: StakeBindings and Namespaces tell chains apart by it; write another" $index $chain.name $there) }}
{{- end }}
{{- if eq (int64 $chain.lane) (int64 $other.lane) }}
{{- fail (printf "chains[%d].lane is %d, %s: batches and counters in the cluster are named after the lane's number alone; open a lane with a number that no other entry has, and write that" $index (int64 $chain.lane) $there) }}
{{- end }}
{{- if and (eq (int64 $chain.chainId) (int64 $other.chainId)) (eq $chain.keys.existingSecret $other.keys.existingSecret) }}
{{- fail (printf "chains[%d].keys.existingSecret is %s, %s, on the same chain %d: the two gas accounts would be one and take each other's nonces; make another Secret, with another entry gas" $index $chain.keys.existingSecret $there (int64 $chain.chainId)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The TCP ports of the chains' RPC endpoints and of the archive's bucket, each once, with spaces between. */}}
{{- define "gridstake.endpointPorts" -}}
{{- $urls := list }}
{{- range .Values.chains }}{{ $urls = concat $urls .rpc }}{{ end }}
{{- if .Values.archive.bucket.url }}
{{- $urls = append $urls (.Values.archive.bucket.environment.AWS_ENDPOINT | default "https://bucket") }}
{{- end }}
{{- $ports := list }}
{{- range $urls }}
{{- $url := urlParse . }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" }}
{{- $ports = append $ports ($port | default (eq $url.scheme "https" | ternary "443" "80")) }}
{{- end }}
{{- $ports | uniq | sortAlpha | join " " }}
{{- end }}

{{/* The operator's chains file; with `deploy`, what the hook makes it from. As JSON, which is YAML: an address without
quotes would be a number. Each chain's keys are in a folder of its name. */}}
{{- define "gridstake.chainsFile" -}}
{{- include "gridstake.checkChains" . }}
{{- $chains := list }}
{{- range .Values.chains }}
{{- $folder := printf "/etc/gridstake/keys/%s" .name }}
{{- $keys := dict "laneSigner" (printf "%s/lane-signer" $folder) "gas" (printf "%s/gas" $folder) }}
{{- if dig "slash" true .keys }}{{ $_ := set $keys "slash" (printf "%s/slash" $folder) }}{{ end }}
{{- $chains = append $chains (set (omit . "keys" "deploy") "keys" $keys) }}
{{- end }}
{{- dict "chains" $chains | toPrettyJson }}
{{- end }}
