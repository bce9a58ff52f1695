//! The rights in docs/operations.md are enough for a sidecar in Redis. Every test of this program gives its sidecars
//! only these rights.

use std::time::Duration;

use evenkeel_proto::v1 as pb;

use crate::support::{
    admin::with_admin,
    eventually,
    redis::Redis,
    requests::{admit_for, settle_success},
    sidecar::Sidecar,
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
";

async fn start(redis: &Redis) -> Sidecar {
    Sidecar::start(&with_admin(&(redis.store(", timeout: 5s") + CONFIG))).await
}

/// Sends one request and settles it, and sends another that is refused.
async fn serve(sidecar: &Sidecar, lease: u64) {
    let request = pb::AdmitRequest { session: "s".into(), ..admit_for("alice", "m", lease) };
    let admitted = sidecar.admitted(request).await;
    let refused = pb::AdmitRequest { session: "s".into(), ..admit_for("alice", "refused", lease + 1) };
    sidecar.send(refused).await;
    sidecar.keep_alive("llm", "h", lease + 1, &[(lease, Some(&admitted.endpoint))]).await;
    sidecar.end(settle_success(lease, admitted.ticket, 10, 10)).await;
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let redis = Redis::start();
    let (one, other) = (start(&redis).await, start(&redis).await);
    serve(&one, 1).await;
    serve(&other, 11).await;
    // The sidecar writes usage and activity in the background, and reads them with commands that `serve` does not use.
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

/// Some managed services forbid INFO. Then the sidecar cannot check the eviction policy, and does all else.
#[tokio::test]
async fn a_redis_without_info_serves() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "evenkeel", "-info"]);
    let sidecar = start(&redis).await;
    serve(&sidecar, 1).await;
    assert_eq!(sidecar.metric("evenkeel_store_up").await, 1.0);
    eventually(Duration::from_secs(20), "only INFO is refused", || async {
        let refused = redis.refused();
        let info = |what: &String| what.contains("\"info\"");
        if refused.len() == 1 && refused.iter().all(info) { Ok(()) } else { Err(format!("{refused:?}")) }
    })
    .await;
}

/// The test above can fail: Redis reports a missing right.
#[tokio::test]
async fn a_missing_right_is_reported() {
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
