//! Many requests at once: all gateways together keep to a limit, whatever was expected of the requests.

use std::time::Duration;

use super::{Ask, Chain, LIMIT, Truth};
use crate::gateway::within;

const MINUTE: Duration = Duration::from_secs(60);
/// What a test takes at most, from its first request to its last look.
const ROOM: Duration = Duration::from_secs(15);
const ALL: [usize; 4] = [0, 1, 2, 3];
const AMOUNT: u64 = 10_000;
/// What is expected of a request, in tokens.
const EXPECTED: u64 = 1000;
/// How much more than expected is reserved where the limit does not say.
const MARGIN: u64 = 2;

/// 200 requests of one consumer at once, through four gateways, again and again until no more are let through. Answers
/// how many the first time let through.
async fn bursts(chain: &mut Chain, consumer: &str, margin: u64, ask: &Ask) -> u64 {
    let actual = u64::from(ask.prompt + ask.output);
    let mut first = None;
    chain.window(MINUTE, ROOM).await;
    // Each time lets at least one through, or is the last.
    for time in 0..=AMOUNT / actual {
        let before = chain.truth(consumer);
        let (wave, at_hosts) = chain.hold(&ALL, 200, ask).await;
        let (used, reserved) = chain.used(1, ask, "tpm").await.unwrap();
        assert!(used <= AMOUNT, "{used} with what is reserved");
        assert_eq!(used - reserved, before.tokens, "all that has ended is charged as it was");
        if time == 0 {
            assert_eq!((used, at_hosts as u64), (reserved, AMOUNT / (EXPECTED * margin)));
        }
        first.get_or_insert(at_hosts as u64);
        chain.lab.fleet().release();
        let replies = wave.replies().await;
        let (served, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
        assert_eq!((served.len(), refused.len()), (at_hosts, 200 - at_hosts));
        served.iter().for_each(|reply| reply.is_served());
        for reply in refused {
            reply.is_refused_by("tpm", "rate_limit_exceeded");
            let wait: u64 = reply.header("retry-after").parse().unwrap();
            assert!((1..=60).contains(&wait), "{wait}");
            assert!(reply.header("ratelimit-policy").contains("q=10000;w=60;qu=\"tokens\""));
        }
        let truth = chain.truth(consumer);
        assert_eq!(truth, Truth { requests: truth.requests, tokens: truth.requests * actual });
        chain.uses(2, ask, "tpm", truth.tokens, 0).await;
        if at_hosts == 0 {
            break;
        }
    }
    let truth = chain.truth(consumer);
    assert_eq!(chain.cell(consumer, "tpm").await, Some((truth.tokens as f64, 0.0)), "the counter itself");
    let error = actual.abs_diff(EXPECTED);
    assert!(truth.tokens <= AMOUNT + error, "{truth:?}: more than one request's error above the limit");
    // What was not let through would not have fitted, as far as one knew.
    assert!(truth.tokens + EXPECTED.max(actual) * margin > AMOUNT, "{truth:?}");
    chain.ledger_agrees(3, consumer).await;
    eprintln!(
        "{consumer}: {} requests, {} tokens of {AMOUNT}; {} the first time",
        truth.requests,
        truth.tokens,
        first.unwrap_or_default()
    );
    first.unwrap_or_default()
}

/// `more`: further fields of the limit.
fn limits(more: &str) -> String {
    format!("limits:\n  - {{name: tpm, counts: tokens, amount: {AMOUNT}, per: 1m, key: [consumer]{more}}}")
}

#[tokio::test]
async fn two_hundred_at_once_keep_to_a_limit() {
    let Some(mut chain) = Chain::start(Chain::builder(4, &limits(", reserve_margin: 1"))).await else {
        return;
    };
    assert_eq!(bursts(&mut chain, "as-expected", 1, &Ask::of("as-expected")).await, 10);
    assert_eq!(chain.truth("as-expected").tokens, AMOUNT, "the limit is used up to the last token");
}

#[tokio::test]
async fn requests_of_twice_what_is_expected_keep_to_a_limit() {
    let Some(mut chain) = Chain::start(Chain::builder(4, &limits(""))).await else { return };
    let ask = Ask::of("twice").uses(800, 1200);
    assert_eq!(bursts(&mut chain, "twice", MARGIN, &ask).await, 5);
}

#[tokio::test]
async fn requests_of_half_of_what_is_expected_keep_to_a_limit() {
    let Some(mut chain) = Chain::start(Chain::builder(4, &limits(""))).await else { return };
    let ask = Ask::of("half").uses(200, 300);
    assert_eq!(bursts(&mut chain, "half", MARGIN, &ask).await, 5);
}

/// Four rules at once, of which for each consumer another one is the narrowest.
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
async fn what_one_rule_refuses_costs_nothing_of_the_others() {
    let Some(mut chain) = Chain::start(Chain::builder(4, MIXED)).await else { return };
    let grant = evenkeel_proto::v1::SetQuotaRequest {
        quota: "balance".into(),
        consumer: "by-quota".into(),
        amount: Some(4000),
        note: String::new(),
    };
    chain.admin(0).await.unwrap().set_quota(grant).await.unwrap();
    chain.window(MINUTE, ROOM).await;
    for (consumer, limit, kind, fit) in [
        ("by-requests", "rpm", "rate_limit_exceeded", 7),
        ("by-tokens", "tpm", "rate_limit_exceeded", 5),
        ("by-running", "at-once", "rate_limit_exceeded", 6),
        ("by-quota", "balance", "insufficient_quota", 4),
    ] {
        let ask = Ask::of(consumer).uses(300, 350);
        let (wave, at_hosts) = chain.hold(&ALL, 40, &ask).await;
        assert_eq!(at_hosts, fit, "{consumer}");
        let fit = fit as u64;
        for (name, used, reserved) in [
            ("rpm", fit, 0),
            ("tpm", fit * EXPECTED, fit * EXPECTED),
            ("at-once", fit, 0),
            ("balance", fit * EXPECTED, fit * EXPECTED),
        ] {
            assert_eq!(chain.used(3, &ask, name).await, Ok((used, reserved)), "{name} of {consumer}");
        }
        chain.lab.fleet().release();
        for reply in wave.replies().await.iter().filter(|reply| reply.status != 200) {
            reply.is_refused_by(limit, kind);
            match limit {
                "balance" => assert_eq!(reply.header("x-should-retry"), "false"),
                _ => assert!(reply.header("retry-after").parse::<u64>().unwrap() > 0),
            }
        }
        let tokens = chain.truth(consumer).tokens;
        assert_eq!(tokens, fit * 650);
        for (name, used) in [("rpm", fit), ("tpm", tokens), ("at-once", 0), ("balance", tokens)] {
            chain.uses(0, &ask, name, used, 0).await;
        }
        chain.ledger_agrees(1, consumer).await;
    }
    // The quota as administrators see it.
    let get = evenkeel_proto::v1::GetQuotaRequest { quota: "balance".into(), consumer: "by-quota".into() };
    within(LIMIT, "the balance is what was not used", || async {
        let mut admin = chain.admin(2).await?;
        let quota = admin.get_quota(get.clone()).await.map_err(|e| e.to_string())?.into_inner();
        let seen = (quota.balance, quota.reserved, quota.used, quota.overrun);
        if seen == (4000 - 2600, 0, 2600, 0) { Ok(()) } else { Err(format!("{quota:?}")) }
    })
    .await;
}
