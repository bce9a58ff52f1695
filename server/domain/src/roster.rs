//! The endpoints of a pool.

use std::sync::Arc;

/// Maximum number of endpoints in one pool. Bounds what one script call carries and scans.
pub const ENDPOINTS_MAX: usize = 1024;

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
}

impl Roster {
    /// Sorts the endpoints by address. Of endpoints with the same address, only the first is used.
    #[must_use]
    pub fn new(mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        endpoints.dedup_by(|b, a| a.address == b.address);
        Self { endpoints }
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
}
