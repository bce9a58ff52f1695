//! Tests of pools that choose by work: the unread tokens of requests until their first token.

use std::time::Duration;

use evenkeel_proto::v1 as pb;
use tonic::Code;

use super::steady;
use crate::support::{
    eventually,
    redis::Redis,
    requests::{admit, held, keep_alive, pool},
    sidecar::Sidecar,
};

const POOL: &str = "pools: [{cluster: llm, policy: least_work, endpoints: [{address: a}, {address: b}]}]";

async fn placed(s: &Sidecar, lease: u64, prompt_bytes: u64) -> (String, u64) {
    let request = pb::AdmitRequest { prompt_bytes, ..admit("llm", lease) };
    let admitted = s.admitted(request).await;
    (admitted.endpoint, admitted.unread_tokens)
}

async fn unread(s: &Sidecar) -> [u64; 2] {
    let state = s.pool("llm").await;
    assert_eq!(state.policy(), pb::Policy::LeastWork);
    assert_eq!(
        state.unread_tokens,
        state.endpoints.iter().map(|endpoint| endpoint.unread_tokens).sum::<u64>()
    );
    ["a", "b"].map(|address| state.endpoints.iter().find(|e| e.address == address).unwrap().unread_tokens)
}

fn first_tokens(leases: &[u64]) -> pb::ReportFirstTokensRequest {
    let first = |&lease: &u64| pb::FirstToken { lease, after_ms: 5, pool: Some(pool("llm")) };
    pb::ReportFirstTokensRequest { holder: "h".into(), first_tokens: leases.iter().map(first).collect() }
}

async fn placement_follows_unread_tokens(s: &Sidecar) {
    let report = async |leases: &[u64]| s.gateway.clone().report_first_tokens(first_tokens(leases)).await;
    // 40,000 bytes are 10,000 tokens, more than the others together.
    let (long, tokens) = placed(s, 1, 40_000).await;
    assert_eq!(tokens, 10_000);
    let other = if long == "a" { "b" } else { "a" };
    for lease in 2..=9 {
        assert_eq!(placed(s, lease, 400).await, (other.to_owned(), 100), "lease {lease}");
    }
    // A repeated Admit returns the same endpoint and tokens.
    assert_eq!(placed(s, 1, 40_000).await, (long.clone(), 10_000));
    let in_order = |of_long, of_other| if long == "a" { [of_long, of_other] } else { [of_other, of_long] };
    assert_eq!(unread(s).await, in_order(10_000, 800));
    for _ in 0..2 {
        report(&[1, 2, 77]).await.unwrap();
        assert_eq!(unread(s).await, in_order(0, 700));
    }
    assert_eq!(placed(s, 10, 400).await.0, long);
    // Requests that end without a first token give their tokens back.
    for lease in 1..=10 {
        assert!(s.settle("llm", "h", lease).await);
    }
    assert_eq!(unread(s).await, [0, 0]);
}

#[tokio::test]
async fn requests_go_where_the_fewest_tokens_are_unread() {
    placement_follows_unread_tokens(&Sidecar::start(&steady(POOL)).await).await;
    let redis = Redis::start();
    let s = Sidecar::start(&(redis.store(", timeout: 5s") + &steady(POOL))).await;
    placement_follows_unread_tokens(&s).await;
}

/// The list restores what Redis has lost, and makes up for reports that were lost.
#[tokio::test]
async fn lists_carry_unread_tokens() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 5s") + &steady(POOL);
    let (s, other) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let (one, _) = placed(&s, 1, 4000).await;
    let (two, _) = placed(&s, 2, 8000).await;
    assert_ne!(one, two);
    redis.command(&["FLUSHALL"]);
    let list = |tokens: Vec<u64>| {
        let held = held("llm", &[(1, Some(&one)), (2, Some(&two))]);
        keep_alive(2, vec![pb::HeldPool { unread_tokens: tokens, ..held }])
    };
    let in_order = |of_one, of_two| if one == "a" { [of_one, of_two] } else { [of_two, of_one] };
    let send = async |tokens| s.gateway.clone().keep_alive(list(tokens)).await;
    assert_eq!(send(vec![1000, 2000]).await.unwrap().into_inner().restored, 2);
    eventually(Duration::from_secs(20), "the other sidecar reads the table", async || {
        let seen = unread(&other).await;
        if seen == in_order(1000, 2000) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    send(vec![0, 2000]).await.unwrap();
    assert_eq!(unread(&s).await, in_order(0, 2000));
    // A list that is older than a report does not raise the tokens again.
    send(vec![1000, 2000]).await.unwrap();
    assert_eq!(unread(&s).await, in_order(0, 2000));
    // A list without the tokens is one of a client that does not count them.
    send(Vec::new()).await.unwrap();
    assert_eq!(unread(&s).await, [0, 0]);
    let error = send(vec![1]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("pools.unread_tokens: must be left out, or as long as"), "{error}");
}

#[tokio::test]
async fn invalid_reports_of_first_tokens_name_the_field() {
    let s = Sidecar::start(&steady(POOL)).await;
    let none = pb::FirstToken { lease: 1, ..pb::FirstToken::default() };
    let wrong = [
        (first_tokens(&[1; 257]), "first_tokens: must be at most 256, got 257"),
        (first_tokens(&[0]), "first_tokens.lease: must be 1..2^53-1, got 0"),
        (
            pb::ReportFirstTokensRequest { first_tokens: vec![none], ..first_tokens(&[]) },
            "first_tokens.pool: must be given, got none",
        ),
    ];
    for (request, expected) in wrong {
        let error = s.gateway.clone().report_first_tokens(request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, expected));
    }
}

/// A pool whose prompts are unknown goes by requests.
#[tokio::test]
async fn unknown_prompts_count_as_the_mean() {
    let s = Sidecar::start(&steady(POOL)).await;
    let (first, tokens) = placed(&s, 1, 0).await;
    assert_eq!(tokens, 0);
    assert_ne!(placed(&s, 2, 0).await.0, first);
    placed(&s, 3, 4000).await;
    placed(&s, 4, 8000).await;
    assert_eq!(placed(&s, 5, 0).await.1, 1500);
}
