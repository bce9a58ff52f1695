//! The endpoints of a pool.

use std::{fmt::Write as _, sync::Arc};

use ring::digest::{Context, SHA256};

/// Maximum number of endpoints in one pool. Bounds what one script call carries and scans.
pub const ENDPOINTS_MAX: usize = 1024;

/// Length of a digest: long enough that different rosters have different digests.
const DIGEST_BYTES: usize = 16;

/// An endpoint to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `host:port`, or the name of a cluster or provider.
    pub address: Arc<str>,
    /// Relative capacity, above 0.
    pub weight: f64,
    /// Maximum number of requests in flight. 0: unlimited.
    pub cap: u32,
}

/// The endpoints of one pool at one time, sorted by address. Addresses are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    endpoints: Vec<Endpoint>,
    /// Indexes of the endpoints, sorted by weight, cap and address.
    by_class: Vec<usize>,
    /// For each endpoint, its index in `by_class`.
    ranks: Vec<usize>,
    classes: Vec<Class>,
}

/// The endpoints of one weight and cap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    pub weight: f64,
    pub cap: u32,
    /// Number of these endpoints.
    pub endpoints: usize,
}

impl Roster {
    /// Sorts the endpoints by address. Of endpoints with the same address, only the first is used.
    #[must_use]
    pub fn new(mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        endpoints.dedup_by(|b, a| a.address == b.address);
        let mut by_class: Vec<usize> = (0..endpoints.len()).collect();
        let class = |i: &usize| (endpoints[*i].weight, endpoints[*i].cap);
        // The sort is stable, so endpoints of one class remain sorted by address.
        by_class.sort_by(|a, b| class(a).0.total_cmp(&class(b).0).then(class(a).1.cmp(&class(b).1)));
        let classes = by_class.chunk_by(|a, b| class(a) == class(b)).map(|indexes| {
            let (weight, cap) = class(&indexes[0]);
            Class { weight, cap, endpoints: indexes.len() }
        });
        let classes = classes.collect();
        let mut ranks = vec![0; endpoints.len()];
        for (rank, index) in by_class.iter().enumerate() {
            ranks[*index] = rank;
        }
        Self { endpoints, by_class, ranks, classes }
    }

    /// Returns the endpoints, sorted by address.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    #[must_use]
    pub fn get(&self, address: &str) -> Option<&Endpoint> {
        self.index_of(address).map(|index| &self.endpoints[index])
    }

    #[must_use]
    pub fn index_of(&self, address: &str) -> Option<usize> {
        self.endpoints.binary_search_by(|endpoint| (*endpoint.address).cmp(address)).ok()
    }

    /// Returns the endpoints, sorted by weight, cap and address. Endpoints with equal scores are in this order.
    pub fn in_class_order(&self) -> impl Iterator<Item = &Endpoint> + Clone {
        self.by_class.iter().map(|index| &self.endpoints[*index])
    }

    /// Returns the endpoint at an index in the order of [`Self::in_class_order`].
    ///
    /// # Panics
    /// If there are not as many endpoints.
    #[must_use]
    pub fn at(&self, index: usize) -> &Endpoint {
        &self.endpoints[self.by_class[index]]
    }

    /// Returns the index of an endpoint in the order of [`Self::in_class_order`].
    #[must_use]
    pub fn class_index_of(&self, address: &str) -> Option<usize> {
        self.index_of(address).map(|index| self.ranks[index])
    }

    /// Returns the classes, in the order of [`Self::in_class_order`].
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Returns a digest of the endpoints and of the rule by which they are chosen, in hexadecimal.
    #[must_use]
    pub fn digest(&self, by_work: bool) -> String {
        let mut context = Context::new(&SHA256);
        context.update(&[u8::from(by_work)]);
        for Endpoint { address, weight, cap } in &self.endpoints {
            context.update(&(address.len() as u64).to_le_bytes());
            context.update(address.as_bytes());
            context.update(&weight.to_le_bytes());
            context.update(&cap.to_le_bytes());
        }
        context.finish().as_ref()[..DIGEST_BYTES].iter().fold(String::new(), |mut text, byte| {
            // Writes to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(endpoints: &[(&str, f64, u32)]) -> Roster {
        let endpoint =
            |&(address, weight, cap): &(&str, f64, u32)| Endpoint { address: address.into(), weight, cap };
        Roster::new(endpoints.iter().map(endpoint).collect())
    }

    #[test]
    fn classes_have_one_weight_and_cap() {
        let roster = roster(&[("d", 2.0, 0), ("a", 2.0, 0), ("b", 1.0, 7), ("c", 1.0, 0), ("a", 9.0, 9)]);
        let order: Vec<&str> = roster.in_class_order().map(|endpoint| &*endpoint.address).collect();
        assert_eq!(order, ["c", "b", "a", "d"]);
        let classes: Vec<_> = roster.classes().iter().map(|c| (c.weight, c.cap, c.endpoints)).collect();
        assert_eq!(classes, [(1.0, 0, 1), (1.0, 7, 1), (2.0, 0, 2)]);
        for (index, address) in order.iter().enumerate() {
            assert_eq!(roster.class_index_of(address), Some(index));
            assert_eq!(&*roster.at(index).address, *address);
        }
        assert_eq!(roster.class_index_of("e"), None);
    }

    #[test]
    fn the_digest_depends_on_everything_that_a_choice_depends_on() {
        let base = [("ab", 1.0, 0), ("c", 1.0, 0)];
        let digest = roster(&base).digest(false);
        assert_eq!(digest, roster(&[base[1], base[0]]).digest(false));
        let others = [
            roster(&base).digest(true),
            roster(&[("a", 1.0, 0), ("bc", 1.0, 0)]).digest(false),
            roster(&[("ab", 1.5, 0), ("c", 1.0, 0)]).digest(false),
            roster(&[("ab", 1.0, 1), ("c", 1.0, 0)]).digest(false),
            roster(&base[..1]).digest(false),
        ];
        assert!(!others.contains(&digest));
    }
}
