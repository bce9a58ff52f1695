//! Counters in a store: their buckets, their rules, and what one request reserves.

use std::{fmt, sync::Arc};

use super::OnStoreFailure;

/// Maximum amount, burst, balance or cost. It is far below the largest integer that a double represents exactly, so
/// that sums are exact.
pub const AMOUNT_MAX: u64 = 1_000_000_000_000_000;
/// Number of slots of a sliding window.
pub const SLOTS: usize = 16;

/// The location of one key's counters in the store. All buckets with the same tag are on one node of a Redis Cluster.
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
    /// Windows of this duration in ms, starting at the Unix epoch.
    Length(u64),
    /// The starts of the previous, the current and the next window, and the end of the next window, in ms since the
    /// Unix epoch. With these four times, a clock that is off by less than a window does no harm.
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
    /// Up to `amount` in any `period_ms`, counted in [`SLOTS`] slots.
    Sliding { amount: u64, period_ms: u64 },
    /// A token bucket of `burst` tokens, refilled with `amount` per `period_ms`. The arithmetic is GCRA, as a
    /// continuous-state leaky bucket (ITU-T I.371, annex A).
    TokenBucket { burst: u64, amount: u64, period_ms: u64 },
    /// Up to `amount` requests in flight. A request counts until it is settled, or until `ttl_ms` after its holder's
    /// last KeepAlive.
    Running { amount: u64, ttl_ms: u64 },
    Prepaid {
        /// Balance of a consumer without a record. `None`: requests of the consumer are refused.
        default: Option<u64>,
    },
    /// Up to the consumer's amount in each window.
    Budget {
        /// Amount of a consumer without a record. `None`: requests of the consumer are refused.
        default: Option<u64>,
        window: Window,
    },
}

impl CounterRule {
    /// Returns whether the counter belongs to a quota. Such a counter is part of the consumer's record and does not
    /// expire.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Prepaid { .. } | Self::Budget { .. })
    }

    /// Returns the time until the whole amount is available again without further requests. 0 if time alone frees
    /// nothing.
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

    /// Returns the maximum amount that one request may reserve. A higher estimate is reduced to this maximum, so that a
    /// first request is never refused. For quotas, the result is no real bound, because only the store knows the
    /// balance.
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

/// Returns the duration of a slot of a sliding window, in ms. The newest slot and the [`SLOTS`] slots before it cover
/// any window of the period's length that ends now.
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
    /// Whether the settlement replaces the reserved cost. If false, the reserved cost is final.
    pub provisional: bool,
    /// Whether the counter is in shadow mode: it counts requests, but refuses none.
    pub shadow: bool,
    /// The policy while the store is unavailable.
    pub on_store_failure: OnStoreFailure,
}
