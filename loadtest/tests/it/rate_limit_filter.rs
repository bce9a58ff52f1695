//! Tests of Envoy's own rate limit filter, without the plugin. The filter calls a sidecar that reads configuration
//! files of envoyproxy/ratelimit.

use std::{fs, path::Path, time::Duration};

use evenkeel_loadtest::lab::{
    CustomEnvoy, Lab,
    bootstrap::{address, cluster, rate_limit_filter, router, sidecar_cluster},
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    chat::{self, HttpClient},
    lab::{self, fast_engine},
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(10);
/// Less than half of the filter's timeout.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Typical limits: a limit per address, a ban, nested descriptors, a limit in shadow mode, a limit of tokens.
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
struct Fixture {
    lab: Lab,
    envoy: CustomEnvoy,
    client: HttpClient,
    limits: tempfile::TempDir,
}

impl Fixture {
    /// Starts the fixture. If a program is not installed, prints this and returns `None`.
    async fn start() -> Option<Self> {
        Self::start_with(STORE_TIMEOUT).await
    }

    async fn start_with(store_timeout: Duration) -> Option<Self> {
        let limits = tempfile::tempdir().unwrap();
        fs::write(limits.path().join("edge.yaml"), LIMITS).unwrap();
        let section =
            format!("rate_limit_service: {{config: \"{}\", headers: ratelimit}}", limits.path().display());
        let builder = Lab::builder().hosts(1).envoys(0).sidecars(1).redis().store_timeout(store_timeout);
        let lab = lab::start(builder.engine(fast_engine()).sidecar_yaml(&section)).await?;
        let clusters =
            [cluster("llm", &address(lab.hosts()[0].port())), sidecar_cluster(lab.sidecars()[0].socket())];
        let envoy = lab::found(
            CustomEnvoy::start(lab.dir(), "envoy-ratelimit", 1, [connection_manager()], &clusters).await,
        )?;
        Some(Self { lab, envoy, client: chat::client(), limits })
    }

    fn limits_file(&self) -> impl AsRef<Path> {
        self.limits.path().join("edge.yaml")
    }

    async fn send(&self, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap) {
        let response =
            self.client.request(chat::small_request(&self.envoy.urls()[0], headers)).await.unwrap();
        let (parts, body) = response.into_parts();
        chat::text(http::Response::new(body)).await.unwrap();
        (parts.status, parts.headers)
    }

    async fn status(&self, headers: &[(&str, &str)]) -> u16 {
        self.send(headers).await.0.as_u16()
    }

    /// Returns an error with the sidecar's metrics unless they contain `text`.
    async fn metrics_contain(&self, text: &str) -> Result<(), String> {
        let metrics = self.lab.sidecars()[0].metrics().await.map_err(|e| e.to_string())?;
        if metrics.contains(text) { Ok(()) } else { Err(metrics) }
    }
}

/// Returns an action that converts a request header to a descriptor entry.
fn from_header(header: &str, key: &str) -> Value {
    json!({"request_headers": {"header_name": header, "descriptor_key": key}})
}

fn connection_manager() -> Value {
    let tokens = [from_header("x-tokens-of", "tokens")];
    let limits = json!([
        {"actions": [{"remote_address": {}}]},
        {"actions": [from_header("x-user", "user")]},
        {"actions": [
            {"generic_key": {"descriptor_key": "service", "descriptor_value": "chat"}},
            from_header("x-team", "team"),
        ]},
        // Token limits as gateways use them: check before the request, charge after it.
        {"actions": tokens, "hits_addend": {"number": 0}},
        {"actions": tokens, "hits_addend": {"number": 7}, "apply_on_stream_done": true},
    ]);
    let filter = rate_limit_filter(json!({
        "domain": "edge",
        // The timeout is far longer than a call takes, because an error must not look like a refusal.
        "timeout": "10s",
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
    }));
    json!({
        "stat_prefix": "edge",
        "route_config": {"name": "edge", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "route": {"cluster": "llm", "timeout": "0s"},
            "typed_per_filter_config": {"envoy.filters.http.ratelimit": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
                "rate_limits": limits,
            }},
        }]}]},
        "http_filters": [filter, router()],
    })
}

#[tokio::test]
async fn requests_are_allowed_and_refused() {
    let Some(fixture) = Fixture::start().await else { return };
    for (remaining, status) in [("1", 200), ("0", 200), ("0", 429), ("0", 429)] {
        let (got, headers) = fixture.send(&[("x-user", "ann")]).await;
        assert_eq!(got, status, "{headers:?}");
        // The service sends the first header; Envoy derives the second from the service's response.
        for name in ["ratelimit-remaining", "x-ratelimit-remaining"] {
            assert_eq!(headers[name], remaining, "{headers:?}");
        }
        assert_eq!(headers["ratelimit-limit"], "2");
        assert!(headers["ratelimit-reset"].to_str().unwrap().parse::<u32>().unwrap() > 0);
        let policy = headers["x-ratelimit-limit"].to_str().unwrap();
        assert!(policy.contains("2;w=31536000;name=\"per-user\""), "{policy}");
    }
    assert_eq!(fixture.status(&[("x-user", "bob")]).await, 200, "each user has a separate count");
    assert_eq!(fixture.status(&[("x-user", "banned")]).await, 429);
    for _ in 0..3 {
        assert_eq!(fixture.status(&[("x-user", "probe")]).await, 200, "shadow mode");
        assert_eq!(fixture.status(&[("x-user", "staff")]).await, 200, "no limit");
        assert_eq!(fixture.status(&[("x-team", "red")]).await, 200, "three requests per team");
    }
    assert_eq!(fixture.status(&[("x-team", "red")]).await, 429);
    assert_eq!(fixture.status(&[("x-team", "blue"), ("x-user", "ann")]).await, 429);
    // The limit of the address was charged only for the allowed requests: 3 of `ann` and `bob`, 3 × 3 in the loop, and
    // this one.
    let (_, headers) = fixture.send(&[]).await;
    assert_eq!(headers["ratelimit-remaining"], (1000 - 3 - 9 - 1).to_string().as_str());
    let metrics = fixture.lab.sidecars()[0].metrics().await.unwrap();
    assert!(metrics.contains("limit=\"user_probe\",result=\"shadow_over_limit\"} 2"), "{metrics}");
    assert!(fixture.envoy.process().pid().is_some());
}

/// Envoy sends the filter's timeout as the deadline of the call.
#[tokio::test]
async fn a_filter_that_waits_too_little_is_counted() {
    for (store_timeout, count) in [(STORE_TIMEOUT, 0), (Duration::from_secs(6), 1)] {
        let Some(fixture) = Fixture::start_with(store_timeout).await else { return };
        assert_eq!(fixture.status(&[("x-user", "ann")]).await, 200);
        let expected = format!("evenkeel_rls_short_deadlines_total {count}\n");
        fixture.metrics_contain(&expected).await.unwrap();
    }
}

#[tokio::test]
async fn tokens_are_charged_after_the_response() {
    let Some(fixture) = Fixture::start().await else { return };
    let send = async || fixture.status(&[("x-tokens-of", "ann")]).await;
    // Each response is charged 7 of 10 tokens. The second response exceeds the limit and is charged nevertheless.
    assert_eq!(send().await, 200);
    within(LIMIT, "tokens are charged", || fixture.metrics_contain("limit=\"tokens\",result=\"ok\"} 2"))
        .await;
    assert_eq!(send().await, 200);
    within(LIMIT, "tokens are charged", || {
        fixture.metrics_contain("limit=\"tokens\",result=\"over_limit\"} 1")
    })
    .await;
    assert_eq!(send().await, 429);
    assert_eq!(fixture.status(&[("x-tokens-of", "bob")]).await, 200);
}

#[tokio::test]
async fn changed_files_take_effect() {
    let Some(fixture) = Fixture::start().await else { return };
    let send = async || fixture.status(&[("x-user", "ann")]).await;
    assert_eq!((send().await, send().await, send().await), (200, 200, 429));
    let raised = LIMITS.replace("requests_per_unit: 2}", "requests_per_unit: 3}");
    fs::write(fixture.limits_file(), raised).unwrap();
    within(LIMIT, "the new limit allows one more request", || async {
        let status = send().await;
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(send().await, 429, "counts are kept");
    fs::write(fixture.limits_file(), "domain: edge\ndescriptors: [{}]").unwrap();
    within(LIMIT, "the invalid file is reported", || fixture.metrics_contain("evenkeel_rls_config_valid 0"))
        .await;
    assert_eq!(
        (send().await, fixture.status(&[("x-user", "bob")]).await),
        (429, 200),
        "the last valid limits stay"
    );
}
