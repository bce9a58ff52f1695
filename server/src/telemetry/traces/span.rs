//! Spans: made only where they are recorded, and handed to the exporter when they end.

use std::{
    cell::RefCell,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::mpsc;

use super::context::{SpanId, TraceId};

/// Longest text of an attribute or a status, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// What a span is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Answers a call.
    Server,
    /// Makes a call.
    Client,
    /// Neither.
    Internal,
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A word known at build time.
    Word(&'static str),
    /// A shared text.
    Shared(Arc<str>),
    /// A text of its own.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// What the spans of one request have in common.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) id: TraceId,
    pub(super) state: Box<str>,
    /// Its beginning by both clocks: spans are timed by the one that never goes back.
    began: (SystemTime, Instant),
    sink: Sink,
}

impl Trace {
    pub(super) fn new(id: TraceId, state: &str, sink: Sink) -> Arc<Self> {
        Arc::new(Self { id, state: state.into(), began: (SystemTime::now(), Instant::now()), sink })
    }

    /// Nanoseconds of the Unix epoch.
    fn unix_ns(&self, at: Instant) -> u64 {
        let began = self.began.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (began + at.saturating_duration_since(self.began.1)).as_nanos() as u64
    }
}

/// Where ended spans go.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) queue: mpsc::Sender<Ended>,
    pub(super) dropped: prometheus::IntCounter,
}

/// A span that is to be exported.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) trace: Arc<Trace>,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    /// Its parent is of another process.
    pub(super) remote: bool,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) error: Option<String>,
}

/// A span under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    trace: Arc<Trace>,
    id: SpanId,
    parent: Option<SpanId>,
    remote: bool,
    name: &'static str,
    kind: Kind,
    started: Instant,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

impl Span {
    /// One that continues what came from elsewhere, or begins a trace.
    pub(super) fn of_request(
        trace: Arc<Trace>,
        id: SpanId,
        parent: Option<SpanId>,
        name: &'static str,
    ) -> Self {
        let (remote, started) = (parent.is_some(), trace.began.1);
        let attributes = Vec::with_capacity(12);
        Self { trace, id, parent, remote, name, kind: Kind::Server, started, attributes, error: None }
    }

    /// Says something about it. Empty texts say nothing.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let mut value = value.into();
        match &mut value {
            Value::Text(text) => text.truncate(cut(text, TEXT_BYTES_MAX)),
            Value::Shared(text) if text.len() > TEXT_BYTES_MAX => {
                value = Value::Text(text[..cut(text, TEXT_BYTES_MAX)].to_owned());
            }
            _ => {}
        }
        let empty = match &value {
            Value::Text(text) => text.is_empty(),
            Value::Shared(text) => text.is_empty(),
            _ => false,
        };
        if !empty {
            self.attributes.push((key, value));
        }
    }

    /// Marks it as failed.
    pub fn fail(&mut self, kind: &'static str, error: &dyn Display) {
        let mut text = error.to_string();
        text.truncate(cut(&text, TEXT_BYTES_MAX));
        self.set("error.type", kind);
        self.error = Some(text);
    }

    /// What its children need of it.
    pub(super) fn here(&self) -> Here {
        Here { trace: Arc::clone(&self.trace), span: self.id }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let sink = self.trace.sink.clone();
        let ended = Ended {
            start_ns: self.trace.unix_ns(self.started),
            end_ns: self.trace.unix_ns(Instant::now()),
            trace: Arc::clone(&self.trace),
            id: self.id,
            parent: self.parent,
            remote: self.remote,
            name: self.name,
            kind: self.kind,
            attributes: std::mem::take(&mut self.attributes),
            error: self.error.take(),
        };
        // Never waits: what the queue has no room for is counted and gone.
        if sink.queue.try_send(ended).is_err() {
            sink.dropped.inc();
        }
    }
}

/// The span that work is done for.
#[derive(Clone, Debug)]
pub(super) struct Here {
    trace: Arc<Trace>,
    span: SpanId,
}

impl Here {
    pub(super) fn child(&self, name: &'static str, kind: Kind) -> Span {
        Span {
            trace: Arc::clone(&self.trace),
            id: span_id(),
            parent: Some(self.span),
            remote: false,
            name,
            kind,
            started: Instant::now(),
            attributes: Vec::with_capacity(8),
            error: None,
        }
    }
}

/// The length of the longest prefix of at most `bytes_max` bytes that is whole characters.
fn cut(text: &str, bytes_max: usize) -> usize {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

thread_local! {
    static IDS: RefCell<SmallRng> = RefCell::new(SmallRng::from_rng(&mut rand::rng()));
}

/// A random id that is not all zero.
pub(super) fn span_id() -> SpanId {
    IDS.with_borrow_mut(|ids| (ids.next_u64() | 1).to_be_bytes())
}

/// A random trace.
pub(super) fn trace_id() -> TraceId {
    IDS.with_borrow_mut(|ids| {
        let mut id = TraceId::default();
        ids.fill_bytes(&mut id);
        id[15] |= 1;
        id
    })
}
