//! Periods: a duration, or a calendar unit in a time zone.

use std::{fmt, time::Duration};

use jiff::{Timestamp, ToSpan as _, Zoned, tz::TimeZone};

use super::rule::Window;

/// The time after which an amount becomes available again.
#[derive(Clone, Debug, PartialEq)]
pub enum Period {
    /// A duration. Fixed windows start at multiples of the duration since the Unix epoch.
    Length(Duration),
    Calendar {
        unit: CalendarUnit,
        zone: TimeZone,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalendarUnit {
    /// From midnight to midnight: 23 to 25 hours.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first day of a month to the first day of the next.
    Month,
}

impl Period {
    /// Returns the windows around `now_ms`, which is in ms since the Unix epoch.
    pub fn window(&self, now_ms: u64) -> Window {
        match self {
            Self::Length(length) => Window::Length(length.as_millis() as u64),
            Self::Calendar { unit, zone } => {
                let this = start(*unit, zone, now_ms);
                let before = start(*unit, zone, ms(&this).saturating_sub(1));
                let after = next(*unit, &this);
                let later = next(*unit, &after);
                Window::Edges([ms(&before), ms(&this), ms(&after), ms(&later)])
            }
        }
    }

    /// Returns the duration, or the maximum duration of a calendar unit.
    pub fn longest(&self) -> Duration {
        match self {
            Self::Length(length) => *length,
            Self::Calendar { unit: CalendarUnit::Day, .. } => Duration::from_secs(25 * 3600),
            Self::Calendar { unit: CalendarUnit::Week, .. } => Duration::from_secs((7 * 24 + 1) * 3600),
            Self::Calendar { unit: CalendarUnit::Month, .. } => Duration::from_secs((31 * 24 + 1) * 3600),
        }
    }

    /// Returns the seconds for the `RateLimit-Policy` header. For a calendar unit, this is its usual duration.
    pub fn policy_seconds(&self) -> u64 {
        match self {
            Self::Length(length) => length.as_secs(),
            Self::Calendar { unit: CalendarUnit::Day, .. } => 86_400,
            Self::Calendar { unit: CalendarUnit::Week, .. } => 7 * 86_400,
            Self::Calendar { unit: CalendarUnit::Month, .. } => 30 * 86_400,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => f.write_str(&units(*length)),
            Self::Calendar { unit, zone } => {
                let unit = match unit {
                    CalendarUnit::Day => "day",
                    CalendarUnit::Week => "week",
                    CalendarUnit::Month => "month",
                };
                write!(f, "{unit} in {}", zone.iana_name().unwrap_or("UTC"))
            }
        }
    }
}

/// Formats a duration in days and smaller units, because months and years vary in duration.
fn units(length: Duration) -> String {
    let mut left = length.as_secs();
    let mut parts = Vec::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if left >= seconds {
            parts.push(format!("{}{unit}", left / seconds));
            left %= seconds;
        }
    }
    parts.join(" ")
}

/// Returns the start of the unit that contains `at_ms`.
fn start(unit: CalendarUnit, zone: &TimeZone, at_ms: u64) -> Zoned {
    let at =
        Timestamp::from_millisecond(at_ms as i64).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone());
    let date = at.date();
    let first = match unit {
        CalendarUnit::Day => date,
        CalendarUnit::Week => date.saturating_sub(i64::from(date.weekday().to_monday_zero_offset()).days()),
        CalendarUnit::Month => date.first_of_month(),
    };
    // If this midnight does not exist in the time zone, `to_zoned` returns the first time after it.
    first.to_zoned(zone.clone()).unwrap_or(at)
}

fn next(unit: CalendarUnit, from: &Zoned) -> Zoned {
    let span = match unit {
        CalendarUnit::Day => 1.day(),
        CalendarUnit::Week => 1.week(),
        CalendarUnit::Month => 1.month(),
    };
    from.date().saturating_add(span).to_zoned(from.time_zone().clone()).unwrap_or_else(|_| from.clone())
}

fn ms(at: &Zoned) -> u64 {
    u64::try_from(at.timestamp().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(unit: CalendarUnit, zone: &str, at: &str) -> Vec<String> {
        let zone = TimeZone::get(zone).unwrap();
        let at: Timestamp = at.parse().unwrap();
        let period = Period::Calendar { unit, zone: zone.clone() };
        let Window::Edges(edges) = period.window(at.as_millisecond() as u64) else { panic!("no edges") };
        let local = |ms: u64| Timestamp::from_millisecond(ms as i64).unwrap().to_zoned(zone.clone());
        edges.iter().map(|ms| local(*ms).strftime("%Y-%m-%dT%H:%M%:z").to_string()).collect()
    }

    #[test]
    fn months_start_on_the_first_at_local_midnight() {
        assert_eq!(
            edges(CalendarUnit::Month, "Europe/Berlin", "2026-03-31T22:30:00Z"),
            [
                "2026-03-01T00:00+01:00",
                "2026-04-01T00:00+02:00",
                "2026-05-01T00:00+02:00",
                "2026-06-01T00:00+02:00"
            ]
        );
    }

    #[test]
    fn a_day_may_have_23_hours() {
        assert_eq!(
            edges(CalendarUnit::Day, "Europe/Berlin", "2026-03-29T10:00:00Z"),
            [
                "2026-03-28T00:00+01:00",
                "2026-03-29T00:00+01:00",
                "2026-03-30T00:00+02:00",
                "2026-03-31T00:00+02:00"
            ]
        );
    }

    #[test]
    fn weeks_start_on_monday() {
        assert_eq!(
            edges(CalendarUnit::Week, "UTC", "2026-11-22T23:59:59Z")[1..3],
            ["2026-11-16T00:00+00:00", "2026-11-23T00:00+00:00"]
        );
    }

    /// Guards against "1month 13h 26m 24s" for a duration beyond 30 days.
    #[test]
    fn lengths_are_shown_in_days_and_smaller_units() {
        let text = |seconds| Period::Length(Duration::from_secs(seconds)).to_string();
        assert_eq!([text(1), text(60), text(5400), text(86_400)], ["1s", "1m", "1h 30m", "1d"]);
        assert_eq!([text(31 * 86_400), text(30 * 86_400 + 86_399)], ["31d", "30d 23h 59m 59s"]);
    }
}
