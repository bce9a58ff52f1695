//! Metrics of gateways whose requests pass without limits.

use evenkeel_domain::gateway::GapCounts;
use prometheus::{IntCounter, IntGauge};

use super::catalogue::{Catalogue, counters, int_gauge};

pub struct GatewayMetrics {
    /// Gateways of this sidecar whose requests pass without limits now.
    pub unlimited: IntGauge,
    unreachable: IntCounter,
    late: IntCounter,
    failed: IntCounter,
}

impl GatewayMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let requests = counters(
            r,
            "evenkeel_unlimited_requests_total",
            "Requests that gateways sent upstream without an answer of a sidecar, by reason.",
            &["reason"],
        )?;
        Ok(Self {
            unlimited: int_gauge(
                r,
                "evenkeel_gateways_unlimited",
                "Gateways of this sidecar that sent a request upstream without an answer within the last 30 seconds.",
            )?,
            unreachable: requests.with_label_values(&["unreachable"]),
            late: requests.with_label_values(&["late"]),
            failed: requests.with_label_values(&["failed"]),
        })
    }

    /// Counts requests that a gateway reports.
    pub fn count(&self, requests: GapCounts) {
        self.unreachable.inc_by(requests.unreachable);
        self.late.inc_by(requests.late);
        self.failed.inc_by(requests.failed);
    }
}
