//! Sets the metrics of pools at each scrape: the tables as of the last sweep, and the current request counts.
//!
//! Gateways create pools and name endpoints, so the number of series is bounded. Pools that the configuration names come
//! first, then the others, those that the sidecar has known for longest first. Within a pool, endpoints that get requests
//! come before those that have left, and each group is sorted by address. New names therefore never take the series of old
//! ones.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_domain::{PoolId, choice::Policy};
use evenkeel_engine::balancer::{
    pool_entry::PoolEntry,
    view::{EndpointView, PoolView},
};
use evenkeel_telemetry::{PoolMetrics, PrefixMetrics};

/// Maximum number of pools with series. A pool has about 20 series.
const POOLS_MAX: usize = 512;
/// Maximum number of endpoints with series, over all pools. An endpoint has 3 series, or 4 if its pool chooses by work.
const ENDPOINTS_MAX: usize = 4096;

pub(super) fn set_pools(
    m: &PoolMetrics,
    of_prefixes: &PrefixMetrics,
    views: &BTreeMap<PoolId, Arc<PoolView>>,
    entries: &[Arc<PoolEntry>],
) {
    m.clear();
    of_prefixes.clear();
    let mut entries: Vec<&PoolEntry> = entries.iter().map(|entry| &**entry).collect();
    entries.sort_by_key(|entry| (!entry.is_configured(), entry.age));
    let (mut room, mut without) = (ENDPOINTS_MAX, 0);
    for (i, entry) in entries.iter().enumerate() {
        let view = views.get(&entry.pool.id);
        let endpoints = view.map_or(0, |view| view.endpoints.len());
        if i >= POOLS_MAX {
            without += endpoints;
            continue;
        }
        let id = &entry.pool.id;
        m.set_counts(id.route(), id.cluster(), &entry.counts);
        if let Some(prefixes) = &entry.prefixes {
            of_prefixes.set(id.route(), id.cluster(), prefixes.figures());
        }
        if let Some(view) = view {
            set_pool(m, view);
            set_endpoints(m, view, room);
            without += endpoints.saturating_sub(room);
            room = room.saturating_sub(endpoints);
        }
    }
    m.pools_without_series.set(entries.len().saturating_sub(POOLS_MAX) as i64);
    m.endpoints_without_series.set(without as i64);
}

fn set_pool(m: &PoolMetrics, view: &PoolView) {
    let pool = [view.route.as_str(), view.cluster.as_str()];
    m.holders.with_label_values(&pool).set(view.holders as f64);
    m.imbalance.with_label_values(&pool).set(view.imbalance);
    if let Some(capacity) = view.capacity {
        m.capacity.with_label_values(&pool).set(capacity as f64);
    }
    let [mut in_use, mut drained, mut left] = [0_u32; 3];
    for endpoint in &view.endpoints {
        *match (endpoint.listed, endpoint.drained) {
            (false, _) => &mut left,
            (true, true) => &mut drained,
            (true, false) => &mut in_use,
        } += 1;
    }
    for (state, count) in [("in_use", in_use), ("drained", drained), ("left", left)] {
        m.endpoints.with_label_values(&[pool[0], pool[1], state]).set(f64::from(count));
    }
}

/// Sets the series of at most `room` endpoints.
fn set_endpoints(m: &PoolMetrics, view: &PoolView, room: usize) {
    let mut endpoints: Vec<&EndpointView> = view.endpoints.iter().collect();
    if endpoints.len() > room {
        endpoints.sort_by_key(|endpoint| (!endpoint.listed, &endpoint.address));
    }
    for endpoint in endpoints.into_iter().take(room) {
        let labels = [view.route.as_str(), view.cluster.as_str(), &endpoint.address];
        m.in_flight.with_label_values(&labels).set(endpoint.in_flight as f64);
        if view.policy == Policy::LeastWork {
            m.unread_tokens.with_label_values(&labels).set(endpoint.unread_tokens as f64);
        }
        m.endpoint_cap.with_label_values(&labels).set(f64::from(endpoint.cap));
        m.endpoint_weight.with_label_values(&labels).set(endpoint.weight);
    }
}
