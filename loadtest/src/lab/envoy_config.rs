//! The configuration of one Envoy: one listener and one cluster per policy, over the same hosts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{CLUSTER, Policy};

/// Request header from which Envoy's `override_host` policy reads the chosen host.
pub const OVERRIDE_HOST_HEADER: &str = "x-gateway-destination-endpoint";

/// A limit far above what any run reaches, because circuit breakers must not override the policy's choice.
const NO_LIMIT: u32 = 1_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    pub(crate) module: PathBuf,
    pub(crate) config: Value,
    /// Unix socket of the sidecar.
    pub(crate) sidecar: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct EnvoyConfig {
    pub(crate) admin_port: u16,
    pub(crate) listeners: BTreeMap<Policy, u16>,
    pub(crate) hosts: Vec<SocketAddr>,
    pub(crate) plugin: Option<Plugin>,
}

impl EnvoyConfig {
    /// Returns Envoy's bootstrap configuration as JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut clusters: Vec<Value> = self.listeners.keys().map(|policy| self.cluster(*policy)).collect();
        clusters.extend(self.plugin.as_ref().map(|plugin| sidecar_cluster(&plugin.sidecar)));
        let listeners: Vec<Value> =
            self.listeners.iter().map(|(policy, port)| self.listener(*policy, *port)).collect();
        let config = json!({
            "admin": {"address": socket_address("127.0.0.1", self.admin_port)},
            "static_resources": {"listeners": listeners, "clusters": clusters},
            // Without a limit, Envoy logs a warning. No run reaches this limit.
            "overload_manager": {"resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": NO_LIMIT,
                },
            }]},
        });
        format!("{config:#}")
    }

    fn listener(&self, policy: Policy, port: u16) -> Value {
        let mut filters = Vec::new();
        if policy == Policy::Evenkeel {
            filters.extend(self.plugin.as_ref().map(wasm_filter));
            filters.push(rbac_filter());
        }
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }));
        let route = json!({
            "name": "chat",
            "match": {"prefix": "/"},
            "route": {"cluster": cluster_name(policy), "timeout": "0s", "idle_timeout": "0s"},
        });
        let mut routes = vec![route];
        if policy == Policy::Evenkeel {
            routes.splice(0..0, failing_routes());
        }
        json!({
            "name": policy.name(),
            "address": socket_address("127.0.0.1", port),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": policy.name(),
                    "codec_type": "AUTO",
                    "generate_request_id": false,
                    "stream_idle_timeout": "0s",
                    "route_config": {
                        "name": policy.name(),
                        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
                    },
                    "http_filters": filters,
                },
            }]}],
        })
    }

    fn cluster(&self, policy: Policy) -> Value {
        let endpoints: Vec<Value> = self
            .hosts
            .iter()
            .map(|host| json!({"endpoint": {"address": socket_address(&host.ip().to_string(), host.port())}}))
            .collect();
        let mut cluster = json!({
            "name": cluster_name(policy),
            "type": "STATIC",
            "connect_timeout": "2s",
            "circuit_breakers": no_limits(),
            "load_assignment": {
                "cluster_name": cluster_name(policy),
                "endpoints": [{"lb_endpoints": endpoints}],
            },
        });
        match policy {
            Policy::EnvoyLeastRequest => cluster["lb_policy"] = "LEAST_REQUEST".into(),
            Policy::EnvoyRoundRobin => cluster["lb_policy"] = "ROUND_ROBIN".into(),
            Policy::EnvoyRandom => cluster["lb_policy"] = "RANDOM".into(),
            Policy::Evenkeel | Policy::Ideal => cluster["load_balancing_policy"] = override_host(),
        }
        cluster
    }
}

/// A filter after the plugin. It allows every request unless the route overrides it.
fn rbac_filter() -> Value {
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"},
    })
}

/// Returns routes that end requests early: the route's timeout ends requests for `/timeout`, and the RBAC filter denies
/// requests for `/denied`.
fn failing_routes() -> [Value; 2] {
    let route = |name: &str, timeout: &str| {
        json!({
            "name": name,
            "match": {"prefix": format!("/{name}/")},
            "route": {"cluster": CLUSTER, "timeout": timeout, "prefix_rewrite": "/"},
        })
    };
    let mut denied = route("denied", "0s");
    denied["typed_per_filter_config"] = json!({"envoy.filters.http.rbac": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        "rbac": {"rules": {"action": "DENY", "policies": {"all": {
            "permissions": [{"any": true}],
            "principals": [{"any": true}],
        }}}},
    }});
    [route("timeout", "0.3s"), denied]
}

fn cluster_name(policy: Policy) -> &'static str {
    // The sidecars' pool has the name of the cluster that the plugin sees.
    if policy == Policy::Evenkeel { CLUSTER } else { policy.name() }
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
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

/// Returns a policy that uses the host in the header or, without the header, Envoy's least request.
fn override_host() -> Value {
    json!({"policies": [{"typed_extension_config": {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
            "override_host_sources": [{"header": OVERRIDE_HOST_HEADER}],
            "fallback_policy": {"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.least_request",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                },
            }}]},
        },
    }}]})
}

fn sidecar_cluster(socket: &Path) -> Value {
    json!({
        "name": "evenkeel",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": no_limits(),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {
                "connection_keepalive": {"interval": "1s", "timeout": "0.5s"},
            }},
        }},
        "load_assignment": {"cluster_name": "evenkeel", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": socket}}}},
        ]}]},
    })
}

fn wasm_filter(plugin: &Plugin) -> Value {
    let mut filter = json!({
        "name": "envoy.filters.http.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "evenkeel",
                "root_id": "evenkeel",
                "failure_policy": "FAIL_OPEN",
                "vm_config": {
                    "vm_id": "evenkeel",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": plugin.module}},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": plugin.config.to_string(),
                },
            },
        },
    });
    // Without this setting, Envoy withholds the body while the plugin pauses the request at its headers.
    if plugin.config["read_body"] == true {
        filter["typed_config"]["config"]["allow_on_headers_stop_iteration"] = true.into();
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_has_its_cluster() {
        let config = EnvoyConfig {
            admin_port: 1,
            listeners: Policy::ALL.into_iter().zip(2..).collect(),
            hosts: vec![SocketAddr::from(([127, 0, 0, 1], 9001))],
            plugin: Some(Plugin { module: "/m.wasm".into(), config: json!({}), sidecar: "/s.sock".into() }),
        };
        let config: Value = serde_json::from_str(&config.to_json()).unwrap();
        let resources = &config["static_resources"];
        let clusters: Vec<_> =
            resources["clusters"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        for listener in resources["listeners"].as_array().unwrap() {
            let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
            for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap() {
                assert!(clusters.contains(&route["route"]["cluster"].as_str().unwrap()));
            }
            let filters = manager["http_filters"].as_array().unwrap().len();
            assert_eq!(filters, if listener["name"] == "evenkeel" { 3 } else { 1 });
        }
        assert!(clusters.contains(&"evenkeel"));
    }
}
