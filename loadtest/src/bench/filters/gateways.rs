//! The Envoys of the filter benchmark: a gateway with one listener for each filter, and an upstream.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use super::Filter;
use crate::lab::{
    CLUSTER, CustomEnvoy, LabError, OVERRIDE_HOST_HEADER,
    bootstrap::{
        address, cluster, override_host, rate_limit_filter, router, sidecar_cluster, typed, wasm_filter,
    },
    paths,
};

/// Domain and key of the limit in the rate limit service.
pub(super) const DOMAIN: &str = "bench";
pub(super) const KEY: &str = "gateway";

/// The response of the upstream: a short completion with usage.
const COMPLETION: &str = r#"{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello, how can I help?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19}}"#;

/// Starts an Envoy that answers every request itself, at far less cost than a model server.
pub(super) async fn start_upstream(dir: &Path) -> Result<(CustomEnvoy, SocketAddr), LabError> {
    let route = json!({
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": COMPLETION}},
        "response_headers_to_add": [{
            "header": {"key": "content-type", "value": "application/json"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }],
    });
    // Without this filter, Envoy answers before it has read the body, and then closes the connection.
    let buffer = typed(
        "envoy.filters.http.buffer",
        "envoy.extensions.filters.http.buffer.v3.Buffer",
        json!({"max_request_bytes": 65_536}),
    );
    let managers = [manager("upstream", &route, vec![buffer])];
    let envoy = CustomEnvoy::start(dir, "upstream", 1, managers, &[]).await?;
    let address = envoy.urls()[0].trim_start_matches("http://").parse();
    let address = address.map_err(|_| LabError::Invalid("the address of the upstream is invalid"))?;
    Ok((envoy, address))
}

/// Starts the gateway with `workers` worker threads. Its listeners have the order of [`Filter::ALL`], and share one
/// cluster.
pub(super) async fn start_gateway(
    dir: &Path,
    workers: usize,
    upstream: SocketAddr,
    sidecar: &Path,
) -> Result<CustomEnvoy, LabError> {
    let module = paths::plugin()?;
    let route = json!({
        "match": {"prefix": "/"},
        "route": {
            "cluster": CLUSTER,
            "rate_limits": [{"actions": [
                {"generic_key": {"descriptor_key": KEY, "descriptor_value": "all"}},
            ]}],
        },
    });
    let managers = Filter::ALL.map(|filter| {
        let filters = filter_config(filter, &module);
        manager(filter.name(), &route, filters.into_iter().collect())
    });
    let mut upstream = cluster(CLUSTER, &address(upstream.port()));
    upstream["load_balancing_policy"] = override_host();
    let name = format!("gateway-{workers}");
    CustomEnvoy::start(dir, &name, workers, managers, &[upstream, sidecar_cluster(sidecar)]).await
}

fn filter_config(filter: Filter, module: &Path) -> Option<Value> {
    // A request without a decision is an error, so no filter becomes faster by giving up.
    let plugin = |reads: bool| {
        let config = json!({
            "sidecar": {"cluster": "evenkeel"},
            "deadline_ms": 10_000,
            "on_error": "closed",
            "apply": {"mode": "override_host", "header": OVERRIDE_HOST_HEADER},
            "read_body": reads,
            "read_usage": reads,
        });
        wasm_filter(filter.name(), module, &config)
    };
    match filter {
        Filter::None => None,
        Filter::Native => Some(rate_limit_filter(json!({"domain": DOMAIN, "timeout": "10s"}))),
        Filter::Plugin => Some(plugin(false)),
        Filter::PluginReading => Some(plugin(true)),
    }
}

fn manager(name: &str, route: &Value, mut filters: Vec<Value>) -> Value {
    filters.push(router());
    json!({
        "stat_prefix": name,
        "generate_request_id": false,
        "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    })
}
