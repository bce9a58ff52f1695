//! Metrics of the rate limit service.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::catalogue::{Catalogue, LATENCY_BUCKETS, counter, counters, histogram, int_gauge};

pub struct RlsMetrics {
    /// Descriptors that met a limit. Labels: `domain`, `limit`, `result`.
    pub descriptors: IntCounterVec,
    /// Hits of these descriptors. Labels: `domain`, `limit`, `result`.
    pub hits: IntCounterVec,
    /// Labels: `domain`, `limit`.
    pub near_limit_hits: IntCounterVec,
    /// Descriptors that met a limit with `detailed_metric`. Labels: `domain`, `limit`, `value`, `result`.
    pub detailed: IntCounterVec,
    pub duration: Histogram,
    pub short_deadlines: IntCounter,
    /// 1 if the service uses the current files, 0 if it rejected them.
    pub config_valid: IntGauge,
    pub config_applied: IntCounter,
    pub config_rejected: IntCounter,
}

impl RlsMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let loads = counters(
            r,
            "evenkeel_rls_config_loads_total",
            "Loads of changed limit files, by result.",
            &["result"],
        )?;
        let config_valid = int_gauge(
            r,
            "evenkeel_rls_config_valid",
            "1 while the current limit files are active, 0 while an earlier version of them is active.",
        )?;
        config_valid.set(1);
        Ok(Self {
            descriptors: counters(
                r,
                "evenkeel_rls_descriptors_total",
                "Descriptors evaluated by the rate limit service, by limit and result.",
                &["domain", "limit", "result"],
            )?,
            hits: counters(
                r,
                "evenkeel_rls_hits_total",
                "Hits of the descriptors evaluated by the rate limit service, by limit and result.",
                &["domain", "limit", "result"],
            )?,
            near_limit_hits: counters(
                r,
                "evenkeel_rls_near_limit_hits_total",
                "Hits counted while between 80 % and 100 % of a limit's amount were used.",
                &["domain", "limit"],
            )?,
            detailed: counters(
                r,
                "evenkeel_rls_detailed_descriptors_total",
                "Descriptors of limits with detailed_metric or value_to_metric, by value and result.",
                &["domain", "limit", "value", "result"],
            )?,
            duration: histogram(
                r,
                "evenkeel_rls_duration_seconds",
                "Time to answer a ShouldRateLimit call, excluding transport.",
                LATENCY_BUCKETS,
            )?,
            short_deadlines: counter(
                r,
                "evenkeel_rls_short_deadlines_total",
                "ShouldRateLimit calls whose gateway waits less than the sidecar may need while Redis is slow.",
            )?,
            config_valid,
            config_applied: loads.with_label_values(&["applied"]),
            config_rejected: loads.with_label_values(&["rejected"]),
        })
    }
}
