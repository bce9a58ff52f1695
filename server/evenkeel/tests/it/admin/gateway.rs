//! The effect of changes on a gateway, and changes that come through a gateway.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use evenkeel_proto::v1::{self as pb, admit_response::Answer};

use super::start;
use crate::support::{
    admin::{LIMITS_AND_QUOTAS, TOKEN, by, client, set_quota},
    eventually,
    requests::{admit_for, candidate},
    sidecar::Sidecar,
};

/// Returns a request of Alice, which limits and quotas count.
fn admit(lease: u64) -> pb::AdmitRequest {
    pb::AdmitRequest {
        candidates: vec![candidate("10.0.0.1:80", 1.0, 0)],
        prompt_bytes: 400,
        max_output_tokens: 100,
        ..admit_for("alice", "small", lease)
    }
}

#[tokio::test]
async fn an_override_applies_to_requests() {
    let sidecar = start().await;
    let mut admin = client(&sidecar).await;
    admin.set_quota(by(TOKEN, set_quota("credit", "alice", 100_000))).await.unwrap();
    admin.set_quota(by(TOKEN, set_quota("month", "alice", 100_000))).await.unwrap();
    let answer = async |lease| sidecar.send(admit(lease)).await;
    assert!(matches!(answer(1).await, Answer::Admitted(_)));
    let none = pb::SetOverrideRequest {
        limit: "rpm".into(),
        key: "consumer=alice".into(),
        amount: Some(0),
        ..pb::SetOverrideRequest::default()
    };
    admin.set_override(by(TOKEN, none)).await.unwrap();
    let denied = eventually(Duration::from_secs(20), "the override applies", async || {
        // Each attempt uses a new lease number, because a repeated Admit of an admitted lease is admitted again.
        static LEASE: AtomicU64 = AtomicU64::new(2);
        match answer(LEASE.fetch_add(1, Ordering::Relaxed)).await {
            Answer::Denied(denied) => Ok(denied),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!((denied.status, denied.reason()), (429, pb::Reason::Limit));
    let reset = pb::DeleteOverrideRequest { limit: "rpm".into(), key: "consumer=alice".into() };
    admin.delete_override(by(TOKEN, reset)).await.unwrap();
    eventually(Duration::from_secs(20), "the configured amount applies again", async || {
        match answer(1000).await {
            Answer::Admitted(_) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn an_administrator_changes_quotas_through_the_gateway() {
    let yaml = format!("{LIMITS_AND_QUOTAS}\nquota_admins: [boss]\n");
    let closed = Sidecar::start(&yaml).await;
    let sidecar = Sidecar::start(&format!("{yaml}\nadmin: {{through_gateway: true}}\n")).await;
    let ask_at = async |sidecar: &Sidecar, lease, consumer: &str, method: &str, path: &str, body: &str| {
        let call = pb::AdminCall { method: method.into(), body: body.as_bytes().to_vec() };
        let path = format!("/v1/chat/completions/quota{path}");
        let subject = pb::Subject { consumer: consumer.into(), path, ..pb::Subject::default() };
        let request = pb::AdmitRequest { admin_call: Some(call), subject: Some(subject), ..admit(lease) };
        match sidecar.send(request).await {
            Answer::DirectResponse(answered) => (answered.status, String::from_utf8(answered.body).unwrap()),
            other => panic!("not answered: {other:?}"),
        }
    };
    let ask = async |lease, consumer: &str, method: &str, path: &str, body: &str| {
        ask_at(&sidecar, lease, consumer, method, path, body).await
    };
    let refresh = "consumer=alice&quota=10000";
    // A client that claims to be an administrator changes nothing unless the configuration trusts all callers.
    for path in ["/refresh", "/delta"] {
        let (status, body) = ask_at(&closed, 1, "boss", "POST", path, "consumer=alice&quota=1&value=1").await;
        assert_eq!(status, 403);
        assert!(body.contains("admin.through_gateway"), "{body}");
    }
    let nothing = r#"{"consumer":"alice","quota":0}"#.to_owned();
    assert_eq!(ask_at(&closed, 2, "boss", "GET", "?consumer=alice", "").await, (200, nothing));
    assert_eq!(ask(1, "alice", "POST", "/refresh", refresh).await.0, 403);
    assert_eq!(ask(2, "boss", "POST", "/refresh", refresh).await, (200, "refresh quota successful".into()));
    for lease in [3, 3, 4] {
        let delta = ask(lease, "boss", "POST", "/delta", "consumer=alice&value=-100").await;
        assert_eq!(delta, (200, "delta quota successful".into()));
    }
    let balance = r#"{"consumer":"alice","quota":9800}"#.to_owned();
    assert_eq!(ask(5, "boss", "GET", "?consumer=alice", "").await, (200, balance), "lease 3 counted once");
    let request = pb::ListQuotaChangesRequest { quota: "credit".into(), consumer: "alice".into() };
    let changes = client(&sidecar).await.list_quota_changes(request).await.unwrap().into_inner().changes;
    assert_eq!((changes.len(), changes[0].who.as_str()), (3, "gateway:boss"));
}
