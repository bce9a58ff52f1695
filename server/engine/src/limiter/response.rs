//! The response to a client: the fields of the IETF draft *RateLimit header fields for HTTP*
//! (draft-ietf-httpapi-ratelimit-headers, as of -10), the older `X-RateLimit-*` fields, and refusals in OpenAI's error
//! format.

use std::{fmt::Write as _, sync::Arc};

use evenkeel_domain::{
    limit::{Algorithm, Attributes, Counts, Meter, Period, QuotaKind},
    verdict::{Reason, Refusal, RefusalDetails, Stands, error_body},
};
use evenkeel_store::counters::CounterState;

use super::compiled::{Compiled, Definition, SelectedLimit};

/// A response header. The name is in lower case.
pub type Header = (&'static str, String);

/// Retry time of a concurrency limit, in ms. It is short, because an in-flight request may end at any time.
const RUNNING_RETRY_MS: u64 = 1000;

/// Builds the header fields for the limits of a request, except limits in shadow mode.
pub(super) fn headers(compiled: &Compiled, limits: &[SelectedLimit], states: &[CounterState]) -> Vec<Header> {
    let wanted = compiled.rules.headers;
    let mut headers = Vec::new();
    let shown = || limits.iter().zip(states).filter(|(limit, _)| !limit.meter.shadow);
    if shown().next().is_none() {
        return headers;
    }
    if wanted.ietf {
        let (mut policy, mut left) = (String::with_capacity(64), String::with_capacity(64));
        for (limit, state) in shown() {
            let separator = if policy.is_empty() { "" } else { ", " };
            let definition = &compiled.entries[limit.entry].definition;
            let _ = write!(policy, "{separator}\"{}\";q={}", limit.meter.name, state.amount);
            if let Some(seconds) = period(definition).map(Period::policy_seconds) {
                let _ = write!(policy, ";w={seconds}");
            }
            if let Some(unit) = unit(definition) {
                let _ = write!(policy, ";qu=\"{unit}\"");
            }
            let _ = write!(left, "{separator}\"{}\";r={}", limit.meter.name, remaining(definition, state));
            if state.reset_ms > 0 {
                let _ = write!(left, ";t={}", state.reset_ms.div_ceil(1000));
            }
        }
        headers.push(("ratelimit-policy", policy));
        headers.push(("ratelimit", left));
    }
    if wanted.x {
        // These fields describe a single limit: the limit with the smallest remaining fraction.
        let left = |(limit, state): &(&SelectedLimit, &CounterState)| {
            let remaining = remaining(&compiled.entries[limit.entry].definition, state);
            remaining as f64 / state.amount.max(1) as f64
        };
        if let Some((limit, state)) = shown().min_by(|a, b| left(a).total_cmp(&left(b))) {
            let remaining = remaining(&compiled.entries[limit.entry].definition, state);
            headers.push(("x-ratelimit-limit", state.amount.to_string()));
            headers.push(("x-ratelimit-remaining", remaining.to_string()));
            headers.push(("x-ratelimit-reset", state.reset_ms.div_ceil(1000).to_string()));
        }
    }
    headers
}

/// Builds the refusal of a request. Returns `None` if no counter refuses the request.
pub(super) fn refusal(
    compiled: &Compiled,
    limits: &[SelectedLimit],
    states: &[CounterState],
    request: &Attributes,
) -> Option<Refusal> {
    let refusing = limits.iter().zip(states).filter(|(limit, state)| state.over && !limit.meter.shadow);
    let stands = refusing.clone().filter_map(|(limit, state)| stands(compiled, limit, state));
    let stands = stands.max_by_key(|stands| stands.ms);
    // Of several refusals, chooses the refusal with the longest retry time. 0 means that waiting does not help.
    let wait = |(limit, state): &(&SelectedLimit, &CounterState)| match retry_ms(compiled, limit, state) {
        0 => u64::MAX,
        ms => ms,
    };
    let (first, state) = refusing.max_by_key(wait)?;
    let definition = &compiled.entries[first.entry].definition;
    let retry_after_ms = retry_ms(compiled, first, state);
    let rejected = definition.rejected();
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
        // Without this header, OpenAI's and Anthropic's clients would retry.
        add("x-should-retry", "false".to_owned());
    }
    for (name, value) in self::headers(compiled, limits, states) {
        add(name, value);
    }
    if rejected.body.is_none() {
        add("content-type", "application/json".to_owned());
    }
    Some(Refusal {
        reason: if definition.is_quota() { Reason::Quota } else { Reason::Limit },
        status: rejected.status,
        retry_after_ms,
        headers,
        body: rejected.body.clone().unwrap_or_else(|| body(definition, state, retry_after_ms)),
        details: details(definition, first, state, request),
        stands,
    })
}

/// Returns how long a limit refuses every request with these attributes: as long as nothing is left that a settlement or
/// time could free.
fn stands(compiled: &Compiled, limit: &SelectedLimit, state: &CounterState) -> Option<Stands> {
    let is_used_up = limit.meter.cost == 1 || state.used.saturating_sub(state.reserved) >= state.amount;
    let attributes = &compiled.entries[limit.entry].attributes;
    (state.final_ms > 0 && is_used_up)
        .then(|| Stands { ms: state.final_ms, attributes: Arc::clone(attributes) })
}

fn details(
    definition: &Definition,
    limit: &SelectedLimit,
    state: &CounterState,
    request: &Attributes,
) -> RefusalDetails {
    let Meter { bucket, cost, .. } = &limit.meter;
    let (name, what) = (definition.name(), what(definition.counts()));
    let is_prepaid = matches!(definition, Definition::Quota(quota) if quota.kind == QuotaKind::Prepaid);
    // The counter of a prepaid quota contains the balance.
    let (amount, used) = if is_prepaid { (state.used, 0) } else { (state.amount, state.used) };
    let why = match definition {
        Definition::Limit(limit) if definition.is_concurrency() => {
            format!(
                "limit {:?} allows {amount} requests of {bucket} at a time; {used} were running",
                limit.name
            )
        }
        Definition::Limit(limit) => format!(
            "limit {name:?} of {amount} {what} per {} for {bucket}: {used} were used or reserved, and this request \
             would have reserved {cost}",
            limit.period
        ),
        Definition::Quota(_) => format!(
            "quota {name:?} of {bucket}: {} {what} were left, and this request would have reserved {cost}",
            amount.saturating_sub(used)
        ),
    };
    RefusalDetails {
        consumer: request.consumer.clone(),
        model: request.model.clone(),
        limit: name.to_string(),
        key: bucket.to_string(),
        amount,
        used,
        cost: *cost,
        why,
    }
}

fn retry_ms(compiled: &Compiled, limit: &SelectedLimit, state: &CounterState) -> u64 {
    if compiled.entries[limit.entry].definition.is_concurrency() { RUNNING_RETRY_MS } else { state.retry_ms }
}

fn body(definition: &Definition, state: &CounterState, retry_after_ms: u64) -> String {
    let name = definition.name();
    let amount = state.amount;
    let (kind, mut message) = match definition {
        Definition::Quota(_) if amount == 0 => {
            ("insufficient_quota", format!("no quota {name:?} has been granted"))
        }
        Definition::Quota(_) => {
            ("insufficient_quota", format!("quota {name:?} does not suffice for this request"))
        }
        Definition::Limit(_) if definition.is_concurrency() => (
            "rate_limit_exceeded",
            format!("limit {name:?} of {amount} requests at the same time is reached"),
        ),
        Definition::Limit(limit) => {
            let (what, per) = (what(definition.counts()), &limit.period);
            ("rate_limit_exceeded", format!("limit {name:?} of {amount} {what} per {per} is reached"))
        }
    };
    if retry_after_ms > 0 {
        let _ = write!(message, "; try again in {} s", retry_after_ms.div_ceil(1000));
    }
    error_body(&message, kind, serde_json::json!({ "param": null }))
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

/// Returns the quota unit as in the draft. Requests have no unit.
fn unit(definition: &Definition) -> Option<&'static str> {
    if definition.is_concurrency() {
        return Some("concurrent-requests");
    }
    match definition.counts() {
        Counts::Requests => None,
        Counts::Tokens => Some("tokens"),
        Counts::InputTokens => Some("input-tokens"),
        Counts::OutputTokens => Some("output-tokens"),
        Counts::Cost => Some("micro-cost"),
    }
}

fn period(definition: &Definition) -> Option<&Period> {
    match definition {
        Definition::Limit(limit) if limit.algorithm == Algorithm::Concurrency => None,
        Definition::Limit(limit) => Some(&limit.period),
        Definition::Quota(quota) => match &quota.kind {
            QuotaKind::Prepaid => None,
            QuotaKind::Budget(period) => Some(period),
        },
    }
}

fn remaining(definition: &Definition, state: &CounterState) -> u64 {
    match definition {
        Definition::Quota(quota) if quota.kind == QuotaKind::Prepaid => state.used,
        _ => state.amount.saturating_sub(state.used),
    }
}
