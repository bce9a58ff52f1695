//! Counts the requests that go on without an answer. The lists report them: operators must see that no limit applies.

use evenkeel_proto::v1::{Unanswered, UnansweredCounts};

use super::connection::{Connection, State};

/// A period ends when no request has gone on for this time, in which the stream was ready.
pub(super) const QUIET_MS: u64 = 30_000;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    /// The worker has no stream to a sidecar.
    Unreachable,
    /// The answer did not come in time.
    Late,
    /// The sidecar answered with an error.
    Failed,
}

/// The latest period in which requests have gone on.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Number of the period; 0 if there was none.
    period: u64,
    since_ms: u64,
    last_ms: u64,
    requests: UnansweredCounts,
    /// The requests in the last list.
    listed: UnansweredCounts,
    /// The requests in lists that a sidecar has answered.
    reported: UnansweredCounts,
}

impl Passed {
    /// Counts a request that goes on.
    pub(super) fn count(&mut self, cause: Cause, connection: &Connection, now_ms: u64) {
        if self.has_ended(connection, now_ms) {
            *self = Passed { period: self.period + 1, since_ms: now_ms, ..Passed::default() };
        }
        self.last_ms = now_ms;
        let counts = &mut self.requests;
        *match cause {
            Cause::Unreachable => &mut counts.unreachable,
            Cause::Late => &mut counts.late,
            Cause::Failed => &mut counts.failed,
        } += 1;
    }

    fn has_ended(&self, connection: &Connection, now_ms: u64) -> bool {
        let State::Ready { since_ms, .. } = connection.state else { return self.period == 0 };
        self.period == 0 || now_ms > self.last_ms.max(since_ms) + QUIET_MS
    }

    /// Returns the part of a list. Nothing is left to report once the period has ended and a sidecar has counted it.
    pub(super) fn list(&mut self, connection: &Connection, now_ms: u64) -> Option<Unanswered> {
        if self.has_ended(connection, now_ms) && self.reported == self.requests {
            return None;
        }
        self.listed = self.requests;
        Some(Unanswered {
            period: self.period,
            since_ms: now_ms - self.since_ms,
            last_ms: now_ms - self.last_ms,
            requests: Some(self.requests),
            reported: Some(self.reported),
        })
    }

    /// Records that a sidecar has answered the last list.
    pub(super) fn on_last_list_applied(&mut self) {
        self.reported = self.listed;
    }
}
