//! A sidecar that shuts down finishes what it has received, and loses no settlement.

use std::time::Duration;

use evenkeel_proto::v1::FromWorker;
use tonic::Code;

use super::{CONFIG, assert_exact, tokens};
use crate::support::{redis::Redis, sidecar::Sidecar, worker::Worker};

fn with_store(redis: &Redis) -> String {
    redis.store(", timeout: 2s") + CONFIG
}

async fn stopped(s: Sidecar) {
    let stopped = tokio::time::timeout(Duration::from_secs(15), s.task).await.expect("stops in time");
    stopped.unwrap().unwrap();
}

#[tokio::test]
async fn a_stopping_sidecar_asks_workers_to_leave_and_serves_them_until_the_delay_ends() {
    let redis = Redis::start();
    let s = Sidecar::start(&("shutdown_delay: 1s\n".to_owned() + &with_store(&redis))).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    w.admit().await;
    s.shutdown.cancel();
    while !w.leave {
        w.receive().await.unwrap();
    }
    let second = w.admit().await;
    w.settle(&[second]).await;
    w.quiet().await.unwrap();
    let mut late = Worker::new(&s.url(), "late", "llm");
    assert_eq!(late.connect().await.unwrap_err().code(), Code::Unavailable);
    let status = w.link.as_mut().unwrap().end().await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    stopped(s).await;
    let next = Sidecar::start(&with_store(&redis)).await;
    w.url = next.url();
    w.connect().await.unwrap();
    assert_eq!(w.listed().await.restored, 0, "a restart within the time of a silent holder loses nothing");
    assert_exact(&next, "llm", &w).await;
}

/// Many settlements a second, each acknowledged or sent again.
#[tokio::test]
async fn restarts_under_load_lose_no_settlement() {
    let redis = Redis::start();
    let mut s = Sidecar::start(&with_store(&redis)).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    for restart in 0..5 {
        for round in 0..40 {
            let leases = [w.ask().await, w.ask().await, w.ask().await];
            w.settle(&leases[..2]).await;
            if round == 20 + restart {
                s.shutdown.cancel();
            }
            // Reads what has arrived, so that the steps and the shutdown interleave.
            tokio::task::yield_now().await;
        }
        loop {
            if w.receive().await.is_err() {
                break;
            }
        }
        let next = Sidecar::start(&with_store(&redis)).await;
        w.url = next.url();
        w.connect().await.unwrap();
        stopped(std::mem::replace(&mut s, next)).await;
        w.quiet().await.unwrap();
        assert_exact(&s, "llm", &w).await;
    }
    let rest: Vec<u64> = w.live.keys().copied().collect();
    assert_eq!(rest.len(), 5 * 40);
    w.settle(&rest).await;
    w.quiet().await.unwrap();
    assert_exact(&s, "llm", &w).await;
    assert_eq!(tokens(&s, "w").await.1, 0, "nothing stays reserved");
}

/// Guards against a shutdown that waits for a worker that does not read, or that sends for ever.
#[tokio::test]
async fn a_worker_that_stays_does_not_delay_the_shutdown() {
    let s = Sidecar::start(CONFIG).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    w.admit().await;
    let since = tokio::time::Instant::now();
    s.shutdown.cancel();
    w.send(FromWorker { pong: 1, ..FromWorker::default() }).await;
    stopped(s).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(w.link.as_mut().unwrap().end().await.code(), Code::Ok);
}
