//! A sidecar applies what a worker sends in its order.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, FromWorker};

use super::{CONFIG, assert_exact, leases};
use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
    sidecar::Sidecar,
    worker::Worker,
};

/// Returns the three counts of repairs.
fn repairs(response: &pb::KeepAliveResponse) -> [u32; 3] {
    [response.restored, response.dropped, response.moved]
}

/// Guards against a settlement that overtakes the admission of its lease: the lease would stay in the table.
#[tokio::test]
async fn a_settlement_waits_for_its_admission() {
    let redis = Redis::start();
    let s = Sidecar::start(&(redis.store(", timeout: 5s") + CONFIG)).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    for _ in 0..50 {
        let (first, second) = (w.ask().await, w.ask().await);
        w.settle(&[second, first]).await;
    }
    w.quiet().await.unwrap();
    assert_exact(&s, "llm", &w).await;
    assert_eq!(repairs(&w.listed().await), [0, 0, 0]);
    // `listed` settles one more.
    assert_eq!(s.metric("evenkeel_settles_total{result=\"released\"}").await, 101.0);
    assert_eq!(s.metric("evenkeel_settles_total{result=\"unknown\"}").await, 0.0);
}

/// All messages wait for Redis, so that any operation could overtake another.
#[tokio::test]
async fn lists_are_applied_between_the_settlements_around_them() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&(proxy.store(", timeout: 10s, connect_timeout: 10s") + CONFIG)).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    let mut leases = Vec::new();
    for _ in 0..40 {
        leases.push(w.admit().await);
    }
    proxy.set(Mode::Stall);
    for part in leases.chunks(4) {
        w.settle(&part[..1]).await;
        w.list().await;
        w.settle(&part[1..3]).await;
        let asked = w.ask().await;
        if asked % 2 == 0 {
            w.cancel(asked).await;
        }
        // At most 8 lists may wait.
        if w.last_lease == 47 {
            proxy.set(Mode::Pass);
            w.quiet().await.unwrap();
        }
    }
    w.quiet().await.unwrap();
    // A list that was applied too early or too late would have restored or dropped leases.
    let last = w.listed().await;
    for response in w.repaired.iter().chain([&last]) {
        assert_eq!((repairs(response), response.unapplied_pools), ([0, 0, 0], 0));
    }
    assert_eq!(w.live.len(), 10 + 5);
    assert_exact(&s, "llm", &w).await;
}

#[tokio::test]
async fn a_cancelled_admission_takes_nothing_and_has_no_answer() {
    let s = Sidecar::start(CONFIG).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    for _ in 0..50 {
        let given_up = w.ask().await;
        w.cancel(given_up).await;
        let kept = w.admit().await;
        w.settle(&[kept]).await;
    }
    // An answer may already have left, and the cancellation then releases the lease.
    let answered = w.admit().await;
    w.live.remove(&answered);
    w.send(FromWorker { cancelled: vec![answered], ..FromWorker::default() }).await;
    w.quiet().await.unwrap();
    assert_eq!(repairs(&w.listed().await), [0, 0, 0]);
    assert_exact(&s, "llm", &w).await;
    assert_eq!(s.metric("evenkeel_stream_cancels_total").await, 51.0);
    assert_eq!(
        s.metric("evenkeel_stream_settlements_acknowledged_total").await,
        51.0,
        "`listed` settles one"
    );
}

/// The parts of one message have an order too.
#[tokio::test]
async fn the_parts_of_a_message_are_applied_in_their_order() {
    let s = Sidecar::start(CONFIG).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    let (one, two) = (w.admit().await, w.admit().await);
    // Settlement, cancellation, admission and list at once. The list lacks leases 1 and 2, and names 3 as pending.
    let mut message = FromWorker { first_settlement: 1, ..FromWorker::default() };
    w.link.take();
    w.settle(&[one]).await;
    message.settlements = w.unacknowledged.iter().map(|(_, request)| request.clone()).collect();
    w.live.remove(&two);
    message.cancelled = vec![two];
    let three = w.ask().await;
    message.admit = Some(w.admit_request(three));
    message.leases = Some(w.leases());
    w.link = None;
    // The stream was only taken away so that nothing left before.
    let secret = w.secret.clone();
    let mut first = crate::support::worker::hello("w", &secret);
    first.settlements = message.settlements;
    first.first_settlement = message.first_settlement;
    first.cancelled = message.cancelled;
    first.admit = message.admit;
    first.leases = message.leases;
    w.link = Some(crate::support::worker::Link::open(&s.url(), first).await.unwrap());
    w.quiet().await.unwrap();
    while w.repaired.is_empty() {
        w.receive().await.unwrap();
    }
    // Lease 2 was granted on an earlier stream, so the list drops it.
    assert_eq!(repairs(&w.repaired[0]), [0, 1, 0]);
    assert_exact(&s, "llm", &w).await;
}

#[tokio::test]
async fn a_goodbye_releases_all_leases_at_once() {
    let s = Sidecar::start(CONFIG).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    let mut other = Worker::start(&s.url(), "other", "llm").await;
    let kept = other.admit().await;
    for _ in 0..5 {
        w.admit().await;
    }
    let last = w.ask().await;
    w.settle(&[last]).await;
    w.send(FromWorker { goodbye: true, ..FromWorker::default() }).await;
    let status = w.link.as_mut().unwrap().end().await;
    assert_eq!(status.code(), tonic::Code::Ok, "{status}");
    assert_eq!(leases(&s, "llm", "w").await, []);
    assert_eq!(leases(&s, "llm", "other").await.len(), 1);
    assert_eq!(kept, 1);
    eventually(Duration::from_secs(10), "one stream is open", || async {
        let open = s.metric("evenkeel_streams").await;
        if open == 1.0 { Ok(()) } else { Err(open.to_string()) }
    })
    .await;
    assert_eq!(s.metric("evenkeel_streams_ended_total{reason=\"goodbye\"}").await, 1.0);
}
