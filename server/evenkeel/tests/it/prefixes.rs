//! Tests of pools with `prefix_cache` and `affinity`: requests go where the beginning of their prompt was read before, and
//! stay with their session, whichever sidecar placed it.

use std::time::Duration;

use evenkeel_proto::v1 as pb;

use crate::support::{
    admin::{self, with_admin},
    command::prints,
    eventually,
    redis::Redis,
    requests::{admit, settle_success},
    sidecar::Sidecar,
};

const POOL: &str = "keep_alive_interval: 20s
pools:
  - cluster: llm
    policy: least_work
    prefix_cache: {}
    endpoints: [{address: a}, {address: b}, {address: c}]
";
/// Bytes of a block. A token counts as 4 bytes.
const BLOCK: u32 = 4000;

/// Returns an Admit whose prompt has a block for each hash.
fn prompt(lease: u64, hashes: &[u64]) -> pb::AdmitRequest {
    pb::AdmitRequest {
        prompt_bytes: u64::from(BLOCK) * hashes.len() as u64,
        prefix_hashes: hashes.to_vec(),
        prefix_bytes: (1..=hashes.len() as u32).map(|n| n * BLOCK).collect(),
        ..admit("llm", lease)
    }
}

/// Admits a request and settles it. Returns its endpoint and the tokens that the endpoint had to read.
async fn send(s: &Sidecar, lease: u64, hashes: &[u64], cached: u64) -> (String, u64) {
    let admitted = s.admitted(prompt(lease, hashes)).await;
    let input = 1000 * hashes.len() as u64;
    let settle = settle_success(lease, admitted.ticket, input, 10);
    let tokens = pb::Tokens { cached_input: cached, cached_input_stated: true, ..settle.tokens.unwrap() };
    s.gateway.clone().settle(pb::SettleRequest { tokens: Some(tokens), ..settle }).await.unwrap();
    (admitted.endpoint, admitted.unread_tokens)
}

#[tokio::test]
async fn requests_go_where_the_beginning_of_the_prompt_was_read() {
    let s = Sidecar::start(POOL).await;
    let (first, unread) = send(&s, 1, &[1, 2, 3], 0).await;
    assert_eq!(unread, 3000);
    for lease in 2..20 {
        // The other endpoints are as idle, and the longest common beginning is 2 blocks.
        assert_eq!(send(&s, lease, &[1, 2, 100 + lease], 2000).await, (first.clone(), 1000));
    }
    // An endpoint with more waiting prompts than the hit is worth is not preferred.
    for lease in 20..26 {
        let new = 1000 * lease..1000 * lease + 6;
        s.admitted(prompt(lease, &[1, 2].into_iter().chain(new).collect::<Vec<_>>())).await;
    }
    let endpoints = s.pool("llm").await.endpoints;
    assert!(endpoints.iter().all(|e| e.in_flight > 0), "a hot prefix spreads: {endpoints:?}");
    let tokens =
        |kind: &str| format!("evenkeel_prefix_tokens_total{{cluster=\"llm\",kind=\"{kind}\",route=\"\"}}");
    let table = prints(&s, "pools").await;
    assert!(table.starts_with("CLUSTER  ROUTE  ENDPOINT  IN-FLIGHT  UNREAD  HITS  CAP"), "{table}");
    let pool = s.pool("llm").await;
    for rate in [pool.hit_rate, pool.expected_hit_rate] {
        assert!((0.6..0.667).contains(&rate.unwrap()), "{pool:?}");
    }
    let of_endpoints: Vec<bool> = pool.endpoints.iter().map(|e| e.hit_rate.is_some()).collect();
    assert_eq!(of_endpoints.iter().filter(|has| **has).count(), 1, "{pool:?}");
    for (kind, expected) in [("prompt", 3000 * 19), ("expected", 2000 * 18), ("cached", 2000 * 18)] {
        assert_eq!(s.metric(&tokens(kind)).await, f64::from(expected), "{kind}");
    }
    assert_eq!(s.metric("evenkeel_prefix_entries{cluster=\"llm\",route=\"\"}").await, 21.0 + 6.0 * 6.0);
}

/// Waits until a sidecar remembers that many prefixes.
async fn remembers(s: &Sidecar, count: f64) {
    eventually(Duration::from_secs(20), "the sidecar reads the placements", async || {
        let entries = s.metric("evenkeel_prefix_entries{cluster=\"llm\",route=\"\"}").await;
        if entries == count { Ok(()) } else { Err(format!("{entries} entries")) }
    })
    .await;
}

#[tokio::test]
async fn all_sidecars_know_what_each_has_placed() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 5s") + POOL;
    let (one, two) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let (endpoint, _) = send(&one, 1, &[1], 0).await;
    // A sidecar reads the placements of pools that its gateways use.
    send(&two, 2, &[900], 0).await;
    remembers(&two, 2.0).await;
    let admitted = two.admitted(prompt(3, &[1])).await;
    assert_eq!((&admitted.endpoint, admitted.unread_tokens), (&endpoint, 0));
    two.settle("llm", "h", 3).await;

    // A sidecar that starts later reads what was placed before.
    let three = Sidecar::start(&yaml).await;
    send(&three, 4, &[901], 0).await;
    remembers(&three, 3.0).await;
    let admitted = three.admitted(prompt(5, &[1])).await;
    assert_eq!((&admitted.endpoint, admitted.unread_tokens), (&endpoint, 0));
    three.settle("llm", "h", 5).await;
    // What nobody has read yet is lost with the data.
    remembers(&one, 3.0).await;
    remembers(&two, 3.0).await;

    // After a loss of the data, new placements are shared as before.
    redis.command(&["FLUSHALL"]);
    let (endpoint, _) = send(&one, 6, &[2], 0).await;
    for (sidecar, lease) in [(&two, 7), (&three, 8)] {
        remembers(sidecar, 4.0).await;
        let admitted = sidecar.admitted(prompt(lease, &[2])).await;
        assert_eq!((&admitted.endpoint, admitted.unread_tokens), (&endpoint, 0));
    }
    assert_eq!(redis.refused(), Vec::<String>::new(), "the documented rights are enough");
}

/// Admits a request of a session. Returns its endpoint.
async fn of_session(s: &Sidecar, lease: u64, session: &str) -> String {
    let request = pb::AdmitRequest { session: session.into(), prompt_bytes: 40_000, ..admit("llm", lease) };
    s.admitted(request).await.endpoint
}

#[tokio::test]
async fn a_hard_session_stays_over_sidecars_while_its_endpoint_has_room() {
    let redis = Redis::start();
    let pool = "keep_alive_interval: 20s
pools: [{cluster: llm, affinity: {session: hard}, cap: 4, endpoints: [{address: a}, {address: b}, {address: c}]}]
";
    let yaml = with_admin(&(redis.store(", timeout: 5s") + pool));
    let (one, two) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let endpoint = of_session(&one, 1, "s").await;
    for lease in 2..=3 {
        assert_eq!(of_session(&one, lease, "s").await, endpoint, "although it has the most requests");
    }
    of_session(&two, 4, "other").await;
    remembers(&two, 2.0).await;
    two.settle("llm", "h", 4).await;
    assert_eq!(of_session(&two, 5, "s").await, endpoint);
    // The endpoint is at its cap now.
    let next = of_session(&two, 6, "s").await;
    assert_ne!(next, endpoint);
    for lease in [1, 2, 3, 5] {
        assert!(one.settle("llm", "h", lease).await);
    }
    assert_eq!(of_session(&two, 7, "s").await, next, "the session has moved");
    let drain = pb::DrainEndpointRequest { endpoint: next.clone(), ..Default::default() };
    admin::client(&two).await.drain_endpoint(admin::by(admin::TOKEN, drain)).await.unwrap();
    let last = of_session(&two, 8, "s").await;
    assert_ne!(last, next);
    assert_eq!(of_session(&two, 9, "s").await, last);
}

#[tokio::test]
async fn a_soft_session_leaves_an_endpoint_that_has_too_much_to_read() {
    let s =
        Sidecar::start(&POOL.replace("prefix_cache: {}", "affinity: {session: soft, tokens: 2000}")).await;
    let endpoint = of_session(&s, 1, "s").await;
    assert!(s.settle("llm", "h", 1).await);
    for lease in 2..10 {
        assert_eq!(of_session(&s, lease, "s").await, endpoint);
        assert!(s.settle("llm", "h", lease).await);
    }
    // 10,000 tokens wait there, and staying is worth 2,000.
    of_session(&s, 10, "s").await;
    assert_ne!(of_session(&s, 11, "s").await, endpoint);
}

/// Hashes are advice: a request goes on without them.
#[tokio::test]
async fn hashes_that_do_not_fit_their_sizes_are_ignored() {
    let s = Sidecar::start(POOL).await;
    let wrong = [(vec![1, 2], vec![5]), (vec![], vec![5]), (vec![1, 2], vec![5, 5])];
    for (lease, (prefix_hashes, prefix_bytes)) in (1..).zip(wrong) {
        s.admitted(pb::AdmitRequest { prefix_hashes, prefix_bytes, ..prompt(lease, &[]) }).await;
    }
    assert_eq!(s.metric("evenkeel_prefix_entries{cluster=\"llm\",route=\"\"}").await, 0.0);
    let hashes: Vec<u64> = (1..=2000).collect();
    s.admitted(prompt(9, &hashes)).await;
    assert_eq!(s.metric("evenkeel_prefix_entries{cluster=\"llm\",route=\"\"}").await, 1024.0);
}
