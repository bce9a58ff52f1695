//! The keys of limits that have least left, as this sidecar sees them.

use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::{activity::Nearest, limit::Bucket};

use super::half::Half;

/// Most keys kept; when there are more, the half with most left goes.
const KEYS_MAX: usize = 4096;
/// Keys told of.
const TOLD_MAX: usize = 200;
/// What no time frees, such as requests running at once, is believed for so long after it was seen, in ms.
const BELIEVED_MS: u64 = 30_000;

/// What was last seen of one key.
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

/// What was last seen of each key.
#[derive(Default)]
pub(super) struct Table {
    keys: HashMap<(Arc<str>, Arc<Bucket>), Seen>,
    changed: bool,
}

impl Table {
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
        // The fullest stay.
        let mut half = Half::of(self.keys.values().map(|seen| -seen.share()).collect(), KEYS_MAX / 2);
        self.keys.retain(|_, seen| half.stays(-seen.share()));
    }

    /// Tells all again: what was told before is lost.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Of each limit the share that its fullest key has used.
    pub(super) fn fullest(&self, now_ms: u64) -> HashMap<Arc<str>, f64> {
        let mut fullest = HashMap::new();
        let current = self.keys.iter().filter(|(_, seen)| seen.is_current(now_ms));
        for ((limit, _), seen) in current {
            let most = fullest.entry(Arc::clone(limit)).or_insert(0.0_f64);
            *most = most.max(seen.share());
        }
        fullest
    }

    /// The fullest, where anything has changed since this was last asked.
    pub(super) fn take_changed(&mut self, now_ms: u64) -> Option<Vec<Nearest>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.keys.retain(|_, seen| seen.is_current(now_ms));
        let mut all: Vec<_> = self.keys.iter().collect();
        if all.len() > TOLD_MAX {
            all.select_nth_unstable_by(TOLD_MAX, |(_, a), (_, b)| b.share().total_cmp(&a.share()));
            all.truncate(TOLD_MAX);
        }
        let told = all.into_iter().map(|((limit, bucket), seen)| Nearest {
            limit: limit.to_string(),
            tag: bucket.tag.clone(),
            rest: bucket.rest.clone(),
            amount: seen.amount,
            used: seen.used,
            reset_at_ms: seen.reset_at_ms,
            shadow: seen.shadow,
            seen_at_ms: seen.at_ms,
        });
        Some(told.collect())
    }
}

/// What has been free again since tells nothing any more.
pub(super) fn is_current(reset_at_ms: u64, seen_at_ms: u64, now_ms: u64) -> bool {
    let until = if reset_at_ms == 0 { seen_at_ms.saturating_add(BELIEVED_MS) } else { reset_at_ms };
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
    fn the_fullest_are_told_and_only_when_something_changed() {
        let (mut table, limit) = (Table::default(), Arc::from("l"));
        assert!(table.take_changed(0).is_none());
        for i in 0..1000 {
            table.see(&limit, &bucket(i), seen(i as u64, 0));
        }
        let told = table.take_changed(0).unwrap();
        assert_eq!(told.len(), TOLD_MAX);
        assert!(told.iter().all(|nearest| nearest.used >= 800));
        assert!(table.take_changed(0).is_none());
        table.see(&limit, &bucket(1), seen(5, 50));
        assert!(
            !table.take_changed(50).unwrap().iter().any(|nearest| nearest.used == 5),
            "free again by then"
        );
    }

    #[test]
    fn of_each_limit_the_fullest_key_counts() {
        let (mut table, a, b) = (Table::default(), Arc::from("a"), Arc::from("b"));
        for (limit, key, used, reset_at_ms) in [(&a, 1, 300, 0), (&a, 2, 700, 50), (&b, 1, 200, 0)] {
            table.see(limit, &bucket(key), seen(used, reset_at_ms));
        }
        let fullest = |now_ms| {
            let fullest = table.fullest(now_ms);
            (fullest[&a], fullest[&b])
        };
        assert_eq!(fullest(10), (0.7, 0.2));
        assert_eq!(fullest(60), (0.3, 0.2), "its window has ended");
    }

    #[test]
    fn room_is_made_by_what_has_most_left() {
        let (mut table, limit) = (Table::default(), Arc::from("l"));
        for i in 0..10_000 {
            table.see(&limit, &bucket(i), seen((i % 1000) as u64, 0));
            assert!(table.keys.len() <= KEYS_MAX);
        }
        let told = table.take_changed(0).unwrap();
        assert!(told.iter().all(|nearest| nearest.used > 900), "{:?}", told.iter().map(|n| n.used).min());
        // A long tail of equals makes no room among those that are fuller.
        let mut tail = Table::default();
        for i in 0..12_000 {
            tail.see(&limit, &bucket(i), seen(if i % 12 == 0 { 900 } else { 1 }, 0));
        }
        assert_eq!(tail.keys.values().filter(|seen| seen.used == 900).count(), 1000);
        // All alike.
        for i in 0..10_000 {
            table.see(&limit, &bucket(i), seen(7, 0));
            assert!(table.keys.len() <= KEYS_MAX);
        }
    }
}
