//! Metrics of the export of traces.

use prometheus::IntCounter;

use crate::catalogue::{Catalogue, counters};

#[derive(Clone, Debug)]
pub struct TraceMetrics {
    pub exported: IntCounter,
    /// Spans dropped because the queue was full.
    pub dropped: IntCounter,
    /// Spans dropped because their export and all its retries failed.
    pub failed: IntCounter,
    pub exports_ok: IntCounter,
    /// Exports that failed, including all their retries.
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
