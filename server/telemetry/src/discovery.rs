//! Metrics of where endpoints come from.

use prometheus::{GaugeVec, IntCounter};

use super::catalogue::{Catalogue, counters, gauges};

/// Of endpoints from DNS and Kubernetes. Pools that gateways name are no labels here: only those the configuration does.
pub struct Discovery {
    /// Failed look-ups.
    pub errors_dns: IntCounter,
    /// Failed lists and watches.
    pub errors_kubernetes: IntCounter,
    /// 1 while the source of a pool answers, by `source`, `route` and `cluster`.
    pub up: GaugeVec,
    /// Endpoints found and not used, by `route`, `cluster` and `reason`.
    pub left_out: GaugeVec,
}

impl Discovery {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let errors = counters(
            r,
            "evenkeel_discovery_errors_total",
            "Endpoints could not be asked for, by source; those known stay in use.",
            &["source"],
        )?;
        Ok(Self {
            errors_dns: errors.with_label_values(&["dns"]),
            errors_kubernetes: errors.with_label_values(&["kubernetes"]),
            up: gauges(
                r,
                "evenkeel_discovery_up",
                "1 while the source of a configured pool's endpoints answers.",
                &["source", "route", "cluster"],
            )?,
            left_out: gauges(
                r,
                "evenkeel_discovery_left_out",
                "Ready endpoints of a configured pool that are not used, by reason.",
                &["route", "cluster", "reason"],
            )?,
        })
    }
}
