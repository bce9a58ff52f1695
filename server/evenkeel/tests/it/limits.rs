//! Limits from a gateway's point of view: the response of Admit, the ticket, and what Settle charges.

use evenkeel_proto::v1 as pb;

use crate::support::{
    admin,
    redis::Redis,
    requests::{admit_for, settle_success},
    sidecar::Sidecar,
};

const LIMITS: &str = "
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
limits:
  - {name: tokens, counts: tokens, amount: 1000, per: 1d, key: [consumer], reserve_margin: 1}
  - {name: none, counts: requests, amount: 0, per: 1m, when: [{attribute: model, exact: m}]}
models: [{model: small, output_tokens: 100, bytes_per_token: 4}]
";

async fn start(redis: &Redis) -> Sidecar {
    Sidecar::start(&(redis.store(", timeout: 5s") + LIMITS)).await
}

/// Returns a request whose prompt is estimated at 100 tokens.
fn admit(lease: u64, consumer: &str, model: &str) -> pb::AdmitRequest {
    pb::AdmitRequest { prompt_bytes: 400, ..admit_for(consumer, model, lease) }
}

/// Returns the tokens that the limit counts as used and as reserved.
async fn used(sidecar: &Sidecar, consumer: &str) -> (u64, u64) {
    let request = pb::ExplainRequest { request: Some(admit(0, consumer, "small")) };
    let explained = admin::client(sidecar).await.explain(request).await.unwrap().into_inner();
    (explained.limits[0].used, explained.limits[0].reserved)
}

/// Guards against a client that bypasses limits: a gateway that fails open admits a request after an error.
#[tokio::test]
async fn no_client_text_turns_an_answer_into_an_error() {
    let redis = Redis::start();
    let s = start(&redis).await;
    assert_eq!(s.denied(admit(1, "alice", "m")).await.status, 429);
    for model in ["m\n", "m\u{85}", &"é".repeat(300)] {
        s.admitted(admit(2, "alice\t", model)).await;
    }
}

#[tokio::test]
async fn any_sidecar_settles_a_ticket_once() {
    let redis = Redis::start();
    let (one, other) = (start(&redis).await, start(&redis).await);
    let ticket = one.admitted(admit(1, "alice", "small")).await.ticket;
    assert_eq!(used(&one, "alice").await, (200, 200));
    for sidecar in [&other, &one, &other] {
        sidecar.end(settle_success(1, ticket.clone(), 100, 50)).await;
        assert_eq!(used(&one, "alice").await, (150, 0));
    }
    // If the gateway sends no ticket, the sidecar that admitted the request uses its own copy.
    one.admitted(admit(2, "alice", "small")).await;
    one.end(settle_success(2, Vec::new(), 100, 10)).await;
    assert_eq!(used(&other, "alice").await, (260, 0));
}

#[tokio::test]
async fn implausible_token_counts_are_not_charged() {
    let redis = Redis::start();
    let s = start(&redis).await;
    for (lease, output) in [(1, u64::MAX), (2, 1 << 63), (3, 1 << 53)] {
        let ticket = s.admitted(admit(lease, "alice", "small")).await.ticket;
        s.end(settle_success(lease, ticket, 100, output)).await;
    }
    let (used, reserved) = used(&s, "alice").await;
    // These requests are charged as if their responses had reported no usage.
    assert!(used <= 600 && reserved == 0, "{used} {reserved}");
    s.admitted(admit(4, "alice", "small")).await;
}

/// A refusal has the standard headers. The sidecar answers a repeated request from its cache.
#[tokio::test]
async fn a_refusal_names_its_limit_and_when_to_retry() {
    let redis = Redis::start();
    let s = start(&redis).await;
    for lease in 1..=5 {
        let ticket = s.admitted(admit(lease, "bob", "small")).await.ticket;
        s.end(settle_success(lease, ticket, 100, 100)).await;
    }
    let header = |denied: &pb::Denied, name: &str| {
        denied.headers.iter().find(|header| header.name == name).map(|header| header.value.clone()).unwrap()
    };
    let refused = s.denied(admit(6, "bob", "small")).await;
    assert_eq!(refused.reason(), pb::Reason::Limit);
    assert_eq!(header(&refused, "ratelimit-policy"), "\"tokens\";q=1000;w=86400;qu=\"tokens\"");
    assert!(header(&refused, "ratelimit").starts_with("\"tokens\";r=0;t="));
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&wait));
    let script_calls = || {
        let info = redis.command(&["INFO", "commandstats"]);
        let text: String = redis::from_redis_value(info).unwrap();
        let calls = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.and_then(|line| line.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        calls("hmget")
    };
    let before = script_calls();
    let again = s.denied(admit(7, "bob", "small")).await;
    assert_eq!(script_calls(), before, "Redis was asked");
    assert_eq!((again.status, again.reason()), (429, refused.reason()));
}
