//! Validates a [`RawLimit`] into a [`Limit`].

use evenkeel_domain::limit::{Algorithm, Attribute, Condition, Counts, Exception, Key, Limit, Matcher};

use super::{
    conditions::{attribute, conditions, contradict, covers},
    fields::{amount, counts, counts_name, margin, name, required_amount, shadow},
    period::{PeriodKind, period},
    raw::{RawAlgorithm, RawException, RawLimit},
    rejected::rejected,
};
use crate::check::Check;

/// Maximum number of attributes of a key.
const KEY_MAX: usize = 8;
/// Maximum number of exceptions of a limit.
const EXCEPTIONS_MAX: usize = 256;

/// Validates a limit. `path` begins with the name of a file if the limit comes from another file.
pub(super) fn limit(check: &mut Check, path: &str, raw: RawLimit) -> Limit {
    name(check, &format!("{path}.name"), &raw.name);
    let counts = counts(check, &format!("{path}.counts"), raw.counts);
    let amount = required_amount(check, &format!("{path}.amount"), raw.amount.as_deref(), counts);
    let algorithm = algorithm(check, path, &raw, counts, amount);
    let period = period(check, path, raw.per.as_deref(), raw.time_zone.as_deref(), PeriodKind::of(algorithm));
    if algorithm == Algorithm::Concurrency && counts != Counts::Requests {
        let expected = "requests if algorithm is concurrency";
        check.fault(&format!("{path}.counts"), expected, counts_name(counts));
    }
    let when = conditions(check, &format!("{path}.when"), raw.when);
    let key = key(check, &format!("{path}.key"), &raw.key, &when);
    if amount == Some(0) {
        check.warn(&format!("{path}.amount"), "is 0: every request it applies to is refused");
    }
    let exceptions = exceptions(check, path, raw.exceptions, counts, algorithm, &when);
    Limit {
        name: raw.name.into(),
        counts,
        amount: amount.unwrap_or(0),
        period,
        algorithm,
        key,
        when,
        exceptions,
        shadow: shadow(raw.mode),
        rejected: rejected(check, path, raw.rejected),
        margin: margin(check, path, raw.reserve_margin.as_deref(), counts),
        on_store_failure: raw.on_store_failure.unwrap_or_default(),
    }
}

fn algorithm(
    check: &mut Check,
    path: &str,
    raw: &RawLimit,
    counts: Counts,
    amount: Option<u64>,
) -> Algorithm {
    let algorithm = raw.algorithm.unwrap_or(RawAlgorithm::FixedWindow);
    if let (Some(burst), true) = (raw.burst.as_deref(), algorithm != RawAlgorithm::TokenBucket) {
        let expected = "absent if algorithm is not token_bucket";
        check.fault(&format!("{path}.burst"), expected, format!("{burst:?}"));
    }
    match algorithm {
        RawAlgorithm::FixedWindow => Algorithm::FixedWindow,
        RawAlgorithm::SlidingWindow => Algorithm::SlidingWindow,
        RawAlgorithm::TokenBucket => {
            let burst = burst(check, &format!("{path}.burst"), raw.burst.as_deref(), counts);
            if amount == Some(0) {
                let expected = "more than 0 if algorithm is token_bucket: it refills at this rate";
                check.fault(&format!("{path}.amount"), expected, 0);
            }
            Algorithm::TokenBucket { burst: burst.or(amount).unwrap_or(1) }
        }
        RawAlgorithm::Concurrency => Algorithm::Concurrency,
    }
}

fn burst(check: &mut Check, path: &str, text: Option<&str>, counts: Counts) -> Option<u64> {
    let burst = amount(check, path, text?, counts);
    if burst == Some(0) {
        check.fault(path, "more than 0", 0);
    }
    burst
}

fn key(check: &mut Check, path: &str, texts: &[String], when: &[Condition]) -> Key {
    if texts.len() > KEY_MAX {
        check.fault(path, "at most 8 attributes", texts.len());
    }
    let mut attributes: Vec<Attribute> = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(attribute) = attribute(check, &path, text) else { continue };
        if attributes.contains(&attribute) {
            check.fault(&path, "named once", format!("{text:?} again"));
        }
        // A request that lacks an attribute of the key is not counted.
        let needed = Condition { attribute: attribute.clone(), matcher: Matcher::Present };
        if let Some(other) = when.iter().find(|condition| contradict(condition, &needed)) {
            check.fault(
                &path,
                "an attribute that `when` allows to be present",
                format!("{text:?} beside {other}"),
            );
        }
        attributes.push(attribute);
    }
    Key::new(attributes)
}

fn exceptions(
    check: &mut Check,
    path: &str,
    raw: Vec<RawException>,
    counts: Counts,
    algorithm: Algorithm,
    limit_when: &[Condition],
) -> Vec<Exception> {
    if raw.len() > EXCEPTIONS_MAX {
        check.fault(&format!("{path}.exceptions"), "at most 256 exceptions", raw.len());
    }
    let bucket = matches!(algorithm, Algorithm::TokenBucket { .. });
    let mut list: Vec<Exception> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let path = format!("{path}.exceptions[{i}]");
        if raw.when.is_empty() {
            check.fault(&format!("{path}.when"), "one condition at least", "none");
        }
        let given = (raw.amount.is_some(), raw.unlimited);
        if given.0 == given.1 {
            check.fault(&path, "either an amount or unlimited: true", if given.0 { "both" } else { "none" });
        }
        let amount = raw.amount.and_then(|text| amount(check, &format!("{path}.amount"), &text, counts));
        if bucket && amount == Some(0) {
            check.fault(&format!("{path}.amount"), "more than 0 if algorithm is token_bucket", 0);
        }
        if raw.burst.is_some() && (!bucket || raw.unlimited) {
            let expected = "absent unless algorithm is token_bucket and an amount is given";
            check.fault(&format!("{path}.burst"), expected, "one");
        }
        let when = conditions(check, &format!("{path}.when"), raw.when);
        never_applies(check, &path, &when, &list, limit_when);
        // The default burst is the amount of the exception, as for the limit itself.
        let burst = burst(check, &format!("{path}.burst"), raw.burst.as_deref(), counts);
        let burst = burst.or(amount).filter(|_| bucket && !raw.unlimited);
        list.push(Exception { when, amount: amount.filter(|_| !raw.unlimited), burst });
    }
    list
}

/// Warns about an exception that applies to no request.
fn never_applies(
    check: &mut Check,
    path: &str,
    when: &[Condition],
    earlier: &[Exception],
    limit_when: &[Condition],
) {
    let against = when.iter().find_map(|one| limit_when.iter().find(|other| contradict(one, other)));
    if let Some(other) = against {
        check.warn(path, &format!("never applies: the limit applies only if {other}"));
    }
    let covered =
        |earlier: &Exception| earlier.when.iter().all(|wide| when.iter().any(|narrow| covers(wide, narrow)));
    if let Some(i) = earlier.iter().position(covered) {
        check.warn(path, &format!("never applies: exceptions[{i}] matches every request that it does"));
    }
}
