//! Metrics of the usage ledger.

use prometheus::{IntCounter, IntGauge};

use super::catalogue::{Catalogue, counters, register};

/// What the usage ledger does.
pub struct LedgerMetrics {
    /// Requests recorded.
    pub requests: IntCounter,
    /// Calls to the store by `result`.
    pub flushes: LedgerFlushes,
    /// Requests counted under "(other)", by `where`.
    pub folded: LedgerFolded,
    /// What is not in the ledger, by `kind`.
    pub dropped: LedgerDropped,
    /// Requests not known to be in the store.
    pub waiting: IntGauge,
}

/// Children of `evenkeel_ledger_flushes_total`.
pub struct LedgerFlushes {
    /// Added.
    pub applied: IntCounter,
    /// Had been added before; its answer was lost.
    pub repeated: IntCounter,
    /// No answer, or a refusal; to be repeated.
    pub failed: IntCounter,
}

/// Children of `evenkeel_ledger_folded_total`.
pub struct LedgerFolded {
    /// Too many rows waited here.
    pub sidecar: IntCounter,
    /// The day had too many rows.
    pub store: IntCounter,
}

/// Children of `evenkeel_ledger_dropped_total`.
pub struct LedgerDropped {
    /// Requests that could not be written.
    pub requests: IntCounter,
    /// Sessions given up.
    pub sessions: IntCounter,
    /// Turns that are in the sums alone.
    pub turns: IntCounter,
}

impl LedgerMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let flushes = counters(
            r,
            "evenkeel_ledger_flushes_total",
            "Batches of usage sent to the store, by result.",
            &["result"],
        )?;
        let folded = counters(
            r,
            "evenkeel_ledger_folded_total",
            "Requests counted under (other), as there were too many rows, by where.",
            &["where"],
        )?;
        let dropped = counters(
            r,
            "evenkeel_ledger_dropped_total",
            "What is not in the ledger, as there was too much of it, by kind.",
            &["kind"],
        )?;
        Ok(Self {
            requests: register(
                r,
                IntCounter::new("evenkeel_ledger_requests_total", "Requests recorded in the usage ledger.")?,
            )?,
            flushes: LedgerFlushes {
                applied: flushes.with_label_values(&["applied"]),
                repeated: flushes.with_label_values(&["repeated"]),
                failed: flushes.with_label_values(&["failed"]),
            },
            folded: LedgerFolded {
                sidecar: folded.with_label_values(&["sidecar"]),
                store: folded.with_label_values(&["store"]),
            },
            dropped: LedgerDropped {
                requests: dropped.with_label_values(&["requests"]),
                sessions: dropped.with_label_values(&["sessions"]),
                turns: dropped.with_label_values(&["turns"]),
            },
            waiting: register(
                r,
                IntGauge::new(
                    "evenkeel_ledger_waiting_requests",
                    "Requests recorded that are not known to be in the store.",
                )?,
            )?,
        })
    }
}
