//! The quotas as this sidecar last saw them. During an outage of the store, a quota with the policy `local` admits
//! requests up to what was left then, divided by the number of live sidecars.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::limit::{Bucket, CounterRule, Meter, OnStoreFailure};
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

use crate::{
    counters::{CounterState, Entry},
    memory::last_bit,
};

/// Maximum number of consumers' quotas that are remembered, at about 150 bytes each. Beyond it, those that this sidecar
/// has not seen for the longest time are dropped, half of them at once. During an outage, none is dropped or added: a
/// client that names many consumers must not make the sidecar forget what they have used.
const LEVELS_MAX: usize = 65_536;

type Place = (Arc<Bucket>, Arc<str>);

#[derive(Default)]
pub(super) struct QuotaLevels {
    levels: Mutex<HashMap<Place, Level, FxBuildHasher>>,
}

/// What one consumer has left of one quota, as the store last said, and what requests have taken of it since.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// What was left in the store.
    left: u64,
    /// The amount that the store reported. For a prepaid quota, it includes what is used.
    amount: u64,
    /// Start of the window of a budget.
    window: u64,
    /// What requests have taken from `left` without the store.
    taken: u64,
    /// The part of `taken` that is reserved for requests in flight.
    reserved: u64,
    /// Order in which this sidecar has seen the levels.
    seen: u64,
}

/// The result of [`QuotaLevels::take`].
pub(super) enum Taking {
    Taken(CounterState),
    Refused(CounterState),
    /// This sidecar does not know what the consumer has left.
    Unknown,
}

impl QuotaLevels {
    /// Remembers what the store has reported. Reservations without the store are part of the next outage only if they
    /// are made in it.
    pub(super) fn saw(&self, meters: &[Meter], states: &[CounterState], now_ms: u64) {
        let quotas = || meters.iter().zip(states).filter(|(meter, _)| is_local_quota(meter));
        if quotas().next().is_none() {
            return;
        }
        let mut levels = self.levels.lock();
        for (meter, state) in quotas() {
            let (left, window) = match meter.rule {
                CounterRule::Budget { window, .. } => {
                    (state.amount.saturating_sub(state.used), window.around(now_ms).0)
                }
                _ => (state.used, 0),
            };
            let level = Level { left, amount: state.amount, window, seen: now_ms, ..Level::default() };
            let place = (Arc::clone(&meter.bucket), Arc::clone(&meter.name));
            if levels.len() >= LEVELS_MAX && !levels.contains_key(&place) {
                drop_oldest_half(&mut levels);
            }
            levels.insert(place, level);
        }
    }

    /// Takes the cost from this sidecar's part of what was left, or refuses. As in the store, one request at a time can
    /// take the rest.
    pub(super) fn take(&self, meter: &Meter, sidecars: u64, now_ms: u64) -> Taking {
        let mut levels = self.levels.lock();
        let place = (Arc::clone(&meter.bucket), Arc::clone(&meter.name));
        let is_full = levels.len() >= LEVELS_MAX;
        let level = match levels.entry(place) {
            std::collections::hash_map::Entry::Occupied(level) => level.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let Some(level) = Level::of_default(&meter.rule, now_ms).filter(|_| !is_full) else {
                    return Taking::Unknown;
                };
                place.insert(level)
            }
        };
        level.bring_up(&meter.rule, now_ms);
        let part = if level.left == 0 { 0 } else { (level.left / sidecars.max(1)).max(1) };
        let left = part.saturating_sub(level.taken);
        let fitting = last_bit(left, meter.cost, level.reserved);
        if fitting.is_none() && !meter.shadow {
            return Taking::Refused(CounterState { over: true, ..level.state(&meter.rule, 0) });
        }
        let taken = fitting.unwrap_or(left.min(meter.cost));
        level.taken += taken;
        level.reserved += taken;
        Taking::Taken(level.state(&meter.rule, taken))
    }

    /// Gives back what [`Self::take`] took.
    pub(super) fn give_back(&self, meter: &Meter, taken: u64) {
        self.replace(&meter.bucket, &meter.name, taken, 0);
    }

    /// Replaces a reservation that was made without the store with the charge.
    pub(super) fn settle(&self, entry: &Entry) {
        self.replace(&entry.bucket, &entry.name, entry.reserved, entry.actual);
    }

    fn replace(&self, bucket: &Arc<Bucket>, name: &Arc<str>, reserved: u64, actual: u64) {
        let mut levels = self.levels.lock();
        if let Some(level) = levels.get_mut(&(Arc::clone(bucket), Arc::clone(name))) {
            level.taken = level.taken.saturating_sub(reserved).saturating_add(actual);
            level.reserved = level.reserved.saturating_sub(reserved);
        }
    }
}

impl Level {
    /// Returns the level of a consumer that the store may not have a record of. Without a default, nobody knows.
    fn of_default(rule: &CounterRule, now_ms: u64) -> Option<Self> {
        let (amount, window) = match *rule {
            CounterRule::Prepaid { default } => (default?, 0),
            CounterRule::Budget { default, window } => (default?, window.around(now_ms).0),
            _ => return None,
        };
        Some(Self { left: amount, amount, window, ..Self::default() })
    }

    /// Starts a new window of a budget.
    fn bring_up(&mut self, rule: &CounterRule, now_ms: u64) {
        let CounterRule::Budget { window, .. } = rule else { return };
        let window = window.around(now_ms).0;
        if window > self.window {
            *self = Self { left: self.amount, window, taken: 0, reserved: 0, ..*self };
        }
    }

    fn state(&self, rule: &CounterRule, taken: u64) -> CounterState {
        let left = self.left.saturating_sub(self.taken);
        let used =
            if matches!(rule, CounterRule::Budget { .. }) { self.amount.saturating_sub(left) } else { left };
        CounterState { used, amount: self.amount, reserved: self.reserved, taken, ..CounterState::default() }
    }
}

pub(super) fn is_local_quota(meter: &Meter) -> bool {
    meter.rule.is_quota() && meter.on_store_failure == OnStoreFailure::Local
}

fn drop_oldest_half(levels: &mut HashMap<Place, Level, FxBuildHasher>) {
    let mut seen: Vec<u64> = levels.values().map(|level| level.seen).collect();
    let middle = seen.len() / 2;
    let (_, median, _) = seen.select_nth_unstable(middle);
    let median = *median;
    levels.retain(|_, level| level.seen > median);
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::limit::Window;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn meter(consumer: &str, rule: CounterRule, cost: u64) -> Meter {
        Meter {
            bucket: Arc::new(Bucket { tag: format!("consumer={consumer}"), rest: String::new() }),
            name: "q".into(),
            rule,
            cost,
            provisional: true,
            shadow: false,
            on_store_failure: OnStoreFailure::Local,
        }
    }

    fn taken(levels: &QuotaLevels, meter: &Meter, sidecars: u64, now_ms: u64) -> Option<u64> {
        match levels.take(meter, sidecars, now_ms) {
            Taking::Taken(state) => Some(state.taken),
            Taking::Refused(_) | Taking::Unknown => None,
        }
    }

    #[test]
    fn each_sidecar_admits_its_part_of_what_was_left() {
        let levels = QuotaLevels::default();
        let meter = meter("a", CounterRule::Prepaid { default: None }, 40);
        assert!(matches!(levels.take(&meter, 1, NOW), Taking::Unknown));
        let seen = CounterState { used: 200, amount: 1000, ..CounterState::default() };
        levels.saw(std::slice::from_ref(&meter), &[seen], NOW);
        // A half of 200: two whole requests, and then nothing while they are in flight.
        assert_eq!(taken(&levels, &meter, 2, NOW), Some(40));
        assert_eq!(taken(&levels, &meter, 2, NOW), Some(40));
        assert_eq!(taken(&levels, &meter, 2, NOW), None);
        // One request used less, and one more.
        let entry = |reserved, actual| {
            let state = CounterState { taken: reserved, ..CounterState::default() };
            Entry::settling(&meter, &state, actual)
        };
        levels.settle(&entry(40, 10));
        levels.settle(&entry(40, 70));
        assert_eq!(taken(&levels, &meter, 2, NOW), Some(20), "the rest");
        levels.give_back(&meter, 20);
        levels.saw(std::slice::from_ref(&meter), &[CounterState { used: 0, ..seen }], NOW);
        let Taking::Refused(state) = levels.take(&meter, 1, NOW) else { panic!("nothing is left") };
        assert_eq!((state.over, state.used, state.amount), (true, 0, 1000));
    }

    #[test]
    fn a_budget_starts_again_with_its_window() {
        let levels = QuotaLevels::default();
        let rule = CounterRule::Budget { default: Some(100), window: Window::Length(1000) };
        let meter = meter("a", rule, 60);
        assert_eq!(taken(&levels, &meter, 1, NOW), Some(60), "the default");
        assert_eq!(taken(&levels, &meter, 1, NOW + 999), None);
        assert_eq!(taken(&levels, &meter, 1, NOW + 1000), Some(60));
        let seen = CounterState { used: 290, amount: 300, ..CounterState::default() };
        levels.saw(std::slice::from_ref(&meter), &[seen], NOW + 1500);
        assert_eq!(taken(&levels, &meter, 1, NOW + 1500), Some(10), "the rest");
        assert_eq!(taken(&levels, &meter, 1, NOW + 2000), Some(60));
    }

    #[test]
    fn levels_are_bounded_and_an_outage_forgets_none() {
        let levels = QuotaLevels::default();
        let rule = CounterRule::Prepaid { default: Some(10) };
        let saw = |consumer: usize| {
            let seen = CounterState { used: 5, amount: 10, ..CounterState::default() };
            levels.saw(&[meter(&consumer.to_string(), rule, 1)], &[seen], NOW + consumer as u64);
        };
        (0..LEVELS_MAX).for_each(saw);
        assert!(matches!(levels.take(&meter("new", rule, 1), 1, NOW), Taking::Unknown));
        assert_eq!(taken(&levels, &meter("0", rule, 5), 1, NOW), Some(5));
        saw(LEVELS_MAX);
        assert!(levels.levels.lock().len() <= LEVELS_MAX / 2 + 1);
        assert_eq!(taken(&levels, &meter(&LEVELS_MAX.to_string(), rule, 5), 1, NOW), Some(5));
    }
}
