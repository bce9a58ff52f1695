//! The sidecar follows the primary that sentinels name. The counts stay exact through failovers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel_proto::v1::{Basis, admit_response::Answer};

use crate::support::{eventually, redis::Redis, sentinel::Watched, sidecar::Sidecar};

const LIMIT: Duration = Duration::from_secs(40);
const POOL: &str =
    "keep_alive_interval: 2s\npools: [{cluster: llm, endpoints: [{address: a}, {address: b}]}]";

async fn start(watched: &Watched, directory: &tempfile::TempDir) -> Sidecar {
    let password = directory.path().join("password");
    std::fs::write(&password, "evenkeel\n").unwrap();
    let store = watched.store(password.to_str().unwrap(), ", timeout: 100ms, connect_timeout: 500ms");
    let s = Sidecar::start(&(store + POOL)).await;
    eventually(LIMIT, "the store is used", || async {
        let up = s.metric("evenkeel_store_up").await;
        if up == 1.0 { Ok(()) } else { Err(up.to_string()) }
    })
    .await;
    s
}

/// Sends a command. A server that changes its role closes connections.
fn ask<T: redis::FromRedisValue>(server: &Redis, words: &[&str]) -> Option<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", server.port)).unwrap();
    redis::cmd(words[0]).arg(&words[1..]).query(&mut client.get_connection().ok()?).ok()
}

fn role(server: &Redis) -> Option<String> {
    redis::from_redis_value(ask::<Vec<redis::Value>>(server, &["ROLE"])?.into_iter().next()?).ok()
}

/// How requests were decided, and the leases that are held, with their endpoints.
#[derive(Default)]
struct Load {
    decided: BTreeMap<&'static str, u64>,
    held: BTreeMap<u64, String>,
    longest: Duration,
}

/// Sends admissions until `stop`, and settles all but the newest 20. KeepAlives list what is held.
async fn load(s: Sidecar, stop: Arc<AtomicBool>) -> (Sidecar, Load) {
    let mut load = Load::default();
    for lease in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let since = Instant::now();
        let Answer::Admitted(admitted) = s.admit("llm", "g", lease).await else { panic!("denied") };
        load.longest = load.longest.max(since.elapsed());
        *load.decided.entry(admitted.basis().as_str_name()).or_default() += 1;
        load.held.insert(lease, admitted.endpoint);
        if load.held.len() > 20 {
            let (lease, _) = load.held.pop_first().unwrap();
            s.settle("llm", "g", lease).await;
        }
        if lease % 100 == 0 {
            let held: Vec<_> =
                load.held.iter().map(|(lease, endpoint)| (*lease, Some(&**endpoint))).collect();
            s.keep_alive("llm", "g", lease, &held).await;
        }
    }
    (s, load)
}

/// Checks that after one KeepAlive, the table is exactly what the gateway holds.
async fn assert_exact(s: &Sidecar, load: &Load, primary: &Redis) {
    let held: Vec<_> = load.held.iter().map(|(lease, endpoint)| (*lease, Some(&**endpoint))).collect();
    let through = *load.held.last_key_value().unwrap().0;
    let answer = s.keep_alive("llm", "g", through, &held).await;
    assert_eq!(answer.unapplied_pools, 0);
    let state = s.pool("llm").await;
    assert!(state.current);
    assert_eq!(state.in_flight, load.held.len() as u64);
    for name in ["a", "b"] {
        let expected = load.held.values().filter(|endpoint| *endpoint == name).count() as u64;
        let counted: Option<u64> = ask(primary, &["HGET", "ek2:{|llm}:in-flight", name]);
        assert_eq!(counted.unwrap_or(0), expected, "{name}");
    }
}

async fn through_a_failover(watched: &Watched, s: Sidecar, fault: impl FnOnce(&Watched)) -> (Sidecar, Load) {
    let stop = Arc::new(AtomicBool::new(false));
    let running = tokio::spawn(load(s, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    fault(watched);
    let new = &watched.nodes[1];
    eventually(LIMIT, "the replica is promoted", || async {
        let role = role(new);
        if role.as_deref() == Some("master") { Ok(()) } else { Err(format!("{role:?}")) }
    })
    .await;
    let writes = || -> u64 {
        let stats: String = ask(new, &["INFO", "commandstats"]).unwrap_or_default();
        let line =
            stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default().to_owned();
        line.split_once("calls=").map_or(0, |(_, rest)| rest.split(',').next().unwrap().parse().unwrap())
    };
    eventually(LIMIT, "the sidecar uses the new primary", || async {
        let writes = writes();
        if writes > 200 { Ok(()) } else { Err(writes.to_string()) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let (s, load) = running.await.unwrap();
    eprintln!("decided: {:?}; longest Admit: {:?}", load.decided, load.longest);
    (s, load)
}

#[tokio::test]
async fn a_planned_failover_is_followed() {
    let (watched, directory) = (Watched::start().await, tempfile::tempdir().unwrap());
    let s = start(&watched, &directory).await;
    let (s, load) = through_a_failover(&watched, s, Watched::fail_over).await;
    assert!(load.decided[Basis::Shared.as_str_name()] > 100, "{:?}", load.decided);
    assert_exact(&s, &load, &watched.nodes[1]).await;
}

/// The old primary hangs, and comes back after the failover, as a primary that nobody watches for a moment. The sidecar
/// sends nothing to it any more.
#[tokio::test]
async fn a_hung_primary_that_comes_back_is_not_used_again() {
    let (watched, directory) = (Watched::start().await, tempfile::tempdir().unwrap());
    let s = start(&watched, &directory).await;
    let (s, load) = through_a_failover(&watched, s, |watched| watched.nodes[0].signal("STOP")).await;
    assert_exact(&s, &load, &watched.nodes[1]).await;
    watched.nodes[0].signal("CONT");
    let losses = s.metric("evenkeel_store_losses_total").await;
    for lease in 1_000_000..1_000_200 {
        let Answer::Admitted(admitted) = s.admit("llm", "g", lease).await else { panic!("denied") };
        assert_eq!(admitted.basis(), Basis::Shared);
    }
    assert_eq!(s.metric("evenkeel_store_losses_total").await, losses);
    let leases: u64 =
        redis::from_redis_value(watched.nodes[1].command(&["HLEN", "ek2:{|llm}:leases:g"])).unwrap();
    assert!(leases > 200, "{leases}");
}
