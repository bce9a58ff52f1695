//! The ideal policy: the generator chooses hosts from one table of all requests in flight.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rand::{SeedableRng, rngs::SmallRng};

use crate::simulate::least_loaded;

/// Chooses the host with the fewest requests in flight. Breaks ties at random.
#[derive(Debug)]
pub struct Picker {
    hosts: Vec<SocketAddr>,
    table: Mutex<(Vec<u32>, SmallRng)>,
}

/// A chosen host. The request counts as in flight until the pick is dropped.
#[derive(Debug)]
pub struct Pick {
    picker: Arc<Picker>,
    index: usize,
}

impl Picker {
    pub fn new(hosts: Vec<SocketAddr>, seed: u64) -> Self {
        let counts = vec![0; hosts.len()];
        Self { hosts, table: Mutex::new((counts, SmallRng::seed_from_u64(seed))) }
    }

    /// Chooses a host and adds one to its requests in flight.
    pub fn pick(self: &Arc<Self>) -> Pick {
        let mut table = self.table.lock();
        let (counts, rng) = &mut *table;
        let index = least_loaded(counts, rng);
        counts[index] += 1;
        Pick { picker: Arc::clone(self), index }
    }
}

impl Pick {
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
    fn picks_equalize_the_counts() {
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
