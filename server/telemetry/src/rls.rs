//! Metrics of the rate limit service.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::{
    catalogue::{Catalogue, counters, histogram, register},
    metrics::LATENCY_BUCKETS,
};

/// Of the rate limit service.
pub struct Rls {
    /// Descriptors by `domain`, `limit` and `result`.
    pub requests: IntCounterVec,
    /// The same by `value`, where a file asks for it.
    pub values: IntCounterVec,
    /// Time to answer, in seconds.
    pub duration: Histogram,
    /// 1 while the files of limits as they are now are in force.
    pub config_valid: IntGauge,
    /// Files taken.
    pub config_loaded: IntCounter,
    /// Files refused.
    pub config_refused: IntCounter,
}

impl Rls {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let loads = counters(
            r,
            "evenkeel_rls_config_loads_total",
            "Changed files of limits read, by result.",
            &["result"],
        )?;
        let config_valid = register(
            r,
            IntGauge::new(
                "evenkeel_rls_config_valid",
                "1 while the files of limits as they are now are in force, 0 while earlier ones are.",
            )?,
        )?;
        config_valid.set(1);
        Ok(Self {
            requests: counters(
                r,
                "evenkeel_rls_requests_total",
                "Descriptors judged by the rate limit service, by limit and result.",
                &["domain", "limit", "result"],
            )?,
            values: counters(
                r,
                "evenkeel_rls_values_total",
                "Descriptors judged by limits that ask for detailed metrics; at most 100 values of each limit.",
                &["domain", "limit", "value", "result"],
            )?,
            duration: histogram(
                r,
                "evenkeel_rls_duration_seconds",
                "Time to answer a ShouldRateLimit, without transport.",
                LATENCY_BUCKETS,
            )?,
            config_valid,
            config_loaded: loads.with_label_values(&["taken"]),
            config_refused: loads.with_label_values(&["refused"]),
        })
    }
}
