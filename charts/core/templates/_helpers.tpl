{{/* Labels that select a component's pods. Call with (dict "root" $ "component" "etcd"|"rabbitmq"|"console"|"backup"). */}}
{{- define "core.selector" -}}
app.kubernetes.io/name: dynamos-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "core.labels" -}}
{{ include "core.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: dynamos
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "core.podMetadata" -}}
labels:
  {{- include "core.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{/* Our own image. */}}
{{- define "core.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* A server's. Call with its values. */}}
{{- define "core.serverImage" -}}
image: {{ printf "%s:%s" .image.repository .image.tag | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
{{- end }}

{{- define "core.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Parts of a pod that are the same for all: what Pod Security's level "restricted" asks; where it runs. */}}
{{- define "core.podSpec" -}}
serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
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
{{- with .affinity | default .root.Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- else }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "core.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* One volume per replica. Call with (dict "root" $ "persistence" …). */}}
{{- define "core.volumeClaim" -}}
persistentVolumeClaimRetentionPolicy:
  whenDeleted: {{ .root.Values.keepDataOnUninstall | ternary "Retain" "Delete" }}
  whenScaled: Retain
volumeClaimTemplates:
  - metadata: { name: data }
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .persistence.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources: { requests: { storage: {{ .persistence.size }} } }
{{- end }}

{{- define "core.rootSecret" -}}
{{ .Values.credentials.existingRootSecret | default (printf "%s-root" .Release.Name) }}
{{- end }}

{{/* The whole domain of a headless Service's pods. Call with (dict "root" $ "service" NAME). */}}
{{- define "core.domain" -}}
{{ .service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{/* 128Mi or 1.5Gi in bytes; units of a thousand, too. */}}
{{- define "core.bytes" -}}
{{- $text := toString . }}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "k" 1000 "M" 1000000 "G" 1000000000 "" 1 }}
{{- $unit := regexFind "[A-Za-z]*$" $text }}
{{- if not (hasKey $units $unit) }}{{ fail (printf "rabbitmq.resources.limits.memory %s: write it in Mi or Gi" $text) }}{{ end }}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit | float64) | floor | int64 }}
{{- end }}

{{/* Whether etcd speaks TLS, "true" or empty. */}}
{{- define "core.etcdTls" -}}
{{- if .Values.etcd.enabled }}{{ .Values.tls.enabled | ternary "true" "" }}{{ else }}{{ .Values.etcd.external.tls | ternary "true" "" }}{{ end }}
{{- end }}
{{- define "core.rabbitmqTls" -}}
{{- if .Values.rabbitmq.enabled }}{{ .Values.tls.enabled | ternary "true" "" }}{{ else }}{{ .Values.rabbitmq.external.tls | ternary "true" "" }}{{ end }}
{{- end }}

{{- define "core.etcdAddresses" -}}
{{- if .Values.etcd.enabled }}{{ .Release.Name }}-etcd.{{ .Release.Namespace }}.svc:2379
{{- else }}{{ required "etcd.external.addresses: HOST:PORT of your etcd, or leave etcd.enabled true" .Values.etcd.external.addresses }}{{ end }}
{{- end }}

{{- define "core.rabbitmqAddresses" -}}
{{- if .Values.rabbitmq.enabled }}{{ .Release.Name }}-rabbitmq.{{ .Release.Namespace }}.svc:{{ .Values.tls.enabled | ternary 5671 5672 }}
{{- else }}{{ required "rabbitmq.external.addresses: HOST:PORT of your RabbitMQ, or leave rabbitmq.enabled true" .Values.rabbitmq.external.addresses }}{{ end }}
{{- end }}

{{/* The store's URL. Call with (dict "root" $ "user" … "files" FOLDER "password" FILE "ca" FILE). */}}
{{- define "core.storeUrl" -}}
{{- $tls := include "core.etcdTls" .root }}
{{- eq $tls "true" | ternary "etcds" "etcd" }}://{{ .user }}@{{ include "core.etcdAddresses" .root }}
{{- if not .root.Values.etcd.enabled }}{{ .root.Values.etcd.external.prefix }}{{ end -}}
?passwordFile={{ .password }}{{ if $tls }}&caFile={{ .ca }}{{ end }}
{{- end }}

{{/* The broker's URL without a query. Call with (dict "root" $ "user" …); without a user, it has none. */}}
{{- define "core.brokerUrl" -}}
{{- $root := .root }}
{{- $vhost := $root.Values.rabbitmq.enabled | ternary $root.Values.rabbitmq.virtualHost $root.Values.rabbitmq.external.virtualHost }}
{{- eq (include "core.rabbitmqTls" $root) "true" | ternary "amqps" "amqp" }}://{{ with .user }}{{ . }}@{{ end }}{{ include "core.rabbitmqAddresses" $root }}/{{ $vhost | urlquery }}
{{- end }}

{{/* The authorities' certificates (PEM) of etcd ("etcd") or RabbitMQ ("rabbitmq"). Call with (dict "root" $ "server" …). */}}
{{- define "core.authorities" -}}
{{- $values := .root.Values }}
{{- $server := get $values .server }}
{{- if $values.tls.ca }}{{ $values.tls.ca }}
{{- else }}
{{- $name := $server.enabled | ternary $values.tls.secret $server.external.adminSecret | required "tls.secret: name the Secret with the certificate" }}
{{- $data := get (lookup "v1" "Secret" .root.Release.Namespace $name | default dict) "data" | default dict }}
{{- /* Without a cluster (`helm template`) nothing can be looked up, not even what every namespace has. */}}
{{- if and (not (hasKey $data "ca.crt")) (lookup "v1" "ServiceAccount" .root.Release.Namespace "default") }}{{ fail (printf "TLS of %s: the Secret %q in namespace %s has no ca.crt; make it before this release, or give tls.ca" .server $name .root.Release.Namespace) }}{{ end }}
{{- get $data "ca.crt" | b64dec }}
{{- end }}
{{- end }}
