//! A sidecar is frozen for a while, and continues.

use std::time::Duration;

use evenkeel_proto::{HolderClient, HolderSecret, v1 as pb};
use tonic::transport::Channel;

use super::CONFIG;
use crate::support::{process::Process, requests, worker::Worker};

/// Longer than two intervals of pings, so that a sidecar that looked at the clock alone would end its streams.
const FROZEN: Duration = Duration::from_secs(3);

/// A stream survives the pause of its sidecar: what the worker has sent meanwhile is read first. Admissions that the worker
/// gave up meanwhile do not end the connection.
#[tokio::test]
async fn a_stream_survives_a_frozen_sidecar_and_many_cancelled_admissions() {
    let directory = tempfile::tempdir().unwrap();
    let (sidecar, url, _) = Process::start(&CONFIG.replace("60s", "1s"), directory.path()).await;
    let mut w = Worker::start(&url, "w", "llm").await;
    let first = w.admit().await;
    sidecar.signal("STOP");
    for _ in 0..100 {
        let lease = w.ask().await;
        w.cancel(lease).await;
    }
    w.settle(&[first]).await;
    tokio::time::sleep(FROZEN).await;
    sidecar.signal("CONT");
    w.quiet().await.unwrap();
    let kept = w.admit().await;
    let repaired = w.listed().await;
    assert_eq!((repaired.restored, repaired.dropped), (0, 0));
    assert_eq!(w.live.keys().collect::<Vec<_>>(), [&kept]);
}

/// Guards against a limit of h2: by default, 20 calls that are given up before a busy sidecar has looked at them end the
/// connection for all calls.
#[tokio::test]
async fn unary_calls_that_are_given_up_do_not_end_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (sidecar, url, _) = Process::start(CONFIG, directory.path()).await;
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let client = HolderClient::new(HolderSecret::new([3; 16]).on(channel));
    let admit = |lease| {
        let candidates = vec![requests::candidate("a:1", 1.0, 0)];
        let request = pb::AdmitRequest { candidates, ..requests::admit("llm", lease) };
        let mut client = client.clone();
        async move { client.admit(request).await }
    };
    admit(1).await.unwrap();
    sidecar.signal("STOP");
    let patient = tokio::spawn(admit(2));
    let given_up = (3..103).map(|lease| tokio::time::timeout(Duration::from_millis(100), admit(lease)));
    assert!(futures::future::join_all(given_up).await.iter().all(Result::is_err));
    sidecar.signal("CONT");
    patient.await.unwrap().unwrap();
}
