//! Traces: spans of Admit, Settle and ShouldRateLimit and of the calls to the store they need, in the trace that the
//! gateway's `traceparent` names, exported by OTLP. docs/traces.md lists what they tell.
//!
//! The messages and the client are OpenTelemetry's own; spans and the exporter are not its SDK's: the SDK's exporter
//! keeps a thread for itself that a single-threaded runtime cannot wait for, and does not tell what it drops. While
//! traces are off a request pays for one look at an `Option`; one that is not sampled for reading its `traceparent`.

use std::{future::Future, sync::Arc};

use tokio_util::sync::CancellationToken;

mod context;
mod export;
mod metrics;
mod span;
mod store;

pub use export::{Exporter, start};
pub use metrics::TraceMetrics;
pub use span::{Span, Value};
pub use store::{Database, StoreSpan};

use context::{Parent, SpanId, TraceId};
use span::{Here, Sink, Trace};

tokio::task_local! {
    static HERE: Here;
}

/// Begins spans of requests; by default none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

struct On {
    sink: Sink,
    /// Traces begun here are recorded where the lower 63 bits of their id are below it: as OpenTelemetry's own ratio
    /// does, so that others come to the same result.
    below: u64,
    stop: CancellationToken,
    stopped: CancellationToken,
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
    /// Whether spans are recorded at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a request, where it is to be recorded.
    #[must_use]
    pub fn begin(&self, name: &'static str, carried: Carried<'_>, root: Root<'_>) -> Option<Span> {
        let on = self.0.as_deref()?;
        match Parent::read(carried.parent) {
            Some(parent) => {
                // Who began the trace decides.
                parent.sampled.then(|| {
                    let trace = Trace::new(parent.trace, context::state(carried.state), on.sink.clone());
                    Span::of_request(trace, span::span_id(), Some(parent.span), name)
                })
            }
            None if on.below == 0 => None,
            None => {
                let (id, first, is_first) = match root {
                    Root::Own => (span::trace_id(), span::span_id(), true),
                    Root::Lease { holder, lease, first } => {
                        let (id, span) = of_lease(holder, lease);
                        (id, span, first)
                    }
                };
                let low = u64::from_be_bytes([id[8], id[9], id[10], id[11], id[12], id[13], id[14], id[15]]);
                (low >> 1 < on.below).then(|| {
                    let trace = Trace::new(id, "", on.sink.clone());
                    let (span, parent) =
                        if is_first { (first, None) } else { (span::span_id(), Some(first)) };
                    Span::of_request(trace, span, parent, name)
                })
            }
        }
    }

    /// Exports what has been recorded; spans that end afterwards are dropped. To be given a bound: the collector may be
    /// away.
    pub async fn drain(&self) {
        if let Some(on) = &self.0 {
            on.stop.cancel();
            on.stopped.cancelled().await;
        }
    }
}

/// The trace of a lease, and the span that begins it.
fn of_lease(holder: &str, lease: u64) -> (TraceId, SpanId) {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(holder.as_bytes());
    digest.update(&lease.to_be_bytes());
    let digest = digest.finish();
    let (mut trace, mut span) = (TraceId::default(), SpanId::default());
    trace.copy_from_slice(&digest.as_ref()[..16]);
    span.copy_from_slice(&digest.as_ref()[16..24]);
    (trace, span)
}

/// The span that the present task works for.
#[derive(Clone, Default)]
pub struct Current(Option<Here>);

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
    Current(HERE.try_with(Here::clone).ok())
}

#[cfg(test)]
mod tests;
