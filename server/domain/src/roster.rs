//! The endpoints of a pool, and the choice of one endpoint.

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
        self.endpoints.binary_search_by(|e| (*e.address).cmp(address)).ok().map(|i| &self.endpoints[i])
    }
}

/// Chooses the endpoint with the least `(in_flight + 1) / weight` among the endpoints below their cap. If several
/// endpoints have the least value, sorts them by address and chooses the one at index `tie` modulo their number.
/// Returns `None` if every endpoint is at its cap.
///
/// This is the reference for `lua/commit.lua`, which must choose the same endpoint. Both compute the score as one IEEE
/// 754 division.
pub fn choose(roster: &Roster, tie: u32, in_flight: impl Fn(&str) -> u64) -> Option<&Endpoint> {
    let mut least = f64::INFINITY;
    let mut equals: Vec<&Endpoint> = Vec::new();
    for endpoint in roster.endpoints() {
        let load = in_flight(&endpoint.address);
        if endpoint.cap > 0 && load >= u64::from(endpoint.cap) {
            continue;
        }
        #[allow(clippy::cast_precision_loss)]
        let score = (load + 1) as f64 / endpoint.weight;
        if score < least {
            least = score;
            equals.clear();
        }
        if score <= least {
            equals.push(endpoint);
        }
    }
    (!equals.is_empty()).then(|| equals[tie as usize % equals.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(endpoints: &[(&str, f64, u32)]) -> Roster {
        Roster::new(
            endpoints
                .iter()
                .map(|&(address, weight, cap)| Endpoint { address: address.into(), weight, cap })
                .collect(),
        )
    }

    fn pick(roster: &Roster, tie: u32, loads: &[(&str, u64)]) -> Option<String> {
        choose(roster, tie, |a| loads.iter().find(|(x, _)| *x == a).map_or(0, |(_, n)| *n))
            .map(|e| e.address.to_string())
    }

    #[test]
    fn the_least_loaded_endpoint_by_weight_is_chosen() {
        let r = roster(&[("a", 1.0, 0), ("b", 2.0, 0)]);
        assert_eq!(pick(&r, 0, &[]).as_deref(), Some("b"));
        assert_eq!(pick(&r, 0, &[("b", 2)]).as_deref(), Some("a"));
        assert_eq!(pick(&r, 0, &[("a", 1), ("b", 2)]).as_deref(), Some("b"));
    }

    #[test]
    fn the_tie_number_selects_by_address() {
        let r = roster(&[("c", 1.0, 0), ("a", 1.0, 0), ("b", 1.0, 0)]);
        assert_eq!(pick(&r, 0, &[]).as_deref(), Some("a"));
        assert_eq!(pick(&r, 4, &[]).as_deref(), Some("b"));
        assert_eq!(pick(&r, 1, &[("b", 1)]).as_deref(), Some("c"));
    }

    #[test]
    fn full_endpoints_are_not_chosen() {
        let r = roster(&[("a", 1.0, 1), ("b", 1.0, 2)]);
        assert_eq!(pick(&r, 0, &[("a", 1), ("b", 1)]).as_deref(), Some("b"));
        assert_eq!(pick(&r, 0, &[("a", 1), ("b", 2)]), None);
        assert_eq!(pick(&roster(&[]), 0, &[]), None);
    }
}
