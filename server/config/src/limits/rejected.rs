//! Validates the field `rejected`: the response to a refused request.

use std::collections::BTreeMap;

use evenkeel_domain::limit::Rejected;

use super::{conditions::is_header, raw::RawRejected};
use crate::check::Check;

const HEADERS_MAX: usize = 16;
const VALUE_BYTES_MAX: usize = 1024;
const BODY_BYTES_MAX: usize = 4096;

pub(super) fn rejected(check: &mut Check, path: &str, raw: Option<RawRejected>) -> Rejected {
    let raw = raw.unwrap_or_default();
    let status = raw.status.unwrap_or(429);
    if !(200..=599).contains(&status) {
        check.fault(&format!("{path}.rejected.status"), "200..599", status);
    }
    if raw.headers.len() > HEADERS_MAX {
        check.fault(&format!("{path}.rejected.headers"), "at most 16 headers", raw.headers.len());
    }
    let mut headers = BTreeMap::new();
    for (name, value) in raw.headers {
        let path = format!("{path}.rejected.headers.{name}");
        let lower = name.to_ascii_lowercase();
        if !is_header(&name) {
            check.fault(&path, "the name of a header", format!("{name:?}"));
        }
        if matches!(lower.as_str(), "content-length" | "transfer-encoding" | "connection") {
            check.fault(&path, "left to the gateway", format!("{value:?}"));
        }
        if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            check.fault(&path, "at most 1024 bytes without control characters", format!("{value:?}"));
        }
        if headers.insert(lower, value).is_some() {
            check.fault(&path, "named once", "it again in other letters");
        }
    }
    if let Some(body) = raw.body.as_deref().filter(|body| body.len() > BODY_BYTES_MAX) {
        check.fault(&format!("{path}.rejected.body"), "at most 4096 bytes", body.len());
    }
    Rejected { status, headers, body: raw.body }
}
