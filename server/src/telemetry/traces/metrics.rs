//! Metrics of the exporter.

use prometheus::IntCounter;

use crate::telemetry::catalogue::{Catalogue, counters};

/// What became of spans, and of the calls that export them.
#[derive(Clone)]
pub struct TraceMetrics {
    /// Spans the collector took.
    pub exported: IntCounter,
    /// Spans the collector answered it would not take.
    pub refused: IntCounter,
    /// Spans there was no room for.
    pub dropped: IntCounter,
    /// Spans given up after their export had failed.
    pub failed: IntCounter,
    /// Exports that went well.
    pub exports_ok: IntCounter,
    /// Exports that failed.
    pub exports_failed: IntCounter,
}

impl TraceMetrics {
    pub(in crate::telemetry) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let spans =
            counters(r, "evenkeel_trace_spans_total", "Recorded spans by what became of them.", &["result"])?;
        let exports =
            counters(r, "evenkeel_trace_exports_total", "Calls to the collector by result.", &["result"])?;
        Ok(Self {
            exported: spans.with_label_values(&["exported"]),
            refused: spans.with_label_values(&["refused"]),
            dropped: spans.with_label_values(&["dropped"]),
            failed: spans.with_label_values(&["failed"]),
            exports_ok: exports.with_label_values(&["ok"]),
            exports_failed: exports.with_label_values(&["failed"]),
        })
    }
}
