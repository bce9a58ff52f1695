{{/* Names and labels. */}}

{{- define "evenkeel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "evenkeel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "evenkeel.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "evenkeel.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "evenkeel.selectorLabels" -}}
app.kubernetes.io/name: {{ include "evenkeel.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "evenkeel.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "evenkeel.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "evenkeel.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "evenkeel.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "evenkeel.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The name of the secret with Redis's password; empty if there is no password. */}}
{{- define "evenkeel.redisSecret" -}}
{{- if .Values.redis.existingSecret -}}
{{- .Values.redis.existingSecret -}}
{{- else if or .Values.redis.password (eq .Values.redis.mode "bundled") -}}
{{- printf "%s-redis" (include "evenkeel.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "evenkeel.redisSecretKey" -}}
{{- if .Values.redis.existingSecret -}}{{- .Values.redis.existingSecretKey -}}{{- else -}}password{{- end -}}
{{- end -}}

{{/* The name of the secret with the administrators' tokens; empty if there are no tokens. */}}
{{- define "evenkeel.adminSecret" -}}
{{- if .Values.admin.existingSecret -}}
{{- .Values.admin.existingSecret -}}
{{- else if .Values.admin.tokens -}}
{{- printf "%s-admin" (include "evenkeel.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The gateway that loads the plugin: `istio`, `higress` or `envoyGateway`; empty if the plugin is disabled. */}}
{{- define "evenkeel.gateway" -}}
{{- $values := .Values -}}
{{- range list "istio" "higress" "envoyGateway" -}}
{{- if (index $values.plugin .).enabled -}}{{ . }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a NetworkPolicy restricts the sidecar's connections; empty if none does. */}}
{{- define "evenkeel.restricted" -}}
{{- $enabled := toString .Values.networkPolicy.enabled -}}
{{- if and (ne .Values.mode "sidecar") (or (eq $enabled "true") (and (eq $enabled "auto") .Values.networkPolicy.gateways)) -}}true{{- end -}}
{{- end -}}

{{/* The secret with the sidecar's certificate; empty without TLS. */}}
{{- define "evenkeel.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}{{ include "evenkeel.fullname" . }}-tls{{- else -}}{{ .Values.tls.existingSecret }}{{- end -}}
{{- end -}}
