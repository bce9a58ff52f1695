use prometheus::IntCounter;
use tokio::sync::mpsc;

use super::{span::Ended, *};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn tracer(sample: f64, room: usize) -> (Tracer, mpsc::Receiver<Ended>, IntCounter) {
    let (queue, ended) = mpsc::channel(room);
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let on = On {
        sink: Sink { queue, dropped: dropped.clone() },
        below: (sample * 2f64.powi(63)) as u64,
        stop: CancellationToken::new(),
        stopped: CancellationToken::new(),
    };
    (Tracer(Some(Arc::new(on))), ended, dropped)
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
fn a_full_queue_drops_and_counts() {
    let (tracer, mut ended, dropped) = tracer(0.0, 2);
    for _ in 0..5 {
        drop(tracer.begin("x", carried(SAMPLED), Root::Own));
    }
    assert_eq!(dropped.get(), 3);
    assert_eq!(ended.try_recv().unwrap().name, "x");
}

#[test]
fn texts_are_bounded_and_empty_ones_left_out() {
    let (tracer, mut ended, _) = tracer(0.0, 1);
    let mut span = tracer.begin("x", carried(SAMPLED), Root::Own).unwrap();
    span.set("empty", String::new());
    span.set("shared", Arc::<str>::from("é".repeat(200)));
    span.set("own", "é".repeat(200));
    span.set("number", u64::MAX);
    span.fail("kind", &"é".repeat(200));
    drop(span);
    let ended = ended.try_recv().unwrap();
    let long = Value::Text("é".repeat(128));
    let expected = [
        ("shared", long.clone()),
        ("own", long),
        ("number", Value::Number(i64::MAX)),
        ("error.type", Value::Word("kind")),
    ];
    assert_eq!(ended.attributes, expected);
    assert_eq!(ended.error, Some("é".repeat(128)));
}

#[tokio::test]
async fn calls_are_children_of_the_request_they_are_made_for() {
    let (tracer, mut ended, _) = tracer(0.0, 8);
    let call = || StoreSpan::memory("call");
    assert!(call().is_none(), "no request, no span");
    let span = tracer.begin("request", carried(SAMPLED), Root::Own);
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
    let spans: Vec<Ended> = std::iter::from_fn(|| ended.try_recv().ok()).collect();
    assert_eq!(spans.iter().map(|span| span.name).collect::<Vec<_>>(), ["call", "taken", "request"]);
    assert!(spans[..2].iter().all(|span| span.parent == Some(spans[2].id) && !span.remote));
    assert_eq!(spans[2].parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
    assert!(spans[2].remote);
}

#[tokio::test]
async fn nothing_is_done_for_nobody() {
    let done = Current::default().within(|| async { current().0.is_none() }).await;
    assert!(done);
}
