//! Tests of Admit and Settle, and of their effect on the table of requests in flight.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, Basis, Reason, admit_response::Answer};
use tonic::Code;

use super::{TWO, steady};
use crate::support::{
    eventually,
    redis::Redis,
    requests::{admit, candidate, held, keep_alive, pool},
    sidecar::Sidecar,
};

#[tokio::test]
async fn leases_are_admitted_listed_and_settled() {
    let s = Sidecar::start(&steady(TWO)).await;
    let first = s.lease("llm", "h", 1).await;
    let second = s.lease("llm", "h", 2).await;
    assert_ne!(first, second);
    assert_eq!(s.lease("llm", "h", 1).await, first, "idempotent");
    let state = s.pool("llm").await;
    assert_eq!((state.in_flight, state.capacity, state.holders, state.current), (2, Some(4), 1, true));
    let request = pb::ListLeasesRequest { cluster: "llm".into(), ..Default::default() };
    let leases = s.inspect.clone().list_leases(request).await.unwrap().into_inner().leases;
    assert_eq!(
        leases.iter().map(|l| (l.lease, l.endpoint.as_str())).collect::<Vec<_>>(),
        [(1, &*first), (2, &*second)]
    );
    let request = pb::ListHoldersRequest { cluster: "llm".into(), ..Default::default() };
    let holders = s.inspect.clone().list_holders(request).await.unwrap().into_inner().holders;
    assert_eq!((holders[0].holder.as_str(), holders[0].leases), ("h", 2));
    assert!((1..=90_000).contains(&holders[0].deadline_in_ms));
    assert!(s.settle("llm", "h", 1).await);
    assert!(!s.settle("llm", "h", 1).await);
    assert_eq!(s.pool("llm").await.in_flight, 1);
}

#[tokio::test]
async fn a_full_pool_answers_429_with_retry_after() {
    let s = Sidecar::start(&steady(TWO)).await;
    for lease in 1..=4 {
        s.lease("llm", "h", lease).await;
    }
    let Answer::Denied(denied) = s.admit("llm", "h", 5).await else { panic!("admitted") };
    assert_eq!((denied.status, denied.reason(), denied.retry_after_ms), (429, Reason::PoolFull, 7000));
    let header = |name: &str| denied.headers.iter().find(|h| h.name == name).map(|h| h.value.as_str());
    assert_eq!(header("retry-after"), Some("7"));
    assert_eq!(header("content-type"), Some("application/json"));
    let body: serde_json::Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!(body["error"]["type"], "pool_full");
    s.settle("llm", "h", 3).await;
    s.lease("llm", "h", 5).await;
}

#[tokio::test]
async fn a_pool_without_endpoints_is_503_and_an_unknown_pool_an_error() {
    let s = Sidecar::start(&steady("pools: [{cluster: empty}]\nunlisted_pools: {accept: false}")).await;
    let Answer::Denied(denied) = s.admit("empty", "h", 1).await else { panic!("admitted") };
    assert_eq!((denied.status, denied.reason()), (503, Reason::NoEndpoints));
    let status = s.gateway.clone().admit(admit("x", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("unlisted_pools.accept"), "{}", status.message());
}

#[tokio::test]
async fn an_error_names_the_wrong_field() {
    let s = Sidecar::start(&steady("")).await;
    let good = admit("llm", 1);
    let wrong = [
        (pb::AdmitRequest { pool: None, ..good.clone() }, "pool: must be given"),
        (pb::AdmitRequest { pool: Some(pool("")), ..good.clone() }, "pool.cluster: must be"),
        (pb::AdmitRequest { holder: "a b".into(), ..good.clone() }, "holder: must be"),
        (pb::AdmitRequest { lease: 0, ..good.clone() }, "lease: must be 1..2^53-1, got 0"),
        (pb::AdmitRequest { candidates: vec![candidate("", 1.0, 0)], ..good.clone() }, "candidates.address"),
        (pb::AdmitRequest { candidates: vec![candidate("a", -1.0, 0)], ..good.clone() }, "candidates.weight"),
    ];
    for (request, message) in wrong {
        let status = s.gateway.clone().admit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(message), "{}", status.message());
    }
    let held = pb::HeldPool { endpoints: vec![], ..held("llm", &[(1, Some("a:1"))]) };
    let status = s.gateway.clone().keep_alive(keep_alive(1, vec![held])).await.unwrap_err();
    assert!(status.message().contains("pools.endpoint_of: must be an index"), "{}", status.message());
}

#[tokio::test]
async fn a_request_may_bring_its_own_endpoints() {
    let s = Sidecar::start(&steady("")).await;
    let request = |lease| pb::AdmitRequest {
        candidates: vec![candidate("x", 0.0, 1), candidate("y", 0.0, 1)],
        ..admit("llm", lease)
    };
    for lease in 1..=2 {
        assert_eq!(s.admitted(request(lease)).await.basis(), Basis::Shared);
    }
    s.denied(request(3)).await;
    assert_eq!(s.pool("llm").await.endpoints.len(), 2);
}

#[tokio::test]
async fn two_sidecars_share_one_table() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 2s") + "keep_alive_interval: 2s\n" + TWO;
    let (a, b) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let first = a.lease("llm", "g1", 1).await;
    let since = tokio::time::Instant::now();
    let second = b.lease("llm", "g2", 1).await;
    assert_ne!(first, second, "the second sees the first's lease");
    assert!(b.settle("llm", "g1", 1).await, "any sidecar settles");
    assert_eq!(a.pool("llm").await.in_flight, 1);
    // g2 stops sending KeepAlives. Sidecar a reaps its lease, although g2 never called a.
    eventually(Duration::from_secs(20), "the silent holder's lease is reaped", || async {
        match a.pool("llm").await.in_flight {
            0 => Ok(()),
            n => Err(format!("{n} in flight")),
        }
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(2900), "after {:?}", since.elapsed());
    // A sidecar also sweeps and lists a pool that it knows only from the registry.
    let offered = pb::AdmitRequest {
        candidates: vec![candidate("z", 0.0, 0)],
        holder: "g1".into(),
        ..admit("other", 2)
    };
    a.send(offered).await;
    eventually(Duration::from_secs(20), "b learns of a's pool", || async {
        let pools =
            b.inspect.clone().list_pools(pb::ListPoolsRequest::default()).await.unwrap().into_inner().pools;
        let other = pools.iter().find(|state| state.cluster == "other");
        if other.is_some() { Ok(()) } else { Err(format!("{} pools", pools.len())) }
    })
    .await;
}
