//! The configuration of one Envoy: one listener and one cluster per policy, over the same hosts.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use super::{
    Policy,
    bootstrap::{
        bootstrap, cluster_of, listener, override_host, router, sidecar_cluster, socket_address, typed,
        wasm_filter,
    },
};

/// Request header from which Envoy's `override_host` policy reads the chosen host.
pub const OVERRIDE_HOST_HEADER: &str = "x-gateway-destination-endpoint";

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
    /// Returns Envoy's bootstrap configuration as JSON. `node` is the name of the gateway.
    pub(crate) fn to_json(&self, node: &str) -> String {
        let mut clusters: Vec<Value> = self.listeners.keys().map(|policy| self.cluster(*policy)).collect();
        clusters.extend(self.plugin.as_ref().map(|plugin| sidecar_cluster(&plugin.sidecar)));
        let listeners: Vec<Value> =
            self.listeners.iter().map(|(policy, port)| self.listener(*policy, *port)).collect();
        let mut config = bootstrap(self.admin_port, &listeners, &clusters);
        config["node"] = json!({"id": node, "cluster": "evenkeel"});
        format!("{config:#}")
    }

    fn listener(&self, policy: Policy, port: u16) -> Value {
        let mut filters = Vec::new();
        if policy.is_evenkeel() {
            let plugin = self.plugin.iter();
            filters.extend(plugin.map(|plugin| wasm_filter("evenkeel", &plugin.module, &plugin.config)));
            filters.push(rbac_filter());
        }
        filters.push(router());
        let route = json!({
            "name": "chat",
            "match": {"prefix": "/"},
            "route": {"cluster": policy.cluster(), "timeout": "0s", "idle_timeout": "0s"},
        });
        let mut routes = vec![route];
        if policy.is_evenkeel() {
            routes.splice(0..0, failing_routes(policy.cluster()));
        }
        let manager = json!({
            "stat_prefix": policy.name(),
            "codec_type": "AUTO",
            "generate_request_id": false,
            "stream_idle_timeout": "0s",
            "route_config": {
                "name": policy.name(),
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
            },
            "http_filters": filters,
        });
        listener(policy.name(), port, manager)
    }

    fn cluster(&self, policy: Policy) -> Value {
        let address = |host: &SocketAddr| socket_address(&host.ip().to_string(), host.port());
        let hosts: Vec<Value> = self.hosts.iter().map(address).collect();
        let mut cluster = cluster_of(policy.cluster(), &hosts);
        match policy {
            Policy::EnvoyLeastRequest => cluster["lb_policy"] = "LEAST_REQUEST".into(),
            Policy::EnvoyRoundRobin => cluster["lb_policy"] = "ROUND_ROBIN".into(),
            Policy::EnvoyRandom => cluster["lb_policy"] = "RANDOM".into(),
            Policy::EvenkeelLeastRequest
            | Policy::EvenkeelUnread
            | Policy::EvenkeelLeastWork
            | Policy::Ideal
            | Policy::HigressPrefix
            | Policy::IdealWork => cluster["load_balancing_policy"] = override_host(),
        }
        cluster
    }
}

/// A filter after the plugin. It allows every request unless the route overrides it.
fn rbac_filter() -> Value {
    typed("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", json!({}))
}

/// Returns routes that end requests early: the route's timeout ends requests for `/timeout`, and the RBAC filter denies
/// requests for `/denied`.
fn failing_routes(cluster: &str) -> [Value; 2] {
    let route = |name: &str, timeout: &str| {
        json!({
            "name": name,
            "match": {"prefix": format!("/{name}/")},
            "route": {"cluster": cluster, "timeout": timeout, "prefix_rewrite": "/"},
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
        let config: Value = serde_json::from_str(&config.to_json("envoy-0")).unwrap();
        let resources = &config["static_resources"];
        let clusters: Vec<_> =
            resources["clusters"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        for listener in resources["listeners"].as_array().unwrap() {
            let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
            for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap() {
                assert!(clusters.contains(&route["route"]["cluster"].as_str().unwrap()));
            }
            let is_evenkeel = listener["name"].as_str().unwrap().starts_with("evenkeel");
            let filters = manager["http_filters"].as_array().unwrap().len();
            assert_eq!(filters, if is_evenkeel { 3 } else { 1 });
        }
        assert!(clusters.contains(&"evenkeel"));
    }
}
