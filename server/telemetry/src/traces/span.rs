//! Spans: made only where they are recorded, and handed on when they end.

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

use super::export::Outbox;

/// Longest text of an attribute or a status, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// The beginning of a request by both clocks: spans are timed by the one that never goes back.
#[derive(Clone, Copy, Debug)]
struct Clock(SystemTime, Instant);

impl Clock {
    fn now(self) -> SystemTime {
        self.0 + self.1.elapsed()
    }
}

/// A span under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    /// Taken when it ends. Boxed, as requests without a span have the room for one too.
    data: Option<Box<SpanData>>,
    here: Arc<Here>,
}

impl Span {
    /// One of a request: below its parent, or the first of a trace where that is none.
    pub(super) fn of_request(
        outbox: Arc<Outbox>,
        context: SpanContext,
        parent: &SpanContext,
        name: &'static str,
    ) -> Self {
        let clock = Clock(SystemTime::now(), Instant::now());
        Self::begin(Here { outbox, clock, context }, parent, name, SpanKind::Server)
    }

    fn begin(here: Here, parent: &SpanContext, name: &'static str, kind: SpanKind) -> Self {
        let now = here.clock.now();
        let scope = InstrumentationScope::builder("evenkeel").with_version(env!("CARGO_PKG_VERSION"));
        let data = SpanData {
            span_context: here.context.clone(),
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
        Self { data: Some(Box::new(data)), here: Arc::new(here) }
    }

    /// Says something about it. Empty texts say nothing.
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

    /// Says how many, or which number.
    pub fn set_number(&mut self, key: &'static str, number: impl TryInto<i64>) {
        self.set(key, number.try_into().unwrap_or(i64::MAX));
    }

    /// Marks it as failed.
    pub fn fail(&mut self, kind: &'static str, error: &dyn Display) {
        self.set("error.type", kind);
        if let Some(data) = &mut self.data {
            data.status = Status::error(cut(&error.to_string()).to_owned());
        }
    }

    /// What its children need of it.
    pub(super) fn here(&self) -> Arc<Here> {
        Arc::clone(&self.here)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut data) = self.data.take() {
            data.end_time = self.here.clock.now();
            self.here.outbox.put(*data);
        }
    }
}

/// The span that work is done for.
#[derive(Debug)]
pub(super) struct Here {
    outbox: Arc<Outbox>,
    clock: Clock,
    context: SpanContext,
}

impl Here {
    pub(super) fn child(&self, name: &'static str, kind: SpanKind) -> Span {
        let (outbox, context) = (Arc::clone(&self.outbox), below(&self.context));
        Span::begin(Self { outbox, clock: self.clock, context }, &self.context, name, kind)
    }
}

/// A new span below this one.
pub(super) fn below(parent: &SpanContext) -> SpanContext {
    let (id, state) = (RandomIdGenerator::default().new_span_id(), parent.trace_state().clone());
    SpanContext::new(parent.trace_id(), id, TraceFlags::SAMPLED, false, state)
}

/// As much of a text as may be told, in whole characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
