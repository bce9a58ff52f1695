{{/* Rejects values that contradict each other, and reports all errors at once. values.schema.json checks single
     values. */}}

{{- define "evenkeel.checks" -}}
{{- $v := .Values -}}
{{- $faults := list -}}

{{- /* The store. */ -}}
{{- $redis := $v.redis -}}
{{- if eq $redis.mode "external" -}}
{{- if not $redis.urls -}}
{{- $faults = append $faults "redis.urls: must contain a URL if redis.mode is external, got none" -}}
{{- end -}}
{{- if and (gt (len $redis.urls) 1) (not $redis.cluster) (not $redis.sentinel.masterName) -}}
{{- $faults = append $faults (printf "redis.urls: must contain one URL unless redis.cluster is true, got %d" (len $redis.urls)) -}}
{{- end -}}
{{- else -}}
{{- if $redis.urls -}}
{{- $faults = append $faults (printf "redis.urls: must be empty if redis.mode is %s" $redis.mode) -}}
{{- end -}}
{{- if $redis.cluster -}}
{{- $faults = append $faults (printf "redis.cluster: must be false if redis.mode is %s" $redis.mode) -}}
{{- end -}}
{{- if $redis.user -}}
{{- $faults = append $faults (printf "redis.user: must be empty if redis.mode is %s" $redis.mode) -}}
{{- end -}}
{{- if $redis.existingSecret -}}
{{- $faults = append $faults (printf "redis.existingSecret: must be empty if redis.mode is %s" $redis.mode) -}}
{{- end -}}
{{- end -}}
{{- if eq $redis.mode "none" -}}
{{- range list "password" "keyPrefix" -}}
{{- if index $redis . -}}
{{- $faults = append $faults (printf "redis.%s: must be empty if redis.mode is none" .) -}}
{{- end -}}
{{- end -}}
{{- if eq $v.mode "daemonset" -}}
{{- $faults = append $faults "redis.mode: must be external or bundled if mode is daemonset, because the pods cannot share counts without Redis, got none" -}}
{{- else if and (eq $v.mode "deployment") (or $v.autoscaling.enabled (ne (int $v.replicas) 1)) -}}
{{- $faults = append $faults "replicas: must be 1, and autoscaling.enabled must be false, if redis.mode is none, because the pods cannot share counts without Redis" -}}
{{- end -}}
{{- end -}}
{{- $limit := toString (dig "limits" "memory" "" (default dict $redis.bundled.resources)) -}}
{{- if and (eq $redis.mode "bundled") (regexMatch "^[0-9]+([kMG]i?)?$" $limit) -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "kb" 1024 "mb" 1048576 "gb" 1073741824 -}}
{{- $bytes := mul (regexFind "^[0-9]+" $limit | int64) (index $units (regexFind "[a-zA-Z]*$" $limit)) -}}
{{- $data := mul (regexFind "^[0-9]+" $redis.bundled.maxMemory | int64) (index $units (regexFind "[a-z]*$" $redis.bundled.maxMemory)) -}}
{{- if ge $data $bytes -}}
{{- $faults = append $faults (printf "redis.bundled.maxMemory: must be below redis.bundled.resources.limits.memory (%s), got %s" $limit $redis.bundled.maxMemory) -}}
{{- end -}}
{{- end -}}
{{- if and $redis.password $redis.existingSecret -}}
{{- $faults = append $faults "redis.password: must be empty if redis.existingSecret is set" -}}
{{- end -}}
{{- if and $redis.user (not (include "evenkeel.redisSecret" .)) -}}
{{- $faults = append $faults "redis.user: must be empty unless redis.existingSecret or redis.password is set" -}}
{{- end -}}
{{- if and $redis.tls.caSecret $redis.tls.caConfigMap -}}
{{- $faults = append $faults "redis.tls: must set only one of caSecret and caConfigMap, got both" -}}
{{- end -}}
{{- if and (or $redis.tls.caSecret $redis.tls.caConfigMap $redis.tls.certSecret $redis.tls.serverName) (not (include "evenkeel.redisTls" .)) -}}
{{- $faults = append $faults "redis.tls: must be empty unless a URL in redis.urls begins with rediss://" -}}
{{- end -}}
{{- if $redis.sentinel.masterName -}}
{{- if ne $redis.mode "external" -}}
{{- $faults = append $faults (printf "redis.sentinel.masterName: must be empty if redis.mode is %s" $redis.mode) -}}
{{- end -}}
{{- if $redis.cluster -}}
{{- $faults = append $faults "redis.cluster: must be false if redis.sentinel.masterName is set" -}}
{{- end -}}
{{- if and $redis.sentinel.login (not (include "evenkeel.redisSecret" .)) -}}
{{- $faults = append $faults "redis.sentinel.login: must be false unless redis.existingSecret or redis.password is set" -}}
{{- end -}}
{{- else if $redis.sentinel.login -}}
{{- $faults = append $faults "redis.sentinel.login: must be false unless redis.sentinel.masterName is set" -}}
{{- end -}}

{{- /* Fields of `config` that the chart sets. */ -}}
{{- $config := $v.config -}}
{{- if hasKey $config "listen" -}}
{{- $faults = append $faults "config.listen: must be absent, because mode, listenAddress, ports, connectionsMax, hosts, access and sidecar.socket set it" -}}
{{- end -}}
{{- if hasKey $config "tls" -}}
{{- $faults = append $faults "config.tls: must be absent, because the values below tls set it" -}}
{{- end -}}
{{- if hasKey $config "shutdown_delay" -}}
{{- $faults = append $faults "config.shutdown_delay: must be absent, because shutdownDelaySeconds sets it" -}}
{{- end -}}
{{- range list "type" "url" "urls" "cluster" "key_prefix" "user" "password_file" "tls" "sentinels" "master_name" "sentinel_user" "sentinel_password_file" -}}
{{- if hasKey (default dict $config.store) . -}}
{{- $faults = append $faults (printf "config.store.%s: must be absent, because the values below redis set it" .) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey (default dict $config.admin) "tokens") (include "evenkeel.adminSecret" .) -}}
{{- $faults = append $faults "config.admin.tokens: must be absent if admin.tokens or admin.existingSecret is set" -}}
{{- end -}}
{{- if and $v.rateLimitFiles (hasKey (default dict $config.rate_limit_service) "config") -}}
{{- $faults = append $faults "config.rate_limit_service.config: must be absent, because rateLimitFiles sets it" -}}
{{- end -}}
{{- if and $v.admin.tokens $v.admin.existingSecret -}}
{{- $faults = append $faults "admin.tokens: must be empty if admin.existingSecret is set" -}}
{{- end -}}
{{- if and $v.admin.existingSecret (not $v.admin.names) -}}
{{- $faults = append $faults "admin.names: must name the keys of admin.existingSecret, got none" -}}
{{- end -}}
{{- if and $v.admin.names (not $v.admin.existingSecret) -}}
{{- $faults = append $faults "admin.names: must be empty unless admin.existingSecret is set" -}}
{{- end -}}

{{- /* TLS. */ -}}
{{- $tls := $v.tls -}}
{{- $hasTls := or $tls.existingSecret $tls.certManager.enabled -}}
{{- if and $tls.existingSecret $tls.certManager.enabled -}}
{{- $faults = append $faults "tls.existingSecret: must be empty if tls.certManager.enabled is true" -}}
{{- end -}}
{{- if and $tls.certManager.enabled (not $tls.certManager.issuerRef.name) -}}
{{- $faults = append $faults "tls.certManager.issuerRef.name: must name an issuer of cert-manager, got none" -}}
{{- end -}}
{{- if and $hasTls (eq $v.mode "sidecar") -}}
{{- $faults = append $faults "tls: must be off if mode is sidecar, because gateways reach the sidecar within their pod" -}}
{{- end -}}
{{- if and (ne $tls.clientCertificates "none") (not $hasTls) -}}
{{- $faults = append $faults (printf "tls.clientCertificates: must be none unless tls.existingSecret or tls.certManager is set, got %s" $tls.clientCertificates) -}}
{{- end -}}
{{- if and $tls.clientCA.existingSecret $tls.clientCA.configMap -}}
{{- $faults = append $faults "tls.clientCA.configMap: must be empty if tls.clientCA.existingSecret is set" -}}
{{- end -}}
{{- $ptls := $v.plugin.tls -}}
{{- if and (include "evenkeel.gateway" .) $hasTls (not $ptls.caFile) -}}
{{- $faults = append $faults "plugin.tls.caFile: must be the path of the authority in the gateway's container if tls is on, got none" -}}
{{- end -}}
{{- if and (eq $ptls.clientCertificate "files") (not (and $ptls.certFile $ptls.keyFile)) -}}
{{- $faults = append $faults "plugin.tls.certFile: must be given, with keyFile, if plugin.tls.clientCertificate is files" -}}
{{- end -}}
{{- if and (include "evenkeel.gateway" .) (eq $tls.clientCertificates "required") (eq $ptls.clientCertificate "none") -}}
{{- $faults = append $faults "plugin.tls.clientCertificate: must be files or istio if tls.clientCertificates is required, got none" -}}
{{- end -}}

{{- /* The workload. */ -}}
{{- if $v.autoscaling.enabled -}}
{{- if ne $v.mode "deployment" -}}
{{- $faults = append $faults (printf "autoscaling.enabled: must be false if mode is %s" $v.mode) -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $faults = append $faults (printf "autoscaling.minReplicas: must be at most maxReplicas (%d), got %d" (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if eq (int $v.ports.grpc) (int $v.ports.http) -}}
{{- $faults = append $faults (printf "ports.grpc: must differ from ports.http, got %d" (int $v.ports.grpc)) -}}
{{- end -}}
{{- if eq $v.mode "sidecar" -}}
{{- if and $v.sidecar.native (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) -}}
{{- $faults = append $faults (printf "sidecar.native: must be false before Kubernetes 1.29, got true with %s" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if eq (toString $v.networkPolicy.enabled) "true" -}}
{{- $faults = append $faults "networkPolicy.enabled: must be false if mode is sidecar, because the pods belong to the gateway" -}}
{{- end -}}
{{- else if and (eq (toString $v.networkPolicy.enabled) "true") (not $v.networkPolicy.gateways) -}}
{{- $faults = append $faults "networkPolicy.gateways: must name the allowed callers if networkPolicy.enabled is true, got none" -}}
{{- end -}}

{{- /* The plugin. */ -}}
{{- $plugin := $v.plugin -}}
{{- $gateways := list -}}
{{- range list "higress" "istio" "envoyGateway" -}}
{{- if (index $plugin .).enabled -}}{{- $gateways = append $gateways . -}}{{- end -}}
{{- end -}}
{{- if gt (len $gateways) 1 -}}
{{- $faults = append $faults (printf "plugin: must be enabled for one gateway in each release, got %s" (join ", " $gateways)) -}}
{{- end -}}
{{- range $gateways -}}
{{- if and (eq $v.mode "sidecar") (ne . $v.sidecar.gateway) -}}
{{- $faults = append $faults (printf "sidecar.gateway: must be %s if plugin.%s.enabled is true, got %s" . . $v.sidecar.gateway) -}}
{{- end -}}
{{- end -}}
{{- if and $gateways (not $plugin.url) -}}
{{- $faults = append $faults "plugin.url: must be an oci://, https:// or file:// URL of the plugin's module, got none" -}}
{{- end -}}
{{- if hasKey $plugin.config "sidecar" -}}
{{- $faults = append $faults "plugin.config.sidecar: must be absent, because the chart sets it" -}}
{{- end -}}
{{- $apply := dig "apply" "mode" "" $plugin.config -}}
{{- if and $plugin.higress.enabled $apply (ne $apply "higress") -}}
{{- $faults = append $faults (printf "plugin.config.apply.mode: must be higress if plugin.higress.enabled is true, got %s" $apply) -}}
{{- else if and (not $plugin.higress.enabled) $apply (ne $apply "override_host") -}}
{{- $faults = append $faults (printf "plugin.config.apply.mode: must be override_host unless plugin.higress.enabled is true, got %s" $apply) -}}
{{- end -}}
{{- if and $plugin.istio.enabled (eq $plugin.istio.resource "WasmPlugin") $plugin.config.read_body -}}
{{- $faults = append $faults "plugin.istio.resource: must be EnvoyFilter if plugin.config.read_body is true, because a WasmPlugin cannot let the plugin read bodies, got WasmPlugin" -}}
{{- end -}}
{{- if and $plugin.istio.enabled (eq $plugin.istio.resource "EnvoyFilter") $plugin.imagePullSecret -}}
{{- $faults = append $faults "plugin.imagePullSecret: must be empty if plugin.istio.resource is EnvoyFilter" -}}
{{- end -}}
{{- if $plugin.envoyGateway.enabled -}}
{{- if hasPrefix "file://" $plugin.url -}}
{{- $faults = append $faults "plugin.url: must be an oci:// or https:// URL if plugin.envoyGateway.enabled is true, because Envoy Gateway cannot load files" -}}
{{- end -}}
{{- if not $plugin.envoyGateway.gateway -}}
{{- $faults = append $faults "plugin.envoyGateway.gateway: must name a Gateway, got none" -}}
{{- end -}}
{{- end -}}

{{- with $faults -}}
{{- fail (printf "%d %s in the values:\n  %s\n" (len .) (ternary "fault" "faults" (eq (len .) 1)) (join "\n  " .)) -}}
{{- end -}}
{{- end -}}
