//! Days of usage.

use std::fmt;

use crate::clock::DAY_MS;

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(u32);

impl Day {
    /// Returns the day that contains a time, given in ms since the Unix epoch.
    #[must_use]
    pub fn of_ms(ms: u64) -> Self {
        Self(u32::try_from(ms / DAY_MS).unwrap_or(u32::MAX))
    }

    /// Parses `2026-11-21`. Days before 1970 are invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 10 {
            return None;
        }
        let date: jiff::civil::Date = text.parse().ok()?;
        let since = date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1))).ok()?;
        u32::try_from(since.get_days()).ok().map(Self)
    }

    /// Returns the start of the day, in ms since the Unix epoch.
    #[must_use]
    pub fn start_ms(self) -> u64 {
        u64::from(self.0) * DAY_MS
    }

    #[must_use]
    pub fn plus(self, days: u32) -> Self {
        Self(self.0.saturating_add(days))
    }

    #[must_use]
    pub fn minus(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Returns the number of days from `self` to `other`. 0 if `other` is earlier.
    #[must_use]
    pub fn until(self, other: Self) -> u32 {
        other.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = jiff::Span::new().try_days(i64::from(self.0));
        let date = days.and_then(|days| jiff::civil::date(1970, 1, 1).checked_add(days));
        match date {
            Ok(date) => date.fmt(f),
            Err(_) => f.write_str("9999-12-31"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_parsed_and_counted() {
        assert_eq!(Day::of_ms(0).to_string(), "1970-01-01");
        let day = Day::parse("2026-11-21").unwrap();
        assert_eq!(day.to_string(), "2026-11-21");
        assert_eq!(Day::of_ms(day.start_ms()), day);
        assert_eq!(Day::of_ms(day.start_ms() - 1).to_string(), "2026-11-20");
        assert_eq!((day.plus(10).to_string().as_str(), day.until(day.plus(3))), ("2026-12-01", 3));
        assert_eq!(Day::parse("2024-02-29").unwrap().plus(1).to_string(), "2024-03-01");
        for wrong in ["", "today", "2026-11-31", "2026-1-1", "1969-12-31", "20261121", "2026-11-21T00"] {
            assert_eq!(Day::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Day::of_ms(u64::MAX).to_string(), "9999-12-31");
    }
}
