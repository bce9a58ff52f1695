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

/// Keeps what ends, and exports nothing.
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

/// A tracer with room for so many spans.
fn tracer(sample: f64, room: usize) -> (Tracer, Ended, IntCounter) {
    let ended = Ended::default();
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let outbox = Outbox {
        processor: Box::new(ended.clone()),
        waiting: Arc::new(AtomicUsize::new(export::QUEUE_MAX - room)),
        dropped: dropped.clone(),
    };
    (Tracer::new(outbox, sample), ended, dropped)
}

fn carried(parent: &str) -> Carried<'_> {
    Carried { parent, state: "" }
}

fn lease(lease: u64, first: bool) -> Root<'static> {
    Root::Lease { holder: "g", lease, first }
}

#[test]
fn an_idle_tracer_begins_nothing() {
    assert!(Tracer::default().begin("x", carried(SAMPLED), Root::Own).is_none());
    assert!(!Tracer::default().is_on());
}

#[test]
fn a_part_of_the_leases_is_sampled_and_their_ends_with_them() {
    for (sample, expected) in [(0.0, 0..=0), (0.25, 400..=600), (1.0, 2000..=2000)] {
        let (tracer, _ended, _) = tracer(sample, 1);
        let mut sampled = 0;
        for n in 1..=2000 {
            let begins = tracer.begin("admit", Carried::default(), lease(n, true)).is_some();
            let ends = tracer.begin("settle", Carried::default(), lease(n, false)).is_some();
            assert_eq!(begins, ends);
            sampled += usize::from(begins);
        }
        assert!(expected.contains(&sampled), "{sample}: {sampled}");
    }
}

#[test]
fn a_trace_of_its_own_is_sampled_by_its_id() {
    let (tracer, ended, _) = tracer(1.0, 2);
    for _ in 0..2 {
        drop(tracer.begin("x", Carried::default(), Root::Own));
    }
    let spans = ended.0.lock();
    let [one, other] = &spans[..] else { panic!("{spans:?}") };
    assert!(one.span_context.is_valid() && one.parent_span_id == SpanId::INVALID);
    assert_ne!(one.span_context.trace_id(), other.span_context.trace_id());
    assert_eq!(one.span_context.trace_flags(), TraceFlags::SAMPLED);
}

#[test]
fn what_there_is_no_room_for_is_dropped_and_counted() {
    let (tracer, ended, dropped) = tracer(0.0, 2);
    for _ in 0..5 {
        drop(tracer.begin("x", carried(SAMPLED), Root::Own));
    }
    assert_eq!((dropped.get(), ended.0.lock().len()), (3, 2));
    let outbox = &tracer.0.as_ref().unwrap().outbox;
    outbox.waiting.store(0, Ordering::Relaxed);
    drop(tracer.begin("x", carried(SAMPLED), Root::Own));
    assert_eq!((dropped.get(), ended.0.lock().len()), (3, 3));
}

#[tokio::test]
async fn what_ends_after_the_end_is_dropped_and_counted() {
    let (tracer, ended, dropped) = tracer(0.0, export::QUEUE_MAX);
    let late = tracer.begin("x", carried(SAMPLED), Root::Own);
    assert!(tracer.drain(Duration::from_secs(1)).await);
    drop(late);
    assert_eq!((dropped.get(), ended.0.lock().len()), (1, 0));
}

#[test]
fn texts_are_bounded_and_empty_ones_left_out() {
    let (tracer, ended, _) = tracer(0.0, 1);
    let mut span = tracer.begin("x", carried(SAMPLED), Root::Own).unwrap();
    span.set("empty", String::new());
    span.set("shared", Arc::<str>::from("é".repeat(200)));
    span.set("own", format!("a{}", "é".repeat(200)));
    span.set_number("number", u64::MAX);
    span.fail("kind", &"é".repeat(200));
    drop(span);
    let ended = ended.only();
    let expected = [
        KeyValue::new("shared", "é".repeat(128)),
        KeyValue::new("own", format!("a{}", "é".repeat(127))),
        KeyValue::new("number", i64::MAX),
        KeyValue::new("error.type", "kind"),
    ];
    assert_eq!(ended.attributes, expected);
    assert_eq!(ended.status, Status::error("é".repeat(128)));
}

#[tokio::test]
async fn calls_are_children_of_the_request_they_are_made_for() {
    let (tracer, ended, _) = tracer(0.0, 8);
    let call = || StoreSpan::memory("call");
    assert!(call().is_none(), "no request, no span");
    let span = tracer.begin("request", Carried { parent: SAMPLED, state: "a=1" }, Root::Own);
    Current::of(span.as_ref())
        .within(|| async {
            drop(call().unwrap());
            // Another task only where it is taken along.
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
async fn nothing_is_done_for_nobody() {
    let done = Current::default().within(|| async { current().0.is_none() }).await;
    assert!(done);
}
