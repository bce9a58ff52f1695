//! Cached refusals. While a request cannot fit into a counter, the sidecar refuses it without calling the store.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::limit::{Bucket, Meter};
use evenkeel_store::counters::CounterState;
use parking_lot::Mutex;

/// Maximum time that a refusal is cached. In the meantime an administrator may raise the amount, or a settlement may
/// free some of it.
const CACHED_MAX: Duration = Duration::from_secs(1);
/// Maximum number of cached refusals. Beyond it, expired refusals are dropped. If the cache is still full, all refusals
/// are dropped.
const COUNTERS_MAX: usize = 65_536;
/// Number of parts, each with its own lock, so that requests rarely wait for each other.
const PARTS: usize = 16;

#[derive(Clone, Copy, Debug)]
struct CachedRefusal {
    until: Instant,
    /// The cost that did not fit. A lower cost may fit.
    cost: u64,
    amount: u64,
    used: u64,
    reserved: u64,
    /// Until when no settlement can make the cost fit.
    final_until: Instant,
    /// When the cost will fit, and when the whole amount will be free. `None`: time alone frees nothing.
    retry_at: Option<Instant>,
    reset_at: Option<Instant>,
}

type Part = HashMap<(Arc<Bucket>, Arc<str>), CachedRefusal>;

#[derive(Default)]
pub struct RefusalCache {
    parts: [Mutex<Part>; PARTS],
}

impl RefusalCache {
    /// Caches a refusal, if the counter cannot admit the cost for some time.
    pub fn insert(&self, meter: &Meter, state: &CounterState) {
        if !state.over || state.final_ms == 0 || meter.shadow {
            return;
        }
        let now = Instant::now();
        let after = |ms: u64| (ms > 0).then(|| now + Duration::from_millis(ms));
        let refused = CachedRefusal {
            until: now + Duration::from_millis(state.final_ms).min(CACHED_MAX),
            cost: meter.cost,
            amount: state.amount,
            used: state.used,
            reserved: state.reserved,
            final_until: now + Duration::from_millis(state.final_ms),
            retry_at: after(state.retry_ms),
            reset_at: after(state.reset_ms),
        };
        let mut part = self.part(&meter.bucket).lock();
        if part.len() >= COUNTERS_MAX / PARTS {
            part.retain(|_, refused| refused.until > now);
            if part.len() >= COUNTERS_MAX / PARTS {
                part.clear();
            }
        }
        part.insert((Arc::clone(&meter.bucket), Arc::clone(&meter.name)), refused);
    }

    /// Returns the state of a counter if the cached refusal shows that this cost does not fit.
    #[must_use]
    pub fn get(&self, meter: &Meter) -> Option<CounterState> {
        let part = self.part(&meter.bucket).lock();
        if part.is_empty() || meter.shadow {
            return None;
        }
        let refused = *part.get(&(Arc::clone(&meter.bucket), Arc::clone(&meter.name)))?;
        drop(part);
        let now = Instant::now();
        if refused.until <= now || meter.cost < refused.cost || refused.amount != meter.rule.most() {
            return None;
        }
        // At least 1, because 0 means that time alone frees nothing.
        let left = |at: Option<Instant>| at.map_or(0, |at| (at - now).as_millis().max(1) as u64);
        Some(CounterState {
            over: true,
            used: refused.used,
            amount: refused.amount,
            reserved: refused.reserved,
            final_ms: left(Some(refused.final_until)),
            retry_ms: left(refused.retry_at),
            reset_ms: left(refused.reset_at),
            ..CounterState::default()
        })
    }

    /// Drops the cached refusal of a counter, because some of its amount has been freed.
    pub fn remove(&self, bucket: &Arc<Bucket>, name: &Arc<str>) {
        self.part(bucket).lock().remove(&(Arc::clone(bucket), Arc::clone(name)));
    }

    fn part(&self, bucket: &Bucket) -> &Mutex<Part> {
        // Tags differ most at the end.
        let sum = bucket.tag.bytes().rev().take(8).fold(0_usize, |sum, byte| sum * 31 + usize::from(byte));
        &self.parts[sum % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::limit::{CounterRule, OnStoreFailure};

    use super::*;

    fn meter(consumer: &str, cost: u64, amount: u64) -> Meter {
        Meter {
            bucket: Arc::new(Bucket { tag: format!("consumer={consumer}"), rest: String::new() }),
            name: "l".into(),
            rule: CounterRule::Sliding { amount, period_ms: 1000 },
            cost,
            provisional: false,
            shadow: false,
            on_store_failure: OnStoreFailure::Local,
        }
    }

    #[test]
    fn only_a_refusal_that_cannot_change_is_cached() {
        let cache = RefusalCache::default();
        let over = CounterState {
            over: true,
            used: 10,
            amount: 10,
            retry_ms: 5000,
            reset_ms: 9000,
            final_ms: 5000,
            ..CounterState::default()
        };
        cache.insert(&meter("a", 3, 10), &over);
        let cached = cache.get(&meter("a", 3, 10)).unwrap();
        assert!(cached.over && (4000..=5000).contains(&cached.retry_ms), "{cached:?}");
        assert!(cache.get(&meter("a", 2, 10)).is_none(), "less may fit");
        assert!(cache.get(&meter("a", 3, 11)).is_none(), "the amount was changed");
        assert!(cache.get(&meter("b", 3, 10)).is_none(), "another consumer");
        cache.remove(&meter("a", 3, 10).bucket, &"l".into());
        assert!(cache.get(&meter("a", 3, 10)).is_none());
        cache.insert(&meter("a", 3, 10), &CounterState { final_ms: 0, ..over });
        assert!(cache.get(&meter("a", 3, 10)).is_none(), "it may change");
    }

    #[test]
    fn memory_is_bounded() {
        let cache = RefusalCache::default();
        let over = CounterState { over: true, amount: 1, final_ms: 60_000, ..CounterState::default() };
        for i in 0..COUNTERS_MAX * 2 {
            cache.insert(&meter(&i.to_string(), 1, 1), &over);
        }
        let kept: usize = cache.parts.iter().map(|part| part.lock().len()).sum();
        assert!(kept <= COUNTERS_MAX, "{kept}");
    }
}
