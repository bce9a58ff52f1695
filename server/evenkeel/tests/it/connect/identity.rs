//! A holder belongs to its stream.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, FromWorker};
use tonic::Code;

use super::{CONFIG, assert_exact, leases};
use crate::support::{
    eventually,
    redis::Redis,
    requests,
    sidecar::Sidecar,
    worker::{Link, Worker, hello},
};

fn with_store(redis: &Redis) -> String {
    redis.store(", timeout: 5s") + CONFIG
}

/// Sends everything that a forger can send in the name of `w`, without its secret.
async fn forge(sidecar: &Sidecar, secret: &[u8]) {
    let mut first = hello("w", secret);
    first.settlements = vec![pb::SettleRequest { holder: String::new(), ..requests::settle("llm", 1) }];
    first.first_settlement = 1;
    first.leases = Some(pb::KeepAliveRequest {
        holder: String::new(),
        ..requests::keep_alive(99, vec![requests::held("llm", &[(50, Some("x:1"))])])
    });
    first.admit = Some(pb::AdmitRequest { holder: String::new(), ..requests::admit("llm", 60) });
    first.goodbye = true;
    let status = Link::open(&sidecar.url(), first).await.err().expect("the forger is refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().starts_with("hello.secret: "), "{status}");
}

#[tokio::test]
async fn a_forger_changes_nothing_at_any_sidecar() {
    let redis = Redis::start();
    let (one, other) = (Sidecar::start(&with_store(&redis)).await, Sidecar::start(&with_store(&redis)).await);
    let mut w = Worker::start(&one.url(), "w", "llm").await;
    for _ in 0..3 {
        w.admit().await;
    }
    for sidecar in [&one, &other] {
        for secret in [&[][..], &[7; 16]] {
            forge(sidecar, secret).await;
        }
        let status = Link::open(&sidecar.url(), hello("w", &[7; 15])).await.err().unwrap();
        assert_eq!(status.message(), "hello.secret: must be empty or 16 bytes, got 15 bytes");
    }
    let last = w.admit().await;
    assert_exact(&one, "llm", &w).await;
    w.settle(&[last]).await;
    assert_eq!(w.listed().await.dropped, 0, "the stream of the holder has not ended");
    assert_eq!(one.metric("evenkeel_holders_refused_total").await, 2.0);
    assert_eq!(other.metric("evenkeel_streams_opened_total{result=\"refused\"}").await, 2.0);
}

#[tokio::test]
async fn a_worker_resumes_at_another_sidecar_with_its_secret() {
    let redis = Redis::start();
    let (one, other) = (Sidecar::start(&with_store(&redis)).await, Sidecar::start(&with_store(&redis)).await);
    let mut w = Worker::start(&one.url(), "w", "llm").await;
    let (first, _) = (w.admit().await, w.admit().await);
    let pending = w.ask().await;
    w.settle(&[first]).await;
    w.cut();
    w.url = other.url();
    w.connect().await.unwrap();
    w.quiet().await.unwrap();
    assert!(w.live.contains_key(&pending), "asked again");
    assert_exact(&other, "llm", &w).await;
    assert_eq!(other.metric("evenkeel_streams_opened_total{result=\"resumed\"}").await, 1.0);
}

#[tokio::test]
async fn a_second_stream_ends_the_first_at_the_same_sidecar() {
    let s = Sidecar::start(CONFIG).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    w.admit().await;
    let mut first = w.link.take().unwrap();
    w.connect().await.unwrap();
    let status = first.end().await;
    assert_eq!(status.code(), Code::Aborted, "{status}");
    w.admit().await;
    assert_eq!(w.listed().await.restored, 0);
    assert_exact(&s, "llm", &w).await;
    assert_eq!(s.metric("evenkeel_streams_ended_total{reason=\"replaced\"}").await, 1.0);
}

/// The first stream is still open, as if its gateway had been frozen, and sends a list that is out of date.
#[tokio::test]
async fn a_second_stream_ends_the_first_at_another_sidecar() {
    let redis = Redis::start();
    let (one, other) = (Sidecar::start(&with_store(&redis)).await, Sidecar::start(&with_store(&redis)).await);
    let mut w = Worker::start(&one.url(), "w", "llm").await;
    let (ended, _) = (w.admit().await, w.admit().await);
    let old_list = w.leases();
    let mut first = w.link.take().unwrap();
    w.url = other.url();
    w.connect().await.unwrap();
    w.settle(&[ended]).await;
    w.quiet().await.unwrap();
    first.send(FromWorker { leases: Some(old_list), ..FromWorker::default() }).await;
    let status = first.end().await;
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert_exact(&other, "llm", &w).await;
    assert_eq!(w.listed().await.dropped, 0, "the list that was out of date restored nothing");
}

/// The leases of a lost stream stay until its holder counts as dead.
#[tokio::test]
async fn a_lost_stream_keeps_its_leases_until_the_holder_is_silent_for_too_long() {
    let s = Sidecar::start(&CONFIG.replace("60s", "2s")).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    w.admit().await;
    w.cut();
    let lost = |reason| format!("evenkeel_streams_ended_total{{reason=\"{reason}\"}}");
    eventually(Duration::from_secs(10), "the sidecar notices", || async {
        let ended = s.metric(&lost("lost")).await;
        if ended == 1.0 { Ok(()) } else { Err(ended.to_string()) }
    })
    .await;
    assert_eq!(leases(&s, "llm", "w").await.len(), 1);
    eventually(Duration::from_secs(20), "the leases are released", || async {
        let left = leases(&s, "llm", "w").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_eq!(s.metric("evenkeel_leases_reaped_total").await, 1.0);
}
