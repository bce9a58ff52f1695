//! Administrators' calls about quotas through the gateway: `GET …?consumer=`, `POST …/refresh` and `POST …/delta`.
//! Clients of Higress's ai-quota plugin use them. The statuses and bodies equal those of ai-quota.

use std::borrow::Cow;

use evenkeel_domain::{DomainError, StoreError, limit::AMOUNT_MAX};
use evenkeel_store::records::Action;
use serde_json::json;

use super::quotas::{QuotaEdit, Quotas};

/// A call that the sidecar answers itself.
#[derive(Clone, Copy, Debug)]
pub struct AdminCall<'a> {
    pub method: &'a str,
    /// The path with its query.
    pub path: &'a str,
    pub body: &'a [u8],
    /// The authenticated consumer. May be empty.
    pub consumer: &'a str,
    /// An id that makes the call idempotent, such as `holder:lease`.
    pub request_id: &'a str,
}

/// The response to an [`AdminCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    pub status: u16,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
}

/// What calls through a gateway may do. The consumer of a call is what its message says: whoever can call the sidecar can
/// claim to be any consumer.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// The consumers that may make such calls.
    pub admins: &'a [String],
    /// Whether they may change quotas.
    pub may_change: bool,
}

/// Answers a call for the first configured quota.
pub async fn respond(quotas: &Quotas, rights: Rights<'_>, call: AdminCall<'_>) -> DirectResponse {
    if call.consumer.is_empty() {
        return text(401, "quota: the request has no consumer");
    }
    if !rights.admins.iter().any(|admin| admin == call.consumer) {
        return text(403, "quota: this consumer is not an administrator of quotas");
    }
    let names = quotas.names();
    let Some(quota) = names.first() else { return text(404, "quota: no quota is configured") };
    let (path, query) = call.path.split_once('?').unwrap_or((call.path, ""));
    let path = path.trim_end_matches('/');
    let (field, done) = if path.ends_with("/refresh") {
        ("quota", "refresh quota successful")
    } else if path.ends_with("/delta") {
        ("value", "delta quota successful")
    } else {
        return look_up(quotas, quota, call.method, query).await;
    };
    if call.method != "POST" {
        return not_allowed("POST");
    }
    if !rights.may_change {
        return text(403, "quota: changes through the gateway are not enabled: see admin.through_gateway");
    }
    let (Some(consumer), Some(Ok(value))) =
        (form(call.body, "consumer"), form(call.body, field).map(|value| value.parse::<i64>()))
    else {
        return text(403, &format!("quota: the form needs consumer, and {field} as an integer"));
    };
    let most = AMOUNT_MAX as i64;
    let action = if field == "quota" {
        Action::Set(value.clamp(0, most) as u64)
    } else {
        Action::Adjust(value.clamp(-most, most))
    };
    let edit = QuotaEdit {
        action,
        who: format!("gateway:{}", call.consumer),
        note: String::new(),
        request_id: call.request_id.to_owned(),
    };
    match quotas.apply(quota, &consumer, edit).await {
        Ok(_) => text(200, done),
        Err(error) => failed(&error),
    }
}

async fn look_up(quotas: &Quotas, quota: &str, method: &str, query: &str) -> DirectResponse {
    if method != "GET" {
        return not_allowed("GET");
    }
    let Some(consumer) = form(query.as_bytes(), "consumer") else {
        return text(403, "quota: the query needs consumer");
    };
    match quotas.get(quota, &consumer).await {
        Ok(view) => DirectResponse {
            status: 200,
            headers: vec![("content-type", "application/json")],
            body: json!({"consumer": consumer, "quota": view.record.balance}).to_string().into_bytes(),
        },
        Err(error) => failed(&error),
    }
}

/// Returns a field of a form. `None` if the field is absent or empty.
fn form<'a>(form: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(form);
    pairs.find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_empty())
}

fn failed(error: &DomainError) -> DirectResponse {
    let status = match error {
        DomainError::Store { source: StoreError::Script { .. } | StoreError::Corrupt { .. }, .. } => 500,
        DomainError::Store { .. } => 503,
        _ => 403,
    };
    // The body does not contain Redis's error, which is not for clients.
    text(status, &format!("quota: {error}"))
}

fn not_allowed(method: &'static str) -> DirectResponse {
    let mut answer = text(405, &format!("quota: this path takes {method}"));
    answer.headers.push(("allow", method));
    answer
}

fn text(status: u16, body: &str) -> DirectResponse {
    DirectResponse { status, headers: vec![("content-type", "text/plain")], body: body.as_bytes().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::{super::quotas::tests::quotas, *};

    fn rights(admins: &[String]) -> Rights<'_> {
        Rights { admins, may_change: true }
    }

    const BASE: &str = "/v1/chat/completions/quota";

    async fn ask(quotas: &Quotas, method: &str, path: &str, body: &str, consumer: &str) -> (u16, String) {
        let path = format!("{BASE}{path}");
        let call = AdminCall { method, path: &path, body: body.as_bytes(), consumer, request_id: "" };
        let answer = respond(quotas, rights(&["boss".to_owned()]), call).await;
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    #[tokio::test]
    async fn balances_are_read_set_and_adjusted() {
        let quotas = quotas(&["first", "second"]);
        let ok = |body: &str| (200, body.to_owned());
        let get = async || ask(&quotas, "GET", "?consumer=al%20ice", "", "boss").await;
        assert_eq!(get().await, ok(r#"{"consumer":"al ice","quota":0}"#));
        let set = ask(&quotas, "POST", "/refresh", "consumer=al+ice&quota=10000", "boss").await;
        assert_eq!(set, ok("refresh quota successful"));
        let added = ask(&quotas, "POST", "/delta", "consumer=al+ice&value=-100", "boss").await;
        assert_eq!(added, ok("delta quota successful"));
        assert_eq!(get().await, ok(r#"{"consumer":"al ice","quota":9900}"#));
        let history = quotas.changes("first", "al ice").await.unwrap();
        assert_eq!(history[0].who, "gateway:boss");
        ask(&quotas, "POST", "/refresh", "consumer=al+ice&quota=-5", "boss").await;
        assert_eq!(get().await, ok(r#"{"consumer":"al ice","quota":0}"#), "never below 0");
    }

    #[tokio::test]
    async fn a_repeated_call_counts_once() {
        let quotas = quotas(&["first"]);
        let path = format!("{BASE}/delta");
        let body = b"consumer=a&value=5";
        let call = AdminCall { method: "POST", path: &path, body, consumer: "boss", request_id: "h:7" };
        for _ in 0..2 {
            assert_eq!(respond(&quotas, rights(&["boss".to_owned()]), call).await.status, 200);
        }
        assert_eq!(quotas.get("", "a").await.unwrap().record.balance, 5);
    }

    #[tokio::test]
    async fn calls_of_other_consumers_and_invalid_calls_are_rejected() {
        let some = quotas(&["first"]);
        let cases = [
            ("GET", "?consumer=a", "", "", 401),
            ("GET", "?consumer=a", "", "alice", 403),
            ("POST", "/refresh", "consumer=a&quota=1", "alice", 403),
            ("GET", "", "", "boss", 403),
            ("GET", "?consumer=", "", "boss", 403),
            ("POST", "/refresh", "consumer=a", "boss", 403),
            ("POST", "/refresh", "consumer=a&quota=x", "boss", 403),
            ("POST", "/delta", "value=1", "boss", 403),
            ("POST", "/delta", "consumer=a%0A&value=1", "boss", 403),
            ("GET", "/delta", "consumer=a&value=1", "boss", 405),
            ("POST", "", "consumer=a", "boss", 405),
        ];
        for (method, path, body, consumer, status) in cases {
            let answer = ask(&some, method, path, body, consumer).await;
            assert_eq!(answer.0, status, "{method} {path} {body:?} by {consumer:?}: {}", answer.1);
        }
        assert_eq!(ask(&quotas(&[]), "GET", "?consumer=a", "", "boss").await.0, 404);
    }
}
