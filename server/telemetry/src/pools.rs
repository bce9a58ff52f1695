//! Metrics of pools. All are set anew at each scrape, so that nothing gone lingers: there are as many series as there
//! are pools, at most 4096, and endpoints.

use std::sync::atomic::{AtomicU64, Ordering};

use evenkeel_domain::activity::{ADMIT_RESULTS, AdmitResult, Counts};
use prometheus::{GaugeVec, IntCounterVec};

use super::catalogue::{Catalogue, counters, gauges};

/// Of pools and endpoints.
pub struct PoolMetrics {
    /// Requests in flight by endpoint.
    pub in_flight: GaugeVec,
    /// Cap by endpoint; 0 when unlimited.
    pub endpoint_cap: GaugeVec,
    /// Weight by endpoint.
    pub endpoint_weight: GaugeVec,
    /// Sum of the caps by pool; none when any endpoint is unlimited.
    pub capacity: GaugeVec,
    /// Endpoints by pool and `state`.
    pub endpoints: GaugeVec,
    /// Holders alive by pool.
    pub holders: GaugeVec,
    /// Imbalance by pool.
    pub imbalance: GaugeVec,
    admits: IntCounterVec,
}

/// Its `result` in metrics.
fn label(result: AdmitResult) -> &'static str {
    match result {
        AdmitResult::Shared => "admitted",
        AdmitResult::Local => "admitted_local",
        AdmitResult::Open => "admitted_open",
        result => result.name(),
    }
}

/// What became of one pool's requests. It lies with the pool, so that counting takes no look-up.
#[derive(Debug, Default)]
pub struct PoolCounts([AtomicU64; ADMIT_RESULTS]);

impl PoolCounts {
    /// Counts one.
    pub fn count(&self, result: AdmitResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    #[must_use]
    pub fn read(&self) -> Counts {
        std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed))
    }
}

impl PoolMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let (pool, endpoint) = (["route", "cluster"], ["route", "cluster", "endpoint"]);
        Ok(Self {
            in_flight: gauges(
                r,
                "evenkeel_in_flight",
                "Requests in flight on an endpoint, over all gateways.",
                &endpoint,
            )?,
            endpoint_cap: gauges(
                r,
                "evenkeel_endpoint_cap",
                "Largest number of requests in flight on an endpoint; 0 when unlimited.",
                &endpoint,
            )?,
            endpoint_weight: gauges(
                r,
                "evenkeel_endpoint_weight",
                "Relative capacity of an endpoint.",
                &endpoint,
            )?,
            capacity: gauges(
                r,
                "evenkeel_pool_capacity",
                "Sum of the caps of a pool's endpoints; not there while any of them is unlimited.",
                &pool,
            )?,
            endpoints: gauges(
                r,
                "evenkeel_pool_endpoints",
                "Endpoints of a pool by state.",
                &["route", "cluster", "state"],
            )?,
            holders: gauges(r, "evenkeel_holders", "Gateway workers alive in a pool.", &pool)?,
            imbalance: gauges(
                r,
                "evenkeel_pool_imbalance",
                "Share of the requests in flight that would have to move for each endpoint to have its part, from 0 to 1.",
                &pool,
            )?,
            admits: counters(
                r,
                "evenkeel_pool_admits_total",
                "Answers to Admit by pool and result.",
                &["route", "cluster", "result"],
            )?,
        })
    }

    /// Forgets all pools: those that are still there are about to be set.
    pub fn clear(&self) {
        for gauge in [
            &self.in_flight,
            &self.endpoint_cap,
            &self.endpoint_weight,
            &self.capacity,
            &self.endpoints,
            &self.holders,
            &self.imbalance,
        ] {
            gauge.reset();
        }
        self.admits.reset();
    }

    /// Shows what became of one pool's requests.
    pub fn set_counts(&self, route: &str, cluster: &str, counts: &PoolCounts) {
        for (result, count) in AdmitResult::ALL.into_iter().zip(counts.read()) {
            self.admits.with_label_values(&[route, cluster, label(result)]).inc_by(count);
        }
    }
}
