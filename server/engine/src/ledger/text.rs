//! Usage as text: decimals, and CSV (RFC 4180) without formulas for spreadsheets.

use std::{borrow::Cow, fmt::Write as _};

use evenkeel_domain::usage::{SessionKey, SessionSum, Turn, Usage};

use super::query::{By, Row};

/// The columns of [`Usage`] in CSV.
const USAGE_COLUMNS: &str = "requests,estimated,input_tokens,output_tokens,cached_input_tokens,reasoning_tokens,total_tokens,cost_millionths,cost";

/// Formats millionths as a decimal: `1.25`, `0.000001`, `3`.
#[must_use]
pub fn decimal(millionths: u64) -> String {
    let text = format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Quotes a field of CSV. A text that a spreadsheet would read as a formula gets a leading apostrophe, as OWASP
/// advises.
#[must_use]
pub fn csv_field(text: &str) -> Cow<'_, str> {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !formula && !text.contains([',', '"', '\n', '\r', ';', '\t']) {
        return Cow::Borrowed(text);
    }
    let apostrophe = if formula { "'" } else { "" };
    Cow::Owned(format!("\"{apostrophe}{}\"", text.replace('"', "\"\"")))
}

fn columns(by: By) -> [(bool, &'static str); 4] {
    [(by.day, "day"), (by.consumer, "consumer"), (by.model, "model"), (by.route, "route")]
}

/// Returns the header line of usage grouped by these dimensions.
#[must_use]
pub fn csv_usage_header(by: By) -> String {
    let mut line = String::new();
    for (grouped, name) in columns(by) {
        if grouped {
            line.push_str(name);
            line.push(',');
        }
    }
    line + USAGE_COLUMNS + "\r\n"
}

/// Writes one line of usage.
pub fn csv_usage_row(out: &mut String, by: By, row: &Row) {
    let day = row.day.map(|day| day.to_string()).unwrap_or_default();
    let [consumer, model, route] = row.names();
    for ((grouped, _), value) in columns(by).into_iter().zip([day.as_str(), consumer, model, route]) {
        if grouped {
            out.push_str(&csv_field(value));
            out.push(',');
        }
    }
    csv_usage(out, &row.usage);
}

fn csv_usage(out: &mut String, usage: &Usage) {
    let Usage { requests, estimated, tokens: t, cost } = usage;
    let _ = write!(
        out,
        "{requests},{estimated},{},{},{},{},{},{cost},{}\r\n",
        t.input,
        t.output,
        t.cached_input,
        t.reasoning,
        t.total(),
        decimal(*cost)
    );
}

/// Returns the header line of sessions.
#[must_use]
pub fn csv_sessions_header() -> String {
    format!("session,consumer,last,{USAGE_COLUMNS}\r\n")
}

/// Writes one line of a session.
pub fn csv_session_row(out: &mut String, key: &SessionKey, sum: &SessionSum) {
    let (session, consumer) = (csv_field(key.session()), csv_field(key.consumer()));
    let _ = write!(out, "{session},{consumer},{},", moment(sum.last_ms));
    csv_usage(out, &sum.usage);
}

/// Returns the header line of turns.
#[must_use]
pub fn csv_turns_header() -> String {
    "at,model,route,status,outcome,input_tokens,output_tokens,cached_input_tokens,reasoning_tokens,estimated,\
     cost_millionths,cost,first_token_ms,total_ms\r\n"
        .to_owned()
}

/// Writes one line of a turn.
pub fn csv_turn_row(out: &mut String, turn: &Turn) {
    let t = &turn.tokens;
    let _ = write!(
        out,
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{}\r\n",
        moment(turn.at_ms),
        csv_field(&turn.model),
        csv_field(&turn.route),
        turn.status,
        turn.outcome.name(),
        t.input,
        t.output,
        t.cached_input,
        t.reasoning,
        turn.estimated,
        turn.cost,
        decimal(turn.cost),
        turn.first_token_ms,
        turn.total_ms
    );
}

/// Formats a time for people and spreadsheets: `2026-11-21T15:04:05.123Z`.
#[must_use]
pub fn moment(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| format!("{at:.3}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::usage::Day;

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
        let by = By { day: true, model: true, ..By::default() };
        let usage = Usage { requests: 2, cost: 1_500_000, ..Usage::default() };
        let mut out = csv_usage_header(by);
        csv_usage_row(&mut out, by, &Row::new(Day::parse("2026-11-21"), "", "m", "", usage));
        let lines: Vec<&str> = out.split("\r\n").collect();
        assert_eq!(lines[0], format!("day,model,{USAGE_COLUMNS}"));
        assert_eq!(lines[1], "2026-11-21,m,2,0,0,0,0,0,0,1500000,1.5");
        assert_eq!(lines[0].matches(',').count(), lines[1].matches(',').count());
        let turn = Turn {
            at_ms: 0,
            model: "m".into(),
            route: "r".into(),
            status: 200,
            outcome: evenkeel_domain::usage::Outcome::Success,
            tokens: evenkeel_domain::limit::price::Tokens::default(),
            estimated: false,
            cost: 0,
            first_token_ms: 0,
            total_ms: 0,
        };
        let mut line = String::new();
        csv_turn_row(&mut line, &turn);
        assert_eq!(csv_turns_header().matches(',').count(), line.matches(',').count());
        let mut line = String::new();
        csv_session_row(&mut line, &SessionKey::new("c", "s"), &SessionSum::default());
        assert_eq!(csv_sessions_header().matches(',').count(), line.matches(',').count());
    }
}
