//! A stream ends if its worker exceeds a bound, sends something invalid, or is silent.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, FromWorker, ToWorker, admit_answer};
use tonic::Code;

use super::CONFIG;
use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
    requests,
    sidecar::Sidecar,
    worker::{Link, Worker, hello},
};

fn admit(lease: u64) -> FromWorker {
    let candidates = vec![requests::candidate("a:1", 1.0, 0)];
    let admit = pb::AdmitRequest { holder: String::new(), candidates, ..requests::admit("llm", lease) };
    FromWorker { admit: Some(admit), ..FromWorker::default() }
}

async fn ends(sidecar: &Sidecar, reason: &str, count: f64) {
    eventually(Duration::from_secs(10), reason, || async {
        let name = format!("evenkeel_streams_ended_total{{reason=\"{reason}\"}}");
        let (ended, open) = (sidecar.metric(&name).await, sidecar.metric("evenkeel_streams").await);
        if (ended, open) == (count, 0.0) { Ok(()) } else { Err(format!("{ended} ended, {open} open")) }
    })
    .await;
}

async fn opened(sidecar: &Sidecar) -> Link {
    Link::open(&sidecar.url(), hello("w", &[9; 16])).await.unwrap()
}

#[tokio::test]
async fn an_invalid_message_ends_the_stream_and_names_the_field() {
    let s = Sidecar::start(CONFIG).await;
    let settle = |lease| pb::SettleRequest { holder: String::new(), ..requests::settle("llm", lease) };
    let settlements = |first_settlement, count: u64| FromWorker {
        first_settlement,
        settlements: (1..=count).map(settle).collect(),
        ..FromWorker::default()
    };
    let other_holder = pb::SettleRequest { holder: "other".into(), ..settle(1) };
    let wrong: [(Vec<FromWorker>, &str); 7] = [
        (vec![hello("w", &[])], "hello: must be only in the first message"),
        (vec![admit(0)], "admit.lease: must be 1..2^53-1"),
        (vec![settlements(0, 1)], "first_settlement: must be 1..2^53-1"),
        (
            vec![settlements(7, 2), settlements(8, 1)],
            "first_settlement: must be more than in the message before",
        ),
        (vec![settlements(1, 257)], "settlements: must be at most 256"),
        (
            vec![FromWorker { settlements: vec![other_holder], ..settlements(1, 0) }],
            "settlements.holder: must be empty on a stream",
        ),
        (
            vec![FromWorker { leases: Some(requests::keep_alive(1, vec![])), ..FromWorker::default() }],
            "leases.holder: must be empty on a stream",
        ),
    ];
    let count = wrong.len() as f64;
    for (messages, expected) in wrong {
        let mut link = opened(&s).await;
        for message in messages {
            link.send(message).await;
        }
        let status = link.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{expected}: {status}");
        assert!(status.message().starts_with(expected), "{status}");
    }
    ends(&s, "invalid", count).await;
    for (first, expected) in [
        (FromWorker::default(), "hello: must be given in the first message, got none"),
        (hello("a b", &[]), "hello.holder: must be 1..64 bytes"),
    ] {
        let status = Link::open(&s.url(), first).await.err().unwrap();
        assert!(status.code() == Code::InvalidArgument && status.message().starts_with(expected), "{status}");
    }
    assert_eq!(s.metric("evenkeel_streams_opened_total{result=\"invalid\"}").await, 2.0);
}

/// A client's request must not end the stream of all requests.
#[tokio::test]
async fn an_admission_that_is_invalid_has_an_error_as_its_answer() {
    let s = Sidecar::start(CONFIG).await;
    let mut link = opened(&s).await;
    let mut wrong = admit(1);
    wrong.admit.as_mut().unwrap().candidates = vec![requests::candidate("a", -1.0, 0)];
    let mut unnamed = admit(2);
    unnamed.admit.as_mut().unwrap().pool = None;
    for (message, expected) in [(wrong, "candidates.weight: must be"), (unnamed, "pool: must be given")] {
        link.send(message).await;
        let answers = link.next().await.unwrap().answers;
        let Some(admit_answer::Answer::Error(error)) = &answers[0].answer else { panic!("{answers:?}") };
        assert_eq!(error.code, Code::InvalidArgument as u32);
        assert!(error.message.starts_with(expected), "{}", error.message);
    }
    link.send(admit(3)).await;
    let answers = link.next().await.unwrap().answers;
    assert!(matches!(answers[0].answer, Some(admit_answer::Answer::Response(_))), "{answers:?}");
}

/// Redis does not answer, so that all admissions wait.
#[tokio::test]
async fn more_admissions_than_the_bound_end_the_stream_and_cancelled_ones_do_not() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&(proxy.store(", timeout: 10s, connect_timeout: 10s") + CONFIG)).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    let max = u64::from(w.link.as_ref().unwrap().welcome.pending_admits_max);
    assert_eq!(max, 4096);
    proxy.set(Mode::Stall);
    // The requests of a stall are given up one after the other, and the stream continues.
    for _ in 0..max + 100 {
        let lease = w.ask().await;
        w.cancel(lease).await;
    }
    eventually(Duration::from_secs(10), "all are in progress", || async {
        let pending = s.metric("evenkeel_stream_admits_pending").await;
        if pending == max as f64 + 100.0 { Ok(()) } else { Err(pending.to_string()) }
    })
    .await;
    for _ in 0..max {
        w.ask().await;
    }
    w.ask().await;
    let status = w.link.as_mut().unwrap().end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().starts_with("admit: "), "{status}");
    // The worker resumes. What it had given up is not in the table afterwards.
    proxy.set(Mode::Pass);
    w.pending.clear();
    w.connect().await.unwrap();
    let last = w.admit().await;
    w.listed().await;
    assert_eq!(super::leases(&s, "llm", "w").await.len(), 1, "only {last}");
}

#[tokio::test]
async fn a_worker_that_does_not_answer_pings_is_cut() {
    let s = Sidecar::start(&CONFIG.replace("60s", "1s")).await;
    let mut link = opened(&s).await;
    assert_eq!(link.welcome.ping_interval_ms, 1000);
    link.mute = true;
    let since = tokio::time::Instant::now();
    let status = link.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(since.elapsed() >= Duration::from_millis(1900), "{:?}", since.elapsed());
    ends(&s, "silent", 1.0).await;
}

/// A worker that answers pings lives as long as it likes.
#[tokio::test]
async fn a_worker_that_answers_pings_is_not_cut() {
    let s = Sidecar::start(&CONFIG.replace("60s", "1s")).await;
    let mut link = opened(&s).await;
    let mut pings = Vec::new();
    while pings.len() < 5 {
        let ToWorker { ping, .. } = link.next().await.unwrap();
        pings.push(ping);
    }
    assert_eq!(pings, [1, 2, 3, 4, 5]);
}

/// The worker sends and does not read, so that answers pile up.
#[tokio::test]
async fn a_worker_that_does_not_read_is_cut() {
    let s = Sidecar::start(&CONFIG.replace("60s", "1s")).await;
    let mut link = opened(&s).await;
    // Refusals, which together are much longer than the window of the stream, 64 KiB.
    for lease in 1..=4000 {
        let mut message = admit(lease);
        message.admit.as_mut().unwrap().candidates.clear();
        link.send(message).await;
    }
    eventually(Duration::from_secs(20), "the stream has ended", || async {
        // The worker is not silent.
        link.send(FromWorker { pong: 1, ..FromWorker::default() }).await;
        let silent = s.metric("evenkeel_streams_ended_total{reason=\"silent\"}").await;
        if silent == 1.0 { Ok(()) } else { Err(silent.to_string()) }
    })
    .await;
    assert_eq!(link.end().await.code(), Code::DeadlineExceeded);
}

/// A frozen connection: bytes arrive at neither side.
#[tokio::test]
async fn a_frozen_connection_is_cut_and_the_worker_resumes() {
    let s = Sidecar::start(&CONFIG.replace("60s", "1s")).await;
    let port = s.addresses.grpc.as_ref().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await;
    let mut w = Worker::start(&format!("http://127.0.0.1:{}", proxy.port), "w", "llm").await;
    w.admit().await;
    proxy.set(Mode::Stall);
    ends(&s, "silent", 1.0).await;
    w.url = s.url();
    w.connect().await.unwrap();
    w.admit().await;
    super::assert_exact(&s, "llm", &w).await;
}
