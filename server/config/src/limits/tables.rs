//! Validates the sections for prices, model estimates, headers and the ledger.

use std::time::Duration;

use evenkeel_domain::{
    limit::{LimitHeaders, Matcher, ModelSeed, Prices, price::Price},
    settings::LedgerOptions,
};

use super::raw::{RawLedger, RawLimitHeader, RawModel, RawPrice};
use crate::check::Check;

/// Maximum number of entries of each table.
const ROWS_MAX: usize = 1024;
/// Minimum of `ledger.sessions_max` and `ledger.rows_max`.
const LEDGER_MIN: usize = 100;

pub(super) fn prices(check: &mut Check, raw: Vec<RawPrice>) -> Prices {
    let mut list: Vec<Price> = Vec::with_capacity(raw.len());
    rows_max(check, "prices", raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let path = format!("prices[{i}]");
        let model = model(check, &path, &raw.model, list.iter().map(|price| &price.model));
        let mut price =
            |field: &str, text: Option<String>| number(check, &path, field, text, 0.0..=1_000_000.0);
        let (input, output) = (price("input", raw.input), price("output", raw.output));
        let (cached_input, reasoning) =
            (price("cached_input", raw.cached_input), price("reasoning", raw.reasoning));
        for (field, given) in [("input", input), ("output", output)] {
            if given.is_none() {
                check.required(&format!("{path}.{field}"), "a price for a million tokens");
            }
        }
        let (input, output) = (input.unwrap_or(0.0), output.unwrap_or(0.0));
        list.push(Price {
            model,
            input,
            output,
            cached_input: cached_input.unwrap_or(input),
            reasoning: reasoning.unwrap_or(output),
        });
    }
    Prices(list)
}

pub(super) fn models(check: &mut Check, raw: Vec<RawModel>) -> Vec<ModelSeed> {
    let mut list: Vec<ModelSeed> = Vec::with_capacity(raw.len());
    rows_max(check, "models", raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let path = format!("models[{i}]");
        if raw.output_tokens.is_none() && raw.bytes_per_token.is_none() {
            check.fault(&path, "an estimate: output_tokens or bytes_per_token", "neither");
        }
        list.push(ModelSeed {
            model: model(check, &path, &raw.model, list.iter().map(|seed| &seed.model)),
            output_tokens: number(check, &path, "output_tokens", raw.output_tokens, 1.0..=1_000_000.0),
            bytes_per_token: number(check, &path, "bytes_per_token", raw.bytes_per_token, 0.1..=100.0),
        });
    }
    list
}

fn rows_max(check: &mut Check, path: &str, rows: usize) {
    if rows > ROWS_MAX {
        check.fault(path, "at most 1024 entries", rows);
    }
}

/// Parses a model's name, or a prefix followed by `*`. Warns if an earlier entry covers the same names, because only
/// the first entry that matches a model applies.
fn model<'a>(
    check: &mut Check,
    path: &str,
    text: &str,
    mut earlier: impl Iterator<Item = &'a Matcher>,
) -> Matcher {
    if text.is_empty() || text.trim_end_matches('*').contains('*') || text.ends_with("**") || text.len() > 256
    {
        let expected = "a model's name of 1..256 bytes, or a prefix followed by one *";
        check.fault(&format!("{path}.model"), expected, format!("{text:?}"));
    }
    let matcher = text
        .strip_suffix('*')
        .map_or_else(|| Matcher::OneOf(vec![text.to_owned()]), |prefix| Matcher::Prefix(prefix.to_owned()));
    if let Some(wide) = earlier.find(|wide| super::conditions::implies(&matcher, wide)) {
        check.warn(&format!("{path}.model"), &format!("never applies: an earlier entry covers what {wide}"));
    }
    matcher
}

fn number(
    check: &mut Check,
    path: &str,
    field: &str,
    text: Option<String>,
    range: std::ops::RangeInclusive<f64>,
) -> Option<f64> {
    let text = text?;
    let number = text.parse().ok().filter(|number| range.contains(number));
    if number.is_none() {
        let expected = format!("{}..{}", range.start(), range.end());
        check.fault(&format!("{path}.{field}"), &expected, format!("{text:?}"));
    }
    // Returns a number even if the text is invalid, so that the caller does not also report it as missing.
    number.or(Some(*range.start()))
}

pub(super) fn limit_headers(raw: Option<&[RawLimitHeader]>) -> LimitHeaders {
    let headers = raw.unwrap_or(&[RawLimitHeader::Ietf]);
    LimitHeaders { ietf: headers.contains(&RawLimitHeader::Ietf), x: headers.contains(&RawLimitHeader::X) }
}

pub(super) fn quota_admins(check: &mut Check, raw: Vec<String>) -> Vec<String> {
    rows_max(check, "quota_admins", raw.len());
    for (i, name) in raw.iter().enumerate() {
        let path = format!("quota_admins[{i}]");
        check.name(&path, name);
        if raw[..i].contains(name) {
            check.fault(&path, "named once", format!("{name:?} again"));
        }
    }
    raw
}

pub(super) fn ledger(check: &mut Check, raw: RawLedger) -> LedgerOptions {
    let hour = Duration::from_secs(3600);
    let (min, max, default) = (hour, hour * 24 * 400, hour * 24 * 35);
    let retention = raw.retention.as_deref().map(|text| {
        let parsed = text.parse::<humantime_serde::re::humantime::Duration>().ok().map(Duration::from);
        parsed.filter(|time| (min..=max).contains(time)).unwrap_or_else(|| {
            check.fault("ledger.retention", "1h..400d", format!("{text:?}"));
            default
        })
    });
    let mut whole = |field: &str, text: Option<String>, default: usize, max: usize| {
        let Some(text) = text else { return default };
        text.parse().ok().filter(|n| (LEDGER_MIN..=max).contains(n)).unwrap_or_else(|| {
            check.fault(&format!("ledger.{field}"), &format!("{LEDGER_MIN}..{max}"), format!("{text:?}"));
            default
        })
    };
    LedgerOptions {
        enabled: raw.enabled.unwrap_or(true),
        retention: retention.unwrap_or(default),
        sessions_max: whole("sessions_max", raw.sessions_max, 10_000, 1_000_000),
        rows_max: whole("rows_max", raw.rows_max, 100_000, 1_000_000),
        ..LedgerOptions::default()
    }
}
