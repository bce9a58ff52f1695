//! Tests of mutual TLS between a real Envoy and the sidecar: from the plugin, and from Envoy's own rate limit filter.

use std::{fs, time::Duration};

use evenkeel_loadtest::lab::{
    CLUSTER, CustomEnvoy, Lab, OVERRIDE_HOST_HEADER,
    bootstrap::{
        address, cluster, http2_cluster, mutual_tls, override_host, rate_limit_filter, router, wasm_filter,
    },
    paths, write_certificates,
};
use serde_json::{Value, json};

use crate::support::{
    chat,
    lab::{self, fast_engine},
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(10);
const LIMITS: &str = "
domain: edge
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 2}
";
const GATEWAY: &str = "spiffe://test/ns/ai/sa/gateway";

/// A sidecar that only a gateway with the right certificate may call, and a model server.
struct Fixture {
    lab: Lab,
    files: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Option<Self> {
        let files = tempfile::tempdir().unwrap();
        let subjects = [("sidecar", "127.0.0.1"), ("gateway", GATEWAY), ("other", "spiffe://test/other")];
        write_certificates(files.path(), &subjects).unwrap();
        fs::write(files.path().join("limits.yaml"), LIMITS).unwrap();
        let at = |name: &str| files.path().join(name).display().to_string();
        let yaml = format!(
            "tls: {{cert_file: '{}', key_file: '{}', client_ca_file: '{}', client_certificates: required, \
             listeners: [grpc]}}\ngateway: {{certificates: ['{GATEWAY}']}}\n\
             rate_limit_service: {{config: '{}'}}\n",
            at("sidecar.crt"),
            at("sidecar.key"),
            at("ca.crt"),
            at("limits.yaml")
        );
        let builder = Lab::builder().hosts(1).envoys(0).sidecars(1).engine(fast_engine());
        let lab = lab::start(builder.listen_yaml("grpc_roles: []").sidecar_yaml(&yaml)).await?;
        Some(Self { lab, files })
    }

    /// Starts an Envoy that shows the certificate `NAME.crt`. Its first listener has the plugin, its second the rate
    /// limit filter.
    async fn envoy(&self, name: &str) -> Option<CustomEnvoy> {
        let sidecar = &self.lab.sidecars()[0];
        let port = sidecar.ready().grpc.as_deref().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        let at = |file: String| self.files.path().join(file);
        let mut to_sidecar = http2_cluster("evenkeel", &address(port));
        let (cert, key) = (at(format!("{name}.crt")), at(format!("{name}.key")));
        to_sidecar["transport_socket"] = mutual_tls(&at("ca.crt".to_owned()), &cert, &key);
        let mut llm = cluster(CLUSTER, &address(self.lab.hosts()[0].port()));
        llm["load_balancing_policy"] = override_host();
        let module = lab::found(paths::plugin())?;
        let plugin = json!({
            "sidecar": {"cluster": "evenkeel"},
            "deadline_ms": 10_000,
            "on_error": "closed",
            "apply": {"mode": "override_host", "header": OVERRIDE_HOST_HEADER},
        });
        let limits =
            json!([{"actions": [{"request_headers": {"header_name": "x-user", "descriptor_key": "user"}}]}]);
        let limit = rate_limit_filter(json!({"domain": "edge", "timeout": "10s"}));
        let managers =
            [manager(&wasm_filter("evenkeel", &module, &plugin), &json!([])), manager(&limit, &limits)];
        let (name, clusters) = (format!("envoy-{name}"), [llm, to_sidecar]);
        lab::found(CustomEnvoy::start(self.lab.dir(), &name, 1, managers, &clusters).await)
    }

    async fn metrics_contain(&self, text: &str) -> Result<(), String> {
        let metrics = self.lab.sidecars()[0].metrics().await.map_err(|e| e.to_string())?;
        if metrics.contains(text) { Ok(()) } else { Err(metrics) }
    }
}

fn manager(filter: &Value, rate_limits: &Value) -> Value {
    json!({
        "stat_prefix": "edge",
        "route_config": {"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "route": {"cluster": CLUSTER, "timeout": "0s", "rate_limits": rate_limits},
        }]}]},
        "http_filters": [filter, router()],
    })
}

async fn status(envoy: &CustomEnvoy, listener: usize) -> u16 {
    let request = chat::small_request(&envoy.urls()[listener], &[("x-user", "ann")]);
    let response = chat::client().request(request).await.unwrap();
    let status = response.status().as_u16();
    chat::text(response).await.unwrap();
    status
}

#[tokio::test]
async fn the_plugin_and_the_rate_limit_filter_call_over_mutual_tls() {
    let Some(fixture) = Fixture::start().await else { return };
    let Some(envoy) = fixture.envoy("gateway").await else { return };
    // The worker's stream opens in the background.
    within(LIMIT, "the plugin is connected", || async {
        let status = status(&envoy, 0).await;
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    fixture.metrics_contain("evenkeel_admits_total{result=\"admitted\"} 1\n").await.unwrap();
    within(LIMIT, "the settlement", || {
        fixture.metrics_contain("evenkeel_settles_total{result=\"released\"} 1\n")
    })
    .await;
    for expected in [200, 200, 429] {
        assert_eq!(status(&envoy, 1).await, expected);
    }
    fixture
        .metrics_contain("evenkeel_tls_handshakes_total{listener=\"grpc\",result=\"accepted\"}")
        .await
        .unwrap();
}

/// Guards against a sidecar that lets every certificate of the authority in.
#[tokio::test]
async fn a_gateway_with_another_name_is_refused() {
    let Some(fixture) = Fixture::start().await else { return };
    let Some(envoy) = fixture.envoy("other").await else { return };
    // Both filters refuse requests when the sidecar rejects their calls.
    assert_eq!(status(&envoy, 0).await, 503);
    assert_eq!(status(&envoy, 1).await, 500);
    let rejected = "evenkeel_calls_rejected_total{reason=\"certificate_lacks_role\",role=\"gateway\"}";
    fixture.metrics_contain(rejected).await.unwrap();
    fixture.metrics_contain("evenkeel_admits_total{result=\"admitted\"} 0\n").await.unwrap();
}
