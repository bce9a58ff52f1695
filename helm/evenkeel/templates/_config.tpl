{{/* The sidecar's configuration: `config`, plus the fields that the chart derives from other values. */}}

{{- define "evenkeel.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $listen := dict "http" (printf "%s:%v" .Values.listenAddress (int .Values.ports.http)) -}}
{{- if ne .Values.mode "sidecar" -}}
{{- $_ := set $listen "grpc" (printf "%s:%v" .Values.listenAddress (int .Values.ports.grpc)) -}}
{{- else if .Values.sidecar.socket.enabled -}}
{{- $_ := set $listen "grpc" "off" -}}
{{- $_ := set $listen "grpc_socket" (printf "%s/evenkeel.sock" .Values.sidecar.socket.directory) -}}
{{- /* Gateways run as other users. Only containers that mount the volume can reach the socket. */ -}}
{{- $_ := set $listen "grpc_socket_mode" "0666" -}}
{{- else -}}
{{- $_ := set $listen "grpc" (printf "127.0.0.1:%v" (int .Values.ports.grpc)) -}}
{{- end -}}
{{- $_ := set $listen "connections_max" (int .Values.connectionsMax) -}}
{{- $hosts := .Values.hosts -}}
{{- if ne .Values.mode "sidecar" -}}
{{- $name := include "evenkeel.fullname" . -}}
{{- range (list "" (printf ".%s" .Release.Namespace) (printf ".%s.svc" .Release.Namespace) (printf ".%s.svc.%s" .Release.Namespace .Values.clusterDomain)) -}}
{{- $hosts = append $hosts (printf "%s%s" $name .) -}}
{{- end -}}
{{- end -}}
{{- with $hosts -}}{{- $_ := set $listen "hosts" . -}}{{- end -}}
{{- if ne .Values.mode "sidecar" -}}
{{- $auto := ternary (list "gateway") list (or (not (include "evenkeel.tlsSecret" .)) (eq .Values.tls.clientCertificates "none")) -}}
{{- $_ := set $listen "grpc_roles" (ternary $auto .Values.access.grpcRoles (eq (toString .Values.access.grpcRoles) "auto")) -}}
{{- end -}}
{{- $_ := set $listen "http_roles" .Values.access.httpRoles -}}
{{- $_ := set $listen "metrics" .Values.access.metrics -}}
{{- $_ := set $config "listen" $listen -}}
{{- if include "evenkeel.tlsSecret" . -}}
{{- $tls := dict "cert_file" "/etc/evenkeel/tls/tls.crt" "key_file" "/etc/evenkeel/tls/tls.key" "min_version" .Values.tls.minVersion -}}
{{- if ne .Values.tls.clientCertificates "none" -}}
{{- $_ := set $tls "client_certificates" .Values.tls.clientCertificates -}}
{{- $_ := set $tls "client_ca_file" (ternary "/etc/evenkeel/client-ca/ca.crt" "/etc/evenkeel/tls/ca.crt" (not (not (or .Values.tls.clientCA.existingSecret .Values.tls.clientCA.configMap)))) -}}
{{- end -}}
{{- $_ := set $config "tls" $tls -}}
{{- end -}}
{{- $_ := set $config "shutdown_delay" (printf "%ss" (include "evenkeel.shutdownDelay" .)) -}}
{{- $_ := set $config "log" (merge (deepCopy (default dict $config.log)) (dict "format" "json")) -}}
{{- $store := deepCopy (default dict $config.store) -}}
{{- if eq .Values.redis.mode "none" -}}
{{- $_ := set $store "type" "memory" -}}
{{- else -}}
{{- $_ := set $store "type" "redis" -}}
{{- if eq .Values.redis.mode "bundled" -}}
{{- $_ := set $store "url" (printf "redis://%s-redis.%s.svc.%s:6379/0" (include "evenkeel.fullname" .) .Release.Namespace .Values.clusterDomain) -}}
{{- $_ := set $store "user" "evenkeel" -}}
{{- else if .Values.redis.sentinel.masterName -}}
{{- $_ := set $store "type" "sentinel" -}}
{{- $_ := set $store "sentinels" .Values.redis.urls -}}
{{- $_ := set $store "master_name" .Values.redis.sentinel.masterName -}}
{{- if .Values.redis.sentinel.login -}}
{{- with .Values.redis.user -}}{{- $_ := set $store "sentinel_user" . -}}{{- end -}}
{{- $_ := set $store "sentinel_password_file" "/etc/evenkeel/redis/password" -}}
{{- end -}}
{{- else if .Values.redis.cluster -}}
{{- $_ := set $store "urls" .Values.redis.urls -}}
{{- $_ := set $store "cluster" true -}}
{{- else -}}
{{- $_ := set $store "url" (first .Values.redis.urls) -}}
{{- end -}}
{{- with .Values.redis.user -}}{{- $_ := set $store "user" . -}}{{- end -}}
{{- if include "evenkeel.redisSecret" . -}}{{- $_ := set $store "password_file" "/etc/evenkeel/redis/password" -}}{{- end -}}
{{- $tls := dict -}}
{{- if or .Values.redis.tls.caSecret .Values.redis.tls.caConfigMap -}}
{{- $_ := set $tls "ca_file" (printf "/etc/evenkeel/ca/%s" .Values.redis.tls.caKey) -}}
{{- end -}}
{{- if .Values.redis.tls.certSecret -}}
{{- $_ := set $tls "cert_file" "/etc/evenkeel/redis-tls/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/evenkeel/redis-tls/tls.key" -}}
{{- end -}}
{{- with .Values.redis.tls.serverName -}}{{- $_ := set $tls "server_name" . -}}{{- end -}}
{{- if or $tls (and .Values.redis.sentinel.masterName (include "evenkeel.redisTls" .)) -}}{{- $_ := set $store "tls" $tls -}}{{- end -}}
{{- with .Values.redis.keyPrefix -}}{{- $_ := set $store "key_prefix" . -}}{{- end -}}
{{- end -}}
{{- $_ := set $config "store" $store -}}
{{- if include "evenkeel.adminSecret" . -}}
{{- $tokens := list -}}
{{- range (default (keys .Values.admin.tokens | sortAlpha) .Values.admin.names) -}}
{{- $tokens = append $tokens (dict "name" . "token_file" (printf "/etc/evenkeel/admin/%s" .)) -}}
{{- end -}}
{{- $_ := set $config "admin" (merge (dict "tokens" $tokens) (deepCopy (default dict $config.admin))) -}}
{{- end -}}
{{- if .Values.rateLimitFiles -}}
{{- $service := merge (dict "config" "/etc/evenkeel/limits") (deepCopy (default dict $config.rate_limit_service)) -}}
{{- $_ := set $config "rate_limit_service" $service -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* "true" if a URL of Redis uses TLS. */}}
{{- define "evenkeel.redisTls" -}}
{{- range .Values.redis.urls -}}{{- if hasPrefix "rediss://" . -}}true{{- end -}}{{- end -}}
{{- end -}}

{{/* The shutdown delay in seconds: 5 for the update of the service's endpoints and, in `mode: deployment`, another 30
     for cached answers of the cluster's DNS. */}}
{{- define "evenkeel.shutdownDelay" -}}
{{- if eq (toString .Values.shutdownDelaySeconds) "auto" -}}
{{- ternary 35 5 (eq .Values.mode "deployment") -}}
{{- else -}}
{{- int .Values.shutdownDelaySeconds -}}
{{- end -}}
{{- end -}}

{{/* A digest of the fields whose changes need a restart. The sidecar reloads the omitted fields without a restart. */}}
{{- define "evenkeel.checksum" -}}
{{- $config := include "evenkeel.config" . | fromYaml -}}
{{- $kept := omit $config "limits" "higress_rules" "quotas" "prices" "models" "limit_headers" "quota_admins" "gateway" "reader" "admin" -}}
{{- if eq .Values.redis.mode "bundled" -}}
{{- $_ := set $kept "bundled" (include "evenkeel.bundledPassword" . | sha256sum) -}}
{{- end -}}
{{- $kept | toJson | sha256sum -}}
{{- end -}}

{{/* The namespaces whose EndpointSlices the sidecars watch, as JSON: {"used", "everywhere", "namespaces"}. */}}
{{- define "evenkeel.watched" -}}
{{- $config := .Values.config -}}
{{- $section := default dict $config.kubernetes -}}
{{- $own := default .Release.Namespace $section.namespace -}}
{{- $namespaces := list -}}
{{- $everywhere := false -}}
{{- range (default list $config.pools) -}}
{{- if hasKey . "kubernetes" -}}
{{- $from := default dict .kubernetes -}}
{{- $parts := regexFindAll "[^.|]+" (regexFind "^outbound\\|[0-9]+\\|\\|[^.|]+\\.[^.|]+\\.svc" (default "" .cluster)) -1 -}}
{{- if $from.namespace -}}{{- $namespaces = append $namespaces $from.namespace -}}
{{- else if and (not $from.service) $parts -}}{{- $namespaces = append $namespaces (index $parts (sub (len $parts) 2 | int)) -}}
{{- else -}}{{- $namespaces = append $namespaces $own -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $unlisted := default dict $config.unlisted_pools -}}
{{- if hasKey $unlisted "kubernetes" -}}
{{- $from := default dict $unlisted.kubernetes -}}
{{- if $from.namespace -}}{{- $namespaces = append $namespaces $from.namespace -}}{{- else -}}{{- $everywhere = true -}}{{- end -}}
{{- end -}}
{{- dict "used" (or $everywhere (gt (len $namespaces) 0)) "everywhere" $everywhere "namespaces" ($namespaces | uniq | sortAlpha) | toJson -}}
{{- end -}}
