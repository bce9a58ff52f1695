//! What is promised under failure, shown by causing the failure, each time beside the hosts' own count.

use std::time::{Duration, Instant};

use evenkeel_loadtest::lab::{Lab, LabBuilder, Policy};

use crate::{
    gateway::{Churn, Watch, by_hosts, by_table, exact, holders, metric, open, open_many, roomy, within},
    support,
};

const INTERVAL: Duration = Duration::from_secs(2);
/// What a promise of "within one interval" may take in a test: the look at the table itself, the probe that finds
/// Redis back (100 ms), and the scheduler of a busy machine.
const SLACK: Duration = Duration::from_millis(700);

fn lab(gateways: usize) -> LabBuilder {
    let builder = Lab::builder().hosts(4).envoys(gateways).sidecars(gateways).redis();
    builder
        .engine(roomy())
        .keep_alive_interval(INTERVAL)
        .plugin_config(|config| {
            // Debug builds on a busy machine: the deadline is not what is tested here.
            config["deadline_ms"] = 1000.into();
        })
        .sidecar_yaml("")
}

#[tokio::test]
async fn a_killed_gateways_leases_are_given_back() {
    let Some(mut lab) = support::start(lab(3)).await else { return };
    let watch = Watch::start(&mut lab).await;
    let dead_streams = open_many(&lab, 0, 30).await;
    let dead: Vec<String> = holders(&lab, 1).await.unwrap().into_keys().collect();
    let _survivors = (open_many(&lab, 1, 20).await, open_many(&lab, 2, 20).await);
    let churn = Churn::start(&lab, &[1, 2], 16);
    churn.serves(50).await;
    assert_eq!(dead_streams.len(), 30);

    lab.envoy(0).kill9().unwrap();
    let took = within(INTERVAL * 2, "the dead gateway's leases are given back", || async {
        let holders = holders(&lab, 1).await?;
        let left: u64 = dead.iter().filter_map(|id| holders.get(id)).sum();
        if left == 0 { Ok(()) } else { Err(format!("{left} leases left")) }
    })
    .await;
    eprintln!("leases of the killed gateway given back after {took:?} (interval {INTERVAL:?})");

    churn.serves(50).await;
    churn.stop().await;
    exact(&lab, 1, Duration::from_secs(1)).await;
    assert_eq!(by_table(&lab, 2).await.unwrap().values().sum::<u64>(), 40, "the survivors' streams");
    watch.never_negative().await;
}

#[tokio::test]
async fn a_killed_sidecar_is_bridged_by_its_gateway() {
    let Some(mut lab) = support::start(lab(2)).await else { return };
    let watch = Watch::start(&mut lab).await;
    let _before = (open_many(&lab, 0, 20).await, open_many(&lab, 1, 20).await);
    let churn = Churn::start(&lab, &[0, 1], 8);
    churn.serves(20).await;
    exact_once_quiet(&lab, 1).await;

    lab.sidecar(0).kill9().unwrap();
    churn.serves(50).await;
    // Stated policy: the gateway fails open, and remembers what it sent where.
    let _meanwhile = open_many(&lab, 0, 15).await;
    lab.sidecar(0).restart().await.unwrap();
    let since = Instant::now();
    churn.stop().await;
    exact(&lab, 1, INTERVAL + SLACK).await;
    eprintln!("exact {:?} after the sidecar was back (interval {INTERVAL:?})", since.elapsed());
    assert!(since.elapsed() <= INTERVAL + SLACK, "{:?}", since.elapsed());
    assert_eq!(by_table(&lab, 0).await.unwrap().values().sum::<u64>(), 55);
    watch.never_negative().await;
}

/// Under load the table and the hosts are never read at one moment; a difference of the requests on their way is
/// allowed, the long streams are not.
async fn exact_once_quiet(lab: &Lab, sidecar: usize) {
    let table = by_table(lab, sidecar).await.unwrap();
    assert!(table.values().sum::<u64>() >= 40, "{table:?} beside {:?}", by_hosts(lab));
}

#[tokio::test]
async fn flushall_under_load_is_healed() {
    let Some(mut lab) = support::start(lab(2)).await else { return };
    let watch = Watch::start(&mut lab).await;
    let _streams = (open_many(&lab, 0, 25).await, open_many(&lab, 1, 25).await);
    let churn = Churn::start(&lab, &[0, 1], 8);
    churn.serves(20).await;

    lab.redis().flushall().await.unwrap();
    let since = Instant::now();
    churn.serves(20).await;
    churn.stop().await;
    exact(&lab, 0, INTERVAL + SLACK).await;
    eprintln!("exact {:?} after FLUSHALL (interval {INTERVAL:?})", since.elapsed());
    assert!(since.elapsed() <= INTERVAL + SLACK, "{:?}", since.elapsed());
    assert_eq!(by_table(&lab, 1).await.unwrap().values().sum::<u64>(), 50);
    watch.never_negative().await;
}

#[tokio::test]
async fn redis_killed_and_restarted_empty_is_healed() {
    let Some(mut lab) = support::start(lab(2)).await else { return };
    let watch = Watch::start(&mut lab).await;
    let _before = (open_many(&lab, 0, 20).await, open_many(&lab, 1, 20).await);
    let churn = Churn::start(&lab, &[0, 1], 8);
    churn.serves(20).await;

    lab.redis().kill9().unwrap();
    churn.serves(50).await;
    // Stated policy: the sidecars choose from local knowledge.
    let _meanwhile = (open_many(&lab, 0, 10).await, open_many(&lab, 1, 10).await);
    assert_eq!(metric(&lab, 0, "evenkeel_store_up").await, 0.0);
    assert!(metric(&lab, 0, "evenkeel_admits_total{result=\"admitted_local\"}").await >= 10.0);
    lab.redis().restart_empty().await.unwrap();
    let since = Instant::now();
    churn.serves(20).await;
    churn.stop().await;
    exact(&lab, 0, INTERVAL + SLACK).await;
    eprintln!("exact {:?} after Redis was back, empty (interval {INTERVAL:?})", since.elapsed());
    assert!(since.elapsed() <= INTERVAL + SLACK, "{:?}", since.elapsed());
    assert_eq!(by_table(&lab, 1).await.unwrap().values().sum::<u64>(), 60);
    watch.never_negative().await;
}

/// Ten minutes of a model's time, twenty times as fast: 60 KeepAlive intervals. A store that gave leases a
/// maximum age would lose it.
#[tokio::test]
async fn a_ten_minute_stream_stays_counted() {
    let builder = Lab::builder().hosts(2).envoys(1).sidecars(2).redis().engine(roomy());
    let builder = builder.time_scale(20.0).token_batch(100).keep_alive_interval(Duration::from_millis(500));
    let Some(lab) = support::start(builder).await else { return };
    // 10 ms a token: 60,000 tokens are ten minutes.
    let stream = open(&support::client(), &lab.envoys()[0].url(Policy::Evenkeel), 60_000).await;
    let since = Instant::now();
    let mut looks = 0;
    while since.elapsed() < Duration::from_secs(29) {
        let table = by_table(&lab, 1).await.unwrap();
        assert_eq!(table.get(&stream.host), Some(&1), "after {:?}", since.elapsed());
        looks += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(looks > 100, "only {looks} looks");
    assert_eq!(lab.mock_in_flight().iter().sum::<u64>(), 1, "the host still streams");
    for sidecar in 0..2 {
        assert_eq!(metric(&lab, sidecar, "evenkeel_leases_reaped_total").await, 0.0);
    }
}
