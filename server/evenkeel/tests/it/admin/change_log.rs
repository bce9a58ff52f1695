//! The log of administrators' changes.

use axum::http::Method;
use evenkeel_proto::v1 as pb;

use crate::support::{
    admin::{LIMITS_AND_QUOTAS, TOKEN, by, call, client, set_quota, with_admin},
    redis::Redis,
    sidecar::Sidecar,
};

const POOL: &str = "pools: [{cluster: llm, endpoints: [{address: 'm-0:80'}, {address: 'm-1:80'}]}]";

/// The log is the same for changes over gRPC and HTTP, and at either sidecar.
#[tokio::test]
async fn each_change_is_logged_once_in_order() {
    let redis = Redis::start();
    let yaml = with_admin(&(redis.store(", timeout: 400ms") + POOL + LIMITS_AND_QUOTAS));
    let (here, there) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let (mut one, mut other) = (client(&here).await, client(&there).await);
    let put = |sidecar, body| call(sidecar, Method::PUT, "/api/v1/quotas/credit/al%2Fice", Some(body), &[]);
    let adjust = || {
        let request = pb::AdjustQuotaRequest {
            quota: "credit".into(),
            consumer: "al/ice".into(),
            delta: Some(-3),
            request_id: "once".into(),
            ..pb::AdjustQuotaRequest::default()
        };
        by(TOKEN, request)
    };
    let rpm = |amount| pb::SetOverrideRequest {
        limit: "rpm".into(),
        key: "consumer=a".into(),
        amount: Some(amount),
        ..pb::SetOverrideRequest::default()
    };
    let drain = |endpoint: &str| pb::DrainEndpointRequest {
        endpoint: endpoint.into(),
        note: "a note".into(),
        ..pb::DrainEndpointRequest::default()
    };
    let undrain = pb::UndrainEndpointRequest { endpoint: "m-0:80".into(), ..Default::default() };
    one.set_quota(by(TOKEN, set_quota("credit", "al/ice", 10))).await.unwrap();
    assert_eq!(put(&there, r#"{"amount": 20}"#).await.0, 200);
    one.adjust_quota(adjust()).await.unwrap();
    other.adjust_quota(adjust()).await.unwrap();
    assert_eq!(put(&there, r#"{"amount": 1000000000000001}"#).await.0, 400);
    one.set_override(by(TOKEN, rpm(5))).await.unwrap();
    other.set_override(by(TOKEN, rpm(6))).await.unwrap();
    one.drain_endpoint(by(TOKEN, drain("m-0:80"))).await.unwrap();
    one.drain_endpoint(drain("m-1:80")).await.unwrap_err();
    let gone = pb::DeleteOverrideRequest { limit: "rpm".into(), key: "consumer=a".into() };
    one.delete_override(by(TOKEN, gone.clone())).await.unwrap();
    other.delete_override(by(TOKEN, gone)).await.unwrap_err();
    other.undrain_endpoint(by(TOKEN, undrain)).await.unwrap();
    other
        .delete_quota(by(TOKEN, pb::DeleteQuotaRequest { quota: "credit".into(), consumer: "al/ice".into() }))
        .await
        .unwrap();
    let changes = one.list_changes(pb::ListChangesRequest::default()).await.unwrap().into_inner().changes;
    let (mut paged, mut page_token) = (Vec::new(), String::new());
    loop {
        let page =
            one.list_changes(pb::ListChangesRequest { page_size: 3, page_token }).await.unwrap().into_inner();
        paged.extend(page.changes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, changes);
    let logged: Vec<_> = changes
        .iter()
        .rev()
        .map(|c| [&c.who, &c.what, &c.target, &c.before, &c.after, &c.note].map(String::as_str))
        .collect();
    assert_eq!(
        logged,
        [
            ["ops", "quota.set", "credit/al/ice", "0", "10", "a note"],
            ["ops", "quota.set", "credit/al/ice", "10", "20", ""],
            ["ops", "quota.adjust", "credit/al/ice", "20", "17", ""],
            ["ops", "override.set", "rpm/consumer=a", "none", "5", ""],
            ["ops", "override.set", "rpm/consumer=a", "5", "6", ""],
            ["ops", "endpoint.drain", "m-0:80", "in use", "drained", "a note"],
            ["ops", "override.delete", "rpm/consumer=a", "6", "none", ""],
            ["ops", "endpoint.undrain", "m-0:80", "drained", "in use", ""],
            ["ops", "quota.delete", "credit/al/ice", "17", "0 (the default)", ""],
        ]
    );
    assert!(changes.windows(2).all(|pair| pair[0].at_ms >= pair[1].at_ms && pair[1].at_ms > 0));
    let stored: Vec<String> =
        ::redis::from_redis_value(redis.command(&["LRANGE", "ek2:changes", "0", "-1"])).unwrap();
    assert!(stored.iter().all(|entry| !entry.contains(TOKEN)), "no token is written");
}
