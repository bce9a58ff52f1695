{{/* Configuration of the gateways: fragments of Envoy's configuration, and the plugin's configuration. */}}

{{/* The cluster through which the plugin reaches the sidecar. */}}
{{- define "evenkeel.sidecarCluster" -}}
name: evenkeel
connect_timeout: 0.25s
{{- if eq .Values.mode "sidecar" }}
type: STATIC
{{- else }}
type: STRICT_DNS
dns_lookup_family: V4_PREFERRED
respect_dns_ttl: true
lb_policy: LEAST_REQUEST
{{- end }}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http2_protocol_options:
        # Ends the plugin's stream if the sidecar or the network is dead.
        connection_keepalive: {interval: 1s, timeout: 0.5s}
circuit_breakers:
  thresholds:
    - {max_requests: {{ .Values.plugin.maxRequests }}, max_pending_requests: {{ .Values.plugin.maxRequests }}}
load_assignment:
  cluster_name: evenkeel
  endpoints:
    - lb_endpoints:
        - endpoint:
            address:
              {{- if ne .Values.mode "sidecar" }}
              socket_address: {address: {{ include "evenkeel.serviceHost" . | quote }}, port_value: {{ .Values.ports.grpc }}}
              {{- else if .Values.sidecar.socket.enabled }}
              pipe: {path: {{ .Values.sidecar.socket.directory }}/evenkeel.sock}
              {{- else }}
              socket_address: {address: 127.0.0.1, port_value: {{ .Values.ports.grpc }}}
              {{- end }}
{{- if include "evenkeel.tlsSecret" . }}
{{ include "evenkeel.transportSocket" . }}
{{- end }}
{{- end -}}

{{/* TLS from the gateway to the sidecar. */}}
{{- define "evenkeel.transportSocket" -}}
{{- $tls := .Values.plugin.tls -}}
{{- $host := include "evenkeel.serviceHost" . -}}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {{ $host | quote }}
    common_tls_context:
      alpn_protocols: [h2]
      validation_context:
        trusted_ca: {filename: {{ $tls.caFile | quote }}}
        match_typed_subject_alt_names:
          - {san_type: DNS, matcher: {exact: {{ $host | quote }}}}
      {{- if eq $tls.clientCertificate "files" }}
      tls_certificates:
        - certificate_chain: {filename: {{ $tls.certFile | quote }}}
          private_key: {filename: {{ $tls.keyFile | quote }}}
      {{- else if eq $tls.clientCertificate "istio" }}
      tls_certificate_sds_secret_configs:
        - name: default
          sds_config:
            resource_api_version: V3
            api_config_source:
              api_type: GRPC
              transport_api_version: V3
              set_node_on_first_message_only: true
              grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]
      {{- end }}
{{- end -}}

{{/* The host name of the sidecars. With a Deployment, this is the headless service, whose DNS answers list all pods: a
     connection to the address of a normal service would stay with one pod. With a DaemonSet, the service leads to the
     pod on the gateway's node. */}}
{{- define "evenkeel.serviceHost" -}}
{{- $headless := ternary "-headless" "" (eq .Values.mode "deployment") -}}
{{- printf "%s%s.%s.svc.%s" (include "evenkeel.fullname" .) $headless .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{/* Uses the host that the plugin's header names. Without this header, uses the gateway's own least-request policy. */}}
{{- define "evenkeel.overrideHost" -}}
policies:
  - typed_extension_config:
      name: envoy.load_balancing_policies.override_host
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
        override_host_sources: [{header: {{ include "evenkeel.overrideHeader" . | quote }}}]
        fallback_policy:
          policies:
            - typed_extension_config:
                name: envoy.load_balancing_policies.least_request
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
{{- end -}}

{{- define "evenkeel.overrideHeader" -}}
{{- dig "apply" "header" "x-gateway-destination-endpoint" .Values.plugin.config -}}
{{- end -}}

{{/* The plugin's configuration, as YAML. */}}
{{- define "evenkeel.pluginConfig" -}}
{{- $mode := ternary "higress" "override_host" .Values.plugin.higress.enabled -}}
{{- $given := deepCopy .Values.plugin.config -}}
{{- toYaml (merge $given (dict "sidecar" (dict "cluster" "evenkeel") "apply" (dict "mode" $mode))) -}}
{{- end -}}

{{/* Envoy's Wasm filter, for EnvoyFilter. */}}
{{- define "evenkeel.wasmFilter" -}}
"@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
config:
  name: evenkeel
  root_id: evenkeel
  failure_policy: {{ ternary "FAIL_OPEN" "FAIL_CLOSED" .Values.plugin.failOpen }}
  {{- if .Values.plugin.config.read_body }}
  allow_on_headers_stop_iteration: true
  {{- end }}
  configuration:
    "@type": type.googleapis.com/google.protobuf.StringValue
    value: {{ include "evenkeel.pluginConfig" . | fromYaml | toJson | quote }}
  vm_config:
    vm_id: evenkeel
    runtime: envoy.wasm.runtime.v8
    code:
      {{- if hasPrefix "file://" .Values.plugin.url }}
      local: {filename: {{ trimPrefix "file://" .Values.plugin.url | quote }}}
      {{- else }}
      remote:
        # Istio's agent downloads the module and replaces this field by a local file.
        http_uri: {uri: {{ .Values.plugin.url | quote }}, timeout: 30s}
        {{- with .Values.plugin.sha256 }}
        sha256: {{ . | quote }}
        {{- end }}
      {{- end }}
{{- end -}}
