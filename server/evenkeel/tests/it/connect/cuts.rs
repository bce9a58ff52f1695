//! A stream is cut at each message. Nothing is lost, nothing is counted twice, and the table equals the requests in
//! flight.

use super::{CONFIG, assert_exact, tokens};
use crate::support::{redis::Redis, sidecar::Sidecar, worker::Worker};

/// Number of messages that [`run`] sends.
const MESSAGES: usize = 11;

/// Sends a fixed sequence of messages without waiting for answers, and loses the stream after `cut` of them. Then
/// resumes at `url`, and sends the others.
async fn run(w: &mut Worker, cut: usize, url: &str) {
    let mut asked = Vec::new();
    for message in 0..MESSAGES {
        if message == cut {
            w.cut();
            w.url = url.to_owned();
            w.connect().await.unwrap();
        }
        match message {
            0..=4 => asked.push(w.ask().await),
            // Settles a request whose answer has not arrived, and gives up another.
            5 => w.settle(&asked[..1]).await,
            6 => w.cancel(asked[1]).await,
            7 => w.list().await,
            8 => w.settle(&asked[2..4]).await,
            9 => w.list().await,
            _ => asked.push(w.ask().await),
        }
    }
    w.quiet().await.unwrap();
}

async fn every_cut_is_exact(one: &Sidecar, other: &Sidecar) {
    for cut in 0..MESSAGES {
        let holder = format!("w-{cut}-{}", other.addresses.http.replace(':', "-"));
        let mut w = Worker::start(&one.url(), &holder, &holder).await;
        run(&mut w, cut, &other.url()).await;
        assert_eq!(w.live.len(), 2, "cut after {cut}");
        // Only the first list after a cut may repair: it drops what the worker gave up while it had no stream.
        let repaired = w.listed().await;
        assert_eq!((repaired.restored, repaired.moved), (0, 0), "cut after {cut}");
        assert_exact(other, &holder, &w).await;
        let rest: Vec<u64> = w.live.keys().copied().collect();
        w.settle(&rest).await;
        w.quiet().await.unwrap();
        assert_exact(other, &holder, &w).await;
    }
}

#[tokio::test]
async fn a_cut_at_any_message_is_exact_at_the_same_sidecar() {
    let s = Sidecar::start(CONFIG).await;
    every_cut_is_exact(&s, &s).await;
}

#[tokio::test]
async fn a_cut_at_any_message_is_exact_at_another_sidecar() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 5s") + CONFIG;
    let (one, other) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    every_cut_is_exact(&one, &other).await;
}

/// Settlements are sent again if the worker does not know that they are acknowledged, and are charged once.
#[tokio::test]
async fn settlements_that_are_sent_again_are_charged_once() {
    let redis = Redis::start();
    let yaml = redis.store(", timeout: 5s") + CONFIG;
    let (one, other) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let mut w = Worker::start(&one.url(), "w", "llm").await;
    // More than one message can carry.
    let mut leases = Vec::new();
    for _ in 0..600 {
        leases.push(w.ask().await);
    }
    w.quiet().await.unwrap();
    for part in leases.chunks(200) {
        w.settle(part).await;
    }
    let sent = w.unacknowledged.clone();
    for sidecar in [&one, &other, &other, &one] {
        w.cut();
        w.unacknowledged.clone_from(&sent);
        w.url = sidecar.url();
        w.connect().await.unwrap();
        w.quiet().await.unwrap();
    }
    assert_exact(&one, "llm", &w).await;
    assert_eq!(tokens(&other, "w").await.1, 0, "nothing stays reserved");
    let mut charged = 0.0;
    for sidecar in [&one, &other] {
        charged += sidecar.metric("evenkeel_limit_settlements_total{result=\"charged\"}").await;
    }
    assert_eq!(charged, 600.0);
}
