//! The view of a pool for operators: its table joined with its endpoints.

use std::sync::Arc;

use evenkeel_domain::{PoolId, choice::Policy};
use evenkeel_store::Table;

use super::pool_entry::PoolEntry;
use crate::prefix::HitRate;

/// The state of one pool at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolView {
    /// Empty if all routes of the cluster share the table.
    pub route: String,
    pub cluster: String,
    pub in_flight: u64,
    /// Prompt tokens that the endpoints have not read yet. 0 if the pool does not choose by work.
    pub unread_tokens: u64,
    pub policy: Policy,
    /// `None` if the choice does not consider prefix caches, or no response has stated cached tokens.
    pub hit_rate: Option<HitRate>,
    /// Sum of the caps of the endpoints that get requests. `None` if any of them is unlimited.
    pub capacity: Option<u64>,
    pub holders: u64,
    /// When the table was read, by the store's clock, in ms since the Unix epoch.
    pub read_at_ms: u64,
    /// Whether the table is from the shared store. False while the store is unavailable.
    pub current: bool,
    /// Fraction of the requests in flight that exceed their endpoint's fair share, from 0 to 1.
    pub imbalance: f64,
    pub endpoints: Vec<EndpointView>,
    pub id: PoolId,
}

/// One endpoint of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointView {
    pub address: Arc<str>,
    /// Requests in flight from all gateways.
    pub in_flight: u64,
    /// Prompt tokens of these requests that the endpoint has not read yet.
    pub unread_tokens: u64,
    /// As in [`PoolView`].
    pub hit_rate: Option<HitRate>,
    pub weight: f64,
    /// Maximum number of requests in flight. 0: unlimited.
    pub cap: u32,
    /// False if the endpoint is no longer in the pool and only its last requests remain.
    pub listed: bool,
    /// Whether an administrator has drained the endpoint, so that it gets no new requests.
    pub drained: bool,
}

impl PoolView {
    /// Joins a table with the endpoints that this sidecar knows.
    #[must_use]
    pub fn new(entry: &PoolEntry, table: &Table) -> Self {
        let roster = entry.known_roster();
        let (hit_rate, hit_rates) =
            entry.prefixes.as_ref().map(|prefixes| prefixes.hit_rates(&roster)).unwrap_or_default();
        let load = |address: &str| table.loads.get(address).copied().unwrap_or_default();
        let mut endpoints: Vec<EndpointView> = roster
            .endpoints()
            .iter()
            .map(|endpoint| EndpointView {
                address: Arc::clone(&endpoint.address),
                in_flight: load(&endpoint.address).in_flight,
                unread_tokens: load(&endpoint.address).unread,
                hit_rate: hit_rates.get(&endpoint.address).copied(),
                weight: endpoint.weight,
                cap: endpoint.cap,
                listed: true,
                drained: entry.is_drained(&endpoint.address),
            })
            .collect();
        let gone = table.loads.iter().filter(|(address, _)| roster.get(address).is_none());
        endpoints.extend(gone.map(|(address, load)| EndpointView {
            address: Arc::clone(address),
            in_flight: load.in_flight,
            unread_tokens: load.unread,
            hit_rate: hit_rates.get(address).copied(),
            weight: entry.rule.weight,
            cap: entry.rule.cap,
            listed: false,
            drained: entry.is_drained(address),
        }));
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        let in_use = endpoints.iter().filter(|endpoint| endpoint.listed && !endpoint.drained);
        let capacity = in_use.map(|e| (e.cap > 0).then_some(u64::from(e.cap))).sum::<Option<u64>>();
        Self {
            route: entry.pool.id.route().to_owned(),
            cluster: entry.pool.id.cluster().to_owned(),
            in_flight: table.loads.values().map(|load| load.in_flight).sum(),
            unread_tokens: table.loads.values().map(|load| load.unread).sum(),
            policy: entry.rule.policy,
            hit_rate,
            capacity,
            holders: table.holders.values().filter(|deadline| **deadline > table.now_ms).count() as u64,
            read_at_ms: table.now_ms,
            current: table.current,
            imbalance: imbalance(&endpoints),
            endpoints,
            id: entry.pool.id.clone(),
        }
    }

    /// Returns the number of further requests that the endpoints can take. `None` if any endpoint that gets requests is
    /// unlimited.
    #[must_use]
    pub fn room(&self) -> Option<u64> {
        let open = self.endpoints.iter().filter(|endpoint| endpoint.listed && !endpoint.drained);
        open.map(|e| (e.cap > 0).then(|| u64::from(e.cap).saturating_sub(e.in_flight))).sum()
    }

    /// Whether the two views differ in anything but the time when they were read.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.endpoints != other.endpoints || self.holders != other.holders || self.current != other.current
    }
}

/// Returns the fraction of requests in flight that exceed their endpoint's fair share. The fair share is proportional
/// to the weight, rounded up, and at most the cap. Endpoints that are drained or no longer in the pool do not count,
/// because they only finish their requests.
fn imbalance(endpoints: &[EndpointView]) -> f64 {
    let in_use = || endpoints.iter().filter(|endpoint| endpoint.listed && !endpoint.drained);
    let total: u64 = in_use().map(|endpoint| endpoint.in_flight).sum();
    let weights: f64 = in_use().map(|endpoint| endpoint.weight).sum();
    if total == 0 || weights <= 0.0 {
        return 0.0;
    }
    let beyond: u64 = in_use()
        .map(|endpoint| {
            let part = (total as f64 * endpoint.weight / weights).ceil() as u64;
            let part = if endpoint.cap > 0 { part.min(u64::from(endpoint.cap)) } else { part };
            endpoint.in_flight.saturating_sub(part)
        })
        .sum();
    beyond as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(in_flight: u64, weight: f64, cap: u32) -> EndpointView {
        EndpointView {
            address: "a".into(),
            in_flight,
            unread_tokens: 0,
            hit_rate: None,
            weight,
            cap,
            listed: true,
            drained: false,
        }
    }

    #[test]
    fn imbalance_is_the_fraction_of_requests_above_the_fair_share() {
        let of = |list: &[(u64, f64, u32)]| {
            let list: Vec<_> = list.iter().map(|(n, weight, cap)| endpoint(*n, *weight, *cap)).collect();
            imbalance(&list)
        };
        assert_eq!(of(&[]), 0.0);
        assert_eq!(of(&[(0, 1.0, 0), (0, 1.0, 0)]), 0.0);
        assert_eq!(of(&[(1, 1.0, 0), (0, 1.0, 0)]), 0.0, "one request cannot be divided");
        assert_eq!(of(&[(4, 1.0, 0), (0, 1.0, 0)]), 0.5);
        assert_eq!(of(&[(4, 2.0, 0), (2, 1.0, 0)]), 0.0, "parts are by weight");
        assert_eq!(of(&[(10, 1.0, 0), (0, 1.0, 0), (0, 1.0, 0), (0, 1.0, 0), (0, 1.0, 0)]), 0.8);
        let mut list = [endpoint(4, 1.0, 0), endpoint(0, 1.0, 0)];
        list[0].drained = true;
        assert_eq!(imbalance(&list), 0.0, "requests on a drained endpoint stay there");
    }
}
