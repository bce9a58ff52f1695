//! Traces: spans of Admit, Settle and ShouldRateLimit and of their calls to the store, in the trace that the gateway's
//! `traceparent` names. docs/traces.md lists their attributes.
//!
//! OpenTelemetry's SDK exports spans, but its `Tracer` does not start them: it generates random ids, whereas the Admit
//! and the Settle of a lease must have the same trace id. While traces are off, a request costs one check of an
//! `Option`. A request that is not sampled costs the parsing of its `traceparent`.

use std::{future::Future, sync::Arc, time::Duration};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _, SpanExporter,
};

mod context;
mod metrics;
mod queue;
mod span;
mod store;

pub use metrics::TraceMetrics;
use queue::SpanQueue;
pub use span::Span;
use span::{SpanHandle, child_context};
pub use store::{Database, StoreSpan};

tokio::task_local! {
    static CURRENT: Arc<SpanHandle>;
}

/// Starts the spans of requests. The default tracer records no spans.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recording>>);

struct Recording {
    queue: Arc<SpanQueue>,
    /// Samples the requests that belong to no trace yet. `None` records none of these requests.
    sampler: Option<Sampler>,
}

/// The trace headers of a request, as its caller wrote them.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceHeaders<'a> {
    /// Value of the header `traceparent`.
    pub parent: &'a str,
    /// Value of the header `tracestate`.
    pub state: &'a str,
}

/// The trace to start for a request that belongs to no trace.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// The trace of a lease. Its id is derived from the lease, so that Admit and Settle use the same trace.
    Lease {
        holder: &'a str,
        lease: u64,
        /// Whether the span is the root of the trace. If not, the span is a child of the root.
        first: bool,
    },
    /// A new trace with a random id.
    Random,
}

impl Tracer {
    /// Returns a tracer. Of the requests that belong to no trace, it records the fraction `sample_ratio`.
    #[must_use]
    pub fn new(exporter: impl SpanExporter + 'static, sample_ratio: f64, metrics: &TraceMetrics) -> Self {
        Self::with_queue(SpanQueue::new(exporter, metrics), sample_ratio)
    }

    fn with_queue(queue: SpanQueue, sample_ratio: f64) -> Self {
        let sampler = (sample_ratio > 0.0).then_some(Sampler::TraceIdRatioBased(sample_ratio));
        Self(Some(Arc::new(Recording { queue: Arc::new(queue), sampler })))
    }

    /// Returns whether this tracer can record spans.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Starts the span of a request. Returns `None` if the request is not recorded.
    #[must_use]
    pub fn begin(&self, name: &'static str, headers: TraceHeaders<'_>, root: Root<'_>) -> Option<Span> {
        let recording = self.0.as_deref()?;
        let (context, parent) = match context::parent(headers) {
            // The caller that started the trace has decided not to sample it.
            Some(parent) if !parent.is_sampled() => return None,
            Some(parent) => (child_context(&parent), parent),
            None => recording.root(root)?,
        };
        Some(Span::of_request(Arc::clone(&recording.queue), context, &parent, name))
    }

    /// Exports the recorded spans. Spans that end afterwards are dropped. Returns false if the export takes longer than
    /// `timeout`, for example because the collector is unreachable.
    pub async fn shutdown(&self, timeout: Duration) -> bool {
        let Some(recording) = &self.0 else { return true };
        let queue = Arc::clone(&recording.queue);
        // The export needs the runtime, which may have only one thread, so this thread must not block.
        tokio::task::spawn_blocking(move || queue.close(timeout)).await.unwrap_or(false)
    }
}

impl Recording {
    /// Returns the context of a request's span in the trace `root`, and the context of the span's parent. Returns
    /// `None` if the trace is not sampled.
    fn root(&self, root: Root<'_>) -> Option<(SpanContext, SpanContext)> {
        let sampler = self.sampler.as_ref()?;
        let random = RandomIdGenerator::default();
        let (trace, span) = match root {
            Root::Random => (random.new_trace_id(), random.new_span_id()),
            Root::Lease { holder, lease, .. } => lease_root(holder, lease),
        };
        let sampled = sampler.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        if sampled.decision != SamplingDecision::RecordAndSample {
            return None;
        }
        let is_first = !matches!(root, Root::Lease { first: false, .. });
        let first = SpanContext::new(trace, span, TraceFlags::SAMPLED, !is_first, TraceState::NONE);
        Some(if is_first { (first, SpanContext::NONE) } else { (child_context(&first), first) })
    }
}

/// Derives the trace id and the root span's id from a lease.
fn lease_root(holder: &str, lease: u64) -> (TraceId, SpanId) {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(holder.as_bytes());
    digest.update(&lease.to_be_bytes());
    let digest = digest.finish();
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&digest.as_ref()[..16]);
    span.copy_from_slice(&digest.as_ref()[16..24]);
    (TraceId::from_bytes(trace), SpanId::from_bytes(span))
}

/// The span of the request that a task processes, if the request is recorded.
#[derive(Clone, Default)]
pub struct Current(Option<Arc<SpanHandle>>);

impl Current {
    #[must_use]
    pub fn of(span: Option<&Span>) -> Self {
        Self(span.map(Span::handle))
    }

    /// Runs `work` within the span: the spans of its calls to the store become children of this span.
    pub async fn within<F: Future>(self, work: impl FnOnce() -> F) -> F::Output {
        match self.0 {
            Some(span) => CURRENT.scope(span, work()).await,
            None => work().await,
        }
    }
}

/// Returns the span of the current task, so that another task can continue it.
#[must_use]
pub fn current() -> Current {
    Current(CURRENT.try_with(Arc::clone).ok())
}

#[cfg(test)]
mod tests;
