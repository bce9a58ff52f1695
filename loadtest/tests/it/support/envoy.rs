//! Envoys with a test's own configuration, for gateways that differ from the lab's.

use std::{fs, path::Path, time::Duration};

use evenkeel_loadtest::lab::{Lab, Process, paths, ports, probe};
use serde_json::{Value, json};

use super::lab::found;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A gateway with a test's own configuration.
pub(crate) struct CustomEnvoy {
    /// Base URL of the gateway's listener.
    pub(crate) url: String,
    pub(crate) process: Process,
}

impl CustomEnvoy {
    /// Starts an Envoy with `http_connection_manager` and `clusters` in its configuration. If Envoy is not installed,
    /// prints this and returns `None`.
    pub(crate) async fn start(
        lab: &Lab,
        name: &str,
        http_connection_manager: Value,
        clusters: &[Value],
    ) -> Option<Self> {
        let program = found(paths::envoy())?;
        let (port, admin) = (ports::free_port().unwrap(), ports::free_port().unwrap());
        let manager = typed(
            "envoy.filters.network.http_connection_manager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            http_connection_manager,
        );
        let config = json!({
            "admin": {"address": address(admin)},
            "static_resources": {
                "clusters": clusters,
                "listeners": [{
                    "name": "edge",
                    "address": address(port),
                    "filter_chains": [{"filters": [manager]}],
                }],
            },
        });
        let path = lab.dir().join(format!("{name}.json"));
        fs::write(&path, config.to_string()).unwrap();
        let mut process = Process::new(name, program, lab.dir())
            .args(["--config-path".as_ref(), path.as_os_str()])
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        process.spawn().unwrap();
        let ready = format!("http://127.0.0.1:{admin}/ready");
        process.wait_ready(READY_WITHIN, async || probe::succeeds(&ready).await).await.unwrap();
        Some(Self { url: format!("http://127.0.0.1:{port}"), process })
    }
}

/// Returns an address on 127.0.0.1.
pub(crate) fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// Returns a named extension whose configuration is of this type.
pub(crate) fn typed(name: &str, config_type: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/{config_type}").into();
    json!({"name": name, "typed_config": config})
}

/// Returns Envoy's router filter.
pub(crate) fn router() -> Value {
    typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

/// Returns a cluster with one endpoint.
pub(crate) fn cluster(name: &str, endpoint: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
    })
}

/// Returns an HTTP/2 cluster with one endpoint.
pub(crate) fn http2_cluster(name: &str, endpoint: &Value) -> Value {
    let mut cluster = cluster(name, endpoint);
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    cluster
}

/// Returns the HTTP/2 cluster `evenkeel` over a sidecar's Unix socket.
pub(crate) fn sidecar_cluster(socket: &Path) -> Value {
    http2_cluster("evenkeel", &json!({"pipe": {"path": socket}}))
}
