//! Tests of failures and of the recovery from each failure. They compare the table with the hosts' own counts.

use std::time::{Duration, Instant};

use evenkeel_loadtest::lab::{Lab, LabBuilder, Policy};
use serde_json::Value;

use crate::support::{
    chat,
    lab::{self, roomy_engine},
    pool::{CountWatch, by_hosts, by_table, holders, metric, wait_exact},
    traffic::{ClosedLoop, open, open_many},
    wait::within,
};

const INTERVAL: Duration = Duration::from_secs(2);
/// Tolerance for a recovery within one interval. It covers reading the table, the probe that detects that Redis is up
/// (100 ms), and scheduling on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

/// Sets a long deadline: the deadline is not under test, and debug builds on a busy machine are slow.
fn patient_plugin(config: &mut Value) {
    config["deadline_ms"] = 1000.into();
}

fn lab(gateways: usize) -> LabBuilder {
    let builder = Lab::builder().hosts(4).envoys(gateways).sidecars(gateways).redis();
    builder
        .engine(roomy_engine())
        .keep_alive_interval(INTERVAL)
        .plugin_config(patient_plugin)
        .sidecar_yaml("")
}

#[tokio::test]
async fn a_killed_gateways_leases_are_reaped() {
    let Some(mut lab) = lab::start(lab(3)).await else { return };
    let watch = CountWatch::start(&mut lab).await;
    let dead_streams = open_many(&lab, 0, 30).await;
    let dead: Vec<String> = holders(&lab, 1).await.unwrap().into_keys().collect();
    let _survivors = (open_many(&lab, 1, 20).await, open_many(&lab, 2, 20).await);
    let load = ClosedLoop::start(&lab, &[1, 2], 16);
    load.wait_served(50).await;
    assert_eq!(dead_streams.len(), 30);

    lab.envoy(0).kill9().unwrap();
    let took = within(INTERVAL * 2, "the killed gateway's leases are reaped", || async {
        let holders = holders(&lab, 1).await?;
        let left: u64 = dead.iter().filter_map(|id| holders.get(id)).sum();
        if left == 0 { Ok(()) } else { Err(format!("{left} leases left")) }
    })
    .await;
    eprintln!("leases of the killed gateway were reaped after {took:?} (interval {INTERVAL:?})");

    load.wait_served(50).await;
    load.stop().await;
    wait_exact(&lab, 1, Duration::from_secs(1)).await;
    assert_eq!(by_table(&lab, 2).await.unwrap().values().sum::<u64>(), 40, "the survivors' streams");
    watch.assert_never_negative().await;
}

#[tokio::test]
async fn leases_survive_a_killed_sidecar() {
    let Some(mut lab) = lab::start(lab(2)).await else { return };
    let watch = CountWatch::start(&mut lab).await;
    let _before = (open_many(&lab, 0, 20).await, open_many(&lab, 1, 20).await);
    let load = ClosedLoop::start(&lab, &[0, 1], 8);
    load.wait_served(20).await;
    assert_streams_counted(&lab, 1).await;

    lab.sidecar(0).kill9().unwrap();
    load.wait_served(50).await;
    // The gateway fails open, as documented, and the plugin records the hosts of these requests.
    let _meanwhile = open_many(&lab, 0, 15).await;
    lab.sidecar(0).restart().await.unwrap();
    let since = Instant::now();
    load.stop().await;
    wait_exact(&lab, 1, INTERVAL + SLACK).await;
    eprintln!("exact {:?} after the sidecar restarted (interval {INTERVAL:?})", since.elapsed());
    assert!(since.elapsed() <= INTERVAL + SLACK, "{:?}", since.elapsed());
    assert_eq!(by_table(&lab, 0).await.unwrap().values().sum::<u64>(), 55);
    watch.assert_never_negative().await;
}

/// Asserts that the table counts all long streams. Under load, the table and the hosts cannot be read at the same
/// moment, so their counts of short requests may differ.
async fn assert_streams_counted(lab: &Lab, sidecar: usize) {
    let table = by_table(lab, sidecar).await.unwrap();
    assert!(table.values().sum::<u64>() >= 40, "{table:?} beside {:?}", by_hosts(lab));
}

#[tokio::test]
async fn counts_recover_from_flushall_under_load() {
    let Some(mut lab) = lab::start(lab(2)).await else { return };
    let watch = CountWatch::start(&mut lab).await;
    let _streams = (open_many(&lab, 0, 25).await, open_many(&lab, 1, 25).await);
    let load = ClosedLoop::start(&lab, &[0, 1], 8);
    load.wait_served(20).await;

    lab.redis().flushall().await.unwrap();
    let since = Instant::now();
    load.wait_served(20).await;
    load.stop().await;
    wait_exact(&lab, 0, INTERVAL + SLACK).await;
    eprintln!("exact {:?} after FLUSHALL (interval {INTERVAL:?})", since.elapsed());
    assert!(since.elapsed() <= INTERVAL + SLACK, "{:?}", since.elapsed());
    assert_eq!(by_table(&lab, 1).await.unwrap().values().sum::<u64>(), 50);
    watch.assert_never_negative().await;
}

#[tokio::test]
async fn counts_recover_from_redis_restarting_empty() {
    let Some(mut lab) = lab::start(lab(2)).await else { return };
    let watch = CountWatch::start(&mut lab).await;
    let _before = (open_many(&lab, 0, 20).await, open_many(&lab, 1, 20).await);
    let load = ClosedLoop::start(&lab, &[0, 1], 8);
    load.wait_served(20).await;

    lab.redis().kill9().unwrap();
    load.wait_served(50).await;
    // The sidecars choose by local counts, as documented.
    let _meanwhile = (open_many(&lab, 0, 10).await, open_many(&lab, 1, 10).await);
    assert_eq!(metric(&lab, 0, "evenkeel_store_up").await, 0.0);
    assert!(metric(&lab, 0, "evenkeel_admits_total{result=\"admitted_local\"}").await >= 10.0);
    lab.redis().restart_empty().await.unwrap();
    let since = Instant::now();
    load.wait_served(20).await;
    load.stop().await;
    wait_exact(&lab, 0, INTERVAL + SLACK).await;
    eprintln!("exact {:?} after Redis restarted empty (interval {INTERVAL:?})", since.elapsed());
    assert!(since.elapsed() <= INTERVAL + SLACK, "{:?}", since.elapsed());
    assert_eq!(by_table(&lab, 1).await.unwrap().values().sum::<u64>(), 60);
    watch.assert_never_negative().await;
}

/// A stream of ten minutes in virtual time, at twenty times the speed, stays counted. It lasts 60 KeepAlive intervals,
/// so a store with a maximum lease age would lose it.
#[tokio::test]
async fn a_ten_minute_stream_stays_counted() {
    let builder = Lab::builder().hosts(2).envoys(1).sidecars(2).redis().engine(roomy_engine());
    let builder = builder
        .time_scale(20.0)
        .token_batch(100)
        .keep_alive_interval(Duration::from_millis(500))
        // If a call times out on a busy machine, only the sidecar's local state contains the lease until the next
        // KeepAlive.
        .store_timeout(Duration::from_millis(500))
        .plugin_config(patient_plugin);
    let Some(lab) = lab::start(builder).await else { return };
    // At 10 ms per token, 60,000 tokens take ten minutes.
    let stream = open(&chat::client(), &lab.envoys()[0].url(Policy::EvenkeelLeastRequest), 60_000).await;
    let since = Instant::now();
    let mut reads = 0;
    while since.elapsed() < Duration::from_secs(29) {
        let table = by_table(&lab, 1).await.unwrap();
        assert_eq!(table.get(&stream.host), Some(&1), "after {:?}", since.elapsed());
        reads += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(reads > 100, "only {reads} reads");
    assert_eq!(lab.mock_in_flight().iter().sum::<u64>(), 1, "the host still streams");
    for sidecar in 0..2 {
        assert_eq!(metric(&lab, sidecar, "evenkeel_leases_reaped_total").await, 0.0);
    }
}

/// A Wasm VM that resumes several hundred requests in one call traps. Its holder would be gone, and with it the leases.
#[tokio::test]
async fn a_frozen_sidecar_delays_requests_until_their_deadline_only() {
    const BEFORE: usize = 10;
    const MEANWHILE: usize = 500;
    let Some(mut lab) = lab::start(lab(1)).await else { return };
    let _before = open_many(&lab, 0, BEFORE).await;
    let before: Vec<String> = holders(&lab, 0).await.unwrap().into_keys().collect();
    lab.sidecar(0).pause().unwrap();
    let since = Instant::now();
    let _meanwhile = open_many(&lab, 0, MEANWHILE).await;
    let took = since.elapsed();
    lab.sidecar(0).resume().unwrap();
    eprintln!("{MEANWHILE} requests passed a frozen sidecar within {took:?}");
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&took), "{took:?}");
    let load = ClosedLoop::start(&lab, &[0], 8);
    load.wait_served(20).await;
    load.stop().await;
    wait_exact(&lab, 0, 2 * INTERVAL + SLACK).await;
    assert_eq!(by_table(&lab, 0).await.unwrap().values().sum::<u64>(), (BEFORE + MEANWHILE) as u64);
    let after: Vec<String> = holders(&lab, 0).await.unwrap().into_keys().collect();
    assert_eq!(after, before, "the worker is the same holder");
}

/// Both ends of the stream stand still for ten seconds, as on a host that swaps. Meanwhile other sidecars release the
/// holder's leases, and the first list restores them.
#[tokio::test]
async fn the_table_is_exact_after_both_ends_were_frozen() {
    const FROZEN: Duration = Duration::from_secs(10);
    let Some(mut lab) = lab::start(lab(2)).await else { return };
    let watch = CountWatch::start(&mut lab).await;
    let _streams = (open_many(&lab, 0, 20).await, open_many(&lab, 1, 20).await);
    let load = ClosedLoop::start(&lab, &[0, 1], 8);
    load.wait_served(50).await;
    lab.sidecar(0).pause().unwrap();
    lab.envoy(0).pause().unwrap();
    tokio::time::sleep(FROZEN).await;
    lab.envoy(0).resume().unwrap();
    lab.sidecar(0).resume().unwrap();
    load.wait_served(50).await;
    let longest = load.stop().await;
    assert!(longest <= FROZEN + Duration::from_secs(1) + SLACK, "{longest:?}");
    wait_exact(&lab, 1, 2 * INTERVAL + SLACK).await;
    assert_eq!(by_table(&lab, 0).await.unwrap().values().sum::<u64>(), 40);
    watch.assert_never_negative().await;
}

#[tokio::test]
async fn the_table_is_exact_after_a_sidecar_has_shut_down_and_started_again() {
    let Some(mut lab) = lab::start(lab(1)).await else { return };
    let watch = CountWatch::start(&mut lab).await;
    let _streams = open_many(&lab, 0, 20).await;
    let load = ClosedLoop::start(&lab, &[0], 16);
    load.wait_served(50).await;
    assert_eq!(lab.sidecar(0).terminate(Duration::from_secs(20)).await.unwrap(), Some(0));
    lab.sidecar(0).restart().await.unwrap();
    load.wait_served(50).await;
    load.stop().await;
    wait_exact(&lab, 0, INTERVAL + SLACK).await;
    assert_eq!(by_table(&lab, 0).await.unwrap().values().sum::<u64>(), 20);
    watch.assert_never_negative().await;
}
