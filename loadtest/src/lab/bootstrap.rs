//! Parts of Envoy's bootstrap configuration as JSON.

use std::path::Path;

use serde_json::{Value, json};

use super::OVERRIDE_HOST_HEADER;

/// A limit far above what any run reaches, so that Envoy refuses no request or connection because of it.
const NO_LIMIT: u32 = 1_000_000;

/// Returns a named extension whose configuration is of this type.
pub fn typed(name: &str, config_type: &str, mut config: Value) -> Value {
    config["@type"] = type_url(config_type).into();
    json!({"name": name, "typed_config": config})
}

fn type_url(config_type: &str) -> String {
    format!("type.googleapis.com/{config_type}")
}

/// Returns an address on 127.0.0.1.
pub fn address(port: u16) -> Value {
    socket_address("127.0.0.1", port)
}

pub(super) fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

/// Returns a listener on 127.0.0.1 with this HTTP connection manager.
pub fn listener(name: &str, port: u16, http_connection_manager: Value) -> Value {
    let manager = typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        http_connection_manager,
    );
    json!({"name": name, "address": address(port), "filter_chains": [{"filters": [manager]}]})
}

/// Returns a bootstrap configuration without a limit on connections.
pub fn bootstrap(admin_port: u16, listeners: &[Value], clusters: &[Value]) -> Value {
    let no_limit = typed(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        json!({"max_active_downstream_connections": NO_LIMIT}),
    );
    json!({
        "admin": {"address": address(admin_port)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        // Without a limit, Envoy logs a warning. No run reaches this limit.
        "overload_manager": {"resource_monitors": [no_limit]},
    })
}

/// Returns Envoy's router filter.
pub fn router() -> Value {
    typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

/// Returns a cluster with one endpoint.
pub fn cluster(name: &str, endpoint: &Value) -> Value {
    cluster_of(name, std::slice::from_ref(endpoint))
}

/// Returns a cluster whose circuit breakers never open.
pub(super) fn cluster_of(name: &str, endpoints: &[Value]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|endpoint| json!({"endpoint": {"address": endpoint}})).collect();
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": no_limits(),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

fn no_limits() -> Value {
    let thresholds = |priority: &str| {
        json!({
            "priority": priority,
            "max_connections": NO_LIMIT,
            "max_pending_requests": NO_LIMIT,
            "max_requests": NO_LIMIT,
            "max_retries": NO_LIMIT,
        })
    };
    json!({"thresholds": [thresholds("DEFAULT"), thresholds("HIGH")]})
}

/// Returns an HTTP/2 cluster with one endpoint, which Envoy pings every second.
pub fn http2_cluster(name: &str, endpoint: &Value) -> Value {
    let mut cluster = cluster(name, endpoint);
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let pings = json!({"interval": "1s", "timeout": "0.5s"});
    cluster["typed_extension_protocol_options"] = json!({options: {
        "@type": type_url(options),
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": pings}},
    }});
    cluster
}

/// Returns the HTTP/2 cluster `evenkeel` over a sidecar's Unix socket.
pub fn sidecar_cluster(socket: &Path) -> Value {
    http2_cluster("evenkeel", &json!({"pipe": {"path": socket}}))
}

/// Returns a transport socket for TLS to 127.0.0.1: `ca` has signed the server's certificate, and the client shows the
/// certificate in `cert`.
pub fn mutual_tls(ca: &Path, cert: &Path, key: &Path) -> Value {
    let server = json!({"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}});
    typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        json!({"common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}],
            "validation_context": {
                "trusted_ca": {"filename": ca},
                "match_typed_subject_alt_names": [server],
            },
        }}),
    )
}

/// Returns a policy that uses the host in the header or, without the header, Envoy's least request.
pub fn override_host() -> Value {
    let policies = |policy: Value| json!({"policies": [{"typed_extension_config": policy}]});
    let least_request = typed(
        "envoy.load_balancing_policies.least_request",
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        json!({}),
    );
    policies(typed(
        "envoy.load_balancing_policies.override_host",
        "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        json!({
            "override_host_sources": [{"header": OVERRIDE_HOST_HEADER}],
            "fallback_policy": policies(least_request),
        }),
    ))
}

/// Returns the filter that runs the plugin. Filters with the same name and module share a VM in each worker.
pub fn wasm_filter(name: &str, module: &Path, plugin_config: &Value) -> Value {
    let mut config = json!({
        "name": name,
        "root_id": name,
        "failure_policy": "FAIL_OPEN",
        "vm_config": {
            "vm_id": name,
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": module}},
        },
        "configuration": {
            "@type": type_url("google.protobuf.StringValue"),
            "value": plugin_config.to_string(),
        },
    });
    // Without this setting, Envoy withholds the body while the plugin pauses the request at its headers.
    if plugin_config["read_body"] == true {
        config["allow_on_headers_stop_iteration"] = true.into();
    }
    typed("envoy.filters.http.wasm", "envoy.extensions.filters.http.wasm.v3.Wasm", json!({"config": config}))
}

/// Returns Envoy's rate limit filter, which calls the sidecar and refuses requests when the call fails.
pub fn rate_limit_filter(mut config: Value) -> Value {
    config["failure_mode_deny"] = true.into();
    config["rate_limit_service"] = json!({
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "evenkeel"}},
    });
    typed("envoy.filters.http.ratelimit", "envoy.extensions.filters.http.ratelimit.v3.RateLimit", config)
}
