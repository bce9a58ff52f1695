//! Validates the fields `per` and `time_zone`.

use std::time::Duration;

use evenkeel_domain::limit::{Algorithm, CalendarUnit, Period};
use humantime_serde::re::humantime;

use crate::check::Check;

/// Maximum period: the duration of the longest month.
const PERIOD_MAX: Duration = Duration::from_secs(31 * 86_400);

/// Formats a value for an error message; `none` if there is no value.
fn got(value: Option<&str>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"))
}

/// A parsed `per`, without the time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Length(Duration),
    Calendar(CalendarUnit),
}

/// Parses a duration from `1s` to `31d` in whole seconds, or `day`, `week` or `month`.
fn parse_per(text: &str) -> Option<Per> {
    Some(match text {
        "day" => Per::Calendar(CalendarUnit::Day),
        "week" => Per::Calendar(CalendarUnit::Week),
        "month" => Per::Calendar(CalendarUnit::Month),
        _ => {
            let length: Duration = text.parse::<humantime::Duration>().ok()?.into();
            let whole = length.subsec_nanos() == 0 && !length.is_zero() && length <= PERIOD_MAX;
            whole.then_some(Per::Length(length))?
        }
    })
}

/// The kinds of period that an algorithm allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PeriodKind {
    Any,
    /// Only a duration. The text is the name of the algorithm in error messages.
    Length(&'static str),
    Nothing,
}

impl PeriodKind {
    pub(super) fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::FixedWindow => Self::Any,
            Algorithm::SlidingWindow => Self::Length("sliding_window"),
            Algorithm::TokenBucket { .. } => Self::Length("token_bucket"),
            Algorithm::Concurrency => Self::Nothing,
        }
    }
}

pub(super) fn period(
    check: &mut Check,
    path: &str,
    per: Option<&str>,
    time_zone: Option<&str>,
    kind: PeriodKind,
) -> Period {
    const PER: &str = "1s..31d, day, week or month";
    let (per_path, zone_path) = (format!("{path}.per"), format!("{path}.time_zone"));
    let anything = Period::Length(Duration::from_secs(60));
    if kind == PeriodKind::Nothing {
        for (path, given) in [(per_path, per), (zone_path, time_zone)] {
            if given.is_some() {
                check.fault(&path, "absent if algorithm is concurrency", got(given));
            }
        }
        return anything;
    }
    let parsed = per.and_then(parse_per);
    match (parsed, kind) {
        (None, _) => check.fault(&per_path, PER, got(per)),
        (Some(Per::Calendar(_)), PeriodKind::Length(algorithm)) => {
            check.fault(&per_path, &format!("1s..31d if algorithm is {algorithm}"), got(per));
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
            check.fault(&zone_path, "absent if per is a length of time", got(time_zone));
            anything
        }
        (Some(Per::Length(length)), None) => Period::Length(length),
        (None, _) => anything,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods() {
        let s = |n| Some(Per::Length(Duration::from_secs(n)));
        let cases = [
            ("1s", s(1)),
            ("1m", s(60)),
            ("1h 30m", s(5400)),
            ("31d", s(31 * 86_400)),
            ("month", Some(Per::Calendar(CalendarUnit::Month))),
            ("32d", None),
            ("0s", None),
            ("1500ms", None),
            ("60", None),
            ("year", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_per(text), expected, "{text}");
        }
    }
}
