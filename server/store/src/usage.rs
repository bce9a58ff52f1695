//! Stores usage: the sums of each day, and the sessions with their turns. [`super::memory`] and [`super::redis`] give
//! the same answers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    settings::LedgerOptions,
    usage::{Day, RowKey, SessionKey, SessionSum, Turn, Usage},
};

/// Number of parts that the sessions are distributed over, by a hash of their key. Each part has its own cluster slot
/// and script call.
pub const SESSION_PARTS: u8 = 16;
/// Maximum number of sessions of a day that one call drops.
pub const TRIM_MAX: usize = 1000;
/// Maximum number of sessions that one call of [`UsageStore::add_sessions`] deletes.
pub const FORGET_MAX: usize = 200;

/// Bounds of the stored usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageBounds {
    /// How long the store retains a day after the day's end, and a session after its last turn.
    pub retention: Duration,
    pub rows_max: usize,
    /// Maximum number of sessions in a day's list, and the approximate maximum of sessions stored with their turns.
    pub sessions_max: usize,
    /// Maximum number of turns stored per session.
    pub turns_max: usize,
}

impl From<&LedgerOptions> for UsageBounds {
    fn from(options: &LedgerOptions) -> Self {
        Self {
            retention: options.retention,
            rows_max: options.rows_max.max(1),
            sessions_max: options.sessions_max.max(1),
            turns_max: options.turns_max.min(1000),
        }
    }
}

impl UsageBounds {
    /// Returns the number of rows at which a day stops adding rows. The usage of a new row is then added to the row
    /// `(other)` of its model, or to the row `(other)` of all models.
    #[must_use]
    pub fn rows_own_max(&self) -> usize {
        self.rows_max - self.rows_max.div_ceil(10).min(1000)
    }

    /// Returns the number of a day's sessions that remain when there are more than [`Self::sessions_max`]. One call
    /// drops several sessions. If it dropped only one, each new session would be dropped before it had gathered enough
    /// tokens to stay.
    #[must_use]
    pub fn sessions_left(&self) -> usize {
        self.sessions_max * 9 / 10
    }

    /// Returns the maximum number of sessions in one part.
    #[must_use]
    pub fn part_max(&self) -> usize {
        self.sessions_max.div_ceil(usize::from(SESSION_PARTS))
    }

    /// Returns the time to live of a day's keys.
    #[must_use]
    pub fn day_ttl(&self, day: Day, now_ms: u64) -> Duration {
        let end = Duration::from_millis(day.plus(1).start_ms()) + self.retention;
        // At least one hour, for usage that an outage has delayed beyond the retention.
        end.saturating_sub(Duration::from_millis(now_ms)).max(Duration::from_secs(3600))
    }
}

/// Returns the part of a session: FNV-1a, mixed once more, because the last bytes of the key affect few bits of the
/// hash. All versions and stores must compute the same part.
#[must_use]
pub fn session_part(key: &str) -> u8 {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    ((mixed >> 33) % u64::from(SESSION_PARTS)) as u8
}

/// The id of a flush. It makes the call idempotent. An instance sends rising numbers to each day and each part. It
/// sends the next number only after the store has confirmed the last one.
#[derive(Clone, Debug)]
pub struct FlushId {
    /// Random id of the process.
    pub instance: Arc<str>,
    pub sequence: u64,
    /// The time by the sidecar's clock.
    pub now_ms: u64,
}

/// Sums to add to one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayBatch {
    pub rows: Vec<(RowKey, Usage)>,
    pub sessions: Vec<(SessionKey, SessionSum)>,
}

/// Sums and turns to add to one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionUpdate {
    pub sum: SessionSum,
    /// The turns to store, oldest first.
    pub turns: Vec<Turn>,
}

/// The result of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether the flush had been applied before, so that nothing was added.
    pub repeated: bool,
    /// Number of requests counted under `(other)`, because the day had too many rows.
    pub folded: u64,
    /// Number of sessions dropped, because there were too many.
    pub dropped: u64,
}

/// A chunk of a day's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Keys and their sums so far. A later chunk may repeat a row with newer sums.
    pub rows: Vec<(RowKey, Usage)>,
    /// Position of the next chunk. `None` at the end.
    pub next: Option<u64>,
}

#[async_trait]
pub trait UsageStore: Send + Sync + 'static {
    /// Adds a batch to a day, unless this flush or a later one of the same instance has been added already.
    ///
    /// At [`UsageBounds::rows_own_max`] rows, new rows are folded into the row `(other)` of their model. The last
    /// free row is reserved for `(other)` of all models. If there are more than [`UsageBounds::sessions_max`] sessions,
    /// the call drops those with the fewest tokens, down to [`UsageBounds::sessions_left`], but at most [`TRIM_MAX`].
    async fn add_day(&self, id: &FlushId, day: Day, batch: &DayBatch) -> Result<Applied, StoreError>;

    /// Adds a batch to the sessions of one part, unless the flush has been added already. Then deletes at most
    /// [`FORGET_MAX`] sessions: those with the oldest last turns if the part has more than [`UsageBounds::part_max`],
    /// else those without a turn for longer than the retention.
    async fn add_sessions(
        &self,
        id: &FlushId,
        part: u8,
        batch: &[(SessionKey, SessionUpdate)],
    ) -> Result<Applied, StoreError>;

    /// Reads a chunk of a day's rows. The first chunk starts at `from` 0. May miss rows that are added in the meantime.
    async fn rows(&self, day: Day, from: u64) -> Result<Rows, StoreError>;

    /// Returns a day's sessions with at most `tokens_max` tokens, sorted by tokens and then by key, both descending.
    /// Skips the first `skip` sessions.
    async fn top_sessions(
        &self,
        day: Day,
        tokens_max: Option<u64>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<(SessionKey, SessionSum)>, StoreError>;

    /// Returns one session with its stored turns, oldest first. `None` if the session is not stored.
    async fn session(&self, key: &SessionKey) -> Result<Option<SessionUpdate>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_spread_over_the_parts() {
        let mut counts = [0; SESSION_PARTS as usize];
        for n in 0..16_000 {
            counts[usize::from(session_part(&format!("alice\u{1f}session-{n}")))] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let parts = ["", "alice\u{1f}s", "bob\u{1f}2"].map(session_part);
        assert_eq!(parts, [9, 7, 4], "all versions must agree");
    }

    #[test]
    fn the_last_rows_are_reserved_for_folded_usage() {
        let bounds = |rows_max| UsageBounds {
            retention: Duration::from_secs(86_400),
            rows_max,
            sessions_max: 10,
            turns_max: 5,
        };
        let own = |rows_max| bounds(rows_max).rows_own_max();
        assert_eq!([own(1), own(2), own(100), own(100_000)], [0, 1, 90, 99_000]);
        assert_eq!((bounds(1).sessions_left(), bounds(1).part_max()), (9, 1));
        let day = Day::parse("2026-11-21").unwrap();
        assert_eq!(bounds(1).day_ttl(day, day.start_ms()), Duration::from_secs(2 * 86_400));
        assert_eq!(bounds(1).day_ttl(day, day.plus(9).start_ms()), Duration::from_secs(3600));
    }
}
