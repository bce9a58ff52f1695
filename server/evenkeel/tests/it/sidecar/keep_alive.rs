//! The call KeepAlive: it makes the table equal to the holder's list.

use evenkeel_proto::v1 as pb;
use tonic::Code;

use super::{TWO, steady};
use crate::support::{
    redis::Redis,
    requests::{held, keep_alive, pool},
    sidecar::Sidecar,
};

/// Several routes of a cluster share a table. The list of one route does not drop the leases of another.
#[tokio::test]
async fn routes_of_one_cluster_share_a_list_of_leases() {
    let s = Sidecar::start(&steady(TWO)).await;
    let held = |route: &str, lease| pb::HeldPool {
        pool: Some(pb::Pool { route: route.into(), cluster: "llm".into() }),
        ..held("llm", &[(lease, Some("a:1"))])
    };
    let request = keep_alive(2, vec![held("x", 1), held("y", 2)]);
    for (round, restored) in [(1, 2), (2, 0)] {
        let answer = s.gateway.clone().keep_alive(request.clone()).await.unwrap().into_inner();
        assert_eq!((answer.restored, answer.dropped), (restored, 0), "round {round}");
    }
    assert_eq!(s.pool("llm").await.in_flight, 2);
}

/// A pool that is no longer served does not cost a holder its leases in other pools.
#[tokio::test]
async fn a_refused_pool_leaves_the_others_alive() {
    let s = Sidecar::start(&steady(&format!("{TWO}\nunlisted_pools: {{accept: false}}"))).await;
    let endpoint = s.lease("llm", "h", 1).await;
    let held = |cluster: &str, leases: &[u64]| pb::HeldPool {
        endpoints: vec![endpoint.to_string()],
        leases: leases.to_vec(),
        endpoint_of: vec![1; leases.len()],
        ..held(cluster, &[])
    };
    let request = |pools| keep_alive(2, pools);
    let answer = s.gateway.clone().keep_alive(request(vec![held("gone", &[2]), held("llm", &[1, 2])])).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.refused_pools, [pool("gone")]);
    assert_eq!((answer.restored, answer.dropped, answer.unapplied_pools), (1, 0, 0));
    assert_eq!(answer.interval_ms, 60_000);
    assert_eq!(s.pool("llm").await.in_flight, 2);

    // If any input is malformed, the sidecar rejects the whole call.
    let many = pb::HeldPool { endpoints: vec!["a".into(); 1025], ..held("llm", &[]) };
    for (wrong, message) in [
        (held("", &[]), "pool.cluster: must be"),
        (many, "pools.endpoints: must be at most 1024, got 1025"),
        (held("llm", &vec![1; 262_145]), "pools.leases: must be at most 262144 in one call, got 262145"),
    ] {
        let status = s.gateway.clone().keep_alive(request(vec![held("llm", &[]), wrong])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(message), "{}", status.message());
    }
    assert_eq!(s.pool("llm").await.in_flight, 2);
}

/// While the store is down, the sidecar updates only its local knowledge. It must not report the pool as applied, nor
/// count local repairs as repairs of the table.
#[tokio::test]
async fn a_keep_alive_reports_pools_that_the_store_did_not_apply() {
    let mut redis = Redis::start();
    let s = Sidecar::start(&steady(&(redis.store(", timeout: 2s") + TWO))).await;
    let answer = s.keep_alive("llm", "h", 1, &[(1, Some("a:1"))]).await;
    assert_eq!((answer.restored, answer.unapplied_pools, answer.interval_ms), (1, 0, 60_000));
    redis.kill();
    let answer = s.keep_alive("llm", "h", 2, &[(1, Some("a:1")), (2, Some("b:1"))]).await;
    assert_eq!((answer.unapplied_pools, answer.interval_ms), (1, 15_000));
    let (_, text) = s.get("/metrics").await;
    for line in [
        "evenkeel_keep_alives_total{result=\"ok\"} 1",
        "evenkeel_keep_alives_total{result=\"unapplied\"} 1",
        "evenkeel_repairs_total{kind=\"restored\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}
