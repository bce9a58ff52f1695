//! The rights a sidecar needs of Redis: those of docs/operations.md, which all tests here run with, and not one less.

use std::time::Duration;

use evenkeel_proto::v1 as pb;

use crate::support::{
    eventually,
    redis::Redis,
    sidecar::{Sidecar, pool},
};

const CONFIG: &str = "
keep_alive_interval: 200ms
pools: [{cluster: llm, endpoints: [{address: 'a:1'}, {address: 'b:1'}]}]
limits:
- {name: window, counts: tokens, amount: 1M, per: 1m, key: [consumer]}
- {name: sliding, counts: requests, amount: 1k, per: 1m, algorithm: sliding_window, key: [consumer]}
- {name: bucket, counts: requests, amount: 1k, per: 1m, algorithm: token_bucket}
- {name: at-once, counts: requests, amount: 5, algorithm: concurrency, key: [consumer]}
- {name: none, counts: requests, amount: 0, per: 1m, when: [{attribute: model, exact: refused}]}
quotas: [{name: credit, counts: tokens, kind: prepaid, default: 1M}]
admin: {tokens: [{name: ops, token: 0123456789abcdef}]}
";

async fn start(redis: &Redis) -> Sidecar {
    Sidecar::start(&format!("store: {{type: redis, url: '{}', timeout: 5s}}\n{CONFIG}", redis.url())).await
}

/// A request from beginning to end, and one that is refused.
async fn serve(sidecar: &Sidecar, lease: u64) {
    let subject = pb::Subject { consumer: "alice".into(), ..Default::default() };
    let request = pb::AdmitRequest {
        pool: Some(pool("llm")),
        holder: "h".into(),
        lease,
        subject: Some(subject),
        model: "m".into(),
        request_id: format!("request-{lease}"),
        session: "s".into(),
        ..Default::default()
    };
    let refused = pb::AdmitRequest {
        lease: lease + 1,
        model: "refused".into(),
        request_id: format!("refused-{lease}"),
        ..request.clone()
    };
    let admitted = sidecar.gateway.clone().admit(request).await.unwrap().into_inner().answer.unwrap();
    let pb::admit_response::Answer::Admitted(admitted) = admitted else { panic!("{admitted:?}") };
    sidecar.gateway.clone().admit(refused).await.unwrap();
    sidecar.keep_alive("llm", "h", lease + 1, &[(lease, Some(&admitted.endpoint))]).await;
    let settle = pb::SettleRequest {
        pool: Some(pool("llm")),
        holder: "h".into(),
        lease,
        outcome: pb::Outcome::Success.into(),
        status: 200,
        tokens: Some(pb::Tokens { input: 10, output: 10, ..Default::default() }),
        tokens_final: true,
        ticket: admitted.ticket,
        ..Default::default()
    };
    sidecar.gateway.clone().settle(settle).await.unwrap();
}

#[tokio::test]
async fn the_rights_that_are_documented_are_enough() {
    let redis = Redis::start();
    let (one, other) = (start(&redis).await, start(&redis).await);
    serve(&one, 1).await;
    serve(&other, 11).await;
    // Usage and activity leave by themselves; what asks for them has other calls.
    eventually(Duration::from_secs(20), "usage is recorded", || async {
        let (status, body) = one.get("/api/v1/usage?by=consumer").await;
        if status == 200 && body.contains("alice") { Ok(()) } else { Err(body) }
    })
    .await;
    for path in ["/api/v1/pools", "/api/v1/drains", "/api/v1/changes", "/api/v1/usage/sessions", "/metrics"] {
        assert_eq!(other.get(path).await.0, 200, "{path}");
    }
    assert_eq!(redis.refused(), [""; 0]);
}

/// So the test above can fail.
#[tokio::test]
async fn a_right_that_is_missing_is_told() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "evenkeel", "-hmget"]);
    let sidecar = start(&redis).await;
    eventually(Duration::from_secs(20), "it is refused", || async {
        serve(&sidecar, 1).await;
        let refused = redis.refused();
        if refused.iter().any(|what| what.contains("hmget")) { Ok(()) } else { Err(format!("{refused:?}")) }
    })
    .await;
}
