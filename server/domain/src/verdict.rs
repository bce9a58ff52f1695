//! The verdict on a request, and the table that maps each reason for a refusal to its response.

use std::sync::Arc;

use crate::activity::AdmitResult;

/// The information from which the endpoint was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// The table that all sidecars share.
    #[default]
    Shared,
    /// This sidecar's local knowledge, because the store is unavailable.
    Local,
    /// None: the store is unavailable and the pool's policy is `open`, so the gateway chooses the endpoint.
    Open,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Every endpoint of the pool is at its cap.
    PoolFull,
    /// The pool has no endpoints.
    NoEndpoints,
    /// Administrators have drained all endpoints of the pool.
    AllDrained,
    /// The store is unavailable, and the policy of the pool, a limit or a quota is `closed`.
    StoreUnavailable,
    /// A limit is exhausted.
    Limit,
    /// A quota is exhausted.
    Quota,
}

/// The result of choosing an endpoint in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may go upstream.
    Admitted {
        /// `None` if the basis is [`Basis::Open`].
        endpoint: Option<Arc<str>>,
        basis: Basis,
        /// Prompt tokens that the endpoint counts as unread until the first token. 0 if the pool does not choose by work.
        unread: u64,
    },
    Refused(Reason),
}

/// One row of the table of refusals: the reason's name and response.
struct Row {
    status: u16,
    /// Label in traces, and `type` and `code` in the response body.
    name: &'static str,
    message: &'static str,
    /// Explanation for operators, stored with the recorded refusal.
    why: &'static str,
    result: AdmitResult,
}

impl Reason {
    /// Returns the reason's row in the table of refusals. The configuration of a limit or quota overrides status,
    /// message and explanation.
    const fn row(self) -> Row {
        match self {
            Self::PoolFull => Row {
                status: 429,
                name: "pool_full",
                message: "every model server is at its limit of concurrent requests",
                why: "every endpoint of the pool had as many requests in flight as its cap allows",
                result: AdmitResult::PoolFull,
            },
            Self::NoEndpoints => Row {
                status: 503,
                name: "no_endpoints",
                message: "no model server is available at present",
                why: "the pool had no endpoints",
                result: AdmitResult::NoEndpoints,
            },
            Self::AllDrained => Row {
                status: 503,
                name: "no_endpoints",
                message: "no model server is available at present: all endpoints of the pool are drained",
                why: "all endpoints of the pool were drained",
                result: AdmitResult::NoEndpoints,
            },
            Self::StoreUnavailable => Row {
                status: 503,
                name: "store_unavailable",
                message: "capacity cannot be checked at present",
                why: "the store was unavailable, and the configured policy for that is to refuse",
                result: AdmitResult::StoreUnavailable,
            },
            Self::Limit => Row {
                status: 429,
                name: "limit",
                message: "a limit is reached",
                why: "a limit was reached",
                result: AdmitResult::Limit,
            },
            Self::Quota => Row {
                status: 429,
                name: "quota",
                message: "a quota is exhausted",
                why: "a quota was exhausted",
                result: AdmitResult::Quota,
            },
        }
    }

    /// Returns the label in traces and in the response body.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

/// The details of a refusal, for lookups by operators.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RefusalDetails {
    pub consumer: String,
    /// Model that the request named.
    pub model: String,
    /// Name of the limit or quota that refused the request. Empty for other reasons.
    pub limit: String,
    /// Key under which the limit or quota counts the request.
    pub key: String,
    pub amount: u64,
    /// Amount used at the time of the refusal.
    pub used: u64,
    /// Amount that the request would have reserved.
    pub cost: u64,
    pub why: String,
}

/// A refusal, with the response that the gateway returns to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub reason: Reason,
    pub status: u16,
    /// Time until a retry can succeed. 0: waiting alone does not help.
    pub retry_after_ms: u64,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub details: RefusalDetails,
    pub stands: Option<Stands>,
}

/// How long a refusal stands for other requests, whatever they cost, and for which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    pub ms: u64,
    /// The attributes whose values such requests share with this one.
    pub attributes: Arc<[String]>,
}

impl Refusal {
    /// Builds the refusal of a request that no limit refused.
    #[must_use]
    pub fn of_pool(reason: Reason, retry_after_s: u64, consumer: String, model: String) -> Self {
        let Row { status, name, message, why, .. } = reason.row();
        Self {
            reason,
            status,
            retry_after_ms: retry_after_s * 1000,
            headers: vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                ("retry-after".to_owned(), retry_after_s.to_string()),
            ],
            body: error_body(message, name, serde_json::json!({})),
            details: RefusalDetails { consumer, model, why: why.to_owned(), ..RefusalDetails::default() },
            stands: None,
        }
    }
}

/// Returns an error body in OpenAI's format, which clients of model servers can parse. `more` adds fields to the error.
#[must_use]
pub fn error_body(message: &str, kind: &str, more: serde_json::Value) -> String {
    let mut error = serde_json::json!({"message": message, "type": kind, "code": kind});
    if let (Some(error), serde_json::Value::Object(more)) = (error.as_object_mut(), more) {
        error.extend(more);
    }
    serde_json::json!({ "error": error }).to_string()
}

impl From<Basis> for AdmitResult {
    fn from(basis: Basis) -> Self {
        match basis {
            Basis::Shared => Self::Shared,
            Basis::Local => Self::Local,
            Basis::Open => Self::Open,
        }
    }
}

impl From<Reason> for AdmitResult {
    fn from(reason: Reason) -> Self {
        reason.row().result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_response() {
        let table = [
            (Reason::PoolFull, 429, "pool_full", AdmitResult::PoolFull),
            (Reason::NoEndpoints, 503, "no_endpoints", AdmitResult::NoEndpoints),
            (Reason::AllDrained, 503, "no_endpoints", AdmitResult::NoEndpoints),
            (Reason::StoreUnavailable, 503, "store_unavailable", AdmitResult::StoreUnavailable),
        ];
        for (reason, status, name, result) in table {
            let refusal = Refusal::of_pool(reason, 2, "alice".into(), "m".into());
            assert_eq!((refusal.status, refusal.retry_after_ms), (status, 2000), "{reason:?}");
            assert_eq!(AdmitResult::from(reason), result);
            let body: serde_json::Value = serde_json::from_str(&refusal.body).unwrap();
            assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&name.into(), &name.into()));
            assert!(refusal.headers.contains(&("retry-after".into(), "2".into())));
        }
    }
}
