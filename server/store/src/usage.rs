//! Where usage is kept. [`super::memory_usage`] and [`super::redis`] give the same answers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    settings::LedgerOptions,
    usage::{Day, RowKey, SessionKey, SessionSum, Turn, Usage},
};

/// Parts that sessions are divided into by their name: each has a cluster slot of its own, and a script call.
pub const SESSION_PARTS: u8 = 16;
/// Most sessions of a day given up at once when there are too many.
pub const TRIM_MAX: usize = 1000;
/// Most sessions forgotten after one call of [`UsageStore::add_sessions`].
pub const FORGET_MAX: usize = 200;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageBounds {
    /// How long after its end a day is kept, and how long a session that is not heard of.
    pub retention: Duration,
    /// Most rows of a day.
    pub rows_max: usize,
    /// Most sessions in a day's list, and about the most kept with their turns.
    pub sessions_max: usize,
    /// Most turns kept of a session.
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
    /// From this number of rows on, the last places are for what is folded: others of a model, and of all.
    #[must_use]
    pub fn rows_own_max(&self) -> usize {
        self.rows_max - self.rows_max.div_ceil(10).min(1000)
    }

    /// What is left of a day's sessions when there are more than [`Self::sessions_max`]. Some room is made at once, as
    /// a session that had to go whenever another comes would never gather enough to stay.
    #[must_use]
    pub fn sessions_left(&self) -> usize {
        self.sessions_max * 9 / 10
    }

    /// Most sessions kept in one part.
    #[must_use]
    pub fn part_max(&self) -> usize {
        self.sessions_max.div_ceil(usize::from(SESSION_PARTS))
    }

    /// How long the keys of a day are to stay.
    #[must_use]
    pub fn day_ttl(&self, day: Day, now_ms: u64) -> Duration {
        let end = Duration::from_millis(day.plus(1).start_ms()) + self.retention;
        // At least an hour: what an outage held up for longer than anything is kept.
        end.saturating_sub(Duration::from_millis(now_ms)).max(Duration::from_secs(3600))
    }
}

/// The part a session belongs to: FNV-1a, mixed once more as its last bytes reach few bits. Every release and store
/// has to agree.
#[must_use]
pub fn session_part(key: &str) -> u8 {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    ((mixed >> 33) % u64::from(SESSION_PARTS)) as u8
}

/// What makes a call harmless to repeat: to each place (a day, a part) an instance sends rising numbers, the next only
/// when the last is known to be applied.
#[derive(Clone, Debug)]
pub struct FlushId {
    /// Random id of this process.
    pub instance: Arc<str>,
    /// Rising from 1.
    pub sequence: u64,
    /// Now, by the sidecar's clock.
    pub now_ms: u64,
}

/// Sums to be added to one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayBatch {
    /// By consumer, model and route; no key twice.
    pub rows: Vec<(RowKey, Usage)>,
    /// By session; no key twice.
    pub sessions: Vec<(SessionKey, SessionSum)>,
}

/// What is to be added to one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionUpdate {
    /// Sums.
    pub sum: SessionSum,
    /// Turns, oldest first; those of the sums that are to be kept.
    pub turns: Vec<Turn>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// It had been applied before; nothing was added.
    pub repeated: bool,
    /// Requests counted under "(other)", as the day had too many rows.
    pub folded: u64,
    /// Sessions given up, as there were too many.
    pub dropped: u64,
}

/// Some rows of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Each with its sums so far. A row may come again in a later chunk, with newer sums.
    pub rows: Vec<(RowKey, Usage)>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// The ledger's memory.
#[async_trait]
pub trait UsageStore: Send + Sync + 'static {
    /// Adds to a day, unless this flush or a later one of the same instance has been added to it.
    ///
    /// New rows beyond [`UsageBounds::rows_own_max`] are folded into `(other)` of their model, and beyond the last but
    /// one place into `(other)` of all. Of more than [`UsageBounds::sessions_max`] sessions those with the fewest
    /// tokens are given up, down to [`UsageBounds::sessions_left`], at most [`TRIM_MAX`] at once.
    async fn add_day(&self, id: &FlushId, day: Day, batch: &DayBatch) -> Result<Applied, StoreError>;

    /// Adds to the sessions of one part, likewise once. Of more than [`UsageBounds::part_max`] sessions those longest
    /// unheard of are forgotten with their turns, at most [`FORGET_MAX`] at once, and those unheard of for longer than
    /// the retention.
    async fn add_sessions(
        &self,
        id: &FlushId,
        part: u8,
        batch: &[(SessionKey, SessionUpdate)],
    ) -> Result<Applied, StoreError>;

    /// Reads some of a day's rows, from 0 on. Rows made meanwhile may be missed.
    async fn rows(&self, day: Day, from: u64) -> Result<Rows, StoreError>;

    /// A day's sessions by tokens, most first; of equals the last by key first. Only those with at most `tokens_max`,
    /// without the first `skip` of them.
    async fn top_sessions(
        &self,
        day: Day,
        tokens_max: Option<u64>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<(SessionKey, SessionSum)>, StoreError>;

    /// One session with the turns kept of it, oldest first; `None` where it is not kept.
    async fn session(&self, key: &SessionKey) -> Result<Option<SessionUpdate>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_spread_over_their_parts() {
        let mut counts = [0; SESSION_PARTS as usize];
        for n in 0..16_000 {
            counts[usize::from(session_part(&format!("alice\u{1f}session-{n}")))] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let parts = ["", "alice\u{1f}s", "bob\u{1f}2"].map(session_part);
        assert_eq!(parts, [9, 7, 4], "what other releases have found there");
    }

    #[test]
    fn bounds_hold_their_last_places() {
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
