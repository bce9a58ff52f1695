{{/* The sidecar's container and its volumes. A gateway's chart that depends on this chart can include both:
     {{ include "evenkeel.sidecarContainer" .Subcharts.evenkeel }}. */}}

{{- define "evenkeel.container" -}}
name: evenkeel
image: {{ include "evenkeel.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/evenkeel/config/evenkeel.yaml]
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- if or (ne .Values.mode "sidecar") (not .Values.sidecar.socket.enabled) }}
  - {name: ek-grpc, containerPort: {{ .Values.ports.grpc }}, protocol: TCP}
  {{- end }}
  - {name: ek-http, containerPort: {{ .Values.ports.http }}, protocol: TCP}
livenessProbe:
  httpGet: {path: /healthz, port: {{ .Values.ports.http }}{{ if include "evenkeel.tlsSecret" . }}, scheme: HTTPS{{ end }}}
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 3
{{- if or (ne .Values.mode "sidecar") .Values.sidecar.required }}
startupProbe:
  httpGet: {path: /healthz, port: {{ .Values.ports.http }}{{ if include "evenkeel.tlsSecret" . }}, scheme: HTTPS{{ end }}}
  periodSeconds: 1
  failureThreshold: 30
readinessProbe:
  httpGet: {path: /readyz, port: {{ .Values.ports.http }}{{ if include "evenkeel.tlsSecret" . }}, scheme: HTTPS{{ end }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: evenkeel-config, mountPath: /etc/evenkeel/config, readOnly: true}
  {{- if .Values.files }}
  - {name: evenkeel-files, mountPath: /etc/evenkeel/files, readOnly: true}
  {{- end }}
  {{- if .Values.rateLimitFiles }}
  - {name: evenkeel-limits, mountPath: /etc/evenkeel/limits, readOnly: true}
  {{- end }}
  {{- if include "evenkeel.adminSecret" . }}
  - {name: evenkeel-admin, mountPath: /etc/evenkeel/admin, readOnly: true}
  {{- end }}
  {{- if include "evenkeel.tlsSecret" . }}
  - {name: evenkeel-tls, mountPath: /etc/evenkeel/tls, readOnly: true}
  {{- if or .Values.tls.clientCA.existingSecret .Values.tls.clientCA.configMap }}
  - {name: evenkeel-client-ca, mountPath: /etc/evenkeel/client-ca, readOnly: true}
  {{- end }}
  {{- end }}
  {{- if include "evenkeel.redisSecret" . }}
  - {name: evenkeel-redis, mountPath: /etc/evenkeel/redis, readOnly: true}
  {{- end }}
  {{- if or .Values.redis.tls.caSecret .Values.redis.tls.caConfigMap }}
  - {name: evenkeel-ca, mountPath: /etc/evenkeel/ca, readOnly: true}
  {{- end }}
  {{- if .Values.redis.tls.certSecret }}
  - {name: evenkeel-redis-tls, mountPath: /etc/evenkeel/redis-tls, readOnly: true}
  {{- end }}
  {{- if and (eq .Values.mode "sidecar") .Values.sidecar.socket.enabled }}
  - {name: evenkeel-socket, mountPath: {{ .Values.sidecar.socket.directory | quote }}}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "evenkeel.volumes" -}}
{{- $fullname := include "evenkeel.fullname" . -}}
- name: evenkeel-config
  configMap: {name: {{ $fullname | quote }}}
{{- if .Values.files }}
- name: evenkeel-files
  configMap: {name: {{ $fullname }}-files}
{{- end }}
{{- if .Values.rateLimitFiles }}
- name: evenkeel-limits
  configMap: {name: {{ $fullname }}-limits}
{{- end }}
{{- with include "evenkeel.adminSecret" . }}
- name: evenkeel-admin
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with include "evenkeel.tlsSecret" . }}
- name: evenkeel-tls
  secret: {secretName: {{ . | quote }}}
{{- $ca := $.Values.tls.clientCA }}
{{- if $ca.existingSecret }}
- name: evenkeel-client-ca
  secret: {secretName: {{ $ca.existingSecret | quote }}, items: [{key: {{ $ca.key | quote }}, path: ca.crt}]}
{{- else if $ca.configMap }}
- name: evenkeel-client-ca
  configMap: {name: {{ $ca.configMap | quote }}, items: [{key: {{ $ca.key | quote }}, path: ca.crt}]}
{{- end }}
{{- end }}
{{- if include "evenkeel.redisSecret" . }}
- name: evenkeel-redis
  secret:
    secretName: {{ include "evenkeel.redisSecret" . | quote }}
    items: [{key: {{ include "evenkeel.redisSecretKey" . | quote }}, path: password}]
{{- end }}
{{- with .Values.redis.tls.caSecret }}
- name: evenkeel-ca
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with .Values.redis.tls.certSecret }}
- name: evenkeel-redis-tls
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with .Values.redis.tls.caConfigMap }}
- name: evenkeel-ca
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- if and (eq .Values.mode "sidecar") .Values.sidecar.socket.enabled }}
- name: evenkeel-socket
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The pod template of the Deployment and the DaemonSet. */}}
{{- define "evenkeel.podTemplate" -}}
metadata:
  annotations:
    checksum/config: {{ include "evenkeel.checksum" . }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "evenkeel.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/component: sidecar
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "evenkeel.serviceAccountName" . | quote }}
  enableServiceLinks: false
  automountServiceAccountToken: {{ (include "evenkeel.watched" . | fromJson).used }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  # The shutdown delay, 10 s for calls in progress, 7 s for Redis, and a margin.
  terminationGracePeriodSeconds: {{ add (include "evenkeel.shutdownDelay" . | int) 25 }}
  containers:
    - {{- include "evenkeel.container" . | nindent 6 }}
  volumes:
    {{- include "evenkeel.volumes" . | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and (eq .Values.mode "deployment") .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- $selector := dict "matchLabels" (merge (dict "app.kubernetes.io/component" "sidecar") (include "evenkeel.selectorLabels" . | fromYaml)) }}
    {{- range .Values.topologySpreadConstraints }}
    - {{- toYaml (merge (deepCopy .) (dict "labelSelector" $selector)) | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/* The container for gateways' pods. A native sidecar is an init container with `restartPolicy: Always`. */}}
{{- define "evenkeel.sidecarContainer" -}}
{{ include "evenkeel.container" . }}
{{- if .Values.sidecar.native }}
restartPolicy: Always
{{- end }}
{{- end -}}

{{- define "evenkeel.sidecarVolumes" -}}
{{ include "evenkeel.volumes" . }}
{{- end -}}

{{- define "evenkeel.gatewayContainer" -}}
{{- $default := dict "istio" "istio-proxy" "higress" "higress-gateway" "envoyGateway" "envoy" -}}
{{- default (index $default .Values.sidecar.gateway) .Values.sidecar.gatewayContainer -}}
{{- end -}}

{{/* A strategic merge patch for a gateway's Deployment or DaemonSet. */}}
{{- define "evenkeel.sidecarPatch" -}}
spec:
  template:
    metadata:
      annotations:
        checksum/evenkeel: {{ include "evenkeel.checksum" . }}
    spec:
      {{- include "evenkeel.sidecarPodSpec" . | nindent 6 }}
{{- end -}}

{{- define "evenkeel.sidecarPodSpec" -}}
{{- if .Values.sidecar.native -}}
initContainers:
  - {{- include "evenkeel.sidecarContainer" . | nindent 4 }}
{{- if .Values.sidecar.socket.enabled }}
containers:
  {{- include "evenkeel.gatewayMount" . | nindent 2 }}
{{- end }}
{{- else -}}
containers:
  - {{- include "evenkeel.sidecarContainer" . | nindent 4 }}
  {{- if .Values.sidecar.socket.enabled }}
  {{- include "evenkeel.gatewayMount" . | nindent 2 }}
  {{- end }}
{{- end }}
volumes:
  {{- include "evenkeel.sidecarVolumes" . | nindent 2 }}
{{- end -}}

{{- define "evenkeel.gatewayMount" -}}
- name: {{ include "evenkeel.gatewayContainer" . | quote }}
  volumeMounts:
    - {name: evenkeel-socket, mountPath: {{ .Values.sidecar.socket.directory | quote }}}
{{- end -}}
