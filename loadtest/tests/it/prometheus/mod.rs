//! What Prometheus makes of it all: a real one scrapes sidecars under load and after faults. Every expression of every
//! dashboard has to yield something, every rule has to be evaluated, and nothing may fire while all is well.

use std::{collections::BTreeSet, fs, time::Duration};

use bytes::Bytes;
use envoy_types::pb::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{RateLimitRequest, rate_limit_service_client::RateLimitServiceClient},
};
use evenkeel_loadtest::{
    lab::{Lab, Policy, Prometheus},
    mock::CONSUMER,
};
use http::Request;
use http_body_util::Full;

use crate::{
    gateway::{Churn, holders, metric, open_many, roomy, within},
    support,
};

mod dashboards;
mod rules;

/// Far more than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const JOB: &str = "evenkeel";
const TOKEN: &str = "an-administrators-token";
/// In flight on each of three hosts at most.
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

/// Alerts that a debug build on a busy machine may have coming up by itself.
const BUSY: [&str; 2] = ["EvenkeelAdmitSlow", "EvenkeelSidecarBusy"];

/// Selectors of alerts that no series fits here.
const NOT_HERE: [&str; 3] = [
    // Endpoints of the lab come from the configuration, not from DNS or Kubernetes.
    "evenkeel_discovery_up",
    // A call that Redis keeps waiting, or refuses for its own reasons: tests of the store cause these.
    "evenkeel_store_errors_total{kind=\"timeout\"}",
    "evenkeel_store_errors_total{kind=~\"script|corrupt\"}",
];

/// Two gateways with a sidecar each over one Redis, watched by a Prometheus. The directory holds files of rate limits.
async fn start() -> Option<(Lab, Prometheus, tempfile::TempDir)> {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("edge.yaml"), RATE_LIMITS).unwrap();
    let admin = format!("admin: {{tokens: [{{name: tests, token: {TOKEN}}}]}}");
    let service = format!("rate_limit_service: {{config: \"{}\"}}", files.path().display());
    let builder = Lab::builder().hosts(3).envoys(2).sidecars(2).redis().engine(roomy());
    let builder = builder
        // Slowness of a busy machine must not look like an outage.
        .store_timeout(Duration::from_secs(5))
        .pool_yaml(&format!("cap: {CAP}"))
        .sidecar_yaml(&format!("{admin}\n{service}{SECTIONS}"))
        .plugin_config(|config| {
            config["deadline_ms"] = 10_000.into();
            config["read_body"] = true.into();
        });
    let lab = support::start(builder).await?;
    let targets: Vec<String> = lab.sidecars().iter().filter_map(|s| s.ready().http.clone()).collect();
    let prometheus = Prometheus::start(lab.dir(), JOB, &targets, &[rules::file()]).await;
    Some((lab, support::found(prometheus)?, files))
}

/// Waits until an expression yields something.
async fn comes(prometheus: &Prometheus, expression: &str) {
    within(LIMIT, expression, || async {
        let found = prometheus.query(expression).await.map_err(|e| e.to_string())?;
        if found.is_empty() { Err(format!("nothing of {:?}", alerts(prometheus).await)) } else { Ok(()) }
    })
    .await;
}

/// Alerts pending or firing, but for those of a busy machine.
async fn alerts(prometheus: &Prometheus) -> BTreeSet<String> {
    let series = prometheus.query("ALERTS").await.unwrap_or_default();
    let names = series.into_iter().filter_map(|sample| sample.metric.get("alertname").cloned());
    names.filter(|name| !BUSY.contains(&name.as_str())).collect()
}

/// One request of a consumer, or of none where that is empty; its status.
async fn ask(lab: &Lab, gateway: usize, consumer: &str) -> u16 {
    let mut request = support::chat(&lab.envoys()[gateway].url(Policy::Evenkeel), 40, 20);
    if !consumer.is_empty() {
        request = request.header(CONSUMER, consumer);
    }
    let response = support::client().request(request.body(support::streaming()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    support::text(response).await.unwrap();
    status
}

/// A change of an override through a sidecar's HTTP; the status.
async fn administer(lab: &Lab, token: &str) -> u16 {
    let http = lab.sidecars()[0].ready().http.clone().unwrap();
    let body = "{\"amount\": 50}";
    let request = Request::put(format!("http://{http}/api/v1/overrides/calls/consumer=bob"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body))
        .unwrap();
    support::client().request(request).await.unwrap().status().as_u16()
}

async fn ask_the_rate_limit_service(lab: &Lab) {
    let url = lab.sidecars()[0].grpc_url().unwrap();
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = RateLimitServiceClient::new(channel);
    for _ in 0..4 {
        let entry = Entry { key: "user".into(), value: "ann".into() };
        let descriptor = RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() };
        let request =
            RateLimitRequest { domain: "edge".into(), descriptors: vec![descriptor], hits_addend: 1 };
        client.should_rate_limit(request).await.unwrap();
    }
}

/// Everything the dashboards have a line for happens, and what alerts tell of begins to.
async fn trouble(lab: &mut Lab, prometheus: &Prometheus, files: &tempfile::TempDir) {
    // Limits: one refuses, one would.
    let statuses = [ask(lab, 0, "ann").await, ask(lab, 0, "ann").await, ask(lab, 0, "ann").await];
    assert_eq!((statuses, ask(lab, 0, "ann").await, ask(lab, 1, "ann").await), ([200; 3], 429, 429));
    assert_eq!(administer(lab, "a-guess").await, 401);
    ask_the_rate_limit_service(lab).await;

    // A full pool.
    let streams = open_many(lab, 0, 3 * CAP - 6).await;
    let lost = open_many(lab, 1, 6).await;
    let refused = async || {
        for _ in 0..20 {
            assert_eq!(ask(lab, 0, "").await, 429, "no room");
        }
        let full = prometheus.query("ALERTS{alertname=\"EvenkeelPoolFull\",cluster=\"llm\"}").await;
        if full.is_ok_and(|alerts| !alerts.is_empty()) { Ok(()) } else { Err("no alert".to_owned()) }
    };
    within(LIMIT, "so many are refused that the pool is told to be full", refused).await;
    comes(prometheus, "evenkeel:pool_utilisation:ratio == 1").await;
    comes(prometheus, "ALERTS{alertname=\"EvenkeelPoolNearlyFull\",cluster=\"llm\"}").await;

    // A gateway dies: what it held is given back.
    let before = holders(lab, 0).await.unwrap().len();
    lab.envoy(1).kill9().unwrap();
    drop(lost);
    within(LIMIT, "the dead gateway's leases are given back", || async {
        match holders(lab, 0).await?.len() {
            left if left < before => Ok(()),
            left => Err(format!("{left} holders")),
        }
    })
    .await;
    comes(prometheus, "sum(evenkeel_leases_reaped_total) == 6").await;

    // A sidecar dies, and is back.
    lab.sidecar(1).kill9().unwrap();
    comes(prometheus, "ALERTS{alertname=\"EvenkeelSidecarDown\"}").await;
    lab.sidecar(1).restart().await.unwrap();

    // Redis loses everything; the gateway that lives puts back what it holds.
    lab.redis().kill9().unwrap();
    comes(prometheus, "ALERTS{alertname=\"EvenkeelStoreDown\"}").await;
    assert_eq!(ask(lab, 0, "carl").await, 200, "by local knowledge");
    lab.redis().restart_empty().await.unwrap();
    comes(prometheus, "min(evenkeel_store_up) == 1").await;
    comes(prometheus, &format!("sum(evenkeel_repairs_total{{kind=\"restored\"}}) >= {}", streams.len()))
        .await;

    // Files with a fault are refused.
    let config = lab.sidecar(0).config().to_owned();
    let sound = fs::read_to_string(&config).unwrap();
    fs::write(&config, sound.replace("per: 1h", "per: 0s")).unwrap();
    fs::write(files.path().join("edge.yaml"), "domain: [").unwrap();
    comes(prometheus, "ALERTS{alertname=\"EvenkeelConfigRefused\"}").await;
    comes(prometheus, "ALERTS{alertname=\"EvenkeelRateLimitFilesRefused\"}").await;

    // What is asked below has something in flight, and requests that ended lately.
    assert_eq!(administer(lab, TOKEN).await, 200);
    for consumer in ["dora", "emil"] {
        assert_eq!(ask(lab, 0, consumer).await, 200);
    }
    let sent = metric(lab, 0, "evenkeel_ledger_requests_total").await;
    comes(prometheus, &format!("evenkeel_ledger_requests_total >= {sent}")).await;
    drop(streams);
}

/// What is wrong with the answer to one question of a dashboard.
async fn fault(prometheus: &Prometheus, question: &dashboards::Question) -> Option<String> {
    let told = |what: &str| Some(format!("{}: {what}: {}", question.place, question.expression));
    let series = match prometheus.query(&question.expression).await {
        Ok(series) => series,
        Err(error) => return told(&error.to_string()),
    };
    if !series.iter().any(|sample| sample.value().is_finite()) {
        return told("yields nothing");
    }
    let lacks = question.legend.iter().find(|label| {
        // Empty where routes share a pool, and an empty label is none.
        *label != "route" && series.iter().any(|sample| !sample.metric.contains_key(*label))
    });
    lacks.and_then(|label| told(&format!("its legend names {label}, which it does not have")))
}

/// Names with what is in braces after them, as far as they are metrics of a sidecar.
fn selectors(expression: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let name: String = rest[start..].chars().take_while(|c| is_name(*c)).collect();
        rest = &rest[start + name.len()..];
        if !["evenkeel", "process_", "up"].iter().any(|prefix| name.starts_with(prefix)) {
            // Labels in braces are no metrics.
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

async fn rules_are_evaluated(prometheus: &Prometheus) {
    let groups = prometheus.rules().await.unwrap();
    let loaded: Vec<_> =
        groups["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert_eq!(loaded.len(), rules::all().len());
    for rule in loaded {
        assert_eq!(rule["health"], "ok", "{}: {}", rule["name"], rule["lastError"]);
        let alerts = rule["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
        for alert in alerts {
            let told = alert["annotations"].to_string();
            assert!(!told.contains("error expanding") && !told.contains("no value"), "{told}");
        }
    }
    // A name misspelt would be a rule that never fires.
    let mut faults = Vec::new();
    for rule in rules::all() {
        for selector in selectors(rule["expr"].as_str().unwrap()) {
            let found = prometheus.query(&format!("count({selector})")).await.unwrap();
            if found.is_empty() && !NOT_HERE.contains(&selector.as_str()) {
                faults.push(format!("{}: no series of {selector}", rule["alert"]));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn dashboards_and_rules_find_what_they_ask_for() {
    let Some((mut lab, prometheus, files)) = start().await else { return };
    comes(&prometheus, &format!("count(up{{job=\"{JOB}\"}} == 1) == 2")).await;

    // All is well: rules are evaluated over some load, and none is about to fire.
    let churn = Churn::start(&lab, &[0, 1], 4);
    churn.serves(200).await;
    comes(&prometheus, "count(evenkeel:pool_admits:rate5m{result=\"admitted\"} > 0)").await;
    within(LIMIT, "nothing is about to fire", || async {
        let alerts = alerts(&prometheus).await;
        if alerts.is_empty() { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .await;
    churn.stop().await;
    let text = lab.sidecars()[0].metrics().await.unwrap();
    let told = rules::promtool(&["check", "metrics"], &text);
    assert_eq!(told.as_deref(), Some(""), "what promtool has to say of the metrics");

    trouble(&mut lab, &prometheus, &files).await;
    rules_are_evaluated(&prometheus).await;
    let mut faults = Vec::new();
    let mut asked = 0;
    for (name, dashboard) in dashboards::all() {
        for question in dashboards::questions(&name, &dashboard) {
            faults.extend(fault(&prometheus, &question).await);
            asked += 1;
        }
    }
    assert!(faults.is_empty(), "{} of {asked} expressions:\n{}", faults.len(), faults.join("\n"));
    assert!(asked > 90, "{asked}");
}
