//! Envoy's own rate limit filter, without the plugin, asking a sidecar that reads files of envoyproxy/ratelimit.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use evenkeel_loadtest::{
    engine::EngineParams,
    lab::{Lab, Process, paths, ports, wait},
};
use http::{HeaderMap, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use serde_json::{Value, json};

use crate::{gateway::within, support};

/// What gateways have in such files: a limit for each address, one for a ban, nested ones, a soft launch, tokens.
const LIMITS: &str = "
domain: edge
descriptors:
  - key: remote_address
    rate_limit: {unit: year, requests_per_unit: 1000}
  - key: user
    rate_limit: {name: per-user, unit: year, requests_per_unit: 2}
  - key: user
    value: banned
    rate_limit: {unit: second, requests_per_unit: 0}
  - key: user
    value: staff
  - key: user
    value: probe
    shadow_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: service
    value: chat
    descriptors:
      - key: team
        rate_limit: {name: team-chat, unit: year, requests_per_unit: 3}
  - key: tokens
    rate_limit: {name: tokens, unit: year, requests_per_unit: 10}
";

/// A gateway with the filter, a sidecar on Redis, and a model server.
struct Filtered {
    lab: Lab,
    envoy: Process,
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
    limits: tempfile::TempDir,
}

impl Filtered {
    /// `None`, said aloud, where a program is not installed.
    async fn start() -> Option<Self> {
        let limits = tempfile::tempdir().unwrap();
        fs::write(limits.path().join("edge.yaml"), LIMITS).unwrap();
        let quick = EngineParams {
            base_ms: 1.0,
            per_seq_ms: 0.0,
            per_prefill_token_ms: 0.0,
            ..EngineParams::default()
        };
        let section =
            format!("rate_limit_service: {{config: \"{}\", headers: ratelimit}}", limits.path().display());
        let lab = Lab::builder().hosts(1).envoys(0).sidecars(1).redis().engine(quick).sidecar_yaml(&section);
        let lab = support::start(lab).await?;
        let Ok(program) = paths::envoy() else {
            assert!(std::env::var_os("EVENKEEL_IT_REQUIRED").is_none(), "Envoy not found");
            eprintln!("SKIPPED: Envoy not found");
            return None;
        };
        let (port, admin) = (ports::free_port().unwrap(), ports::free_port().unwrap());
        let config = envoy_config(port, admin, lab.hosts()[0].port(), lab.sidecars()[0].socket());
        let path = lab.dir().join("envoy-ratelimit.json");
        fs::write(&path, config.to_string()).unwrap();
        let mut envoy = Process::new("envoy-ratelimit", program, lab.dir())
            .args(["--config-path".as_ref(), path.as_os_str()])
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        envoy.spawn().unwrap();
        let ready = format!("http://127.0.0.1:{admin}/ready");
        envoy
            .wait_ready(Duration::from_secs(30), async || {
                wait::get(&ready).await.is_some_and(|(status, _)| status.is_success())
            })
            .await
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        Some(Self { lab, envoy, url, client: support::client(), limits })
    }

    async fn ask(&self, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap) {
        let mut request = support::chat(&self.url, 1, 1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.client.request(request.body(support::streaming()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        support::text(http::Response::new(body)).await.unwrap();
        (parts.status, parts.headers)
    }

    /// Whether the sidecar's metrics hold this.
    async fn shows(&self, text: &str) -> Result<(), String> {
        let metrics = self.lab.sidecars()[0].metrics().await.map_err(|e| e.to_string())?;
        if metrics.contains(text) { Ok(()) } else { Err(metrics) }
    }

    async fn status(&self, headers: &[(&str, &str)]) -> u16 {
        self.ask(headers).await.0.as_u16()
    }
}

/// Actions that make a descriptor of one header.
fn of_header(header: &str, key: &str) -> Value {
    json!({"request_headers": {"header_name": header, "descriptor_key": key}})
}

fn envoy_config(port: u16, admin: u16, host: u16, sidecar: &Path) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let tokens = [of_header("x-tokens-of", "tokens")];
    let limits = json!([
        {"actions": [{"remote_address": {}}]},
        {"actions": [of_header("x-user", "user")]},
        {"actions": [
            {"generic_key": {"descriptor_key": "service", "descriptor_value": "chat"}},
            of_header("x-team", "team"),
        ]},
        // As gateways limit tokens: look before, charge after.
        {"actions": tokens, "hits_addend": {"number": 0}},
        {"actions": tokens, "hits_addend": {"number": 7}, "apply_on_stream_done": true},
    ]);
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let cluster = |name: &str, endpoint: Value| {
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
            },
        })
    };
    let mut evenkeel = cluster("evenkeel", json!({"pipe": {"path": sidecar}}));
    evenkeel["typed_extension_protocol_options"] = http2;
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {
            "clusters": [cluster("llm", address(host)), evenkeel],
            "listeners": [{
                "name": "edge",
                "address": address(port),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "edge",
                        "route_config": {"name": "edge", "virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{
                                "match": {"prefix": "/"},
                                "route": {"cluster": "llm", "timeout": "0s"},
                                "typed_per_filter_config": {"envoy.filters.http.ratelimit": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
                                    "rate_limits": limits,
                                }},
                            }],
                        }]},
                        "http_filters": [
                            {
                                "name": "envoy.filters.http.ratelimit",
                                "typed_config": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
                                    "domain": "edge",
                                    // Far more than it takes: an error must not look like an answer.
                                    "timeout": "10s",
                                    "failure_mode_deny": true,
                                    "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                                    "rate_limit_service": {
                                        "transport_api_version": "V3",
                                        "grpc_service": {"envoy_grpc": {"cluster_name": "evenkeel"}},
                                    },
                                },
                            },
                            {
                                "name": "envoy.filters.http.router",
                                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                            },
                        ],
                    },
                }]}],
            }],
        },
    })
}

#[tokio::test]
async fn requests_are_let_through_and_refused() {
    let Some(envoy) = Filtered::start().await else { return };
    for (remaining, status) in [("1", 200), ("0", 200), ("0", 429), ("0", 429)] {
        let (got, headers) = envoy.ask(&[("x-user", "ann")]).await;
        assert_eq!(got, status, "{headers:?}");
        // Told by the service, and by Envoy from the limit it was told.
        for name in ["ratelimit-remaining", "x-ratelimit-remaining"] {
            assert_eq!(headers[name], remaining, "{headers:?}");
        }
        assert_eq!(headers["ratelimit-limit"], "2");
        assert!(headers["ratelimit-reset"].to_str().unwrap().parse::<u32>().unwrap() > 0);
        let policy = headers["x-ratelimit-limit"].to_str().unwrap();
        assert!(policy.contains("2;w=31536000;name=\"per-user\""), "{policy}");
    }
    assert_eq!(envoy.status(&[("x-user", "bob")]).await, 200, "each user apart");
    assert_eq!(envoy.status(&[("x-user", "banned")]).await, 429);
    for _ in 0..3 {
        assert_eq!(envoy.status(&[("x-user", "probe")]).await, 200, "shadow mode");
        assert_eq!(envoy.status(&[("x-user", "staff")]).await, 200, "no limit");
        assert_eq!(envoy.status(&[("x-team", "red")]).await, 200, "three of the team");
    }
    assert_eq!(envoy.status(&[("x-team", "red")]).await, 429);
    assert_eq!(envoy.status(&[("x-team", "blue"), ("x-user", "ann")]).await, 429);
    // Of all that, the address was charged with what was let through only: 3 users, 3 × 3, and this one.
    let (_, headers) = envoy.ask(&[]).await;
    assert_eq!(headers["ratelimit-remaining"], (1000 - 3 - 9 - 1).to_string().as_str());
    let metrics = envoy.lab.sidecars()[0].metrics().await.unwrap();
    assert!(metrics.contains("limit=\"user_probe\",result=\"shadow_over\"} 2"), "{metrics}");
    assert!(envoy.envoy.pid().is_some());
}

#[tokio::test]
async fn tokens_are_charged_when_a_response_has_ended() {
    let Some(envoy) = Filtered::start().await else { return };
    let ask = async || envoy.status(&[("x-tokens-of", "ann")]).await;
    // 7 tokens each, of 10: the second response goes past the limit, and is charged all the same.
    assert_eq!(ask().await, 200);
    let limit = Duration::from_secs(10);
    within(limit, "tokens are charged", || envoy.shows("limit=\"tokens\",result=\"ok\"} 2")).await;
    assert_eq!(ask().await, 200);
    within(limit, "tokens are charged", || envoy.shows("limit=\"tokens\",result=\"over\"} 1")).await;
    assert_eq!(ask().await, 429);
    assert_eq!(envoy.status(&[("x-tokens-of", "bob")]).await, 200);
}

#[tokio::test]
async fn changed_files_take_effect() {
    let Some(envoy) = Filtered::start().await else { return };
    let ask = async || envoy.status(&[("x-user", "ann")]).await;
    assert_eq!((ask().await, ask().await, ask().await), (200, 200, 429));
    fs::write(
        envoy.limits.path().join("edge.yaml"),
        LIMITS.replace("requests_per_unit: 2}", "requests_per_unit: 3}"),
    )
    .unwrap();
    within(Duration::from_secs(10), "the new limit lets one more through", || async {
        let status = ask().await;
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(ask().await, 429, "what was counted is kept");
    fs::write(envoy.limits.path().join("edge.yaml"), "domain: edge\ndescriptors: [{}]").unwrap();
    within(Duration::from_secs(10), "the wrong file is told", || envoy.shows("evenkeel_rls_config_valid 0"))
        .await;
    assert_eq!(
        (ask().await, envoy.status(&[("x-user", "bob")]).await),
        (429, 200),
        "the last good limits stay"
    );
}
