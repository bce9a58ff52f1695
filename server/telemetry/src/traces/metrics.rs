//! Metrics of the export of traces.

use prometheus::IntCounter;

use crate::catalogue::{Catalogue, counters};

#[derive(Clone, Debug)]
pub struct TraceMetrics {
    pub exported: IntCounter,
    /// Spans that found the queue full.
    pub dropped: IntCounter,
    /// Spans given up after their export and its retries had failed.
    pub failed: IntCounter,
    pub exports_ok: IntCounter,
    /// Exports that failed with all their retries.
    pub exports_failed: IntCounter,
}

impl TraceMetrics {
    pub(crate) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let spans = counters(r, "evenkeel_trace_spans_total", "Recorded spans, by result.", &["result"])?;
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
