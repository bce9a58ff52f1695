//! A gateway with the plugin, for tests that start their own Envoy.

use std::{path::Path, time::Duration};

use evenkeel_loadtest::lab::{
    CLUSTER, OVERRIDE_HOST_HEADER,
    bootstrap::{address, cluster, override_host, router, wasm_filter},
};
use serde_json::{Value, json};

/// Returns an HTTP connection manager that asks the sidecar and sends all requests to the hosts' cluster.
pub(crate) fn connection_manager(module: &Path, deadline: Duration) -> Value {
    let plugin = json!({
        "sidecar": {"cluster": "evenkeel"},
        "deadline_ms": deadline.as_millis() as u64,
        "apply": {"mode": "override_host", "header": OVERRIDE_HOST_HEADER},
    });
    json!({
        "stat_prefix": "edge",
        "route_config": {"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "name": "chat",
            "match": {"prefix": "/"},
            "route": {"cluster": CLUSTER, "timeout": "0s", "idle_timeout": "0s"},
        }]}]},
        "http_filters": [wasm_filter("evenkeel", module, &plugin), router()],
    })
}

/// Returns the hosts' cluster with one host.
pub(crate) fn one_host(port: u16) -> Value {
    let mut cluster = cluster(CLUSTER, &address(port));
    cluster["load_balancing_policy"] = override_host();
    cluster
}
