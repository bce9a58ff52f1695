//! Usage: requests, tokens and cost, by day, consumer, model, route and session.

use std::sync::Arc;

use crate::limit::price::Tokens;

mod day;
mod keys;

pub use day::Day;
pub use keys::{NONE, OTHER, RowKey, SEPARATOR, SESSION_BYTES_MAX, SessionKey, write_row, write_session};

/// Maximum of a count: the largest integer that Lua and JSON represent exactly.
const COUNT_MAX: u64 = (1 << 53) - 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Number of requests that have ended.
    pub requests: u64,
    /// Number of requests whose tokens were estimated.
    pub estimated: u64,
    pub tokens: Tokens,
    /// Cost, in millionths of the price table's currency unit.
    pub cost: u64,
}

impl Usage {
    /// Returns the counts in the order in which stores save them.
    #[must_use]
    pub fn counts(&self) -> [u64; 7] {
        let t = &self.tokens;
        [self.requests, self.estimated, t.input, t.output, t.cached_input, t.reasoning, self.cost]
    }

    /// Builds the usage from counts in the order of [`Self::counts`].
    #[must_use]
    pub fn from_counts(c: [u64; 7]) -> Self {
        let tokens = Tokens { input: c[2], output: c[3], cached_input: c[4], reasoning: c[5] };
        Self { requests: c[0], estimated: c[1], tokens, cost: c[6] }
    }
}

impl std::ops::AddAssign for Usage {
    /// Adds each count, up to 2^53 - 1.
    fn add_assign(&mut self, other: Self) {
        let (mut sum, other) = (self.counts(), other.counts());
        for (count, more) in sum.iter_mut().zip(other) {
            *count = count.saturating_add(more).min(COUNT_MAX);
        }
        *self = Self::from_counts(sum);
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The gateway did not report the outcome.
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
    /// The client disconnected before the response ended.
    ClientAbort,
    /// A timeout of the gateway expired.
    Timeout,
    /// The gateway never sent the request upstream.
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

    /// Returns the outcome's number in stores and in the API.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the outcome with this number. An unknown number is [`Self::Unknown`].
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number).ok().and_then(|n| Self::ALL.get(n).copied()).unwrap_or_default()
    }

    /// Returns the outcome's name in the API's JSON.
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

/// One request of a session, without prompt and response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Time when the request ended, in ms since the Unix epoch.
    pub at_ms: u64,
    pub model: Arc<str>,
    pub route: Arc<str>,
    /// HTTP status that the client received. 0: the client received none.
    pub status: u16,
    pub outcome: Outcome,
    pub tokens: Tokens,
    /// Whether the tokens were estimated.
    pub estimated: bool,
    /// Cost, in millionths of the price table's currency unit.
    pub cost: u64,
    /// Time from Admit to the first byte of the response body. 0: the response had no body.
    pub first_token_ms: u64,
    /// Time from Admit to the end of the request.
    pub total_ms: u64,
}

/// The usage of a session, and the time of its last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionSum {
    /// Time when the last turn ended, in ms since the Unix epoch.
    pub last_ms: u64,
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
    fn sums_stop_at_the_largest_exact_count() {
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
