//! What a client is told: fields of the IETF draft *RateLimit header fields for HTTP*
//! (draft-ietf-httpapi-ratelimit-headers, as of -10), the older `X-RateLimit-*`, and refusals it can act on.

use std::fmt::Write as _;

use evenkeel_domain::limit::{Algorithm, Counts, Meter, Period, QuotaKind};
use evenkeel_store::counters::Reading;

use super::compiled::{Chosen, Compiled, Source};
use crate::activity::RefusalFacts;

/// A header of an answer, name in lower case.
pub type Header = (&'static str, String);

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Name of the limit or quota that refuses; of several the one that does so longest.
    pub name: std::sync::Arc<str>,
    /// Whether it is a quota.
    pub quota: bool,
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
    /// Time until a retry can succeed; 0: none will by itself.
    pub retry_after_ms: u64,
    /// For who asks later why.
    pub facts: Box<RefusalFacts>,
}

/// A running request may end at any time.
const RUNNING_RETRY_MS: u64 = 1000;

/// The fields that tell of the limits of a request. Those in shadow mode are not told of.
pub(super) fn headers(compiled: &Compiled, chosen: &[Chosen], readings: &[Reading]) -> Vec<Header> {
    let told = compiled.rules.headers;
    let mut headers = Vec::new();
    let shown = || chosen.iter().zip(readings).filter(|(chosen, _)| !chosen.meter.shadow);
    if shown().next().is_none() {
        return headers;
    }
    if told.ietf {
        let (mut policy, mut limit) = (String::with_capacity(64), String::with_capacity(64));
        for (chosen, reading) in shown() {
            let separator = if policy.is_empty() { "" } else { ", " };
            let source = &compiled.entries[chosen.entry].source;
            let _ = write!(policy, "{separator}\"{}\";q={}", chosen.meter.name, reading.amount);
            if let Some(seconds) = period(source).map(Period::policy_seconds) {
                let _ = write!(policy, ";w={seconds}");
            }
            if let Some(unit) = unit(source) {
                let _ = write!(policy, ";qu=\"{unit}\"");
            }
            let _ = write!(limit, "{separator}\"{}\";r={}", chosen.meter.name, remaining(source, reading));
            if reading.reset_ms > 0 {
                let _ = write!(limit, ";t={}", reading.reset_ms.div_ceil(1000));
            }
        }
        headers.push(("ratelimit-policy", policy));
        headers.push(("ratelimit", limit));
    }
    if told.x {
        // One limit can be told of: the one that is nearest to its end.
        let left = |(chosen, reading): &(&Chosen, &Reading)| {
            let remaining = remaining(&compiled.entries[chosen.entry].source, reading);
            remaining as f64 / reading.amount.max(1) as f64
        };
        if let Some((chosen, reading)) = shown().min_by(|a, b| left(a).total_cmp(&left(b))) {
            let remaining = remaining(&compiled.entries[chosen.entry].source, reading);
            headers.push(("x-ratelimit-limit", reading.amount.to_string()));
            headers.push(("x-ratelimit-remaining", remaining.to_string()));
            headers.push(("x-ratelimit-reset", reading.reset_ms.div_ceil(1000).to_string()));
        }
    }
    headers
}

/// The answer to a request that is refused; `None` where no reading refuses.
pub(super) fn refusal(compiled: &Compiled, chosen: &[Chosen], readings: &[Reading]) -> Option<Refusal> {
    let refusing =
        chosen.iter().zip(readings).filter(|(chosen, reading)| reading.over && !chosen.meter.shadow);
    // What no time mends is the longest.
    let wait = |(chosen, reading): &(&Chosen, &Reading)| match retry_ms(compiled, chosen, reading) {
        0 => u64::MAX,
        ms => ms,
    };
    let (first, reading) = refusing.max_by_key(wait)?;
    let source = &compiled.entries[first.entry].source;
    let retry_after_ms = retry_ms(compiled, first, reading);
    let rejected = source.rejected();
    let mut headers: Vec<(String, String)> =
        rejected.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut add = |name: &str, value: String| {
        if !headers.iter().any(|(known, _)| known == name) {
            headers.push((name.to_owned(), value));
        }
    };
    if retry_after_ms > 0 {
        add("retry-after", retry_after_ms.div_ceil(1000).to_string());
    } else {
        // Read by OpenAI's and Anthropic's clients, which would try again by themselves.
        add("x-should-retry", "false".to_owned());
    }
    for (name, value) in self::headers(compiled, chosen, readings) {
        add(name, value);
    }
    if rejected.body.is_none() {
        add("content-type", "application/json".to_owned());
    }
    Some(Refusal {
        name: std::sync::Arc::clone(&first.meter.name),
        quota: source.is_quota(),
        status: rejected.status,
        headers,
        body: rejected.body.clone().unwrap_or_else(|| body(source, reading, retry_after_ms)),
        retry_after_ms,
        facts: Box::new(facts(source, first, reading)),
    })
}

/// What was found; whose request it was is for the caller to add.
fn facts(source: &Source, chosen: &Chosen, reading: &Reading) -> RefusalFacts {
    let Meter { bucket, cost, .. } = &chosen.meter;
    let (name, what) = (source.name(), what(source.counts()));
    let is_prepaid = matches!(source, Source::Quota(quota) if quota.kind == QuotaKind::Prepaid);
    // Of a prepaid quota it is known what is left.
    let (amount, used) = if is_prepaid { (reading.used, 0) } else { (reading.amount, reading.used) };
    let why = match source {
        Source::Limit(limit) if source.is_concurrency() => {
            format!(
                "limit {:?} lets {amount} requests of {bucket} run at a time; {used} were running",
                limit.name
            )
        }
        Source::Limit(limit) => format!(
            "limit {name:?} of {amount} {what} per {} for {bucket}: {used} were used or reserved, and this request \
             would have reserved {cost}",
            limit.period
        ),
        Source::Quota(_) => format!(
            "quota {name:?} of {bucket}: {} {what} were left, and this request would have reserved {cost}",
            amount.saturating_sub(used)
        ),
    };
    let (limit, key) = (name.to_string(), bucket.to_string());
    RefusalFacts { limit, key, amount, used, cost: *cost, why, ..RefusalFacts::default() }
}

fn retry_ms(compiled: &Compiled, chosen: &Chosen, reading: &Reading) -> u64 {
    if compiled.entries[chosen.entry].source.is_concurrency() { RUNNING_RETRY_MS } else { reading.retry_ms }
}

/// An error in the shape of OpenAI's, which the clients of model servers read.
fn body(source: &Source, reading: &Reading, retry_after_ms: u64) -> String {
    let name = source.name();
    let amount = reading.amount;
    let (kind, mut message) = match source {
        Source::Quota(_) if amount == 0 => {
            ("insufficient_quota", format!("no quota {name:?} has been granted"))
        }
        Source::Quota(_) => {
            ("insufficient_quota", format!("quota {name:?} does not suffice for this request"))
        }
        Source::Limit(_) if source.is_concurrency() => (
            "rate_limit_exceeded",
            format!("limit {name:?} of {amount} requests at the same time is reached"),
        ),
        Source::Limit(limit) => {
            let (what, per) = (what(source.counts()), &limit.period);
            ("rate_limit_exceeded", format!("limit {name:?} of {amount} {what} per {per} is reached"))
        }
    };
    if retry_after_ms > 0 {
        let _ = write!(message, "; try again in {} s", retry_after_ms.div_ceil(1000));
    }
    let error = serde_json::json!({"message": message, "type": kind, "code": kind, "param": null});
    serde_json::json!({ "error": error }).to_string()
}

fn what(counts: Counts) -> &'static str {
    match counts {
        Counts::Requests => "requests",
        Counts::Tokens => "tokens",
        Counts::InputTokens => "input tokens",
        Counts::OutputTokens => "output tokens",
        Counts::Cost => "millionths of cost",
    }
}

/// The quota unit of the draft; requests need none.
fn unit(source: &Source) -> Option<&'static str> {
    if source.is_concurrency() {
        return Some("concurrent-requests");
    }
    match source.counts() {
        Counts::Requests => None,
        Counts::Tokens => Some("tokens"),
        Counts::InputTokens => Some("input-tokens"),
        Counts::OutputTokens => Some("output-tokens"),
        Counts::Cost => Some("micro-cost"),
    }
}

fn period(source: &Source) -> Option<&Period> {
    match source {
        Source::Limit(limit) if limit.algorithm == Algorithm::Concurrency => None,
        Source::Limit(limit) => Some(&limit.period),
        Source::Quota(quota) => match &quota.kind {
            QuotaKind::Prepaid => None,
            QuotaKind::Budget(period) => Some(period),
        },
    }
}

fn remaining(source: &Source, reading: &Reading) -> u64 {
    match source {
        Source::Quota(quota) if quota.kind == QuotaKind::Prepaid => reading.used,
        _ => reading.amount.saturating_sub(reading.used),
    }
}
