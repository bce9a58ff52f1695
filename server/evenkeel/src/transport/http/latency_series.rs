//! Sets the latencies of pools at each scrape. Pools get them in the order in which they get other series.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_domain::PoolId;
use evenkeel_engine::balancer::{pool_entry::PoolEntry, view::PoolView};
use evenkeel_telemetry::LatencyMetrics;

pub(super) fn set_latencies(
    m: &LatencyMetrics,
    views: &BTreeMap<PoolId, Arc<PoolView>>,
    mut entries: Vec<Arc<PoolEntry>>,
) {
    entries.sort_by_key(|entry| (!entry.is_configured(), entry.age));
    m.set_pools(entries.iter().map(|entry| {
        let id = &entry.pool.id;
        let view = views.get(id);
        // A view is sorted by address. If it is missing, nobody knows which endpoints have left.
        let is_listed = move |address: &str| {
            view.is_none_or(|view| view.endpoints.binary_search_by(|e| (*e.address).cmp(address)).is_ok())
        };
        (id, &entry.latencies, is_listed)
    }));
}
