//! Validates the fields that limits and quotas share.

use evenkeel_domain::limit::{Counts, LIMIT_NAME_BYTES_MAX};

use super::{
    amount::{AMOUNT_EXPECTED, parse_amount},
    raw::RawMode,
};
use crate::check::Check;

const COST: &str = "a cost with at most 6 digits after the point, such as 2.50";
/// Default of `reserve_margin`. With this factor, a response twice as long as estimated does not overrun the limit.
const MARGIN: f64 = 2.0;

pub(super) fn name(check: &mut Check, path: &str, name: &str) {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > LIMIT_NAME_BYTES_MAX || !name.bytes().all(known) {
        check.fault(path, "1..64 characters of A-Z, a-z, 0-9, _, . and -", format!("{name:?}"));
    }
}

/// Returns the name of what a limit counts, as written in the file.
pub(crate) fn counts_name(counts: Counts) -> &'static str {
    match counts {
        Counts::Requests => "requests",
        Counts::Tokens => "tokens",
        Counts::InputTokens => "input_tokens",
        Counts::OutputTokens => "output_tokens",
        Counts::Cost => "cost",
    }
}

pub(super) fn counts(check: &mut Check, path: &str, counts: Option<Counts>) -> Counts {
    if counts.is_none() {
        check.required(path, "requests, tokens, input_tokens, output_tokens or cost");
    }
    counts.unwrap_or(Counts::Requests)
}

pub(super) fn shadow(mode: Option<RawMode>) -> bool {
    mode == Some(RawMode::Shadow)
}

pub(super) fn required_amount(
    check: &mut Check,
    path: &str,
    text: Option<&str>,
    counts: Counts,
) -> Option<u64> {
    let Some(text) = text else {
        check.fault(path, if counts == Counts::Cost { COST } else { AMOUNT_EXPECTED }, "none");
        return None;
    };
    amount(check, path, text, counts)
}

pub(super) fn amount(check: &mut Check, path: &str, text: &str, counts: Counts) -> Option<u64> {
    let cost = counts == Counts::Cost;
    let amount = parse_amount(text, cost);
    if amount.is_none() {
        check.fault(path, if cost { COST } else { AMOUNT_EXPECTED }, format!("{text:?}"));
    }
    amount
}

pub(super) fn margin(check: &mut Check, path: &str, text: Option<&str>, counts: Counts) -> f64 {
    let Some(text) = text else { return MARGIN };
    let path = format!("{path}.reserve_margin");
    if counts == Counts::Requests {
        check.fault(&path, "absent if counts is requests: each counts 1, known at once", format!("{text:?}"));
    }
    let margin = text.parse().ok().filter(|margin: &f64| (1.0..=100.0).contains(margin));
    if margin.is_none() {
        check.fault(&path, "1..100", format!("{text:?}"));
    }
    margin.unwrap_or(MARGIN)
}
