//! In bursts of requests, all gateways together keep to a limit, even if the expected usage is wrong.

use std::time::Duration;

use super::{ChatRequest, Fixture, HostTotals, LIMIT};
use crate::support::wait::within;

const MINUTE: Duration = Duration::from_secs(60);
/// Maximum duration of a test from its first request to its last check.
const ROOM: Duration = Duration::from_secs(15);
const ALL: [usize; 4] = [0, 1, 2, 3];
const AMOUNT: u64 = 10_000;
/// Tokens that the sidecars expect of a request.
const EXPECTED: u64 = 1000;
/// Default `reserve_margin`: the factor by which the expected usage is multiplied to get the reservation.
const MARGIN: u64 = 2;

/// Sends bursts of 200 requests of one consumer through four gateways until no request is admitted. Returns the number
/// of requests that the first burst admitted.
async fn send_bursts(fixture: &mut Fixture, consumer: &str, margin: u64, request: &ChatRequest) -> u64 {
    let actual = u64::from(request.prompt + request.output);
    let mut first = None;
    fixture.wait_window(MINUTE, ROOM).await;
    // Each burst except the last admits at least one request.
    for burst in 0..=AMOUNT / actual {
        let before = fixture.host_totals(consumer);
        let (batch, at_hosts) = fixture.hold(&ALL, 200, request).await;
        let (used, reserved) = fixture.used(1, request, "tpm").await.unwrap();
        assert!(used <= AMOUNT, "{used}, including reservations");
        assert_eq!(used - reserved, before.tokens, "every ended request is charged its actual usage");
        if burst == 0 {
            assert_eq!((used, at_hosts as u64), (reserved, AMOUNT / (EXPECTED * margin)));
        }
        first.get_or_insert(at_hosts as u64);
        fixture.lab.fleet().release();
        let replies = batch.replies().await;
        let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
        assert_eq!((served.len(), refused.len()), (at_hosts, 200 - at_hosts));
        served.iter().for_each(|reply| reply.assert_served());
        for reply in refused {
            reply.assert_refused_by("tpm", "rate_limit_exceeded");
            let wait: u64 = reply.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&wait), "{wait}");
            assert!(reply.header("ratelimit-policy").contains("q=10000;w=60;qu=\"tokens\""));
        }
        let host_totals = fixture.host_totals(consumer);
        assert_eq!(
            host_totals,
            HostTotals { requests: host_totals.requests, tokens: host_totals.requests * actual }
        );
        fixture.wait_used(2, request, "tpm", host_totals.tokens, 0).await;
        if at_hosts == 0 {
            break;
        }
    }
    let host_totals = fixture.host_totals(consumer);
    assert_eq!(
        fixture.redis_counter(consumer, "tpm").await,
        Some((host_totals.tokens as f64, 0.0)),
        "the counter itself"
    );
    let error = actual.abs_diff(EXPECTED);
    assert!(
        host_totals.tokens <= AMOUNT + error,
        "{host_totals:?}: more than one request's error above the limit"
    );
    // With its expected usage, a refused request would have exceeded the limit.
    assert!(host_totals.tokens + EXPECTED.max(actual) * margin > AMOUNT, "{host_totals:?}");
    fixture.wait_ledger_matches_hosts(3, consumer).await;
    eprintln!(
        "{consumer}: {} requests, {} tokens of {AMOUNT}; {} in the first burst",
        host_totals.requests,
        host_totals.tokens,
        first.unwrap_or_default()
    );
    first.unwrap_or_default()
}

/// Returns a token limit, with `fields` as its further fields.
fn limits(fields: &str) -> String {
    format!("limits:\n  - {{name: tpm, counts: tokens, amount: {AMOUNT}, per: 1m, key: [consumer]{fields}}}")
}

#[tokio::test]
async fn two_hundred_concurrent_requests_keep_to_a_limit() {
    let Some(mut fixture) = Fixture::start(Fixture::builder(4, &limits(", reserve_margin: 1"))).await else {
        return;
    };
    assert_eq!(send_bursts(&mut fixture, "as-expected", 1, &ChatRequest::of("as-expected")).await, 10);
    assert_eq!(fixture.host_totals("as-expected").tokens, AMOUNT, "the limit is used up completely");
}

#[tokio::test]
async fn requests_of_twice_the_expected_size_keep_to_a_limit() {
    let Some(mut fixture) = Fixture::start(Fixture::builder(4, &limits(""))).await else { return };
    let request = ChatRequest::of("twice").actual_tokens(800, 1200);
    assert_eq!(send_bursts(&mut fixture, "twice", MARGIN, &request).await, 5);
}

#[tokio::test]
async fn requests_of_half_the_expected_size_keep_to_a_limit() {
    let Some(mut fixture) = Fixture::start(Fixture::builder(4, &limits(""))).await else { return };
    let request = ChatRequest::of("half").actual_tokens(200, 300);
    assert_eq!(send_bursts(&mut fixture, "half", MARGIN, &request).await, 5);
}

/// Four limits and quotas. For each consumer, a different one is the tightest.
const MIXED: &str = "
limits:
  - name: rpm
    counts: requests
    amount: 1000
    per: 1m
    key: [consumer]
    exceptions: [{when: [{attribute: consumer, exact: by-requests}], amount: 7}]
  - name: tpm
    counts: tokens
    amount: 1M
    per: 1m
    key: [consumer]
    reserve_margin: 1
    exceptions: [{when: [{attribute: consumer, exact: by-tokens}], amount: 5500}]
  - name: at-once
    counts: requests
    amount: 1000
    algorithm: concurrency
    key: [consumer]
    exceptions: [{when: [{attribute: consumer, exact: by-running}], amount: 6}]
quotas:
  - {name: balance, counts: tokens, kind: prepaid, default: 1M, reserve_margin: 1}
";

#[tokio::test]
async fn a_refused_request_consumes_nothing_of_other_rules() {
    let Some(mut fixture) = Fixture::start(Fixture::builder(4, MIXED)).await else { return };
    let grant = evenkeel_proto::v1::SetQuotaRequest {
        quota: "balance".into(),
        consumer: "by-quota".into(),
        amount: Some(4000),
        note: String::new(),
    };
    fixture.admin(0).await.unwrap().set_quota(grant).await.unwrap();
    fixture.wait_window(MINUTE, ROOM).await;
    for (consumer, limit, kind, fit) in [
        ("by-requests", "rpm", "rate_limit_exceeded", 7),
        ("by-tokens", "tpm", "rate_limit_exceeded", 5),
        ("by-running", "at-once", "rate_limit_exceeded", 6),
        ("by-quota", "balance", "insufficient_quota", 4),
    ] {
        let request = ChatRequest::of(consumer).actual_tokens(300, 350);
        let (batch, at_hosts) = fixture.hold(&ALL, 40, &request).await;
        assert_eq!(at_hosts, fit, "{consumer}");
        let fit = fit as u64;
        for (name, used, reserved) in [
            ("rpm", fit, 0),
            ("tpm", fit * EXPECTED, fit * EXPECTED),
            ("at-once", fit, 0),
            ("balance", fit * EXPECTED, fit * EXPECTED),
        ] {
            assert_eq!(fixture.used(3, &request, name).await, Ok((used, reserved)), "{name} of {consumer}");
        }
        fixture.lab.fleet().release();
        for reply in batch.replies().await.iter().filter(|reply| reply.status != 200) {
            reply.assert_refused_by(limit, kind);
            match limit {
                "balance" => assert_eq!(reply.header("x-should-retry"), "false"),
                _ => assert!(reply.header("retry-after").parse::<u64>().unwrap() > 0),
            }
        }
        let tokens = fixture.host_totals(consumer).tokens;
        assert_eq!(tokens, fit * 650);
        for (name, used) in [("rpm", fit), ("tpm", tokens), ("at-once", 0), ("balance", tokens)] {
            fixture.wait_used(0, &request, name, used, 0).await;
        }
        fixture.wait_ledger_matches_hosts(1, consumer).await;
    }
    // Read the quota as administrators see it.
    let get = evenkeel_proto::v1::GetQuotaRequest { quota: "balance".into(), consumer: "by-quota".into() };
    within(LIMIT, "the balance is the unused rest", || async {
        let mut admin = fixture.admin(2).await?;
        let quota = admin.get_quota(get.clone()).await.map_err(|e| e.to_string())?.into_inner();
        let seen = (quota.balance, quota.reserved, quota.used, quota.overrun);
        if seen == (4000 - 2600, 0, 2600, 0) { Ok(()) } else { Err(format!("{quota:?}")) }
    })
    .await;
}
