//! What operators see of a pool: its table joined with its endpoints.

use std::sync::Arc;

use serde::Serialize;

use super::directory::PoolEntry;
use crate::{domain::PoolId, store::Table};

/// One pool at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolView {
    /// Name of the route; empty where routes share the table.
    pub route: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Sum of the requests in flight.
    pub in_flight: u64,
    /// Sum of the caps; `None` when any endpoint is unlimited.
    pub capacity: Option<u64>,
    /// Holders alive.
    pub holders: u64,
    /// When it was read, by the store's clock, in ms of the Unix epoch.
    pub read_at_ms: u64,
    /// False while the store is unavailable.
    pub current: bool,
    /// By address.
    pub endpoints: Vec<EndpointView>,
    /// For look-ups.
    #[serde(skip)]
    pub id: PoolId,
}

/// One endpoint of a pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointView {
    /// Its address.
    pub address: Arc<str>,
    /// Requests in flight, over all gateways.
    pub in_flight: u64,
    /// Relative capacity.
    pub weight: f64,
    /// Largest number of requests in flight; 0 when unlimited.
    pub cap: u32,
    /// False where the endpoint has left the pool and only its last requests remain.
    pub listed: bool,
}

impl PoolView {
    /// Joins a table with the endpoints known.
    #[must_use]
    pub fn new(entry: &PoolEntry, table: &Table, current: bool) -> Self {
        let roster = entry.known_roster();
        let in_flight = |address: &str| table.in_flight.get(address).copied().unwrap_or(0);
        let mut endpoints: Vec<EndpointView> = roster
            .endpoints()
            .iter()
            .map(|endpoint| EndpointView {
                address: Arc::clone(&endpoint.address),
                in_flight: in_flight(&endpoint.address),
                weight: endpoint.weight,
                cap: endpoint.cap,
                listed: true,
            })
            .collect();
        let gone = table.in_flight.iter().filter(|(address, _)| roster.get(address).is_none());
        endpoints.extend(gone.map(|(address, count)| EndpointView {
            address: Arc::clone(address),
            in_flight: *count,
            weight: entry.rule.weight,
            cap: entry.rule.cap,
            listed: false,
        }));
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        let listed = endpoints.iter().filter(|endpoint| endpoint.listed);
        let capacity = listed.map(|e| (e.cap > 0).then_some(u64::from(e.cap))).sum::<Option<u64>>();
        Self {
            route: entry.pool.id.route().to_owned(),
            cluster: entry.pool.id.cluster().to_owned(),
            in_flight: table.in_flight.values().sum(),
            capacity,
            holders: table.holders.values().filter(|deadline| **deadline > table.now_ms).count() as u64,
            read_at_ms: table.now_ms,
            current,
            endpoints,
            id: entry.pool.id.clone(),
        }
    }

    /// Whether anything but the time of reading differs.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.endpoints != other.endpoints || self.holders != other.holders || self.current != other.current
    }
}
