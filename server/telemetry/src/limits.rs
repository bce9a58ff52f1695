//! Metrics of limits and quotas. Names are those of the configuration, never of who is limited.

use std::sync::Arc;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge};

use super::catalogue::{Catalogue, counters, gauges, register};

/// By the names of limits and quotas.
pub struct LimitMetrics {
    checks: IntCounterVec,
    reserved: IntCounterVec,
    charged: IntCounterVec,
    overrun: IntCounterVec,
    usage: GaugeVec,
    revision: IntGauge,
}

/// Of one limit or quota, looked up once.
pub struct LimitCounters {
    /// Requests that it let pass.
    pub admitted: IntCounter,
    /// Requests that it refused.
    pub refused: IntCounter,
    /// Requests that it would have refused, were it not in shadow mode.
    pub shadow_refused: IntCounter,
    reserved: IntCounter,
    charged: IntCounter,
    overrun: IntCounter,
}

impl LimitMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        Ok(Self {
            checks: counters(
                r,
                "evenkeel_limit_checks_total",
                "Requests held against a limit or quota that applies to them, by its name and result.",
                &["limit", "result"],
            )?,
            reserved: counters(
                r,
                "evenkeel_limit_reserved_total",
                "What ended requests had reserved of a limit or quota, in what it counts.",
                &["limit"],
            )?,
            charged: counters(
                r,
                "evenkeel_limit_charged_total",
                "What ended requests were charged in its place.",
                &["limit"],
            )?,
            overrun: counters(
                r,
                "evenkeel_limit_overrun_total",
                "What they were charged beyond what they had reserved.",
                &["limit"],
            )?,
            usage: gauges(
                r,
                "evenkeel_limit_usage_ratio",
                "What the fullest key of a limit has used of its amount, as this sidecar last saw it.",
                &["limit"],
            )?,
            revision: register(
                r,
                IntGauge::new("evenkeel_limits_revision", "Fingerprint of the limits in force.")?,
            )?,
        })
    }

    /// Sets what the fullest keys have used, at each scrape, so that nothing gone lingers.
    pub fn set_usage(&self, fullest: &[(Arc<str>, f64)]) {
        self.usage.reset();
        for (limit, share) in fullest {
            self.usage.with_label_values(&[limit]).set(*share);
        }
    }

    /// Other limits are in force.
    pub fn set_revision(&self, fingerprint: u64) {
        // As many bits as Prometheus's numbers tell apart.
        self.revision.set((fingerprint & ((1 << 53) - 1)) as i64);
    }

    /// Of one limit or quota.
    #[must_use]
    pub fn of(&self, name: &str) -> LimitCounters {
        let checks = |result| self.checks.with_label_values(&[name, result]);
        LimitCounters {
            admitted: checks("admitted"),
            refused: checks("refused"),
            shadow_refused: checks("shadow_refused"),
            reserved: self.reserved.with_label_values(&[name]),
            charged: self.charged.with_label_values(&[name]),
            overrun: self.overrun.with_label_values(&[name]),
        }
    }
}

impl LimitCounters {
    /// A reservation was replaced by its charge.
    pub fn settled(&self, reserved: u64, charged: u64) {
        self.reserved.inc_by(reserved);
        self.charged.inc_by(charged);
        self.overrun.inc_by(charged.saturating_sub(reserved));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_beyond_its_reservation_is_told() {
        let limits = LimitMetrics::new(&Catalogue::default()).unwrap();
        let counters = limits.of("tokens");
        counters.settled(100, 70);
        counters.settled(100, 130);
        // Of one name there is one counter, however often the configuration is read again.
        let again = limits.of("tokens");
        assert_eq!([again.reserved.get(), again.charged.get(), again.overrun.get()], [200, 200, 30]);
    }
}
