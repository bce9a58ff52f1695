//! Metrics of limits and quotas. Labels are names from the configuration, never the keys of requests.

use std::sync::Arc;

use prometheus::{Counter, GaugeVec, IntCounter, IntCounterVec, IntGauge};

use super::catalogue::{Catalogue, counters, gauges, int_gauge, register};

pub struct LimitMetrics {
    checks: IntCounterVec,
    reserved: IntCounterVec,
    charged: IntCounterVec,
    overrun: IntCounterVec,
    usage: GaugeVec,
    revision: IntGauge,
}

/// The metrics of one limit or quota. The caller keeps them, so that a request needs no look-up by name.
pub struct LimitCounters {
    pub admitted: IntCounter,
    pub refused: IntCounter,
    /// Requests that a limit in shadow mode would otherwise have refused.
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
                "Requests checked against a limit or quota, by the limit's name and the result.",
                &["limit", "result"],
            )?,
            reserved: counters(
                r,
                "evenkeel_limit_reserved_total",
                "Amount of a limit or quota that finished requests had reserved.",
                &["limit"],
            )?,
            charged: counters(
                r,
                "evenkeel_limit_charged_total",
                "Amount of a limit or quota that finished requests were charged.",
                &["limit"],
            )?,
            overrun: counters(
                r,
                "evenkeel_limit_overrun_total",
                "Amount that finished requests were charged beyond their reservations.",
                &["limit"],
            )?,
            usage: gauges(
                r,
                "evenkeel_limit_usage_ratio",
                "Fraction of the limit's amount that the key with the highest usage has used, as last seen by this sidecar.",
                &["limit"],
            )?,
            revision: int_gauge(r, "evenkeel_limits_revision", "Fingerprint of the active limits.")?,
        })
    }

    /// Sets the used fraction of each limit's fullest key (the key that has used most of its amount), and removes
    /// limits that no longer exist. Called at each scrape.
    pub fn set_usage(&self, fullest: &[(Arc<str>, f64)]) {
        self.usage.reset();
        for (limit, share) in fullest {
            self.usage.with_label_values(&[limit]).set(*share);
        }
    }

    pub fn set_revision(&self, fingerprint: u64) {
        // Prometheus stores numbers as doubles, which represent 53 bits exactly.
        self.revision.set((fingerprint & ((1 << 53) - 1)) as i64);
    }

    /// Returns the counters of a limit or quota.
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
    /// Counts a reservation that was replaced by its charge.
    pub fn settled(&self, reserved: u64, charged: u64) {
        self.reserved.inc_by(reserved);
        self.charged.inc_by(charged);
        self.overrun.inc_by(charged.saturating_sub(reserved));
    }
}

/// Children of `evenkeel_limit_settlements_total`.
pub struct LimitSettles {
    pub charged: IntCounter,
    /// The reservation had already been settled.
    pub repeated: IntCounter,
    pub error: IntCounter,
}

impl LimitSettles {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let settles = counters(
            r,
            "evenkeel_limit_settlements_total",
            "Settlements of reservations, by result.",
            &["result"],
        )?;
        Ok(Self {
            charged: settles.with_label_values(&["charged"]),
            repeated: settles.with_label_values(&["repeated"]),
            error: settles.with_label_values(&["error"]),
        })
    }
}

/// Children of `evenkeel_tickets_rejected_total`.
pub struct TicketsRejected {
    pub not_verified: IntCounter,
    pub too_old: IntCounter,
}

impl TicketsRejected {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let rejected = counters(
            r,
            "evenkeel_tickets_rejected_total",
            "Tickets that gateways sent and that changed nothing, by reason.",
            &["reason"],
        )?;
        Ok(Self {
            not_verified: rejected.with_label_values(&["not_verified"]),
            too_old: rejected.with_label_values(&["too_old"]),
        })
    }
}

/// Tokens and cost of finished requests.
pub struct Charged {
    /// Input tokens: the reported ones, then the estimated ones.
    pub input: [IntCounter; 2],
    /// Output tokens: the reported ones, then the estimated ones.
    pub output: [IntCounter; 2],
    /// Cost in the currency of the price table.
    pub cost: Counter,
}

impl Charged {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let tokens = counters(
            r,
            "evenkeel_tokens_total",
            "Tokens of finished requests, by kind and basis.",
            &["kind", "basis"],
        )?;
        let by_basis = |kind| ["reported", "estimated"].map(|basis| tokens.with_label_values(&[kind, basis]));
        Ok(Self {
            input: by_basis("input"),
            output: by_basis("output"),
            cost: register(
                r,
                Counter::new(
                    "evenkeel_cost_total",
                    "Cost of finished requests, in the currency of the price table.",
                )?,
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_beyond_the_reservation_count_as_overrun() {
        let limits = LimitMetrics::new(&Catalogue::default()).unwrap();
        let counters = limits.of("tokens");
        counters.settled(100, 70);
        counters.settled(100, 130);
        // After a reload of the configuration, a limit continues the counters of the same name.
        let again = limits.of("tokens");
        assert_eq!([again.reserved.get(), again.charged.get(), again.overrun.get()], [200, 200, 30]);
    }
}
