//! Limits and quotas as written to [`Limit`] and [`QuotaRule`].

use std::collections::BTreeMap;

use evenkeel_domain::limit::{
    Algorithm, Attribute, Condition, Counts, Exception, Key, LIMIT_NAME_BYTES_MAX, Limit, Matcher, OnOutage,
    Period, QuotaKind, QuotaRule, Rejected,
};

use super::{
    amount::{AMOUNT_EXPECTED, Per, parse_amount, parse_per},
    conditions::{attribute, conditions, contradict, implies, is_header},
    raw::{RawException, RawLimit, RawQuota, RawRejected},
};
use crate::validate::Check;

/// Most attributes of a key.
const KEY_MAX: usize = 8;
/// Most exceptions of a limit.
const EXCEPTIONS_MAX: usize = 256;
/// Most headers of a refusal, and the longest value and body in bytes.
const REJECTED_HEADERS_MAX: usize = 16;
const REJECTED_VALUE_BYTES_MAX: usize = 1024;
const REJECTED_BODY_BYTES_MAX: usize = 4096;

const COST: &str = "a cost with at most 6 digits after the point, such as 2.50";

/// Limits in the order of the file. Where they come from another file, `path` begins with its name.
pub(super) fn limit(check: &mut Check, path: &str, raw: RawLimit) -> Limit {
    name(check, &format!("{path}.name"), &raw.name);
    let counts = counts(check, &format!("{path}.counts"), raw.counts.as_deref());
    let amount = required_amount(check, &format!("{path}.amount"), raw.amount.as_deref(), counts);
    let algorithm = algorithm(check, path, &raw, counts, amount);
    let period = period(check, path, raw.per.as_deref(), raw.time_zone.as_deref(), Needs::of(algorithm));
    if algorithm == Algorithm::Concurrency && counts != Counts::Requests {
        let got = raw.counts.as_deref().unwrap_or_default();
        check.fault(&format!("{path}.counts"), "requests where algorithm is concurrency", got);
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
        shadow: shadow(check, path, raw.mode.as_deref()),
        rejected: rejected(check, path, raw.rejected),
        margin: margin(check, path, raw.reserve_margin.as_deref(), counts),
        on_outage: on_outage(check, path, raw.on_outage.as_deref()),
    }
}

pub(super) fn quota(check: &mut Check, path: &str, raw: RawQuota) -> QuotaRule {
    name(check, &format!("{path}.name"), &raw.name);
    let counts = counts(check, &format!("{path}.counts"), raw.counts.as_deref());
    let per = || (raw.per.as_deref(), raw.time_zone.as_deref());
    let kind = match raw.kind.as_deref() {
        Some("prepaid") => {
            for (field, given) in [("per", raw.per.is_some()), ("time_zone", raw.time_zone.is_some())] {
                if given {
                    check.fault(&format!("{path}.{field}"), "absent where kind is prepaid", "one");
                }
            }
            QuotaKind::Prepaid
        }
        Some("budget") => QuotaKind::Budget(period(check, path, per().0, per().1, Needs::Any)),
        other => {
            check.fault(&format!("{path}.kind"), "prepaid or budget", got(other));
            QuotaKind::Prepaid
        }
    };
    let default = raw.default.as_deref();
    QuotaRule {
        counts,
        kind,
        default: default.and_then(|text| amount(check, &format!("{path}.default"), text, counts)),
        when: conditions(check, &format!("{path}.when"), raw.when),
        shadow: shadow(check, path, raw.mode.as_deref()),
        rejected: rejected(check, path, raw.rejected),
        margin: margin(check, path, raw.reserve_margin.as_deref(), counts),
        on_outage: on_outage(check, path, raw.on_outage.as_deref()),
        name: raw.name.into(),
    }
}

/// A value for a message, or that there is none.
fn got(value: Option<&str>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"))
}

fn name(check: &mut Check, path: &str, name: &str) {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > LIMIT_NAME_BYTES_MAX || !name.bytes().all(known) {
        check.fault(path, "1..64 characters of A-Z, a-z, 0-9, _, . and -", format!("{name:?}"));
    }
}

fn counts(check: &mut Check, path: &str, text: Option<&str>) -> Counts {
    match text {
        Some("requests") => Counts::Requests,
        Some("tokens") => Counts::Tokens,
        Some("input_tokens") => Counts::InputTokens,
        Some("output_tokens") => Counts::OutputTokens,
        Some("cost") => Counts::Cost,
        other => {
            check.fault(path, "requests, tokens, input_tokens, output_tokens or cost", got(other));
            Counts::Requests
        }
    }
}

fn required_amount(check: &mut Check, path: &str, text: Option<&str>, counts: Counts) -> Option<u64> {
    let Some(text) = text else {
        check.fault(path, if counts == Counts::Cost { COST } else { AMOUNT_EXPECTED }, "none");
        return None;
    };
    amount(check, path, text, counts)
}

fn amount(check: &mut Check, path: &str, text: &str, counts: Counts) -> Option<u64> {
    let cost = counts == Counts::Cost;
    let amount = parse_amount(text, cost);
    if amount.is_none() {
        check.fault(path, if cost { COST } else { AMOUNT_EXPECTED }, format!("{text:?}"));
    }
    amount
}

fn algorithm(
    check: &mut Check,
    path: &str,
    raw: &RawLimit,
    counts: Counts,
    amount: Option<u64>,
) -> Algorithm {
    let text = raw.algorithm.as_deref().unwrap_or("fixed_window");
    if let (Some(burst), true) = (raw.burst.as_deref(), text != "token_bucket") {
        check.fault(
            &format!("{path}.burst"),
            "absent where algorithm is not token_bucket",
            format!("{burst:?}"),
        );
    }
    match text {
        "fixed_window" => Algorithm::FixedWindow,
        "sliding_window" => Algorithm::SlidingWindow,
        "token_bucket" => {
            let burst = burst(check, &format!("{path}.burst"), raw.burst.as_deref(), counts);
            if amount == Some(0) {
                let expected = "more than 0 where algorithm is token_bucket: it drains by this much";
                check.fault(&format!("{path}.amount"), expected, 0);
            }
            Algorithm::TokenBucket { burst: burst.or(amount).unwrap_or(1) }
        }
        "concurrency" => Algorithm::Concurrency,
        other => {
            let expected = "fixed_window, sliding_window, token_bucket or concurrency";
            check.fault(&format!("{path}.algorithm"), expected, format!("{other:?}"));
            Algorithm::FixedWindow
        }
    }
}

fn burst(check: &mut Check, path: &str, text: Option<&str>, counts: Counts) -> Option<u64> {
    let burst = amount(check, path, text?, counts);
    if burst == Some(0) {
        check.fault(path, "more than 0", 0);
    }
    burst
}

/// What kind of period an algorithm can do with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Any,
    /// A length, and the algorithm that says so.
    Length(&'static str),
    Nothing,
}

impl Needs {
    fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::FixedWindow => Self::Any,
            Algorithm::SlidingWindow => Self::Length("sliding_window"),
            Algorithm::TokenBucket { .. } => Self::Length("token_bucket"),
            Algorithm::Concurrency => Self::Nothing,
        }
    }
}

fn period(check: &mut Check, path: &str, per: Option<&str>, time_zone: Option<&str>, needs: Needs) -> Period {
    const PER: &str = "1s..31d, day, week or month";
    let (per_path, zone_path) = (format!("{path}.per"), format!("{path}.time_zone"));
    let anything = Period::Length(std::time::Duration::from_secs(60));
    if needs == Needs::Nothing {
        for (path, given) in [(per_path, per), (zone_path, time_zone)] {
            if given.is_some() {
                check.fault(&path, "absent where algorithm is concurrency", got(given));
            }
        }
        return anything;
    }
    let parsed = per.and_then(parse_per);
    match (parsed, needs) {
        (None, _) => check.fault(&per_path, PER, got(per)),
        (Some(Per::Calendar(_)), Needs::Length(algorithm)) => {
            check.fault(&per_path, &format!("1s..31d where algorithm is {algorithm}"), got(per));
        }
        _ => {}
    }
    match (parsed, time_zone) {
        (Some(Per::Calendar(unit)), zone) => {
            let zone = jiff::tz::TimeZone::get(zone.unwrap_or("UTC"));
            if zone.is_err() {
                check.fault(&zone_path, "a time zone such as Europe/Berlin", got(time_zone));
            }
            Period::Calendar { unit, zone: zone.unwrap_or(jiff::tz::TimeZone::UTC) }
        }
        (Some(Per::Length(_)), Some(_)) => {
            check.fault(&zone_path, "absent where per is a length of time", got(time_zone));
            anything
        }
        (Some(Per::Length(length)), None) => Period::Length(length),
        (None, _) => anything,
    }
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
        // Who lacks an attribute of the key is not counted.
        let needed = Condition { attribute: attribute.clone(), matcher: Matcher::Present };
        if let Some(other) = when.iter().find(|condition| contradict(condition, &needed)) {
            check.fault(&path, "an attribute that `when` lets be there", format!("{text:?} beside {other}"));
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
            check.fault(&format!("{path}.amount"), "more than 0 where algorithm is token_bucket", 0);
        }
        if raw.burst.is_some() && (!bucket || raw.unlimited) {
            let expected = "absent unless algorithm is token_bucket and an amount is given";
            check.fault(&format!("{path}.burst"), expected, "one");
        }
        let when = conditions(check, &format!("{path}.when"), raw.when);
        never_applies(check, &path, &when, &list, limit_when);
        // Without a burst of its own, as much as the amount: like the limit itself.
        let burst = burst(check, &format!("{path}.burst"), raw.burst.as_deref(), counts);
        let burst = burst.or(amount).filter(|_| bucket && !raw.unlimited);
        list.push(Exception { when, amount: amount.filter(|_| !raw.unlimited), burst });
    }
    list
}

/// Warns of an exception that no request can reach.
fn never_applies(
    check: &mut Check,
    path: &str,
    when: &[Condition],
    earlier: &[Exception],
    limit_when: &[Condition],
) {
    let against = when.iter().find_map(|one| limit_when.iter().find(|other| contradict(one, other)));
    if let Some(other) = against {
        check.warn(path, &format!("never applies: the limit itself is only for where {other}"));
    }
    let covered =
        |earlier: &Exception| earlier.when.iter().all(|wide| when.iter().any(|narrow| covers(wide, narrow)));
    if let Some(i) = earlier.iter().position(covered) {
        check.warn(path, &format!("never applies: exceptions[{i}] comes first wherever it would"));
    }
}

/// Whether a condition holds wherever another does. A `false` may be wrong.
pub(crate) fn covers(wide: &Condition, narrow: &Condition) -> bool {
    wide.attribute == narrow.attribute && implies(&narrow.matcher, &wide.matcher)
}

fn shadow(check: &mut Check, path: &str, text: Option<&str>) -> bool {
    match text {
        None | Some("enforce") => false,
        Some("shadow") => true,
        other => {
            check.fault(&format!("{path}.mode"), "enforce or shadow", got(other));
            false
        }
    }
}

fn on_outage(check: &mut Check, path: &str, text: Option<&str>) -> OnOutage {
    match text {
        None | Some("local") => OnOutage::Local,
        Some("open") => OnOutage::Open,
        Some("closed") => OnOutage::Closed,
        other => {
            check.fault(&format!("{path}.on_outage"), "local, open or closed", got(other));
            OnOutage::Local
        }
    }
}

/// Reserved for each token expected, where nothing else is said: an answer twice as long as expected overruns nothing.
const MARGIN: f64 = 2.0;

fn margin(check: &mut Check, path: &str, text: Option<&str>, counts: Counts) -> f64 {
    let Some(text) = text else { return MARGIN };
    let path = format!("{path}.reserve_margin");
    if counts == Counts::Requests {
        check.fault(
            &path,
            "absent where counts is requests: each counts 1, known at once",
            format!("{text:?}"),
        );
    }
    let margin = text.parse().ok().filter(|margin: &f64| (1.0..=100.0).contains(margin));
    if margin.is_none() {
        check.fault(&path, "1..100", format!("{text:?}"));
    }
    margin.unwrap_or(MARGIN)
}

fn rejected(check: &mut Check, path: &str, raw: Option<RawRejected>) -> Rejected {
    let raw = raw.unwrap_or_default();
    let status = raw.status.unwrap_or(429);
    if !(200..=599).contains(&status) {
        check.fault(&format!("{path}.rejected.status"), "200..599", status);
    }
    if raw.headers.len() > REJECTED_HEADERS_MAX {
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
        if value.len() > REJECTED_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            check.fault(&path, "at most 1024 bytes without control characters", format!("{value:?}"));
        }
        if headers.insert(lower, value).is_some() {
            check.fault(&path, "named once", "it again in other letters");
        }
    }
    if let Some(body) = raw.body.as_deref().filter(|body| body.len() > REJECTED_BODY_BYTES_MAX) {
        check.fault(&format!("{path}.rejected.body"), "at most 4096 bytes", body.len());
    }
    Rejected { status, headers, body: raw.body }
}
