//! The index: prefix → endpoints that have lately read it.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;

use super::generations::Generations;

/// Maximum number of endpoints remembered of one prefix. A prefix that more endpoints have is no reason to prefer one.
const PLACES_MAX: usize = 64;
/// Unit of stamps, in tokens, so that a stamp has 32 bits.
const STAMP_TOKENS: u64 = 1024;

/// An endpoint that has read a prefix.
#[derive(Clone, Copy, Debug)]
struct Place {
    endpoint: u16,
    /// [`Endpoint::assigned`] when the endpoint last read the prefix, in [`STAMP_TOKENS`].
    stamp: u32,
}

#[derive(Debug)]
struct Endpoint {
    address: Arc<str>,
    /// Tokens that the endpoint has been assigned so far. Its cache forgets a prefix when it has read enough others.
    assigned: u64,
    /// Places with smaller stamps are forgotten.
    forgotten: u32,
    /// How often the endpoint has lost its cache.
    losses: u32,
}

impl Endpoint {
    fn stamp(&self) -> u32 {
        u32::try_from(self.assigned / STAMP_TOKENS).unwrap_or(u32::MAX)
    }

    /// Returns the tokens that the endpoint has been assigned since.
    fn age(&self, place: Place) -> u64 {
        self.assigned.saturating_sub(u64::from(place.stamp) * STAMP_TOKENS)
    }

    fn forget(&mut self) {
        // So that later places have larger stamps.
        self.assigned += STAMP_TOKENS;
        self.forgotten = self.stamp();
        self.losses += 1;
    }
}

/// An endpoint that has read a prefix of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) endpoint: Arc<str>,
    /// Position of the longest prefix that it has read.
    pub(super) depth: usize,
    /// Tokens that it has been assigned since.
    pub(super) age: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    places: Generations<u64, SmallVec<[Place; 2]>>,
    endpoints: Vec<Endpoint>,
    by_address: HashMap<Arc<str>, u16>,
}

impl Index {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { places: Generations::new(entries_max), endpoints: Vec::new(), by_address: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns the endpoints that have read a prefix, each with the longest one. `keys`: those of successively longer
    /// prefixes.
    pub(super) fn look_up(&mut self, keys: &[u64]) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut seen = vec![0_u64; self.endpoints.len().div_ceil(64)];
        for (depth, key) in keys.iter().enumerate().rev() {
            let Some(places) = self.places.get_mut(key) else { continue };
            for &place in places.iter() {
                let endpoint = &self.endpoints[usize::from(place.endpoint)];
                let (word, bit) = (usize::from(place.endpoint) / 64, 1 << (place.endpoint % 64));
                if place.stamp < endpoint.forgotten || seen[word] & bit != 0 {
                    continue;
                }
                seen[word] |= bit;
                let (address, age) = (Arc::clone(&endpoint.address), endpoint.age(place));
                matches.push(Match { endpoint: address, depth, age });
            }
            if matches.len() >= PLACES_MAX {
                break;
            }
        }
        matches
    }

    /// Records that an endpoint reads a prompt. `unread` tokens are new to it. Returns the keys that were not known, or
    /// not fresh: older than `fresh` tokens.
    pub(super) fn place(
        &mut self,
        address: &Arc<str>,
        mut keys: Vec<u64>,
        unread: u64,
        fresh: u64,
    ) -> Vec<u64> {
        let id = self.id_of(address);
        let Self { places, endpoints, .. } = self;
        let stamp = endpoints[usize::from(id)].stamp();
        keys.retain(|key| {
            let new = Place { endpoint: id, stamp };
            let Some(known) = places.get_mut(key) else {
                places.insert(*key, SmallVec::from_slice(&[new]));
                return true;
            };
            if let Some(place) = known.iter_mut().find(|place| place.endpoint == id) {
                let endpoint = &endpoints[usize::from(id)];
                let is_fresh = place.stamp >= endpoint.forgotten && endpoint.age(*place) <= fresh;
                if !is_fresh {
                    place.stamp = stamp;
                }
                return !is_fresh;
            }
            if known.len() < PLACES_MAX {
                known.push(new);
            } else if let Some(oldest) =
                known.iter_mut().max_by_key(|place| endpoints[usize::from(place.endpoint)].age(**place))
            {
                *oldest = new;
            }
            true
        });
        endpoints[usize::from(id)].assigned += unread;
        keys
    }

    /// Takes back that an endpoint reads prefixes.
    pub(super) fn unplace(&mut self, address: &str, keys: &[u64]) {
        let Some(id) = self.by_address.get(address) else { return };
        for key in keys {
            if let Some(places) = self.places.get_mut(key) {
                places.retain(|place| place.endpoint != *id);
            }
        }
    }

    /// Forgets everything that an endpoint has read, because its cache is empty. Returns whether the endpoint is known.
    pub(super) fn forget(&mut self, address: &str) -> bool {
        let Some(id) = self.by_address.get(address) else { return false };
        self.endpoints[usize::from(*id)].forget();
        true
    }

    /// Returns how often an endpoint has lost its cache.
    pub(super) fn losses(&self, address: &str) -> u32 {
        self.by_address.get(address).map_or(0, |id| self.endpoints[usize::from(*id)].losses)
    }

    fn id_of(&mut self, address: &Arc<str>) -> u16 {
        if let Some(id) = self.by_address.get(address) {
            return *id;
        }
        // Every address of the pool's whole life has a number. The index begins anew when they are used up.
        if self.endpoints.len() > usize::from(u16::MAX) {
            self.places.clear();
            self.endpoints.clear();
            self.by_address.clear();
        }
        let id = self.endpoints.len() as u16;
        let address = Arc::clone(address);
        self.by_address.insert(Arc::clone(&address), id);
        self.endpoints.push(Endpoint { address, assigned: 0, forgotten: 0, losses: 0 });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(index: &mut Index, keys: &[u64]) -> Vec<(String, usize, u64)> {
        let mut found: Vec<_> =
            index.look_up(keys).into_iter().map(|m| (m.endpoint.to_string(), m.depth, m.age)).collect();
        found.sort();
        found
    }

    fn place(index: &mut Index, address: &str, keys: &[u64], unread: u64) -> Vec<u64> {
        index.place(&address.into(), keys.to_vec(), unread, 2048)
    }

    #[test]
    fn each_endpoint_matches_with_its_longest_prefix() {
        let mut index = Index::new(1000);
        assert_eq!(place(&mut index, "a", &[1, 2, 3], 3000), [1, 2, 3]);
        assert_eq!(place(&mut index, "b", &[1, 2, 9], 3000), [1, 2, 9]);
        let found = matches(&mut index, &[1, 2, 3, 4]);
        assert_eq!(found, [("a".to_owned(), 2, 3000), ("b".to_owned(), 1, 3000)]);
        assert_eq!(matches(&mut index, &[7, 8]), []);
    }

    #[test]
    fn only_what_is_not_fresh_is_news() {
        let mut index = Index::new(1000);
        place(&mut index, "a", &[1, 2], 1024);
        assert_eq!(place(&mut index, "a", &[1, 2, 3], 1024), [3]);
        place(&mut index, "a", &[7], 1024);
        assert_eq!(place(&mut index, "a", &[1, 2, 3], 0), [1, 2]);
        assert_eq!(matches(&mut index, &[1]), [("a".to_owned(), 0, 0)]);
    }

    #[test]
    fn what_an_endpoint_has_forgotten_does_not_match_until_it_reads_again() {
        let mut index = Index::new(1000);
        place(&mut index, "a", &[1], 1024);
        place(&mut index, "b", &[1], 1024);
        index.forget("a");
        assert_eq!(matches(&mut index, &[1]).len(), 1);
        assert_eq!(place(&mut index, "a", &[1], 1024), [1]);
        assert_eq!(matches(&mut index, &[1]).len(), 2);
        assert_eq!((index.losses("a"), index.losses("b"), index.forget("unknown")), (1, 0, false));
    }

    #[test]
    fn what_was_taken_back_does_not_match() {
        let mut index = Index::new(1000);
        place(&mut index, "a", &[1, 2], 10);
        place(&mut index, "b", &[1], 10);
        index.unplace("a", &[1, 2, 3]);
        index.unplace("unknown", &[1]);
        assert_eq!(matches(&mut index, &[1, 2]), [("b".to_owned(), 0, 10)]);
    }

    #[test]
    fn a_prefix_that_all_have_remembers_a_bounded_number() {
        let mut index = Index::new(1000);
        for n in 0..200 {
            place(&mut index, &format!("e{n}"), &[1], 10_000);
        }
        assert_eq!(index.look_up(&[1]).len(), PLACES_MAX);
    }

    #[test]
    fn the_index_begins_anew_when_the_numbers_of_endpoints_are_used_up() {
        let mut index = Index::new(100_000);
        for n in 0..=u32::from(u16::MAX) + 1 {
            place(&mut index, &format!("e{n}"), &[u64::from(n)], 1);
        }
        assert_eq!(index.len(), 1);
        assert_eq!(matches(&mut index, &[65_536]), [("e65536".to_owned(), 0, 1)]);
    }
}
