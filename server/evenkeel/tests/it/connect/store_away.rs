//! The store is unavailable. A sidecar owns what it has acknowledged.

use std::{path::Path, time::Duration};

use tonic::Code;

use super::{CONFIG, assert_exact, tokens};
use crate::support::{
    eventually,
    process::Process,
    redis::Redis,
    sidecar::Sidecar,
    worker::{TOKENS, Worker},
};

fn with_store(redis: &Redis) -> String {
    redis.store(", timeout: 2s") + CONFIG
}

async fn store_is(s: &Sidecar, up: bool) {
    eventually(Duration::from_secs(20), &format!("the store is up: {up}"), || async {
        let now = s.metric("evenkeel_store_up").await;
        if now == f64::from(u8::from(up)) { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

/// The reservations survive in Redis, because it does not lose its data in this test.
#[tokio::test]
async fn settlements_acknowledged_during_an_outage_are_charged_after_it() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let s = Sidecar::start(&with_store(&redis)).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    let mut leases = Vec::new();
    for _ in 0..20 {
        leases.push(w.admit().await);
    }
    redis.kill();
    w.settle(&leases[..10]).await;
    w.quiet().await.unwrap();
    store_is(&s, false).await;
    assert_eq!(s.metric("evenkeel_limit_settlements_waiting").await, 10.0);
    // The worker loses its stream, and repeats nothing, because all is acknowledged.
    w.connect().await.unwrap();
    redis.restart();
    store_is(&s, true).await;
    eventually(Duration::from_secs(20), "the settlements have arrived", || async {
        let waiting = s.metric("evenkeel_limit_settlements_waiting").await;
        if waiting == 0.0 { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
    w.listed().await;
    assert_exact(&s, "llm", &w).await;
    let (used, reserved) = tokens(&s, "w").await;
    assert_eq!(used - reserved, 10 * TOKENS);
}

/// A sidecar verifies holders that it knows, and accepts others. When the store is back, it writes their records, and
/// other sidecars verify them too.
#[tokio::test]
async fn holders_are_verified_without_the_store_and_recorded_after_it() {
    let mut redis = Redis::start();
    let yaml = CONFIG.replace("60s", "2s");
    let yaml = redis.store(", timeout: 2s") + &yaml;
    let (one, other) = (Sidecar::start(&yaml).await, Sidecar::start(&yaml).await);
    let mut known = Worker::start(&one.url(), "known", "llm").await;
    redis.kill();
    known.connect().await.unwrap();
    store_is(&one, false).await;
    let mut new = Worker::start(&one.url(), "new", "llm").await;
    new.connect().await.unwrap();
    for holder in ["known", "new"] {
        let mut forged = Worker::new(&one.url(), holder, "llm");
        assert_eq!(forged.connect().await.unwrap_err().code(), Code::PermissionDenied, "{holder}");
    }
    // Otherwise its first call after the restart may use a connection from before it, fail, and verify nothing.
    store_is(&other, false).await;
    redis.restart();
    store_is(&one, true).await;
    store_is(&other, true).await;
    for holder in ["known", "new"] {
        let key = format!("ek2:holder:{holder}");
        eventually(Duration::from_secs(20), &key, || async {
            let there: i64 = redis::from_redis_value(redis.command(&["EXISTS", &key])).unwrap();
            if there == 1 { Ok(()) } else { Err("absent".to_owned()) }
        })
        .await;
        let mut forged = Worker::new(&other.url(), holder, "llm");
        assert_eq!(forged.connect().await.unwrap_err().code(), Code::PermissionDenied, "{holder}");
    }
    new.url = other.url();
    new.connect().await.unwrap();
    new.admit().await;
    known.admit().await;
}

async fn logs(log: &Path, message: &str) -> serde_json::Value {
    eventually(Duration::from_secs(30), message, || async {
        let text = std::fs::read_to_string(log).unwrap();
        let line = text.lines().find(|line| line.contains(message));
        line.map(|line| serde_json::from_str(line).unwrap()).ok_or(text)
    })
    .await
}

/// Guards against acknowledged settlements that vanish without a line in the log.
#[tokio::test]
async fn a_sidecar_that_stops_without_the_store_logs_what_it_could_not_deliver() {
    let (mut redis, directory) = (Redis::start(), tempfile::tempdir().unwrap());
    let (sidecar, url, log) = Process::start(&with_store(&redis), directory.path()).await;
    let mut w = Worker::start(&url, "w", "llm").await;
    let mut leases = Vec::new();
    for _ in 0..12 {
        leases.push(w.admit().await);
    }
    redis.kill();
    w.settle(&leases).await;
    w.quiet().await.unwrap();
    sidecar.signal("TERM");
    let line = logs(&log, "settlements are lost").await;
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(
        (&line["fields"]["settlements"], &line["fields"]["tokens"]),
        (&12.into(), &(12 * TOKENS).into())
    );
}

/// A sidecar that has started without Redis cannot verify tickets.
#[tokio::test]
async fn a_sidecar_that_stops_logs_settlements_that_wait_for_the_keys_of_tickets() {
    let (mut redis, directory) = (Redis::start(), tempfile::tempdir().unwrap());
    let before = Sidecar::start(&with_store(&redis)).await;
    let mut w = Worker::start(&before.url(), "w", "llm").await;
    let leases = [w.admit().await, w.admit().await, w.admit().await];
    redis.kill();
    let (after, url, log) = Process::start(&with_store(&redis), directory.path()).await;
    w.url = url;
    w.connect().await.unwrap();
    w.settle(&leases).await;
    w.quiet().await.unwrap();
    after.signal("TERM");
    let line = logs(&log, "settlements are lost").await;
    assert_eq!(
        (&line["fields"]["settlements"], &line["fields"]["tokens"]),
        (&3.into(), &(3 * TOKENS).into())
    );
}

#[tokio::test]
async fn a_sidecar_that_stops_delivers_what_waits_if_the_store_returns_in_time() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let directory = tempfile::tempdir().unwrap();
    let (sidecar, url, log) = Process::start(&with_store(&redis), directory.path()).await;
    let mut w = Worker::start(&url, "w", "llm").await;
    let mut leases = Vec::new();
    for _ in 0..12 {
        leases.push(w.admit().await);
    }
    redis.kill();
    w.settle(&leases).await;
    w.quiet().await.unwrap();
    sidecar.signal("TERM");
    logs(&log, "shutting down").await;
    redis.restart();
    logs(&log, "stopped").await;
    assert!(!std::fs::read_to_string(&log).unwrap().contains("settlements are lost"));
    let next = Sidecar::start(&with_store(&redis)).await;
    assert_eq!(tokens(&next, "w").await, (12 * TOKENS, 0));
}
