//! Metrics of pools. Each scrape resets all of them and sets them again, so that pools and endpoints that no longer
//! exist disappear. The caller bounds their number.

use std::sync::atomic::{AtomicU64, Ordering};

use evenkeel_domain::activity::{ADMIT_RESULTS, AdmitResult, Counts};
use prometheus::{GaugeVec, IntCounterVec, IntGauge};

use super::catalogue::{Catalogue, counters, gauges, int_gauge};

pub struct PoolMetrics {
    pub in_flight: GaugeVec,
    /// Of pools that choose by work.
    pub unread_tokens: GaugeVec,
    pub endpoint_cap: GaugeVec,
    pub endpoint_weight: GaugeVec,
    /// Sum of a pool's caps; absent if any endpoint is unlimited.
    pub capacity: GaugeVec,
    /// Number of endpoints. Labels: the pool and `state`.
    pub endpoints: GaugeVec,
    pub holders: GaugeVec,
    pub imbalance: GaugeVec,
    /// Pools and endpoints without series of their own.
    pub pools_without_series: IntGauge,
    pub endpoints_without_series: IntGauge,
    admits: IntCounterVec,
}

/// Returns the value of the label `result`.
fn label(result: AdmitResult) -> &'static str {
    match result {
        AdmitResult::Shared => "admitted",
        AdmitResult::Local => "admitted_local",
        AdmitResult::Open => "admitted_open",
        result => result.name(),
    }
}

/// Counts the requests of one pool by result. The counts are part of the pool, so that counting needs no look-up.
#[derive(Debug, Default)]
pub struct PoolCounts([AtomicU64; ADMIT_RESULTS]);

impl PoolCounts {
    pub fn count(&self, result: AdmitResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

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
                "Requests in flight on an endpoint, across all gateways.",
                &endpoint,
            )?,
            unread_tokens: gauges(
                r,
                "evenkeel_unread_tokens",
                "Prompt tokens of the requests in flight that an endpoint has not read yet, in pools that choose by work.",
                &endpoint,
            )?,
            endpoint_cap: gauges(
                r,
                "evenkeel_endpoint_cap",
                "Maximum number of requests in flight on an endpoint; 0 if unlimited.",
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
                "Sum of the caps of a pool's endpoints; absent if any endpoint is unlimited.",
                &pool,
            )?,
            endpoints: gauges(
                r,
                "evenkeel_pool_endpoints",
                "Endpoints of a pool, by state.",
                &["route", "cluster", "state"],
            )?,
            holders: gauges(r, "evenkeel_holders", "Live gateway workers in a pool.", &pool)?,
            imbalance: gauges(
                r,
                "evenkeel_pool_imbalance",
                "Fraction of the requests in flight that exceed their endpoint's fair share, from 0 to 1.",
                &pool,
            )?,
            pools_without_series: int_gauge(
                r,
                "evenkeel_pools_without_series",
                "Pools that have no series of their own, because there are too many.",
            )?,
            endpoints_without_series: int_gauge(
                r,
                "evenkeel_endpoints_without_series",
                "Endpoints that have no series of their own, because there are too many.",
            )?,
            admits: counters(
                r,
                "evenkeel_pool_admits_total",
                "Admit calls answered, by pool and result.",
                &["route", "cluster", "result"],
            )?,
        })
    }

    /// Removes all pools, before a scrape sets the pools that still exist.
    pub fn clear(&self) {
        for gauge in [
            &self.in_flight,
            &self.unread_tokens,
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

    /// Sets the counts of one pool.
    pub fn set_counts(&self, route: &str, cluster: &str, counts: &PoolCounts) {
        for (result, count) in AdmitResult::ALL.into_iter().zip(counts.read()) {
            self.admits.with_label_values(&[route, cluster, label(result)]).inc_by(count);
        }
    }
}
