//! Metrics of discovery, which finds endpoints by DNS and Kubernetes.

use prometheus::{GaugeVec, IntCounter};

use super::catalogue::{Catalogue, counters, gauges};

/// Only pools that the configuration names appear as labels, because gateways can name any number of pools.
pub struct DiscoveryMetrics {
    pub errors_dns: IntCounter,
    pub errors_kubernetes: IntCounter,
    /// 1 while the source of a pool answers. Labels: `source`, `route`, `cluster`.
    pub up: GaugeVec,
    /// Ready endpoints that are not used. Labels: `route`, `cluster`, `reason`.
    pub unused: GaugeVec,
}

impl DiscoveryMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let errors = counters(
            r,
            "evenkeel_discovery_errors_total",
            "Failed look-ups of endpoints, by source.",
            &["source"],
        )?;
        Ok(Self {
            errors_dns: errors.with_label_values(&["dns"]),
            errors_kubernetes: errors.with_label_values(&["kubernetes"]),
            up: gauges(
                r,
                "evenkeel_discovery_up",
                "1 while the source of a configured pool's endpoints answers, otherwise 0.",
                &["source", "route", "cluster"],
            )?,
            unused: gauges(
                r,
                "evenkeel_discovery_unused_endpoints",
                "Ready endpoints of a configured pool that the sidecar does not use, by reason.",
                &["route", "cluster", "reason"],
            )?,
        })
    }
}
