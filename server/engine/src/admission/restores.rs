//! How many leases a holder may restore. A list is the truth about the holder's own leases, but a client that lists leases
//! which nobody granted must not fill a pool.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use evenkeel_domain::HolderId;
use evenkeel_store::{Held, RestoreBounds};
use parking_lot::Mutex;

use crate::balancer::pool_entry::PoolEntry;

/// Leases that a holder may restore at once: as many as a worker of a large gateway has in flight.
const BURST: u64 = 4096;
/// Leases that it may restore in a second after that. What is refused is restored by a later list.
const PER_SECOND: u64 = 1024;
/// How far above its cap an endpoint's count may rise through restored leases. Requests that went on without the sidecar
/// and a lowered cap raise the count above the cap too.
const CAP_FACTOR: u64 = 2;
/// Maximum number of holders whose restores are remembered. Beyond it, those that have restored nothing for the longest
/// time are forgotten.
const HOLDERS_MAX: usize = 16_384;

/// The restores of each holder.
#[derive(Default)]
pub struct Restores {
    holders: Mutex<HashMap<HolderId, Bucket>>,
}

struct Bucket {
    left: u64,
    filled: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let more = (now - self.filled).as_millis() as u64 * PER_SECOND / 1000;
        if more > 0 {
            (self.left, self.filled) = ((self.left + more).min(BURST), now);
        }
    }
}

impl Restores {
    /// Returns how many of this number of leases the holder may restore, and takes them from its rate.
    fn take(&self, holder: &HolderId, leases: u64, now: Instant) -> u64 {
        if leases == 0 {
            return 0;
        }
        let mut holders = self.holders.lock();
        if holders.len() >= HOLDERS_MAX && !holders.contains_key(holder) {
            holders.retain(|_, bucket| (now - bucket.filled) < Duration::from_secs(BURST / PER_SECOND));
            if holders.len() >= HOLDERS_MAX {
                return 0;
            }
        }
        let bucket = holders.entry(holder.clone()).or_insert(Bucket { left: BURST, filled: now });
        bucket.fill(now);
        let taken = bucket.left.min(leases);
        bucket.left -= taken;
        taken
    }

    fn give_back(&self, holder: &HolderId, leases: u64) {
        if let Some(bucket) = self.holders.lock().get_mut(holder) {
            bucket.left = (bucket.left + leases).min(BURST);
        }
    }

    /// Sets the bounds of a list that is about to be applied. [`Self::applied`] must follow.
    pub(super) fn bound(&self, holder: &HolderId, entry: &PoolEntry, held: &mut Held) {
        let leases_max = self.take(holder, held.leases.len() as u64, Instant::now());
        let roster = entry.known_roster();
        let capped = roster.endpoints().iter().filter(|endpoint| endpoint.cap > 0);
        let counts_max = capped.map(|e| (e.address.clone(), u64::from(e.cap) * CAP_FACTOR)).collect();
        held.bounds = RestoreBounds { leases_max, counts_max };
    }

    /// Gives back what a list did not restore.
    pub(super) fn applied(&self, holder: &HolderId, bounds: &RestoreBounds, restored: u64) {
        self.give_back(holder, bounds.leases_max.saturating_sub(restored));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_has_its_rate() {
        let restores = Restores::default();
        let (ghost, other) = (HolderId::new("ghost").unwrap(), HolderId::new("other").unwrap());
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(restores.take(&ghost, 20_000, start), BURST);
        assert_eq!(restores.take(&ghost, 20_000, after(0)), 0);
        assert_eq!(restores.take(&ghost, 20_000, after(500)), PER_SECOND / 2);
        assert_eq!(restores.take(&other, 100, after(500)), 100);
        restores.give_back(&other, 100);
        assert_eq!(restores.take(&other, 20_000, after(500)), BURST);
        assert_eq!(restores.take(&ghost, 20_000, after(60_000)), BURST);
    }

    #[test]
    fn holders_are_bounded() {
        let (restores, start) = (Restores::default(), Instant::now());
        let holder = |number: usize| HolderId::new(&format!("h{number}")).unwrap();
        for number in 0..HOLDERS_MAX {
            assert_eq!(restores.take(&holder(number), 1, start), 1);
        }
        assert_eq!(restores.take(&holder(HOLDERS_MAX), 1, start), 0);
        assert_eq!(restores.take(&holder(HOLDERS_MAX), 1, start + Duration::from_secs(5)), 1);
    }
}
