//! Formats usage as CSV (RFC 4180). Spreadsheets do not interpret any field as a formula.

use std::borrow::Cow;

use evenkeel_proto::{
    json::Named as _,
    v1::{Outcome, SessionRow, TokenUsage, Turn, Usage, UsageDimension, UsageRow},
};

/// Column names of [`Usage`].
const USAGE_COLUMNS: &str = "requests,estimated,input_tokens,output_tokens,cached_input_tokens,reasoning_tokens,\
                             total_tokens,cost_millionths,cost\r\n";

/// Formats millionths as a decimal: `1.25`, `0.000001`, `3`.
#[must_use]
pub fn decimal(millionths: u64) -> String {
    let text = format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Signs with which a formula begins, with their full-width forms, which spreadsheets of East Asian locales read alike.
const FORMULA: [char; 14] = [
    '=', '+', '-', '@', '|', '%', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\u{fe66}', '\u{fe62}',
    '\u{fe63}', '\u{fe6b}',
];

/// Formats a CSV field. A text that a spreadsheet would interpret as a formula gets a leading apostrophe, as OWASP
/// advises. Spreadsheets skip blanks and characters without a width before a formula.
#[must_use]
pub fn csv_field(text: &str) -> Cow<'_, str> {
    let is_blank = |c: char| c.is_whitespace() || c.is_control() || is_invisible(c);
    let formula =
        text.starts_with(['\t', '\r', '\n']) || text.trim_start_matches(is_blank).starts_with(FORMULA);
    if !formula && !text.contains([',', '"', '\n', '\r', ';', '\t']) {
        return Cow::Borrowed(text);
    }
    let apostrophe = if formula { "'" } else { "" };
    Cow::Owned(format!("\"{apostrophe}{}\"", text.replace('"', "\"\"")))
}

/// Returns whether a character has no width: joiners, marks of direction, the byte order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Formats a time, given in ms since the Unix epoch: `2026-11-21T15:04:05.123Z`.
#[must_use]
pub fn moment(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| format!("{at:.3}")).unwrap_or_default()
}

/// Returns the header line for usage that is grouped by these dimensions.
#[must_use]
pub fn usage_header(by: &[i32]) -> String {
    let dimensions = (1..5).filter(|dimension| by.contains(dimension));
    let names = dimensions.filter_map(UsageDimension::short_name).map(|name| format!("{name},"));
    names.collect::<String>() + USAGE_COLUMNS
}

/// Returns one line of usage.
#[must_use]
pub fn usage_row(row: &UsageRow) -> String {
    let names = [&row.day, &row.consumer, &row.model, &row.route];
    let names = names.into_iter().flatten().map(|name| format!("{},", csv_field(name)));
    let UsageRow { requests, estimated, tokens, cost, .. } = row;
    names.collect::<String>() + &usage(*requests, *estimated, *tokens, *cost)
}

fn usage(requests: u64, estimated: u64, tokens: Option<TokenUsage>, cost: u64) -> String {
    let TokenUsage { input, output, cached_input, reasoning, total } = tokens.unwrap_or_default();
    let decimal = decimal(cost);
    format!("{requests},{estimated},{input},{output},{cached_input},{reasoning},{total},{cost},{decimal}\r\n")
}

#[must_use]
pub fn sessions(sessions: &[SessionRow]) -> String {
    let lines = sessions.iter().map(|row| {
        let (session, consumer) = (csv_field(&row.session), csv_field(&row.consumer));
        let Usage { requests, estimated, tokens, cost } = row.usage.unwrap_or_default();
        let usage = usage(requests, estimated, tokens, cost);
        format!("{session},{consumer},{},{usage}", moment(row.last_ms))
    });
    format!("session,consumer,last,{USAGE_COLUMNS}") + &lines.collect::<String>()
}

/// Returns the turns of a session, with a header line.
#[must_use]
pub fn turns(turns: &[Turn]) -> String {
    let header = "at,model,route,status,outcome,input_tokens,output_tokens,cached_input_tokens,reasoning_tokens,\
                  estimated,cost_millionths,cost,first_token_ms,total_ms\r\n";
    let lines = turns.iter().map(|turn| {
        let Turn { status, estimated, cost, first_token_ms, total_ms, .. } = turn;
        let TokenUsage { input, output, cached_input, reasoning, .. } = turn.tokens.unwrap_or_default();
        let (at, model, route) = (moment(turn.at_ms), csv_field(&turn.model), csv_field(&turn.route));
        let (outcome, decimal) = (Outcome::short_name(turn.outcome).unwrap_or("unknown"), decimal(*cost));
        format!(
            "{at},{model},{route},{status},{outcome},{input},{output},{cached_input},{reasoning},{estimated},\
             {cost},{decimal},{first_token_ms},{total_ms}\r\n"
        )
    });
    header.to_owned() + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_shown_as_decimals() {
        let cases = [(0, "0"), (1, "0.000001"), (1_250_000, "1.25"), (3_000_000, "3"), (10_000_000, "10")];
        for (millionths, text) in cases {
            assert_eq!(decimal(millionths), text);
        }
        assert_eq!(moment(1_795_000_000_123), "2026-11-18T11:06:40.123Z");
    }

    #[test]
    fn no_field_is_a_formula_or_ends_early() {
        let cases = [
            ("gpt-5", "gpt-5"),
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            (" =1+1", "\"' =1+1\""),
            ("\u{a0}\u{3000}\u{200b}-1", "\"'\u{a0}\u{3000}\u{200b}-1\""),
            ("\u{feff}@x", "\"'\u{feff}@x\""),
            ("\u{ff1d}1", "\"'\u{ff1d}1\""),
            ("\n=1", "\"'\n=1\""),
            ("a =1", "a =1"),
            ("  x", "  x"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("", ""),
        ];
        for (text, field) in cases {
            assert_eq!(csv_field(text), field);
        }
    }

    #[test]
    fn a_line_has_the_columns_of_its_header() {
        let by = [UsageDimension::Model.into(), UsageDimension::Day.into()];
        let (day, model) = (Some("2026-11-21".to_owned()), Some("m".to_owned()));
        let row = UsageRow { day, model, requests: 2, cost: 1_500_000, ..UsageRow::default() };
        assert!(usage_header(&by).starts_with("day,model,requests,"));
        assert_eq!(usage_row(&row), "2026-11-21,m,2,0,0,0,0,0,0,1500000,1.5\r\n");
        assert_eq!(usage_header(&by).matches(',').count(), usage_row(&row).matches(',').count());
        for text in [sessions(&[SessionRow::default()]), turns(&[Turn::default()])] {
            let commas: Vec<usize> = text.lines().map(|line| line.matches(',').count()).collect();
            assert_eq!((commas.len(), commas[0]), (2, commas[1]), "{text}");
        }
    }
}
