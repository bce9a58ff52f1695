//! Spans. They exist only for recorded requests. A span is added to the queue when it ends.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanKind, Status, TraceFlags},
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use super::queue::SpanQueue;

/// Maximum length of an attribute's or a status's text, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// The start of a request, by the system clock and by the monotonic clock. The monotonic clock times all spans of the
/// request.
#[derive(Clone, Copy, Debug)]
struct Clock(SystemTime, Instant);

impl Clock {
    fn now(self) -> SystemTime {
        self.0 + self.1.elapsed()
    }
}

/// A span in progress. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    /// Taken when the span ends. It is boxed so that an `Option<Span>` is small for requests without a span.
    data: Option<Box<SpanData>>,
    handle: Arc<SpanHandle>,
}

impl Span {
    /// Starts the span of a request: a child of `parent` if `parent` is valid, otherwise the root of a trace.
    pub(super) fn of_request(
        queue: Arc<SpanQueue>,
        context: SpanContext,
        parent: &SpanContext,
        name: &'static str,
    ) -> Self {
        let clock = Clock(SystemTime::now(), Instant::now());
        Self::begin(SpanHandle { queue, clock, context }, parent, name, SpanKind::Server)
    }

    fn begin(handle: SpanHandle, parent: &SpanContext, name: &'static str, kind: SpanKind) -> Self {
        let now = handle.clock.now();
        let scope = InstrumentationScope::builder("evenkeel").with_version(env!("CARGO_PKG_VERSION"));
        let data = SpanData {
            span_context: handle.context.clone(),
            parent_span_id: parent.span_id(),
            parent_span_is_remote: parent.is_remote(),
            span_kind: kind,
            name: name.into(),
            start_time: now,
            end_time: now,
            attributes: Vec::with_capacity(12),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope.build(),
        };
        Self { data: Some(Box::new(data)), handle: Arc::new(handle) }
    }

    /// Sets an attribute. Ignores empty texts, and truncates long ones.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let mut value = value.into();
        if let Value::String(text) = &value {
            let text = text.as_str();
            if text.is_empty() {
                return;
            }
            if text.len() > TEXT_BYTES_MAX {
                value = cut(text).to_owned().into();
            }
        }
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    pub fn set_number(&mut self, key: &'static str, number: impl TryInto<i64>) {
        self.set(key, number.try_into().unwrap_or(i64::MAX));
    }

    /// Marks the span as failed.
    pub fn fail(&mut self, kind: &'static str, error: &dyn Display) {
        self.set("error.type", kind);
        if let Some(data) = &mut self.data {
            data.status = Status::error(cut(&error.to_string()).to_owned());
        }
    }

    pub(super) fn handle(&self) -> Arc<SpanHandle> {
        Arc::clone(&self.handle)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut data) = self.data.take() {
            data.end_time = self.handle.clock.now();
            self.handle.queue.push(*data);
        }
    }
}

/// The part of a span that its children need.
#[derive(Debug)]
pub(super) struct SpanHandle {
    queue: Arc<SpanQueue>,
    clock: Clock,
    context: SpanContext,
}

impl SpanHandle {
    pub(super) fn child(&self, name: &'static str, kind: SpanKind) -> Span {
        let (queue, context) = (Arc::clone(&self.queue), child_context(&self.context));
        Span::begin(Self { queue, clock: self.clock, context }, &self.context, name, kind)
    }
}

/// Returns the context of a new child span.
pub(super) fn child_context(parent: &SpanContext) -> SpanContext {
    let (id, state) = (RandomIdGenerator::default().new_span_id(), parent.trace_state().clone());
    SpanContext::new(parent.trace_id(), id, TraceFlags::SAMPLED, false, state)
}

/// Truncates a text to the maximum length, at a character boundary.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
