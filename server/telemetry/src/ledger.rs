//! Metrics of the usage ledger.

use prometheus::{IntCounter, IntGauge};

use super::catalogue::{Catalogue, counter, counters, int_gauge};

pub struct LedgerMetrics {
    pub requests: IntCounter,
    pub flushes: LedgerFlushes,
    pub folded: LedgerFolded,
    pub dropped: LedgerDropped,
    /// Recorded requests that the store has not confirmed.
    pub waiting: IntGauge,
}

/// Children of `evenkeel_ledger_flushes_total`.
pub struct LedgerFlushes {
    pub applied: IntCounter,
    /// The store had already applied the batch, but its reply was lost.
    pub repeated: IntCounter,
    /// The store did not reply or returned an error; the batch is sent again.
    pub failed: IntCounter,
}

/// Children of `evenkeel_ledger_folded_total`.
pub struct LedgerFolded {
    /// Rows folded because too many rows waited in this sidecar.
    pub buffer_full: IntCounter,
    /// Rows folded because the store had too many rows for the day.
    pub day_full: IntCounter,
}

/// Children of `evenkeel_ledger_dropped_total`.
pub struct LedgerDropped {
    pub requests: IntCounter,
    pub sessions: IntCounter,
    /// Turns that are not stored one by one: only the sums of their session include them.
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
            "Requests counted under (other) because there were too many rows, by reason.",
            &["reason"],
        )?;
        let dropped = counters(
            r,
            "evenkeel_ledger_dropped_total",
            "Requests, sessions and turns missing from the usage ledger, by kind.",
            &["kind"],
        )?;
        Ok(Self {
            requests: counter(r, "evenkeel_ledger_requests_total", "Requests recorded in the usage ledger.")?,
            flushes: LedgerFlushes {
                applied: flushes.with_label_values(&["applied"]),
                repeated: flushes.with_label_values(&["repeated"]),
                failed: flushes.with_label_values(&["failed"]),
            },
            folded: LedgerFolded {
                buffer_full: folded.with_label_values(&["buffer_full"]),
                day_full: folded.with_label_values(&["day_full"]),
            },
            dropped: LedgerDropped {
                requests: dropped.with_label_values(&["requests"]),
                sessions: dropped.with_label_values(&["sessions"]),
                turns: dropped.with_label_values(&["turns"]),
            },
            waiting: int_gauge(
                r,
                "evenkeel_ledger_waiting_requests",
                "Recorded requests that the store has not confirmed yet.",
            )?,
        })
    }
}
