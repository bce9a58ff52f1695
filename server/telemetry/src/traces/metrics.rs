//! Metrics of the exporter.

use prometheus::IntCounter;

use crate::catalogue::{Catalogue, counters};

/// What became of spans, and of the exports of them.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    /// Spans exported.
    pub exported: IntCounter,
    /// Spans there was no room for.
    pub dropped: IntCounter,
    /// Spans given up after their export had failed.
    pub failed: IntCounter,
    /// Exports that went well.
    pub exports_ok: IntCounter,
    /// Exports that failed, with their repeats.
    pub exports_failed: IntCounter,
}

impl TraceMetrics {
    pub(crate) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let spans =
            counters(r, "evenkeel_trace_spans_total", "Recorded spans by what became of them.", &["result"])?;
        let exports = counters(
            r,
            "evenkeel_trace_exports_total",
            "Batches of spans exported, by result.",
            &["result"],
        )?;
        Ok(Self {
            exported: spans.with_label_values(&["exported"]),
            dropped: spans.with_label_values(&["dropped"]),
            failed: spans.with_label_values(&["failed"]),
            exports_ok: exports.with_label_values(&["ok"]),
            exports_failed: exports.with_label_values(&["failed"]),
        })
    }
}
