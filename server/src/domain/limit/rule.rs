//! Counters as a store keeps them: where, by which rule, and what one request takes of them.

use std::{fmt, sync::Arc};

use super::OnOutage;

/// Largest amount, burst, balance or cost: far below what a double holds exactly, so that sums stay exact.
pub const AMOUNT_MAX: u64 = 1_000_000_000_000_000;
/// Slots a sliding window is counted in.
pub const SLOTS: usize = 16;

/// Where counters of one key are kept together. All of one tag are kept on one node of a Redis Cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// `consumer=alice`, or all of the key where it has no consumer.
    pub tag: String,
    /// The rest of the key; often empty.
    pub rest: String,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tag)?;
        if self.rest.is_empty() { Ok(()) } else { write!(f, "|{}", self.rest) }
    }
}

/// Fixed windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Of this many ms, from the Unix epoch on.
    Length(u64),
    /// Edges of windows around now, rising, in ms of the Unix epoch: the window before, this one, the next, and
    /// the end of that. So a clock that is off by less than a window does no harm.
    Edges([u64; 4]),
}

impl Window {
    /// Start and end of the window a moment lies in.
    #[must_use]
    pub fn around(&self, now_ms: u64) -> (u64, u64) {
        match *self {
            Self::Length(length) => {
                let start = now_ms / length * length;
                (start, start + length)
            }
            Self::Edges([before, this, after, later]) => {
                if now_ms < this {
                    (before, this)
                } else if now_ms < after {
                    (this, after)
                } else {
                    (after, later)
                }
            }
        }
    }
}

/// How one counter works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Up to `amount` in each window.
    Fixed {
        /// Most in a window.
        amount: u64,
        /// The windows.
        window: Window,
    },
    /// Up to `amount` in any `period_ms`, kept in [`SLOTS`] slots.
    Sliding {
        /// Most in any period.
        amount: u64,
        /// The period.
        period_ms: u64,
    },
    /// A bucket that fills to `burst` and drains by `amount` in `period_ms`: GCRA, as a continuous-state leaky bucket
    /// (ITU-T I.371, annex A).
    TokenBucket {
        /// Most at once.
        burst: u64,
        /// Drains in a period.
        amount: u64,
        /// The period.
        period_ms: u64,
    },
    /// Up to `amount` at the same time; each is held by a lease until settled, or until `ttl_ms` after its holder
    /// was last heard of.
    Running {
        /// Most at the same time.
        amount: u64,
        /// How long one stays without being renewed.
        ttl_ms: u64,
    },
    /// A recorded balance.
    Prepaid {
        /// The balance of who has no record; `None`: refused.
        default: Option<u64>,
    },
    /// A recorded amount in each window.
    Budget {
        /// The amount of who has no record; `None`: refused.
        default: Option<u64>,
        /// The windows.
        window: Window,
    },
}

impl Rule {
    /// Whether it is a quota's: kept in the consumer's record, which does not expire.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Prepaid { .. } | Self::Budget { .. })
    }

    /// Time until all that is used is free again if nothing else comes; 0 where no time brings that about.
    #[must_use]
    pub fn reset_ms(&self, used: u64, now_ms: u64) -> u64 {
        match *self {
            Self::Fixed { window, .. } | Self::Budget { window, .. } => {
                window.around(now_ms).1.saturating_sub(now_ms)
            }
            Self::Sliding { period_ms, .. } if used > 0 => {
                let slot_ms = slot_ms(period_ms);
                (now_ms / slot_ms + SLOTS as u64 + 1) * slot_ms - now_ms
            }
            Self::TokenBucket { amount, period_ms, .. } => {
                (used as f64 * period_ms as f64 / amount as f64).ceil() as u64
            }
            Self::Sliding { .. } | Self::Running { .. } | Self::Prepaid { .. } => 0,
        }
    }

    /// Most that one request is made to reserve: an estimate above it is cut to it, so that the first request is
    /// never refused. Of quotas the store knows.
    #[must_use]
    pub fn most(&self) -> u64 {
        match *self {
            Self::Fixed { amount, .. } | Self::Sliding { amount, .. } | Self::Running { amount, .. } => {
                amount
            }
            Self::TokenBucket { burst, .. } => burst,
            Self::Prepaid { .. } | Self::Budget { .. } => AMOUNT_MAX,
        }
    }
}

/// Length of one slot of a sliding window. A window of the period's length lies within [`SLOTS`] slots and the newest.
#[must_use]
pub fn slot_ms(period_ms: u64) -> u64 {
    period_ms.div_ceil(SLOTS as u64)
}

/// What one request takes of one counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    /// Where.
    pub bucket: Arc<Bucket>,
    /// Name of the limit or quota.
    pub name: Arc<str>,
    /// How it counts.
    pub rule: Rule,
    /// How much.
    pub cost: u64,
    /// For now: what is taken is replaced when the request has ended. Otherwise for good.
    pub provisional: bool,
    /// Counted, never refused.
    pub shadow: bool,
    /// While the store is unavailable.
    pub on_outage: OnOutage,
}
