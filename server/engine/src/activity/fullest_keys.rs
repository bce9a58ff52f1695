//! The fullest keys of limits, as seen by this sidecar. A key is fuller the larger the used fraction of its amount is.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::{activity::FullestKey, limit::Bucket};

use super::eviction::Eviction;

/// Maximum number of keys. Beyond it, the emptier half is evicted.
const KEYS_MAX: usize = 4096;
/// Maximum number of keys in a report.
const REPORTED_MAX: usize = 200;
/// How long a key without a reset time, such as a key of a concurrency limit, is reported after its last request, in
/// ms.
const KEPT_MS: u64 = 30_000;

/// The state of a key at the key's last request.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) amount: u64,
    pub(super) used: u64,
    pub(super) reset_at_ms: u64,
    pub(super) shadow: bool,
    pub(super) at_ms: u64,
}

impl Seen {
    fn share(&self) -> f64 {
        self.used as f64 / self.amount.max(1) as f64
    }

    fn is_current(&self, now_ms: u64) -> bool {
        is_current(self.reset_at_ms, self.at_ms, now_ms)
    }
}

#[derive(Default)]
pub(super) struct FullestKeys {
    keys: HashMap<(Arc<str>, Arc<Bucket>), Seen>,
    changed: bool,
}

impl FullestKeys {
    pub(super) fn see(&mut self, limit: &Arc<str>, bucket: &Arc<Bucket>, seen: Seen) {
        self.changed = true;
        if self.keys.len() >= KEYS_MAX {
            self.make_room(seen.at_ms);
        }
        self.keys.insert((Arc::clone(limit), Arc::clone(bucket)), seen);
    }

    fn make_room(&mut self, now_ms: u64) {
        self.keys.retain(|_, seen| seen.is_current(now_ms));
        if self.keys.len() < KEYS_MAX / 2 {
            return;
        }
        let scores = self.keys.values().map(|seen| -seen.share()).collect();
        let mut eviction = Eviction::new(scores, KEYS_MAX / 2);
        self.keys.retain(|_, seen| eviction.keeps(-seen.share()));
    }

    /// Makes the next report complete, because the store has lost the last report.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Returns, for each limit, the used fraction of its fullest key.
    pub(super) fn shares(&self, now_ms: u64) -> HashMap<Arc<str>, f64> {
        let mut shares = HashMap::new();
        let current = self.keys.iter().filter(|(_, seen)| seen.is_current(now_ms));
        for ((limit, _), seen) in current {
            let most = shares.entry(Arc::clone(limit)).or_insert(0.0_f64);
            *most = most.max(seen.share());
        }
        shares
    }

    /// Returns the fullest keys. `None` if nothing has changed since the last call.
    pub(super) fn take_changed(&mut self, now_ms: u64) -> Option<Vec<FullestKey>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.keys.retain(|_, seen| seen.is_current(now_ms));
        let mut all: Vec<_> = self.keys.iter().collect();
        if all.len() > REPORTED_MAX {
            all.select_nth_unstable_by(REPORTED_MAX, |(_, a), (_, b)| b.share().total_cmp(&a.share()));
            all.truncate(REPORTED_MAX);
        }
        let reported = all.into_iter().map(|((limit, bucket), seen)| FullestKey {
            limit: limit.to_string(),
            tag: bucket.tag.clone(),
            rest: bucket.rest.clone(),
            amount: seen.amount,
            used: seen.used,
            reset_at_ms: seen.reset_at_ms,
            shadow: seen.shadow,
            seen_at_ms: seen.at_ms,
        });
        Some(reported.collect())
    }
}

/// Whether the state of a key is still valid: the key has not been reset since the last request.
pub(super) fn is_current(reset_at_ms: u64, seen_at_ms: u64, now_ms: u64) -> bool {
    let until = if reset_at_ms == 0 { seen_at_ms.saturating_add(KEPT_MS) } else { reset_at_ms };
    until > now_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(used: u64, reset_at_ms: u64) -> Seen {
        Seen { amount: 1000, used, reset_at_ms, shadow: false, at_ms: 1 }
    }

    fn bucket(i: usize) -> Arc<Bucket> {
        Arc::new(Bucket { tag: format!("consumer=c{i}"), rest: String::new() })
    }

    #[test]
    fn only_changes_are_reported_and_only_the_fullest_keys() {
        let (mut table, limit) = (FullestKeys::default(), Arc::from("l"));
        assert!(table.take_changed(0).is_none());
        for i in 0..1000 {
            table.see(&limit, &bucket(i), seen(i as u64, 0));
        }
        let reported = table.take_changed(0).unwrap();
        assert_eq!(reported.len(), REPORTED_MAX);
        assert!(reported.iter().all(|key| key.used >= 800));
        assert!(table.take_changed(0).is_none());
        table.see(&limit, &bucket(1), seen(5, 50));
        assert!(
            !table.take_changed(50).unwrap().iter().any(|key| key.used == 5),
            "it has been reset by then"
        );
    }

    #[test]
    fn the_share_of_a_limit_equals_the_share_of_its_fullest_key() {
        let (mut table, a, b) = (FullestKeys::default(), Arc::from("a"), Arc::from("b"));
        for (limit, key, used, reset_at_ms) in [(&a, 1, 300, 0), (&a, 2, 700, 50), (&b, 1, 200, 0)] {
            table.see(limit, &bucket(key), seen(used, reset_at_ms));
        }
        let fullest = |now_ms| {
            let shares = table.shares(now_ms);
            (shares[&a], shares[&b])
        };
        assert_eq!(fullest(10), (0.7, 0.2));
        assert_eq!(fullest(60), (0.3, 0.2), "its window has ended");
    }

    #[test]
    fn the_emptier_keys_are_evicted() {
        let (mut table, limit) = (FullestKeys::default(), Arc::from("l"));
        for i in 0..10_000 {
            table.see(&limit, &bucket(i), seen((i % 1000) as u64, 0));
            assert!(table.keys.len() <= KEYS_MAX);
        }
        let reported = table.take_changed(0).unwrap();
        assert!(reported.iter().all(|key| key.used > 900), "{:?}", reported.iter().map(|n| n.used).min());
        // Many nearly empty keys do not evict a fuller key.
        let mut tail = FullestKeys::default();
        for i in 0..12_000 {
            tail.see(&limit, &bucket(i), seen(if i % 12 == 0 { 900 } else { 1 }, 0));
        }
        assert_eq!(tail.keys.values().filter(|seen| seen.used == 900).count(), 1000);
        // The number of keys stays bounded if all keys are equally full.
        for i in 0..10_000 {
            table.see(&limit, &bucket(i), seen(7, 0));
            assert!(table.keys.len() <= KEYS_MAX);
        }
    }
}
