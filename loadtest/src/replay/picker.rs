//! The ideal policy: one table of every request in flight, in the generator itself.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rand::{SeedableRng, rngs::SmallRng};

use crate::simulate::least;

/// Chooses the host with the fewest requests in flight, ties at random.
#[derive(Debug)]
pub struct Picker {
    hosts: Vec<SocketAddr>,
    table: Mutex<(Vec<u32>, SmallRng)>,
}

/// A chosen host, counted until this is dropped.
#[derive(Debug)]
pub struct Pick {
    picker: Arc<Picker>,
    index: usize,
}

impl Picker {
    /// With nothing in flight.
    pub fn new(hosts: Vec<SocketAddr>, seed: u64) -> Self {
        let counts = vec![0; hosts.len()];
        Self { hosts, table: Mutex::new((counts, SmallRng::seed_from_u64(seed))) }
    }

    /// Chooses and counts.
    pub fn pick(self: &Arc<Self>) -> Pick {
        let mut table = self.table.lock();
        let (counts, rng) = &mut *table;
        let index = least(counts, rng);
        counts[index] += 1;
        Pick { picker: Arc::clone(self), index }
    }
}

impl Pick {
    /// The host.
    pub fn host(&self) -> SocketAddr {
        self.picker.hosts[self.index]
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.picker.table.lock().0[self.index] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_level_the_counts() {
        let hosts: Vec<SocketAddr> = (1..=4).map(|p| SocketAddr::from(([127, 0, 0, 1], p))).collect();
        let picker = Arc::new(Picker::new(hosts, 1));
        let mut picks: Vec<_> = (0..8).map(|_| picker.pick()).collect();
        assert_eq!(picker.table.lock().0, [2; 4]);
        let freed = picks.swap_remove(3).host();
        assert_eq!(picker.pick().host(), freed);
        drop(picks);
        assert_eq!(picker.table.lock().0, [0; 4]);
    }
}
