//! Drained endpoints: what stores record, and what sidecars do.

use evenkeel_proto::v1 as pb;

mod http;
mod sidecars;
mod stores;

const POOLS: &str = "
keep_alive_interval: 500ms
pools:
- {cluster: llm, endpoints: [{address: 'm-0:80'}, {address: 'm-1:80'}, {address: 'm-2:80'}]}
- {cluster: other, endpoints: [{address: 'm-0:80'}, {address: 'o-1:80'}]}
";

fn drain_of(endpoint: &str, cluster: Option<&str>) -> pb::DrainEndpointRequest {
    pb::DrainEndpointRequest {
        endpoint: endpoint.into(),
        route: String::new(),
        cluster: cluster.unwrap_or_default().into(),
        note: "a note".into(),
    }
}

fn undrain_of(endpoint: &str, cluster: Option<&str>) -> pb::UndrainEndpointRequest {
    pb::UndrainEndpointRequest {
        endpoint: endpoint.into(),
        route: String::new(),
        cluster: cluster.unwrap_or_default().into(),
    }
}
