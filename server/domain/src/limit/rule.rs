//! Counters as a store keeps them: their buckets, their rules, and what one request reserves.

use std::{fmt, sync::Arc};

use super::OnOutage;

/// Largest amount, burst, balance or cost. Far below the largest integer that a double holds exactly, so that sums stay
/// exact.
pub const AMOUNT_MAX: u64 = 1_000_000_000_000_000;
/// Slots of a sliding window.
pub const SLOTS: usize = 16;

/// Where the counters of one key are kept. All buckets with the same tag are on one node of a Redis Cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// `consumer=alice`, or the whole key if it has no consumer.
    pub tag: String,
    /// The rest of the key. May be empty.
    pub rest: String,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tag)?;
        if self.rest.is_empty() { Ok(()) } else { write!(f, "|{}", self.rest) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Windows of this many ms, from the Unix epoch on.
    Length(u64),
    /// The starts of the previous, the current and the next window, and the end of the next, in ms of the Unix epoch.
    /// So a clock that is off by less than a window does no harm.
    Edges([u64; 4]),
}

impl Window {
    /// Returns the start and end of the window that contains `now_ms`.
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

/// The rule of one counter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CounterRule {
    /// Up to `amount` in each window.
    Fixed { amount: u64, window: Window },
    /// Up to `amount` in any `period_ms`, kept in [`SLOTS`] slots.
    Sliding { amount: u64, period_ms: u64 },
    /// A token bucket of `burst` tokens, refilled with `amount` per `period_ms`. The arithmetic is GCRA, as a
    /// continuous-state leaky bucket (ITU-T I.371, annex A).
    TokenBucket { burst: u64, amount: u64, period_ms: u64 },
    /// Up to `amount` requests at the same time. Each counts until it is settled, or until `ttl_ms` after its holder's
    /// last KeepAlive.
    Running { amount: u64, ttl_ms: u64 },
    Prepaid {
        /// Balance of a consumer without a record. `None`: refused.
        default: Option<u64>,
    },
    /// A recorded amount in each window.
    Budget {
        /// Amount for a consumer without a record. `None`: refused.
        default: Option<u64>,
        window: Window,
    },
}

impl CounterRule {
    /// Whether the counter is a quota's, which is kept in the consumer's record and does not expire.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Prepaid { .. } | Self::Budget { .. })
    }

    /// Returns the time until the whole amount is free again without further requests. 0 if time alone frees nothing.
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

    /// Returns the most that one request reserves. A higher estimate is cut to it, so that the first request is never
    /// refused. For quotas, the store knows the balance.
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

/// Returns the length of a slot of a sliding window, in ms. Any window of the period's length lies within [`SLOTS`]
/// slots and the newest one.
#[must_use]
pub fn slot_ms(period_ms: u64) -> u64 {
    period_ms.div_ceil(SLOTS as u64)
}

/// What one request reserves in one counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    pub bucket: Arc<Bucket>,
    /// Name of the limit or quota.
    pub name: Arc<str>,
    pub rule: CounterRule,
    pub cost: u64,
    /// The settlement replaces the reserved cost. If false, the cost is final.
    pub provisional: bool,
    /// Shadow mode: the counter counts, but refuses nothing.
    pub shadow: bool,
    /// The policy while the store is unavailable.
    pub on_outage: OnOutage,
}
