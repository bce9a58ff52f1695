//! Refusals that cannot change yet are remembered, and answered without the store.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::limit::{Bucket, Meter};
use evenkeel_store::counters::Reading;
use parking_lot::Mutex;

/// Longest time without asking the store again: an administrator may have raised an amount, or a gateway given
/// back what it could not use.
const REMEMBERED_MAX: Duration = Duration::from_secs(1);
/// Most counters remembered; beyond, all that is past is forgotten, and if that is not enough, everything.
const COUNTERS_MAX: usize = 65_536;
/// Parts, so that requests seldom wait for each other.
const PARTS: usize = 16;

/// A refusal.
#[derive(Clone, Copy, Debug)]
struct Refused {
    until: Instant,
    /// Least that was refused: what asks for less may fit.
    cost: u64,
    amount: u64,
    used: u64,
    /// When it would fit, and when all of it is free again; `None`: no time brings that about.
    retry_at: Option<Instant>,
    reset_at: Option<Instant>,
}

type Part = HashMap<(Arc<Bucket>, Arc<str>), Refused>;

/// What is remembered.
#[derive(Default)]
pub struct Refusals {
    parts: [Mutex<Part>; PARTS],
}

impl Refusals {
    /// Remembers that a counter had no room, if that cannot change yet.
    pub fn note(&self, meter: &Meter, reading: &Reading) {
        if !reading.over || reading.final_ms == 0 || meter.shadow {
            return;
        }
        let now = Instant::now();
        let after = |ms: u64| (ms > 0).then(|| now + Duration::from_millis(ms));
        let refused = Refused {
            until: now + Duration::from_millis(reading.final_ms).min(REMEMBERED_MAX),
            cost: meter.cost,
            amount: reading.amount,
            used: reading.used,
            retry_at: after(reading.retry_ms),
            reset_at: after(reading.reset_ms),
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

    /// The reading of a counter that is known to have no room for this.
    #[must_use]
    pub fn recall(&self, meter: &Meter) -> Option<Reading> {
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
        // At least 1, as 0 would say that no time brings it about.
        let left = |at: Option<Instant>| at.map_or(0, |at| (at - now).as_millis().max(1) as u64);
        Some(Reading {
            over: true,
            used: refused.used,
            amount: refused.amount,
            retry_ms: left(refused.retry_at),
            reset_ms: left(refused.reset_at),
            ..Reading::default()
        })
    }

    /// Forgets what is known of a counter: something was given back.
    pub fn forget(&self, bucket: &Arc<Bucket>, name: &Arc<str>) {
        self.part(bucket).lock().remove(&(Arc::clone(bucket), Arc::clone(name)));
    }

    fn part(&self, bucket: &Bucket) -> &Mutex<Part> {
        // The end of a tag tells consumers apart.
        let sum = bucket.tag.bytes().rev().take(8).fold(0_usize, |sum, byte| sum * 31 + usize::from(byte));
        &self.parts[sum % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::limit::{OnOutage, Rule};

    use super::*;

    fn meter(consumer: &str, cost: u64, amount: u64) -> Meter {
        Meter {
            bucket: Arc::new(Bucket { tag: format!("consumer={consumer}"), rest: String::new() }),
            name: "l".into(),
            rule: Rule::Sliding { amount, period_ms: 1000 },
            cost,
            provisional: false,
            shadow: false,
            on_outage: OnOutage::Local,
        }
    }

    #[test]
    fn only_what_cannot_change_is_remembered() {
        let refusals = Refusals::default();
        let over = Reading {
            over: true,
            used: 10,
            amount: 10,
            retry_ms: 5000,
            reset_ms: 9000,
            final_ms: 5000,
            ..Reading::default()
        };
        refusals.note(&meter("a", 3, 10), &over);
        let recalled = refusals.recall(&meter("a", 3, 10)).unwrap();
        assert!(recalled.over && (4000..=5000).contains(&recalled.retry_ms), "{recalled:?}");
        assert!(refusals.recall(&meter("a", 2, 10)).is_none(), "less may fit");
        assert!(refusals.recall(&meter("a", 3, 11)).is_none(), "the amount was changed");
        assert!(refusals.recall(&meter("b", 3, 10)).is_none(), "another consumer");
        refusals.forget(&meter("a", 3, 10).bucket, &"l".into());
        assert!(refusals.recall(&meter("a", 3, 10)).is_none());
        refusals.note(&meter("a", 3, 10), &Reading { final_ms: 0, ..over });
        assert!(refusals.recall(&meter("a", 3, 10)).is_none(), "it may change");
    }

    #[test]
    fn memory_is_bounded() {
        let refusals = Refusals::default();
        let over = Reading { over: true, amount: 1, final_ms: 60_000, ..Reading::default() };
        for i in 0..COUNTERS_MAX * 2 {
            refusals.note(&meter(&i.to_string(), 1, 1), &over);
        }
        let kept: usize = refusals.parts.iter().map(|part| part.lock().len()).sum();
        assert!(kept <= COUNTERS_MAX, "{kept}");
    }
}
