{{/* Labels that select a component's pods. Call with (dict "root" $ "component" "orchestrator"|"policy-enforcer"|"test"). */}}
{{- define "orchestrator.selector" -}}
app.kubernetes.io/name: {{ printf "dynamos-%s" (eq .component "test" | ternary "orchestrator-test" .component) }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "orchestrator.labels" -}}
{{ include "orchestrator.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: dynamos
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | splitList "@" | first | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "orchestrator.podMetadata" -}}
labels:
  {{- include "orchestrator.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "orchestrator.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "orchestrator.scheme" -}}
{{ .Values.tls.enabled | ternary "https" "http" }}
{{- end }}

{{- define "orchestrator.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" .Release.Name) }}
{{- end }}

{{- define "orchestrator.drainMs" -}}
{{ hasKey .Values.settings "drainMs" | ternary .Values.settings.drainMs 30000 | int64 }}
{{- end }}

{{/* What Pod Security's level "restricted" asks of a pod; secrets are readable by the group. */}}
{{- define "orchestrator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "orchestrator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Parts of a pod that are the same for orchestrators and policy enforcers. */}}
{{- define "orchestrator.podSpec" -}}
serviceAccountName: {{ .root.Release.Name }}
automountServiceAccountToken: false
# Their variables (DYNAMOS_PORT=tcp://… of a Service called dynamos) would be taken for settings.
enableServiceLinks: false
# The hook, the drain, 5 s for answers to say that they were ended, and 30 s to give everything back.
terminationGracePeriodSeconds: {{ add .root.Values.preStopSeconds (div (add (include "orchestrator.drainMs" .root | int64) 999) 1000) 35 }}
securityContext: {{- include "orchestrator.podSecurity" . | nindent 2 }}
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
{{- if .root.Values.affinity }}
affinity: {{- toYaml .root.Values.affinity | nindent 2 }}
{{- else }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "orchestrator.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* The messaging sidecar, a native one: it starts before the main container and ends after it. */}}
{{- define "orchestrator.messagingSidecar" -}}
- name: messaging
  restartPolicy: Always
  {{- include "orchestrator.image" . | nindent 2 }}
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
  securityContext: {{- include "orchestrator.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - { name: bus-credentials, mountPath: /etc/dynamos/credentials, readOnly: true }
    - { name: tmp, mountPath: /tmp }
{{- end }}

{{/* Credentials as files, in whole directories, so that rotated ones arrive; authorities only with TLS. */}}
{{- define "orchestrator.credentialVolumes" -}}
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
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Environment that orchestrators and policy enforcers share. */}}
{{- define "orchestrator.commonEnv" -}}
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

{{- define "orchestrator.tlsEnv" -}}
{{- if .Values.tls.enabled }}
- { name: DYNAMOS_TLS_CERT_FILE, value: /etc/dynamos/tls/tls.crt }
- { name: DYNAMOS_TLS_KEY_FILE, value: /etc/dynamos/tls/tls.key }
{{- end }}
{{- if and .Values.tls.secret .Values.tls.caKey }}
- { name: DYNAMOS_TLS_CA_FILE, value: /etc/dynamos/tls/{{ .Values.tls.caKey }} }
{{- end }}
{{- end }}

{{/* Call with (dict "scheme" "http"|"https"). The process lives: /health; it can work: /ready. */}}
{{- define "orchestrator.probes" -}}
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
{{- define "orchestrator.settingValue" -}}
{{- if kindIs "float64" . }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* The port of an http(s) URL. */}}
{{- define "orchestrator.otelPort" -}}
{{- $host := (urlParse .Values.otel.endpoint).host }}
{{- if contains ":" $host }}{{ last (splitList ":" $host) }}{{ else if hasPrefix "https:" .Values.otel.endpoint }}443{{ else }}80{{ end }}
{{- end }}

{{/* The body of the request that `helm test` makes. */}}
{{- define "orchestrator.testRequest" -}}
{{- $test := .Values.test }}
{{- if not (and $test.user.userName $test.providers) }}{{ fail "test.query needs test.user.userName and test.providers: who asks, and whom" }}{{ end }}
{{- $question := dict "type" "sqlDataRequest" "query" $test.query }}
{{- with $test.algorithm }}{{ $_ := set $question "algorithm" . }}{{ end }}
{{- with $test.algorithmColumns }}{{ $_ := set $question "algorithmColumns" . }}{{ end }}
{{- with $test.options }}{{ $_ := set $question "options" . }}{{ end }}
{{- $request := dict "type" "sqlDataRequest" "user" $test.user "dataProviders" $test.providers "data_request" $question }}
{{- with $test.options }}{{ $_ := set $request "options" . }}{{ end }}
{{- toJson $request }}
{{- end }}
