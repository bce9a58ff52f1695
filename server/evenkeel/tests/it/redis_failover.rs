//! What the sidecar does with its connections when Redis fails over, hangs, or forgets a connection.

use std::time::{Duration, Instant};

use evenkeel_proto::v1::{self as pb, Basis, admit_response::Answer};

use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
    requests,
    sidecar::Sidecar,
};

const LIMIT: Duration = Duration::from_secs(20);
const POOLS: usize = 40;

/// Many pools and a short interval, so that the sidecar has all its connections open.
fn yaml(store: &str) -> String {
    let pools: Vec<String> = (0..POOLS)
        .map(|i| format!("{{cluster: p{i}, endpoints: [{{address: a}}, {{address: b}}]}}"))
        .collect();
    format!("{store}keep_alive_interval: 400ms\npools: [{}]\n", pools.join(", "))
}

/// Makes every pool known, so that sweeps read all tables.
async fn use_all_pools(s: &Sidecar) {
    for pool in 0..POOLS {
        s.lease(&format!("p{pool}"), "g", 1).await;
    }
}

async fn basis(s: &Sidecar, lease: u64) -> Basis {
    match s.admit("p0", "g", lease).await {
        Answer::Admitted(admitted) => admitted.basis(),
        other => panic!("not admitted: {other:?}"),
    }
}

/// Repeats an Admit until the store decides it `times` times in a row. Returns how long the store has not decided.
async fn until_shared(s: &Sidecar, mut lease: u64, times: u32) -> Duration {
    let (since, mut last, mut row) = (Instant::now(), Instant::now(), 0);
    while row < times {
        assert!(since.elapsed() < LIMIT, "the store does not decide again");
        lease += 1;
        if basis(s, lease).await == Basis::Shared {
            row += 1;
        } else {
            (row, last) = (0, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    last - since
}

/// Guards against giving up only the connection that failed: each probe took another connection to the old primary, and
/// the circuit stayed open for 12.8 s.
#[tokio::test]
async fn all_connections_to_a_demoted_primary_are_dropped_at_once() {
    let (old, new) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(old.port).await;
    let s = Sidecar::start(&yaml(&proxy.store(", timeout: 200ms"))).await;
    use_all_pools(&s).await;
    proxy.lead_to(new.port);
    old.command(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]);
    let outage = until_shared(&s, 1000, 100).await;
    assert!(outage < Duration::from_secs(1), "the store did not decide for {outage:?}");
    assert!(s.metric("evenkeel_store_losses_total").await <= 2.0);
}

/// Guards against connections that a firewall forgot: each got no answer, one after another.
#[tokio::test]
async fn half_open_connections_are_replaced_soon() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&yaml(&proxy.store(", timeout: 100ms"))).await;
    use_all_pools(&s).await;
    proxy.set(Mode::StallOld);
    let outage = until_shared(&s, 1000, 100).await;
    // Three timeouts of 100 ms, and the time of a busy machine.
    assert!(outage < Duration::from_millis(1500), "the store did not decide for {outage:?}");
    assert!(s.metric("evenkeel_store_losses_total").await <= 2.0);
}

/// The server may close idle connections (`timeout`). That is no outage.
#[tokio::test]
async fn a_closed_idle_connection_is_no_outage() {
    let redis = Redis::start();
    let s = Sidecar::start(&yaml(&redis.store(", timeout: 2s"))).await;
    use_all_pools(&s).await;
    let clients = || -> String { redis::from_redis_value(redis.command(&["CLIENT", "LIST"])).unwrap() };
    // The held connection is the one that has sent `commit`s last; all others may go.
    let list = clients();
    let idle: Vec<&str> = list.lines().filter(|line| line.contains("user=evenkeel")).collect();
    let id =
        |line: &str| line.split_once("id=").unwrap().1.split(' ').next().unwrap().parse::<u64>().unwrap();
    let first = idle.iter().map(|line| id(line)).min().unwrap();
    for line in idle.iter().filter(|line| id(line) != first) {
        redis.command(&["CLIENT", "KILL", "ID", &id(line).to_string()]);
    }
    let before = s.metric("evenkeel_store_losses_total").await;
    s.keep_alive("p1", "g", 1, &[(1, Some("a"))]).await;
    let answer = s.keep_alive("p2", "g", 1, &[(1, Some("a"))]).await;
    assert_eq!(answer.unapplied_pools, 0);
    assert_eq!(s.metric("evenkeel_store_losses_total").await, before);
}

#[tokio::test]
async fn a_hanging_redis_delays_neither_start_nor_exit() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    proxy.set(Mode::Stall);
    let since = Instant::now();
    let s = Sidecar::start(&yaml(&proxy.store(""))).await;
    assert!(since.elapsed() < Duration::from_millis(1500), "started after {:?}", since.elapsed());
    proxy.set(Mode::Pass);
    until_shared(&s, 1, 1).await;
    proxy.set(Mode::Stall);
    let request = |lease| pb::AdmitRequest {
        holder: "g".into(),
        ..requests::admit(&format!("p{}", lease % POOLS as u64), lease)
    };
    let gateway = s.gateway.clone();
    let under_way: Vec<_> = (5000..5050)
        .map(|lease| {
            let mut gateway = gateway.clone();
            tokio::spawn(async move { gateway.admit(request(lease)).await })
        })
        .collect();
    let since = Instant::now();
    s.shutdown.cancel();
    tokio::time::timeout(LIMIT, s.task).await.expect("stops").unwrap().unwrap();
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "the exit took {took:?}");
    futures::future::join_all(under_way).await;
}

/// Guards against connections that are checked before each use: the checks were half of an idle sidecar's commands.
#[tokio::test]
async fn an_idle_sidecar_sends_no_checks() {
    let redis = Redis::start();
    let s = Sidecar::start(&yaml(&redis.store(", timeout: 2s"))).await;
    use_all_pools(&s).await;
    let stats = || -> String { redis::from_redis_value(redis.command(&["INFO", "commandstats"])).unwrap() };
    eventually(LIMIT, "some sweeps", async || {
        let swept = stats().lines().find_map(|line| {
            line.strip_prefix("cmdstat_zrange:calls=")?.split(',').next()?.parse::<usize>().ok()
        });
        if swept > Some(4 * POOLS) { Ok(()) } else { Err(format!("{swept:?}")) }
    })
    .await;
    let calls = |name: &str| {
        let line = stats();
        let line = line.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")))?;
        line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()
    };
    // The fixture itself sends a few PINGs when it starts Redis.
    assert!(calls("ping") < Some(20), "{:?}", calls("ping"));
    assert_eq!(calls("unwatch"), None);
}
