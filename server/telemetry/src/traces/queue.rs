//! The queue of ended spans. OpenTelemetry's SDK batches and exports them on its own thread. Requests never wait for an
//! export, and the memory of the queue is bounded. This module also counts and logs exports.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor},
};
use prometheus::IntCounter;
use tracing::{info, warn};

use super::TraceMetrics;

/// Maximum number of ended spans that wait for export. Further spans are dropped.
pub(super) const QUEUE_MAX: usize = 4096;
/// Maximum number of spans in one export.
const BATCH_MAX: usize = 512;
/// Maximum time that a span waits for a batch to fill.
const DELAY: Duration = Duration::from_secs(1);

/// Ended spans that wait for export. The SDK does not report which spans it drops. This queue therefore never holds
/// more spans than the SDK's queue can: it drops and counts the excess itself.
#[derive(Debug)]
pub(super) struct SpanQueue {
    pub(super) processor: Box<dyn SpanProcessor>,
    /// Number of spans in the queue.
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) dropped: IntCounter,
}

impl SpanQueue {
    pub(super) fn new(exporter: impl SpanExporter + 'static, metrics: &TraceMetrics) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = CountingExporter {
            inner: exporter,
            waiting: Arc::clone(&waiting),
            metrics: metrics.clone(),
            failing: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(DELAY);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        Self { processor: Box::new(processor), waiting, dropped: metrics.dropped.clone() }
    }

    /// Adds a span, or drops it if the queue is full. Never waits.
    pub(super) fn push(&self, span: SpanData) {
        let one_more = |waiting| (waiting < QUEUE_MAX).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => self.processor.on_end(span),
            Err(_) => self.dropped.inc(),
        }
    }

    /// Exports the waiting spans and accepts no further spans. Returns false if that takes longer than `timeout`.
    /// Blocks the calling thread.
    pub(super) fn close(&self, timeout: Duration) -> bool {
        // From now on, the queue counts as full.
        self.waiting.fetch_add(QUEUE_MAX, Ordering::AcqRel);
        self.processor.shutdown_with_timeout(timeout).is_ok()
    }
}

/// Wraps another exporter, and counts and logs its exports.
#[derive(Debug)]
struct CountingExporter<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    metrics: TraceMetrics,
    /// Whether the last export failed. Only the first of several failures in a row is logged.
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        let result = self.inner.export(batch).await;
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Ok(()) => {
                self.metrics.exports_ok.inc();
                self.metrics.exported.inc_by(count as u64);
                if was_failing {
                    info!("traces are exported again");
                }
            }
            Err(error) => {
                self.metrics.exports_failed.inc();
                self.metrics.failed.inc_by(count as u64);
                if !was_failing {
                    warn!(%error, "export of traces failed (further failures are only counted)");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }
}
