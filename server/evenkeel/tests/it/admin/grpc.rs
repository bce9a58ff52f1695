//! Changes that administrators make over gRPC.

use std::time::Duration;

use axum::http::Method;
use evenkeel_proto::v1 as pb;
use tonic::Code;

use super::start;
use crate::support::{
    admin::{LIMITS_AND_QUOTAS, TOKEN, by, call, client, set_quota, with_admin},
    eventually, proxy,
    redis::Redis,
    sidecar::Sidecar,
};

#[tokio::test]
async fn changes_need_a_token_and_reading_does_not() {
    let sidecar = start().await;
    let mut admin = client(&sidecar).await;
    let code = |status: tonic::Status| status.code();
    assert_eq!(
        admin.set_quota(set_quota("credit", "a", 1)).await.map_err(code).unwrap_err(),
        Code::Unauthenticated
    );
    let wrong = by("0123456789abcdeX", set_quota("credit", "a", 1));
    assert_eq!(admin.set_quota(wrong).await.map_err(code).unwrap_err(), Code::Unauthenticated);
    let right = admin.set_quota(by(TOKEN, set_quota("credit", "a", 7))).await.unwrap().into_inner();
    assert_eq!((right.balance, right.recorded, right.counts()), (7, true, pb::Counts::Tokens));
    let request = pb::GetQuotaRequest { quota: "credit".into(), consumer: "a".into() };
    assert_eq!(admin.get_quota(request).await.unwrap().into_inner(), right);
    for refused in [
        admin.adjust_quota(pb::AdjustQuotaRequest::default()).await.map(drop),
        admin.delete_quota(pb::DeleteQuotaRequest::default()).await.map(drop),
        admin.set_override(pb::SetOverrideRequest::default()).await.map(drop),
        admin.delete_override(pb::DeleteOverrideRequest::default()).await.map(drop),
    ] {
        assert_eq!(refused.map_err(code).unwrap_err(), Code::Unauthenticated);
    }

    let nobody = Sidecar::start(LIMITS_AND_QUOTAS).await;
    let refused = client(&nobody).await.set_quota(by(TOKEN, set_quota("credit", "a", 1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("admin.tokens"), "{refused}");
    assert!(
        sidecar.get("/metrics").await.1.contains(r#"evenkeel_admin_calls_total{result="wrong_token"} 1"#)
    );
    // Guards against guesses that nothing counts: a call that needs no token must not say whether one is right.
    let guess = admin.who_am_i(by("0123456789abcdeX", pb::WhoAmIRequest {})).await;
    assert_eq!(guess.map_err(code).unwrap_err(), Code::Unauthenticated);
    let counted = r#"evenkeel_calls_rejected_total{reason="wrong_token",role="reader"} 1"#;
    assert!(sidecar.get("/metrics").await.1.contains(counted));
    let caller = admin.who_am_i(by(TOKEN, pb::WhoAmIRequest {})).await.unwrap().into_inner();
    assert_eq!((caller.name.as_str(), caller.roles), ("ops", vec![1, 2, 3]));
}

#[tokio::test]
async fn grpc_changes_and_lists_quotas() {
    let sidecar = start().await;
    let mut admin = client(&sidecar).await;
    for i in 0..5 {
        admin.set_quota(by(TOKEN, set_quota("credit", &format!("user-{i}"), i))).await.unwrap();
    }
    let list = |search: &str, page_token: String| pb::ListQuotasRequest {
        quota: "credit".into(),
        search: search.into(),
        page_size: 2,
        page_token,
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = admin.list_quotas(list("user-", token)).await.unwrap().into_inner();
        seen.extend(page.quotas.into_iter().map(|quota| (quota.consumer, quota.balance)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..5).map(|i| (format!("user-{i}"), i)).collect::<Vec<_>>());

    let adjust = || {
        by(
            TOKEN,
            pb::AdjustQuotaRequest {
                quota: "month".into(),
                consumer: "user-1".into(),
                delta: Some(-600),
                request_id: "once".into(),
                ..pb::AdjustQuotaRequest::default()
            },
        )
    };
    let first = admin.adjust_quota(adjust()).await.unwrap().into_inner();
    assert_eq!((first.amount, first.balance), (0, 0), "never below 0");
    assert!(first.reset_ms > 0);
    admin.adjust_quota(adjust()).await.unwrap();
    let request = || pb::ListQuotaChangesRequest { quota: "month".into(), consumer: "user-1".into() };
    let changes = admin.list_quota_changes(request()).await.unwrap().into_inner().changes;
    assert_eq!(changes.len(), 1, "the second call changed nothing");
    assert_eq!((changes[0].before, changes[0].after, changes[0].who.as_str()), (500, 0, "ops"));
    let delete = || by(TOKEN, pb::DeleteQuotaRequest { quota: "month".into(), consumer: "user-1".into() });
    admin.delete_quota(delete()).await.unwrap();
    assert_eq!(admin.delete_quota(delete()).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(admin.list_quota_changes(request()).await.unwrap().into_inner().changes.len(), 2);

    let unnamed = admin.set_quota(by(TOKEN, set_quota("", "a", 1))).await.unwrap_err();
    assert_eq!(unnamed.message(), "quota: must be one of credit, month, got none");
    assert_eq!(
        admin.set_quota(by(TOKEN, set_quota("none", "a", 1))).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_override_reaches_every_sidecar() {
    let redis = Redis::start();
    let yaml = with_admin(&(redis.store("") + LIMITS_AND_QUOTAS));
    let (here, there) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let mut admin = client(&here).await;
    let of = |limit: &str, key: &str| pb::SetOverrideRequest {
        limit: limit.into(),
        key: key.into(),
        amount: Some(3),
        ..pb::SetOverrideRequest::default()
    };
    let put = |set| by(TOKEN, set);
    let done = admin.set_override(put(of("tpm", "model=m|consumer=al ice"))).await.unwrap().into_inner();
    assert_eq!((done.key.as_str(), done.who.as_str()), ("consumer=al%20ice|model=m", "ops"));
    eventually(Duration::from_secs(20), "the other sidecar knows it", async || {
        let metrics = there.get("/metrics").await.1;
        if metrics.contains("evenkeel_overrides 1") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let wrong = admin.set_override(put(of("tpm", "consumer=a"))).await.unwrap_err();
    assert!(wrong.message().contains("consumer=…|model=…"), "{wrong}");
    assert_eq!(admin.set_override(put(of("nope", "consumer=a"))).await.unwrap_err().code(), Code::NotFound);
    let listed = client(&there).await.list_overrides(pb::ListOverridesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().overrides, [done]);
    let limits = admin.list_limits(pb::ListLimitsRequest {}).await.unwrap().into_inner().limits;
    let names: Vec<_> = limits.iter().map(|l| (l.name.as_str(), l.per(), l.burst(), l.shadow)).collect();
    assert_eq!(names, [("rpm", "1m", 0, false), ("tpm", "1m", 2000, true), ("parallel", "", 0, false)]);
    let reset = pb::DeleteOverrideRequest { limit: "tpm".into(), key: "consumer=al ice|model=m".into() };
    admin.delete_override(by(TOKEN, reset)).await.unwrap();
}

#[tokio::test]
async fn changes_are_refused_while_the_store_is_down() {
    let redis = Redis::start();
    let proxy = proxy::Proxy::start(redis.port).await;
    let yaml = with_admin(&(proxy.store("") + LIMITS_AND_QUOTAS));
    let sidecar = Sidecar::start(&yaml).await;
    let mut admin = client(&sidecar).await;
    admin.set_quota(by(TOKEN, set_quota("credit", "a", 1))).await.unwrap();
    proxy.set(proxy::Mode::Refuse);
    let refused = admin.set_quota(by(TOKEN, set_quota("credit", "a", 2))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().starts_with("changing a quota: store"), "{refused}");
    let (status, body) =
        call(&sidecar, Method::PUT, "/api/v1/quotas/credit/a", Some(r#"{"amount": 1}"#), &[]).await;
    assert_eq!(status, 503, "{body}");
    proxy.set(proxy::Mode::Pass);
    eventually(Duration::from_secs(20), "the store is back", async || {
        admin.clone().set_quota(by(TOKEN, set_quota("credit", "a", 3))).await.map_err(|e| e.to_string())
    })
    .await;
}
