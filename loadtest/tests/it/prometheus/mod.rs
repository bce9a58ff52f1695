//! Tests the dashboards and alert rules with a real Prometheus, which scrapes sidecars under load and after failures.
//! Every dashboard expression must have a result, every rule must be evaluated, and no alert may fire on a healthy
//! system.

use std::{collections::BTreeSet, fs, time::Duration};

use bytes::Bytes;
use evenkeel_loadtest::{
    lab::{Lab, Policy, Prometheus},
    mock::CONSUMER,
};
use evenkeel_proto::rate_limit_service::{
    RateLimitDescriptor, RateLimitRequest, rate_limit_descriptor::Entry,
    rate_limit_service_client::RateLimitServiceClient,
};
use http::Request;
use http_body_util::Full;

use crate::support::{
    admin::{self, TOKEN},
    chat,
    lab::{self, roomy_engine},
    pool::{holders, metric},
    traffic::{ClosedLoop, open_many},
    wait::within,
};

mod dashboards;
mod rules;

/// Time limit for a wait. It is far longer than any wait takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const JOB: &str = "evenkeel";
/// Maximum requests in flight on each of three hosts.
const CAP: usize = 8;

const SECTIONS: &str = "
models: [{model: \"*\", output_tokens: 20, bytes_per_token: 4}]
prices: [{model: \"*\", input: 1, output: 2}]
limits:
  - {name: calls, counts: requests, amount: 3, per: 1h, key: [consumer]}
  - {name: tokens, counts: tokens, amount: 1000000, per: 1h, key: [consumer]}
  - {name: trial, counts: tokens, amount: 1, per: 1h, key: [consumer], mode: shadow}
quotas:
  - {name: credit, counts: tokens, kind: prepaid, default: 1000000}
";
const RATE_LIMITS: &str = "
domain: edge
descriptors:
  - {key: user, rate_limit: {name: per-user, unit: year, requests_per_unit: 2}}
";

/// Alerts that a debug build on a busy machine may cause without a failure.
const LOAD_ALERTS: [&str; 2] = ["EvenkeelAdmitSlow", "EvenkeelSidecarBusy"];

/// Selectors in alerts that match no series in this test.
const WITHOUT_SERIES: [&str; 5] = [
    // The lab's listeners have no TLS.
    "evenkeel_tls_handshakes_total{result!~\"accepted|closed\"}",
    // Everybody on loopback has the role `gateway`.
    "evenkeel_calls_rejected_total{role=\"gateway\"}",
    // The lab's endpoints come from the configuration, not from DNS or Kubernetes.
    "evenkeel_discovery_up",
    // Timeouts and script errors of Redis occur only in the tests of the store.
    "evenkeel_store_errors_total{kind=\"timeout\"}",
    "evenkeel_store_errors_total{kind=~\"script|corrupt\"}",
];

/// Metrics in dashboards that have no values in this test, because the lab's listeners have no TLS.
const WITHOUT_VALUES: [&str; 2] =
    ["evenkeel_tls_handshakes_total", "evenkeel_tls_certificate_expiry_timestamp_seconds"];

/// Starts two gateways with a sidecar each over one Redis, and a Prometheus that scrapes the sidecars. The directory
/// contains the rate limit files.
async fn start() -> Option<(Lab, Prometheus, tempfile::TempDir)> {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("edge.yaml"), RATE_LIMITS).unwrap();
    let admin = admin::config();
    let service = format!("rate_limit_service: {{config: \"{}\"}}", files.path().display());
    let builder = Lab::builder().hosts(3).envoys(2).sidecars(2).redis().engine(roomy_engine());
    let builder = builder
        // A slow response on a busy machine must not count as an outage.
        .store_timeout(Duration::from_secs(5))
        .pool_yaml(&format!("cap: {CAP}"))
        .sidecar_yaml(&format!("{admin}\n{service}{SECTIONS}"))
        .plugin_config(|config| {
            config["deadline_ms"] = 10_000.into();
            config["read_body"] = true.into();
        });
    let lab = lab::start(builder).await?;
    let targets: Vec<String> = lab.sidecars().iter().filter_map(|s| s.ready().http.clone()).collect();
    let prometheus = Prometheus::start(lab.dir(), JOB, &targets, &[rules::file()]).await;
    Some((lab, lab::found(prometheus)?, files))
}

/// Waits until an expression has a result.
async fn wait_for(prometheus: &Prometheus, expression: &str) {
    within(LIMIT, expression, || async {
        let found = prometheus.query(expression).await.map_err(|e| e.to_string())?;
        if found.is_empty() {
            Err(format!("no result; alerts: {:?}", alerts(prometheus).await))
        } else {
            Ok(())
        }
    })
    .await;
}

/// Returns the pending and firing alerts, except alerts that load alone may cause.
async fn alerts(prometheus: &Prometheus) -> BTreeSet<String> {
    let series = prometheus.query("ALERTS").await.unwrap_or_default();
    let names = series.into_iter().filter_map(|sample| sample.metric.get("alertname").cloned());
    names.filter(|name| !LOAD_ALERTS.contains(&name.as_str())).collect()
}

/// Sends a request, without a consumer if `consumer` is empty, and returns its status.
async fn chat_status(lab: &Lab, gateway: usize, consumer: &str) -> u16 {
    let mut request = chat::request(&lab.envoys()[gateway].url(Policy::EvenkeelLeastRequest), 40, 20);
    if !consumer.is_empty() {
        request = request.header(CONSUMER, consumer);
    }
    let response = chat::client().request(request.body(chat::streaming()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    chat::text(response).await.unwrap();
    status
}

/// Sets an override through a sidecar's HTTP API and returns the status.
async fn put_override(lab: &Lab, token: &str) -> u16 {
    let http = lab.sidecars()[0].ready().http.clone().unwrap();
    let body = "{\"amount\": 50}";
    let request = Request::put(format!("http://{http}/api/v1/overrides/calls/consumer=bob"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body))
        .unwrap();
    chat::client().request(request).await.unwrap().status().as_u16()
}

async fn call_rate_limit_service(lab: &Lab) {
    let mut client = RateLimitServiceClient::new(admin::connect(lab, 0).await.unwrap());
    for _ in 0..4 {
        let entry = Entry { key: "user".into(), value: "ann".into() };
        let descriptor = RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() };
        let request =
            RateLimitRequest { domain: "edge".into(), descriptors: vec![descriptor], hits_addend: 1 };
        client.should_rate_limit(request).await.unwrap();
    }
}

/// Causes every event that the dashboards show and the alerts report.
async fn cause_trouble(lab: &mut Lab, prometheus: &Prometheus, files: &tempfile::TempDir) {
    // One limit refuses requests, and another limit would refuse them without shadow mode.
    let statuses = [
        chat_status(lab, 0, "ann").await,
        chat_status(lab, 0, "ann").await,
        chat_status(lab, 0, "ann").await,
    ];
    assert_eq!(
        (statuses, chat_status(lab, 0, "ann").await, chat_status(lab, 1, "ann").await),
        ([200; 3], 429, 429)
    );
    assert_eq!(put_override(lab, "a-guess").await, 401);
    call_rate_limit_service(lab).await;

    // The pool is full.
    let streams = open_many(lab, 0, 3 * CAP - 6).await;
    let lost = open_many(lab, 1, 6).await;
    let refused = async || {
        for _ in 0..20 {
            assert_eq!(chat_status(lab, 0, "").await, 429, "no room");
        }
        let full = prometheus.query("ALERTS{alertname=\"EvenkeelPoolFull\",cluster=\"llm\"}").await;
        if full.is_ok_and(|alerts| !alerts.is_empty()) { Ok(()) } else { Err("no alert".to_owned()) }
    };
    within(LIMIT, "enough refusals for the alert of a full pool", refused).await;
    wait_for(prometheus, "evenkeel:pool_utilisation:ratio == 1").await;
    wait_for(prometheus, "ALERTS{alertname=\"EvenkeelPoolNearlyFull\",cluster=\"llm\"}").await;

    // A gateway is killed, and its leases are reaped.
    let before = holders(lab, 0).await.unwrap().len();
    lab.envoy(1).kill9().unwrap();
    drop(lost);
    within(LIMIT, "the killed gateway's leases are reaped", || async {
        match holders(lab, 0).await?.len() {
            left if left < before => Ok(()),
            left => Err(format!("{left} holders")),
        }
    })
    .await;
    wait_for(prometheus, "sum(evenkeel_leases_reaped_total) == 6").await;

    // A sidecar is killed and restarted.
    lab.sidecar(1).kill9().unwrap();
    wait_for(prometheus, "ALERTS{alertname=\"EvenkeelSidecarDown\"}").await;
    lab.sidecar(1).restart().await.unwrap();

    // Redis loses all data; the remaining gateway restores its leases.
    lab.redis().kill9().unwrap();
    wait_for(prometheus, "ALERTS{alertname=\"EvenkeelStoreDown\"}").await;
    assert_eq!(chat_status(lab, 0, "carl").await, 200, "by local counts");
    lab.redis().restart_empty().await.unwrap();
    wait_for(prometheus, "min(evenkeel_store_up) == 1").await;
    wait_for(prometheus, &format!("sum(evenkeel_repairs_total{{kind=\"restored\"}}) >= {}", streams.len()))
        .await;

    // Invalid files are rejected.
    let config = lab.sidecar(0).config().to_owned();
    let sound = fs::read_to_string(&config).unwrap();
    fs::write(&config, sound.replace("per: 1h", "per: 0s")).unwrap();
    fs::write(files.path().join("edge.yaml"), "domain: [").unwrap();
    wait_for(prometheus, "ALERTS{alertname=\"EvenkeelConfigRejected\"}").await;
    wait_for(prometheus, "ALERTS{alertname=\"EvenkeelRateLimitFilesRejected\"}").await;

    // The queries below need requests in flight and requests that ended recently.
    assert_eq!(put_override(lab, TOKEN).await, 200);
    for consumer in ["dora", "emil"] {
        assert_eq!(chat_status(lab, 0, consumer).await, 200);
    }
    let sent = metric(lab, 0, "evenkeel_ledger_requests_total").await;
    wait_for(prometheus, &format!("evenkeel_ledger_requests_total >= {sent}")).await;
    drop(streams);
}

/// Returns the problem with the result of one dashboard query, if there is one.
async fn find_problem(prometheus: &Prometheus, query: &dashboards::Query) -> Option<String> {
    let message = |what: &str| Some(format!("{}: {what}: {}", query.place, query.expression));
    let series = match prometheus.query(&query.expression).await {
        Ok(series) => series,
        Err(error) => return message(&error.to_string()),
    };
    let may_lack_values = WITHOUT_VALUES.iter().any(|metric| query.expression.contains(metric));
    if !may_lack_values && !series.iter().any(|sample| sample.value().is_finite()) {
        return message("has no result");
    }
    let lacks = query.legend.iter().find(|label| {
        // The label is empty if routes share a pool, and Prometheus drops empty labels.
        *label != "route" && series.iter().any(|sample| !sample.metric.contains_key(*label))
    });
    lacks.and_then(|label| message(&format!("the legend uses {label}, which a series lacks")))
}

/// Returns the selectors in an expression: sidecar metrics with their label matchers.
fn selectors(expression: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let name: String = rest[start..].chars().take_while(|c| is_name(*c)).collect();
        rest = &rest[start + name.len()..];
        if !["evenkeel", "process_", "up"].iter().any(|prefix| name.starts_with(prefix)) {
            // Labels in braces are not metrics.
            if let (Some(brace), Some(end)) = (rest.find('{'), rest.find('}'))
                && end < brace
            {
                rest = &rest[end..];
            }
            continue;
        }
        let labels = if rest.starts_with('{') { &rest[..=rest.find('}').unwrap()] } else { "" };
        found.push(format!("{name}{labels}"));
        rest = &rest[labels.len()..];
    }
    found
}

async fn assert_rules_are_evaluated(prometheus: &Prometheus) {
    let groups = prometheus.rules().await.unwrap();
    let loaded: Vec<_> =
        groups["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert_eq!(loaded.len(), rules::all().len());
    for rule in loaded {
        assert_eq!(rule["health"], "ok", "{}: {}", rule["name"], rule["lastError"]);
        let alerts = rule["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
        for alert in alerts {
            let annotations = alert["annotations"].to_string();
            let is_expanded = !annotations.contains("error expanding") && !annotations.contains("no value");
            assert!(is_expanded, "{annotations}");
        }
    }
    // A rule with a misspelt metric would never fire.
    let mut problems = Vec::new();
    for rule in rules::all() {
        for selector in selectors(rule["expr"].as_str().unwrap()) {
            let found = prometheus.query(&format!("count({selector})")).await.unwrap();
            if found.is_empty() && !WITHOUT_SERIES.contains(&selector.as_str()) {
                problems.push(format!("{}: no series of {selector}", rule["alert"]));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test]
async fn dashboards_and_rules_find_their_series() {
    let Some((mut lab, prometheus, files)) = start().await else { return };
    wait_for(&prometheus, &format!("count(up{{job=\"{JOB}\"}} == 1) == 2")).await;

    // On a healthy system, rules are evaluated under load, and no alert is pending.
    let load = ClosedLoop::start(&lab, &[0, 1], 4);
    load.wait_served(200).await;
    wait_for(&prometheus, "count(evenkeel:pool_admits:rate5m{result=\"admitted\"} > 0)").await;
    within(LIMIT, "no alert is pending", || async {
        let alerts = alerts(&prometheus).await;
        if alerts.is_empty() { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .await;
    load.stop().await;
    let text = lab.sidecars()[0].metrics().await.unwrap();
    let findings = rules::promtool(&["check", "metrics"], &text);
    assert_eq!(findings.as_deref(), Some(""), "promtool's findings on the metrics");

    cause_trouble(&mut lab, &prometheus, &files).await;
    assert_rules_are_evaluated(&prometheus).await;
    let mut problems = Vec::new();
    let mut asked = 0;
    for (name, dashboard) in dashboards::all() {
        for query in dashboards::queries(&name, &dashboard) {
            problems.extend(find_problem(&prometheus, &query).await);
            asked += 1;
        }
    }
    assert!(problems.is_empty(), "{} of {asked} expressions:\n{}", problems.len(), problems.join("\n"));
    assert!(asked > 105, "{asked}");
}
