//! Traces: spans of Admit, Settle and ShouldRateLimit and of the calls to the store they need, in the trace that the
//! gateway's `traceparent` names, exported by OTLP. docs/traces.md lists what they tell.
//!
//! Spans end in OpenTelemetry's SDK, which exports them; they are begun here and not by its `Tracer`, since it makes up
//! the ids of what it begins, and Admit and Settle of a lease agree on theirs. While traces are off a request pays for
//! one look at an `Option`; one that is not sampled for reading its `traceparent`.

use std::{future::Future, sync::Arc, time::Duration};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};

mod context;
mod export;
mod metrics;
mod span;
mod store;

use export::Outbox;
pub use export::start;
pub use metrics::TraceMetrics;
pub use span::Span;
use span::{Here, below};
pub use store::{Database, StoreSpan};

tokio::task_local! {
    static HERE: Arc<Here>;
}

/// Begins spans of requests; by default none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    outbox: Arc<Outbox>,
    /// Which traces are recorded that begin here; absent for none.
    sampler: Option<Sampler>,
}

/// The trace a request says it belongs to, as its caller wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried<'a> {
    /// `traceparent`.
    pub parent: &'a str,
    /// `tracestate`.
    pub state: &'a str,
}

/// Which trace a request begins that comes without one.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// The one of this lease: its Admit and its Settle find the same without being told.
    Lease {
        /// The lease's holder.
        holder: &'a str,
        /// Its number.
        lease: u64,
        /// Whether this is the span that begins it, and not a later one below that.
        first: bool,
    },
    /// A trace of its own.
    Own,
}

impl Tracer {
    fn new(outbox: Outbox, sample: f64) -> Self {
        let sampler = (sample > 0.0).then_some(Sampler::TraceIdRatioBased(sample));
        Self(Some(Arc::new(On { outbox: Arc::new(outbox), sampler })))
    }

    /// Whether spans are recorded at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a request, where it is to be recorded.
    #[must_use]
    pub fn begin(&self, name: &'static str, carried: Carried<'_>, root: Root<'_>) -> Option<Span> {
        let on = self.0.as_deref()?;
        let (context, parent) = match context::parent(carried) {
            // Who began the trace decides.
            Some(parent) if !parent.is_sampled() => return None,
            Some(parent) => (below(&parent), parent),
            None => on.root(root)?,
        };
        Some(Span::of_request(Arc::clone(&on.outbox), context, &parent, name))
    }

    /// Exports what has been recorded; spans that end afterwards are dropped. False where that took longer than it may:
    /// the collector may be away.
    pub async fn drain(&self, longest: Duration) -> bool {
        let Some(on) = &self.0 else { return true };
        let outbox = Arc::clone(&on.outbox);
        // The runtime's only thread is needed to export.
        tokio::task::spawn_blocking(move || outbox.close(longest)).await.unwrap_or(false)
    }
}

impl On {
    /// A trace that begins here, where it is to be recorded, and the span above it.
    fn root(&self, root: Root<'_>) -> Option<(SpanContext, SpanContext)> {
        let sampler = self.sampler.as_ref()?;
        let random = RandomIdGenerator::default();
        let (trace, span) = match root {
            Root::Own => (random.new_trace_id(), random.new_span_id()),
            Root::Lease { holder, lease, .. } => of_lease(holder, lease),
        };
        let sampled = sampler.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        if sampled.decision != SamplingDecision::RecordAndSample {
            return None;
        }
        let is_first = !matches!(root, Root::Lease { first: false, .. });
        let first = SpanContext::new(trace, span, TraceFlags::SAMPLED, !is_first, TraceState::NONE);
        Some(if is_first { (first, SpanContext::NONE) } else { (below(&first), first) })
    }
}

/// The trace of a lease, and the span that begins it.
fn of_lease(holder: &str, lease: u64) -> (TraceId, SpanId) {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(holder.as_bytes());
    digest.update(&lease.to_be_bytes());
    let digest = digest.finish();
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&digest.as_ref()[..16]);
    span.copy_from_slice(&digest.as_ref()[16..24]);
    (TraceId::from_bytes(trace), SpanId::from_bytes(span))
}

/// The span that the present task works for.
#[derive(Clone, Default)]
pub struct Current(Option<Arc<Here>>);

impl Current {
    /// This span.
    #[must_use]
    pub fn of(span: Option<&Span>) -> Self {
        Self(span.map(Span::here))
    }

    /// Does work for the span; whatever calls the store in it becomes its child.
    pub async fn within<F: Future>(self, work: impl FnOnce() -> F) -> F::Output {
        match self.0 {
            Some(here) => HERE.scope(here, work()).await,
            None => work().await,
        }
    }
}

/// The span that the present task works for: to be taken along to another task.
#[must_use]
pub fn current() -> Current {
    Current(HERE.try_with(Arc::clone).ok())
}

#[cfg(test)]
mod tests;
