{{/* Labels that select a component's pods. Call with (dict "root" $ "component" "agent"|"test"). */}}
{{- define "agent.selector" -}}
app.kubernetes.io/name: {{ printf "dynamos-%s" (eq .component "test" | ternary "agent-test" .component) }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: dynamos
dynamos.steward: {{ .root.Values.steward | quote }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | splitList "@" | first | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "agent.podMetadata" -}}
labels:
  {{- include "agent.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "agent.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "agent.scheme" -}}
{{ .Values.tls.enabled | ternary "https" "http" }}
{{- end }}

{{- define "agent.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" .Release.Name) }}
{{- end }}

{{/* What Pod Security's level "restricted" asks of a pod; secrets are readable by the group. */}}
{{- define "agent.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "agent.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Parts of a pod that no component changes. */}}
{{- define "agent.podSpec" -}}
serviceAccountName: {{ .root.Release.Name }}
automountServiceAccountToken: false
# Their variables (DYNAMOS_PORT=tcp://… of a Service called dynamos) would be taken for settings.
enableServiceLinks: false
# The hook, the drain, 5 s for answers to say that they were ended, and 30 s to give everything back.
terminationGracePeriodSeconds: {{ add .root.Values.preStopSeconds (div (add (include "agent.drainMs" .root | int64) 999) 1000) 35 }}
securityContext: {{- include "agent.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $nearState := include "agent.nearState" .root }}
{{- if .root.Values.affinity }}
affinity: {{- toYaml .root.Values.affinity | nindent 2 }}
{{- else if $nearState }}
affinity: {{- fromJson $nearState | toYaml | nindent 2 }}
{{- else }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "agent.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* The messaging sidecar, a native one: it starts before the main container and ends after it. */}}
{{- define "agent.messagingSidecar" -}}
- name: messaging
  restartPolicy: Always
  {{- include "agent.image" . | nindent 2 }}
  command: [node, /app/dist/bundle/sidecar/messaging-main.js]
  env:
    - name: DYNAMOS_BUS
      valueFrom: { secretKeyRef: { name: {{ .Values.credentials.secret }}, key: DYNAMOS_BUS } }
    - { name: DYNAMOS_SIDECAR_LISTEN, value: "127.0.0.1:50051" }
    # Its client has ended before it is told to stop.
    - { name: DYNAMOS_DRAIN_MS, value: "5000" }
    {{- if .Values.metrics.enabled }}
    - { name: DYNAMOS_METRICS_PORT, value: "9464" }
    - { name: DYNAMOS_HOST, value: 0.0.0.0 }
    {{- end }}
    - { name: DYNAMOS_LOG_LEVEL, value: {{ .Values.settings.logLevel | default "info" }} }
  {{- if .Values.metrics.enabled }}
  ports:
    - { name: bus-metrics, containerPort: 9464 }
  {{- end }}
  # The kubelet cannot reach loopback; this is asked until the main container starts, and not again.
  startupProbe:
    exec:
      command:
        - node
        - -e
        - require("net").connect(50051, "127.0.0.1").on("connect", () => process.exit(0)).on("error", () => process.exit(1))
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 60
  resources: {{- toYaml .Values.messaging.resources | nindent 4 }}
  securityContext: {{- include "agent.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - { name: bus-credentials, mountPath: /etc/dynamos/credentials, readOnly: true }
    - { name: tmp, mountPath: /tmp }
{{- end }}

{{/* Credentials as files, in whole directories, so that rotated ones arrive; authorities only with TLS. */}}
{{- define "agent.credentialVolumes" -}}
{{- range $volume, $kind := dict "store-credentials" "store" "bus-credentials" "bus" }}
- name: {{ $volume }}
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ $.Values.credentials.secret }}
          items: [{ key: {{ $kind }}-password, path: {{ $kind }}-password }]
      - secret:
          name: {{ $.Values.credentials.secret }}
          items: [{ key: {{ $kind }}-ca.pem, path: {{ $kind }}-ca.pem }]
          optional: true
{{- end }}
- name: tmp
  emptyDir: {}
{{- if and .Values.tls.enabled (not .Values.tls.secret) }}{{ fail "tls.secret: name the Secret with the certificate" }}{{ end }}
{{- with .Values.tls.secret }}
- name: tls
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where everything is that the agent talks to. */}}
{{- define "agent.commonEnv" -}}
- name: DYNAMOS_STORE
  valueFrom: { secretKeyRef: { name: {{ .Values.credentials.secret }}, key: DYNAMOS_STORE } }
- { name: DYNAMOS_BUS, value: "sidecar:127.0.0.1:50051" }
- { name: DYNAMOS_HOST, value: 0.0.0.0 }
- { name: DYNAMOS_PORT, value: "8080" }
- { name: DYNAMOS_METRICS, value: {{ .Values.metrics.enabled | ternary "on" "off" | quote }} }
{{- with .Values.otel.endpoint }}
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- end }}

{{- define "agent.tlsEnv" -}}
{{- if .Values.tls.enabled }}
- { name: DYNAMOS_TLS_CERT_FILE, value: /etc/dynamos/tls/tls.crt }
- { name: DYNAMOS_TLS_KEY_FILE, value: /etc/dynamos/tls/tls.key }
{{- end }}
{{- if and .Values.tls.secret .Values.tls.caKey }}
- { name: DYNAMOS_TLS_CA_FILE, value: /etc/dynamos/tls/{{ .Values.tls.caKey }} }
{{- end }}
{{- end }}

{{/* Call with (dict "scheme" "http"|"https"). The process lives: /health; it can work: /ready. */}}
{{- define "agent.probes" -}}
startupProbe:
  httpGet: { path: /health, port: http, scheme: {{ upper .scheme }} }
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /health, port: http, scheme: {{ upper .scheme }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /ready, port: http, scheme: {{ upper .scheme }} }
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{/* A number as it was written: large ones would come out as 2e+10. */}}
{{- define "agent.settingValue" -}}
{{- if kindIs "float64" . }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* The port of an http(s) URL. */}}
{{- define "agent.otelPort" -}}
{{- $host := (urlParse .Values.otel.endpoint).host }}
{{- if contains ":" $host }}{{ last (splitList ":" $host) }}{{ else if hasPrefix "https:" .Values.otel.endpoint }}443{{ else }}80{{ end }}
{{- end }}

{{/* The body of the request that `helm test` makes. */}}
{{- define "agent.testRequest" -}}
{{- $test := .Values.test }}
{{- if not (and $test.user.userName $test.user.id) }}{{ fail "test.query needs test.user.id and test.user.userName: who asks" }}{{ end }}
{{- $question := dict "type" "sqlDataRequest" "query" $test.query }}
{{- with $test.algorithm }}{{ $_ := set $question "algorithm" . }}{{ end }}
{{- with $test.algorithmColumns }}{{ $_ := set $question "algorithmColumns" . }}{{ end }}
{{- with $test.options }}{{ $_ := set $question "options" . }}{{ end }}
{{- $request := dict "type" "sqlDataRequest" "user" $test.user "dataProviders" ($test.providers | default (list .Values.steward)) "data_request" $question }}
{{- with $test.options }}{{ $_ := set $request "options" . }}{{ end }}
{{- toJson $request }}
{{- end }}

{{- define "agent.drainMs" -}}
{{ hasKey .Values.settings "drainMs" | ternary .Values.settings.drainMs 30000 | int64 }}
{{- end }}

{{- define "agent.orchestratorUrl" -}}
{{ .Values.orchestratorUrl | default (printf "%s://orchestrator.%s.svc:8080" (include "agent.scheme" .) .Values.coreNamespace) }}
{{- end }}

{{- define "agent.url" -}}
{{ include "agent.scheme" . }}://{{ .Release.Name }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end }}

{{/* Where the source data come from: claim, configMap, sample, or nothing. */}}
{{- define "agent.dataKind" -}}
{{- $kinds := list }}
{{- with .Values.data }}
{{- if .existingClaim }}{{ $kinds = append $kinds "claim" }}{{ end }}
{{- if .configMap }}{{ $kinds = append $kinds "configMap" }}{{ end }}
{{- if .sample }}{{ $kinds = append $kinds "sample" }}{{ end }}
{{- end }}
{{- if gt (len $kinds) 1 }}{{ fail "data: set one of existingClaim, configMap and sample; the data are in one place" }}{{ end }}
{{- if and .Values.dataSets (not $kinds) }}{{ fail "dataSets needs data: say by data.existingClaim, data.configMap or data.sample where the files are" }}{{ end }}
{{- if and $kinds (not .Values.dataSets) (not .Values.data.sample) }}{{ fail "data needs dataSets: say which files are which data set's tables" }}{{ end }}
{{- join "" $kinds }}
{{- end }}

{{- define "agent.sampleOf" -}}
{{- $of := .Values.data.sampleOf | default .Values.steward }}
{{- if not (has $of (list "VU" "UVA" "RUG")) }}{{ fail (printf "data.sample: there are no sample data of %s; set data.sampleOf to VU, UVA or RUG" $of) }}{{ end }}
{{- $of }}
{{- end }}

{{/* The party document, with absolute paths (docs/configuration.md, "Party"). */}}
{{- define "agent.party" -}}
{{- $dataSets := deepCopy .Values.dataSets }}
{{- if and (not $dataSets) .Values.data.sample }}
{{- $folder := include "agent.sampleOf" . }}
{{- $files := dict "Personen" (printf "%s/Personen.csv" $folder) "Aanstellingen" (printf "%s/Aanstellingen.csv" $folder) }}
{{- $dataSets = dict "wageGap" (dict "engine" "csv" "files" $files) }}
{{- end }}
{{- range $name, $pod := $dataSets }}
{{- with $pod.path }}{{ $_ := set $pod "path" (include "agent.dataPath" .) }}{{ end }}
{{- range $table, $paths := $pod.files }}
{{- if kindIs "slice" $paths }}
{{- $absolute := list }}
{{- range $paths }}{{ $absolute = append $absolute (include "agent.dataPath" .) }}{{ end }}
{{- $_ := set $pod.files $table $absolute }}
{{- else }}
{{- $_ := set $pod.files $table (include "agent.dataPath" $paths) }}
{{- end }}
{{- end }}
{{- end }}
{{- dict "dataSets" $dataSets | toPrettyJson }}
{{- end }}

{{- define "agent.dataPath" -}}
{{ hasPrefix "/" . | ternary . (printf "/data/%s" .) }}
{{- end }}

{{/* Volumes with data: the same ones for agents and chains. JSON, {"volumes": […]}. */}}
{{- define "agent.dataVolumes" -}}
{{- $kind := include "agent.dataKind" . }}
{{- $volumes := list }}
{{- if $kind }}
{{- $volumes = append $volumes (dict "name" "state" "persistentVolumeClaim" (dict "claimName" (printf "%s-state" .Release.Name))) }}
{{- end }}
{{- if eq $kind "claim" }}
{{- $volumes = append $volumes (dict "name" "source" "persistentVolumeClaim" (dict "claimName" .Values.data.existingClaim "readOnly" true)) }}
{{- else if eq $kind "configMap" }}
{{- $volumes = append $volumes (dict "name" "source" "configMap" (dict "name" .Values.data.configMap)) }}
{{- end }}
{{- range .Values.dataSecrets }}
{{- $volumes = append $volumes (dict "name" (printf "data-secret-%s" (. | sha256sum | trunc 8)) "secret" (dict "secretName" . "defaultMode" 288)) }}
{{- end }}
{{- dict "volumes" $volumes | toJson }}
{{- end }}

{{/* Mounts of these volumes where data are read. JSON, {"mounts": […]}. */}}
{{- define "agent.dataMounts" -}}
{{- $kind := include "agent.dataKind" . }}
{{- $mounts := list }}
{{- if $kind }}
{{- $mounts = append $mounts (dict "name" "state" "mountPath" "/var/lib/dynamos/data" "subPath" "data") }}
{{- $mounts = append $mounts (dict "name" "state" "mountPath" "/var/lib/dynamos/worlds" "subPath" "worlds") }}
{{- $source := dict "name" (eq $kind "sample" | ternary "state" "source") "mountPath" "/data" "readOnly" true }}
{{- if eq $kind "sample" }}{{ $_ := set $source "subPath" "source" }}{{ end }}
{{- if and (eq $kind "claim") .Values.data.subPath }}{{ $_ := set $source "subPath" .Values.data.subPath }}{{ end }}
{{- $mounts = append $mounts $source }}
{{- end }}
{{- range .Values.dataSecrets }}
{{- $mounts = append $mounts (dict "name" (printf "data-secret-%s" (. | sha256sum | trunc 8)) "mountPath" (printf "/etc/dynamos/data-secrets/%s" .) "readOnly" true) }}
{{- end }}
{{- dict "mounts" $mounts | toJson }}
{{- end }}

{{/* A volume that one node at a time may mount keeps all who mount it there. JSON; empty where nothing is to be kept. */}}
{{- define "agent.nearState" -}}
{{- if and (include "agent.dataKind" .) (eq .Values.state.accessMode "ReadWriteOnce") }}
{{- $selector := include "agent.selector" (dict "root" . "component" "agent") | fromYaml }}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $selector) }}
{{- dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) | toJson }}
{{- end }}
{{- end }}

{{/* Quantities as texts: `--set jobs.limits.cpu=2` gives a number. */}}
{{- define "agent.quantities" -}}
{{- $texts := dict }}
{{- range $name, $quantity := . }}{{ $_ := set $texts $name (toString $quantity) }}{{ end }}
{{- toJson $texts }}
{{- end }}

{{/* What the agent makes Jobs from: the settings of lib/jobs/kubernetes-settings.ts. */}}
{{- define "agent.jobs" -}}
{{- $jobs := .Values.jobs }}
{{- $data := include "agent.dataMounts" . | fromJson }}
{{- $volumes := (include "agent.dataVolumes" . | fromJson).volumes | default list }}
{{- $key := dict "name" "anonymization-key" "secret" (dict "secretName" (include "agent.keysSecret" .) "defaultMode" 288 "items" (list (dict "key" "anonymization-key" "path" "anonymization-key"))) }}
{{- $bus := list (dict "secret" (dict "name" .Values.credentials.secret "items" (list (dict "key" "chain-bus-password" "path" "bus-password")))) }}
{{- $bus = append $bus (dict "secret" (dict "name" .Values.credentials.secret "optional" true "items" (list (dict "key" "bus-ca.pem" "path" "bus-ca.pem")))) }}
{{- $chainBus := dict "name" "chain-bus-credentials" "projected" (dict "defaultMode" 288 "sources" $bus) }}
{{- $mounts := dict "data" ($data.mounts | default list) }}
{{- $_ := set $mounts "anonymizationKey" (list (dict "name" "anonymization-key" "mountPath" "/var/lib/dynamos/keys" "readOnly" true)) }}
{{- $_ := set $mounts "sidecar" (list (dict "name" "chain-bus-credentials" "mountPath" "/etc/dynamos/credentials/chain" "readOnly" true)) }}
{{- $affinity := $jobs.affinity }}
{{- if not $affinity }}{{ $affinity = include "agent.nearState" . | default "{}" | fromJson }}{{ end }}
{{- $settings := dict "image" (printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion)) }}
{{- $_ := set $settings "imagePullPolicy" .Values.image.pullPolicy }}
{{- $_ := set $settings "imagePullSecrets" .Values.image.pullSecrets }}
{{- $_ := set $settings "labels" (dict "app.kubernetes.io/instance" .Release.Name "app.kubernetes.io/part-of" "dynamos") }}
{{- $_ := set $settings "annotations" $jobs.annotations }}
{{- $_ := set $settings "volumes" (concat $volumes (list $key $chainBus)) }}
{{- $_ := set $settings "mounts" $mounts }}
{{- $_ := set $settings "requests" (include "agent.quantities" $jobs.requests | fromJson) }}
{{- $_ := set $settings "limits" (include "agent.quantities" $jobs.limits | fromJson) }}
{{- $_ := set $settings "sidecarLimits" (include "agent.quantities" $jobs.sidecarLimits | fromJson) }}
{{- $_ := set $settings "scratch" $jobs.scratch }}
{{- $_ := set $settings "runAsUser" 10001 }}
{{- $_ := set $settings "startTimeoutMs" (int64 $jobs.startTimeoutMs) }}
{{- $_ := set $settings "stopGraceSeconds" (int64 $jobs.stopGraceSeconds) }}
{{- $_ := set $settings "ttlSecondsAfterFinished" (int64 $jobs.ttlSecondsAfterFinished) }}
{{- $_ := set $settings "nodeSelector" $jobs.nodeSelector }}
{{- $_ := set $settings "tolerations" $jobs.tolerations }}
{{- $_ := set $settings "affinity" $affinity }}
{{- $_ := set $settings "priorityClassName" $jobs.priorityClassName }}
{{- $_ := set $settings "runtimeClassName" $jobs.runtimeClassName }}
{{- toPrettyJson $settings }}
{{- end }}

{{- define "agent.dnsRule" -}}
{{- with .Values.networkPolicy.dns }}
- to: {{- toYaml . | nindent 4 }}
  ports: [{ protocol: UDP, port: 53 }, { protocol: TCP, port: 53 }]
{{- end }}
{{- end }}

{{/* A way to a part of the core: what the values name, else its pods in coreNamespace. */}}
{{- define "agent.coreRule" -}}
- to:
    {{- if .to.to }}
    {{- toYaml .to.to | nindent 4 }}
    {{- else }}
    - namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: {{ .root.Values.coreNamespace }} } }
      podSelector: { matchLabels: { app.kubernetes.io/name: {{ .name }} } }
    {{- end }}
  ports:
    {{- range .to.ports }}
    - { protocol: TCP, port: {{ . }} }
    {{- end }}
{{- end }}

{{- define "agent.otelRule" -}}
{{- if .Values.otel.endpoint }}
- to: {{- toYaml .Values.networkPolicy.otel.to | nindent 4 }}
  ports: [{ protocol: TCP, port: {{ include "agent.otelPort" . }} }]
{{- end }}
{{- end }}
