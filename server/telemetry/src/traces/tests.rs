use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::{
    Context, KeyValue,
    trace::{Status, TraceFlags},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanProcessor},
};
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::*;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Stores ended spans instead of exporting them.
#[derive(Clone, Debug, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Ended {
    fn only(&self) -> SpanData {
        let spans = self.0.lock();
        assert_eq!(spans.len(), 1);
        spans[0].clone()
    }
}

/// Returns a tracer whose queue accepts `room` spans.
fn tracer(sample_ratio: f64, room: usize) -> (Tracer, Ended, IntCounter) {
    let ended = Ended::default();
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let queue = SpanQueue {
        processor: Box::new(ended.clone()),
        waiting: Arc::new(AtomicUsize::new(queue::QUEUE_MAX - room)),
        dropped: dropped.clone(),
    };
    (Tracer::with_queue(queue, sample_ratio), ended, dropped)
}

fn headers(parent: &str) -> TraceHeaders<'_> {
    TraceHeaders { parent, state: "" }
}

fn lease(lease: u64, first: bool) -> Root<'static> {
    Root::Lease { holder: "g", lease, first }
}

#[test]
fn an_idle_tracer_begins_nothing() {
    assert!(Tracer::default().begin("x", headers(SAMPLED), Root::Random).is_none());
    assert!(!Tracer::default().is_on());
}

#[test]
fn admit_and_settle_of_a_lease_are_sampled_together() {
    for (sample_ratio, expected) in [(0.0, 0..=0), (0.25, 400..=600), (1.0, 2000..=2000)] {
        let (tracer, _ended, _) = tracer(sample_ratio, 1);
        let mut sampled = 0;
        for n in 1..=2000 {
            let begins = tracer.begin("admit", TraceHeaders::default(), lease(n, true)).is_some();
            let ends = tracer.begin("settle", TraceHeaders::default(), lease(n, false)).is_some();
            assert_eq!(begins, ends);
            sampled += usize::from(begins);
        }
        assert!(expected.contains(&sampled), "{sample_ratio}: {sampled}");
    }
}

#[test]
fn a_random_trace_is_sampled_by_its_id() {
    let (tracer, ended, _) = tracer(1.0, 2);
    for _ in 0..2 {
        drop(tracer.begin("x", TraceHeaders::default(), Root::Random));
    }
    let spans = ended.0.lock();
    let [one, other] = &spans[..] else { panic!("{spans:?}") };
    assert!(one.span_context.is_valid() && one.parent_span_id == SpanId::INVALID);
    assert_ne!(one.span_context.trace_id(), other.span_context.trace_id());
    assert_eq!(one.span_context.trace_flags(), TraceFlags::SAMPLED);
}

#[test]
fn spans_beyond_the_queue_are_dropped_and_counted() {
    let (tracer, ended, dropped) = tracer(0.0, 2);
    for _ in 0..5 {
        drop(tracer.begin("x", headers(SAMPLED), Root::Random));
    }
    assert_eq!((dropped.get(), ended.0.lock().len()), (3, 2));
    let queue = &tracer.0.as_ref().unwrap().queue;
    queue.waiting.store(0, Ordering::Relaxed);
    drop(tracer.begin("x", headers(SAMPLED), Root::Random));
    assert_eq!((dropped.get(), ended.0.lock().len()), (3, 3));
}

#[tokio::test]
async fn spans_that_end_after_shutdown_are_dropped_and_counted() {
    let (tracer, ended, dropped) = tracer(0.0, queue::QUEUE_MAX);
    let late = tracer.begin("x", headers(SAMPLED), Root::Random);
    assert!(tracer.shutdown(Duration::from_secs(1)).await);
    drop(late);
    assert_eq!((dropped.get(), ended.0.lock().len()), (1, 0));
}

#[test]
fn long_texts_are_cut_and_empty_ones_ignored() {
    let (tracer, ended, _) = tracer(0.0, 1);
    let mut span = tracer.begin("x", headers(SAMPLED), Root::Random).unwrap();
    span.set("empty", String::new());
    span.set("shared", Arc::<str>::from("é".repeat(200)));
    span.set("long", format!("a{}", "é".repeat(200)));
    span.set_number("number", u64::MAX);
    span.fail("kind", &"é".repeat(200));
    drop(span);
    let ended = ended.only();
    let expected = [
        KeyValue::new("shared", "é".repeat(128)),
        KeyValue::new("long", format!("a{}", "é".repeat(127))),
        KeyValue::new("number", i64::MAX),
        KeyValue::new("error.type", "kind"),
    ];
    assert_eq!(ended.attributes, expected);
    assert_eq!(ended.status, Status::error("é".repeat(128)));
}

#[tokio::test]
async fn store_calls_are_children_of_their_request() {
    let (tracer, ended, _) = tracer(0.0, 8);
    let call = || StoreSpan::memory("call");
    assert!(call().is_none(), "no request, no span");
    let span = tracer.begin("request", TraceHeaders { parent: SAMPLED, state: "a=1" }, Root::Random);
    Current::of(span.as_ref())
        .within(|| async {
            drop(call().unwrap());
            // A spawned task does not inherit the span of its parent task.
            assert!(tokio::spawn(async { StoreSpan::memory("lost").is_none() }).await.unwrap());
            let taken = current().within(|| async { drop(StoreSpan::memory("taken").unwrap()) });
            tokio::spawn(taken).await.unwrap();
        })
        .await;
    assert!(call().is_none(), "nor afterwards");
    drop(span);
    let spans = ended.0.lock();
    assert_eq!(spans.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["call", "taken", "request"]);
    let request = &spans[2].span_context;
    for call in &spans[..2] {
        assert_eq!((call.parent_span_id, call.parent_span_is_remote), (request.span_id(), false));
        assert_eq!(call.span_context.trace_id(), request.trace_id());
        assert_ne!(call.span_context.span_id(), request.span_id());
    }
    assert!(spans.iter().all(|span| span.span_context.trace_state().header() == "a=1"));
    assert_eq!(spans[2].parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(spans[2].parent_span_is_remote);
}

#[tokio::test]
async fn work_without_a_span_runs_without_one() {
    let done = Current::default().within(|| async { current().0.is_none() }).await;
    assert!(done);
}
