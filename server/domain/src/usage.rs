//! Usage: what was asked for by whom, of which model, over which route, on which day, in which session.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{NAME_BYTES_MAX, limit::price::Tokens};
use crate::clean;
use crate::clock::DAY_MS;

/// Longest session id kept, in bytes.
pub const SESSION_BYTES_MAX: usize = 128;
/// Stands for the names that found no place of their own.
pub const OTHER: &str = "(other)";
/// How an empty name is shown, and may be asked for.
pub const NONE: &str = "(none)";
/// Between the names in a key. No name contains it: control characters are replaced.
pub const SEPARATOR: char = '\u{1f}';
/// Largest count kept: the largest integer that Lua and JSON hold exactly.
const COUNT_MAX: u64 = (1 << 53) - 1;

/// A day by UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(u32);

impl Day {
    /// The day a moment lies in; ms of the Unix epoch.
    #[must_use]
    pub fn of_ms(ms: u64) -> Self {
        Self(u32::try_from(ms / DAY_MS).unwrap_or(u32::MAX))
    }

    /// Reads `2026-11-21`; nothing before 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 10 {
            return None;
        }
        let date: jiff::civil::Date = text.parse().ok()?;
        let since = date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1))).ok()?;
        u32::try_from(since.get_days()).ok().map(Self)
    }

    /// Its first moment, in ms of the Unix epoch.
    #[must_use]
    pub fn start_ms(self) -> u64 {
        u64::from(self.0) * DAY_MS
    }

    /// The day so many days later.
    #[must_use]
    pub fn plus(self, days: u32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// The day so many days earlier.
    #[must_use]
    pub fn minus(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Days from `self` to `other`; 0 where it is earlier.
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

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Requests that ended.
    pub requests: u64,
    /// Those of them whose tokens were reckoned.
    pub estimated: u64,
    /// Tokens by kind.
    pub tokens: Tokens,
    /// Cost in millionths of the price table's currency.
    pub cost: u64,
}

impl Usage {
    /// Its counts in the order in which stores keep them.
    #[must_use]
    pub fn counts(&self) -> [u64; 7] {
        let t = &self.tokens;
        [self.requests, self.estimated, t.input, t.output, t.cached_input, t.reasoning, self.cost]
    }

    /// The inverse of [`Self::counts`].
    #[must_use]
    pub fn from_counts(c: [u64; 7]) -> Self {
        let tokens = Tokens { input: c[2], output: c[3], cached_input: c[4], reasoning: c[5] };
        Self { requests: c[0], estimated: c[1], tokens, cost: c[6] }
    }
}

impl std::ops::AddAssign for Usage {
    /// No count goes beyond 2^53 - 1.
    fn add_assign(&mut self, other: Self) {
        let (mut sum, other) = (self.counts(), other.counts());
        for (count, more) in sum.iter_mut().zip(other) {
            *count = count.saturating_add(more).min(COUNT_MAX);
        }
        *self = Self::from_counts(sum);
    }
}

/// Consumer, model and route.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey(Arc<str>);

impl RowKey {
    /// Cleans and joins the names; see [`clean`].
    #[must_use]
    pub fn new(consumer: &str, model: &str, route: &str) -> Self {
        let mut key = String::with_capacity(consumer.len() + model.len() + route.len() + 2);
        write_row(&mut key, consumer, model, route);
        Self(key.into())
    }

    /// Of the text of another key; `None` where it has not three parts.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        (text.matches(SEPARATOR).count() == 2).then(|| Self(text.into()))
    }

    /// Its parts, separated.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Consumer, model and route.
    #[must_use]
    pub fn names(&self) -> [&str; 3] {
        let mut parts = self.0.splitn(3, SEPARATOR);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// Where the usage of this key goes that finds no place: others of the same model.
    #[must_use]
    pub fn folded(&self) -> Self {
        Self::new(OTHER, self.names()[1], OTHER)
    }

    /// Where it goes that finds no place there either.
    #[must_use]
    pub fn other() -> Self {
        Self::new(OTHER, OTHER, OTHER)
    }
}

/// Consumer and session.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// Cleans and joins the names; see [`clean`].
    #[must_use]
    pub fn new(consumer: &str, session: &str) -> Self {
        let mut key = String::with_capacity(consumer.len() + session.len() + 1);
        write_session(&mut key, consumer, session);
        Self(key.into())
    }

    /// Of the text of another key; `None` where it has not two parts.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        (text.matches(SEPARATOR).count() == 1).then(|| Self(text.into()))
    }

    /// Its parts, separated.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whose.
    #[must_use]
    pub fn consumer(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or("", |(consumer, _)| consumer)
    }

    /// Its id.
    #[must_use]
    pub fn session(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or("", |(_, session)| session)
    }
}

impl Borrow<str> for RowKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SessionKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey{:?}", self.names())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({:?}, {:?})", self.consumer(), self.session())
    }
}

/// Writes the text of a [`RowKey`].
pub fn write_row(out: &mut String, consumer: &str, model: &str, route: &str) {
    out.push_str(&clean(consumer, NAME_BYTES_MAX));
    out.push(SEPARATOR);
    out.push_str(&clean(model, NAME_BYTES_MAX));
    out.push(SEPARATOR);
    out.push_str(&clean(route, NAME_BYTES_MAX));
}

/// Writes the text of a [`SessionKey`].
pub fn write_session(out: &mut String, consumer: &str, session: &str) {
    out.push_str(&clean(consumer, NAME_BYTES_MAX));
    out.push(SEPARATOR);
    out.push_str(&clean(session, SESSION_BYTES_MAX));
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not told.
    #[default]
    Unknown,
    /// A complete response with a status below 400.
    Success,
    /// A complete response with a status from 400 to 499.
    ClientError,
    /// A complete response with a status of 500 or above.
    ServerError,
    /// The upstream reset the stream or could not be reached.
    UpstreamReset,
    /// The client went away.
    ClientAbort,
    /// A timeout of the gateway.
    Timeout,
    /// Never sent upstream.
    NotSent,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Success,
        Self::ClientError,
        Self::ServerError,
        Self::UpstreamReset,
        Self::ClientAbort,
        Self::Timeout,
        Self::NotSent,
    ];

    /// Its number in stores and in the API.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Self::number`]; what is not known is [`Self::Unknown`].
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number).ok().and_then(|n| Self::ALL.get(n).copied()).unwrap_or_default()
    }

    /// Its name in the API's JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::UpstreamReset => "upstream_reset",
            Self::ClientAbort => "client_abort",
            Self::Timeout => "timeout",
            Self::NotSent => "not_sent",
        }
    }
}

/// One request of a session, without any content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When it ended, ms of the Unix epoch.
    pub at_ms: u64,
    /// Model.
    pub model: Arc<str>,
    /// Route.
    pub route: Arc<str>,
    /// HTTP status; 0 when none.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Tokens by kind.
    pub tokens: Tokens,
    /// The tokens were reckoned.
    pub estimated: bool,
    /// Cost in millionths of the price table's currency.
    pub cost: u64,
    /// Time to the first byte of the response body; 0 when there was none.
    pub first_token_ms: u64,
    /// Time to its end.
    pub total_ms: u64,
}

/// What a session used, and when it was last heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionSum {
    /// When its last turn ended, ms of the Unix epoch.
    pub last_ms: u64,
    /// How much it used.
    pub usage: Usage,
}

impl std::ops::AddAssign for SessionSum {
    fn add_assign(&mut self, other: Self) {
        self.last_ms = self.last_ms.max(other.last_ms);
        self.usage += other.usage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
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

    #[test]
    fn keys_hold_clean_names() {
        let key = RowKey::new("a\u{1f}b", "", "r|");
        assert_eq!(key.names(), ["a\u{fffd}b", "", "r|"]);
        assert_eq!(RowKey::from_text(key.as_str()), Some(key));
        assert_eq!(RowKey::from_text("a"), None);
        let key = SessionKey::new("c", &"s".repeat(200));
        assert_eq!((key.consumer(), key.session().len()), ("c", 128));
    }

    #[test]
    fn sums_stop_at_what_is_exact() {
        let mut sum = Usage { cost: COUNT_MAX - 1, ..Usage::default() };
        sum += Usage { requests: 1, cost: 5, ..Usage::default() };
        assert_eq!((sum.requests, sum.cost), (1, COUNT_MAX));
    }

    #[test]
    fn outcomes_keep_their_numbers() {
        for (number, outcome) in (0..).zip(Outcome::ALL) {
            assert_eq!(i32::from(outcome.number()), number);
            assert_eq!(Outcome::from_number(number), outcome);
        }
        assert_eq!(Outcome::from_number(99), Outcome::Unknown);
        assert_eq!(Outcome::from_number(-1), Outcome::Unknown);
    }
}
