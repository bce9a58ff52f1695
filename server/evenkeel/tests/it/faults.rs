//! Redis is slow, cut off, killed or emptied. Then the configured policy decides requests, and after the next KeepAlive
//! the table equals the gateways' lists.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, Basis, Reason, admit_response::Answer};

use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::{Redis, store_at},
    sidecar::Sidecar,
};

const LIMIT: Duration = Duration::from_secs(10);

/// The interval is long, so that the sidecar does not reap a test's leases on a busy machine.
fn yaml(url: &str, policy: &str) -> String {
    let endpoints = "[{address: a, cap: 50}, {address: b, cap: 50}]";
    store_at(url, ", timeout: 200ms, connect_timeout: 500ms")
        + &format!(
            "keep_alive_interval: 20s
\
             pools: [{{cluster: llm, on_store_failure: {policy}, endpoints: {endpoints}}}]"
        )
}

fn admitted(answer: Answer) -> pb::Admitted {
    match answer {
        Answer::Admitted(admitted) => admitted,
        other => panic!("not admitted: {other:?}"),
    }
}

/// Repeats the Admit of one lease until the response has this basis. Every response must be an admission.
async fn until_basis(s: &Sidecar, basis: Basis, lease: u64) {
    eventually(LIMIT, basis.as_str_name(), || async {
        let got = admitted(s.admit("llm", "g", lease).await).basis();
        if got == basis { Ok(()) } else { Err(got.as_str_name().to_owned()) }
    })
    .await;
}

async fn store_is(s: &Sidecar, up: bool) {
    eventually(LIMIT, &format!("the store is up: {up}"), || async {
        let now = s.metric("evenkeel_store_up").await;
        if now == f64::from(u8::from(up)) { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn local_knowledge_bridges_a_killed_redis_until_a_keep_alive_repairs_it() {
    let mut redis = Redis::start();
    let s = Sidecar::start(&yaml(&redis.url(), "local")).await;
    let first = s.lease("llm", "g", 1).await;
    let (a, b) = ("a", "b");
    s.keep_alive("llm", "g", 1, &[(1, Some(&first))]).await;
    redis.kill();
    until_basis(&s, Basis::Local, 2).await;
    let second = s.lease("llm", "g", 2).await;
    assert_ne!(first, second, "local knowledge holds the lease of the last KeepAlive");
    // During the outage the sidecar applies the settlement locally. After it, the KeepAlive no longer lists that lease.
    s.settle("llm", "g", 1).await;
    assert!(!s.pool("llm").await.current);
    redis.restart();
    store_is(&s, true).await;
    let third = s.lease("llm", "g", 3).await;
    let answer = s.keep_alive("llm", "g", 3, &[(2, Some(&second)), (3, Some(&third))]).await;
    assert_eq!((answer.restored, answer.dropped), (1, 0));
    let state = s.pool("llm").await;
    assert!(state.current);
    let expected = |name: &str| u64::from(&*second == name) + u64::from(&*third == name);
    let counts: Vec<_> = state.endpoints.iter().map(|e| (e.address.as_str(), e.in_flight)).collect();
    assert_eq!(counts, [(a, expected(a)), (b, expected(b))]);
}

#[tokio::test]
async fn the_next_keep_alive_repairs_a_flushall() {
    let redis = Redis::start();
    let s = Sidecar::start(&yaml(&redis.url(), "local")).await;
    let endpoints = [s.lease("llm", "g", 1).await, s.lease("llm", "g", 2).await];
    redis.command(&["FLUSHALL"]);
    assert_eq!(s.pool("llm").await.in_flight, 0);
    let answer = s.keep_alive("llm", "g", 2, &[(1, Some(&endpoints[0])), (2, Some(&endpoints[1]))]).await;
    assert_eq!(answer.restored, 2);
    assert_eq!(s.pool("llm").await.in_flight, 2);
    let (_, metrics) = s.get("/metrics").await;
    assert!(metrics.contains("evenkeel_repairs_total{kind=\"restored\"} 2"), "drift is seen");
}

#[tokio::test]
async fn the_policy_decides_without_redis() {
    let mut redis = Redis::start();
    let url = redis.url();
    let (open, closed) =
        (Sidecar::start(&yaml(&url, "open")).await, Sidecar::start(&yaml(&url, "closed")).await);
    redis.kill();
    until_basis(&open, Basis::Open, 1).await;
    assert_eq!(admitted(open.admit("llm", "g", 2).await).endpoint, "");
    let Answer::Denied(denied) = closed.admit("llm", "g", 1).await else { panic!("admitted") };
    assert_eq!((denied.status, denied.reason()), (503, Reason::StoreUnavailable));
    let (_, metrics) = closed.get("/metrics").await;
    let line = metrics.lines().find(|l| l.starts_with("evenkeel_admits_total{result=\"store_unavailable\"}"));
    let count: u64 = line.and_then(|l| l.rsplit(' ').next()).unwrap().parse().unwrap();
    assert!(count >= 1, "{line:?}");
}

#[tokio::test]
async fn a_sidecar_starts_without_redis_and_finds_it_later() {
    let mut redis = Redis::start();
    redis.kill();
    let s = Sidecar::start(&yaml(&redis.url(), "local")).await;
    assert_eq!(admitted(s.admit("llm", "g", 1).await).basis(), Basis::Local);
    redis.restart();
    until_basis(&s, Basis::Shared, 2).await;
}

/// A hanging Redis delays only a few callers by its timeout, and then none.
#[tokio::test]
async fn a_hanging_redis_delays_few_requests() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&yaml(&proxy.url(), "local")).await;
    s.lease("llm", "g", 1).await;
    proxy.set(Mode::Stall);
    until_basis(&s, Basis::Local, 2).await;
    store_is(&s, false).await;
    let since = tokio::time::Instant::now();
    for lease in 3..=42 {
        assert_eq!(admitted(s.admit("llm", "g", lease).await).basis(), Basis::Local);
    }
    // 40 timeouts would take 8 s.
    assert!(since.elapsed() < Duration::from_secs(2), "40 admissions took {:?}", since.elapsed());
    proxy.set(Mode::Pass);
    until_basis(&s, Basis::Shared, 30).await;
}

#[tokio::test]
async fn a_refused_and_a_cut_connection_recover() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&yaml(&proxy.url(), "local")).await;
    s.lease("llm", "g", 1).await;
    proxy.set(Mode::Refuse);
    until_basis(&s, Basis::Local, 2).await;
    proxy.set(Mode::Pass);
    until_basis(&s, Basis::Shared, 3).await;
    // Redis applied the script but its reply is lost, so the lease exists. The next KeepAlive names the lease's
    // endpoint.
    proxy.set(Mode::CutReply);
    let fourth = s.lease("llm", "g", 4).await;
    proxy.set(Mode::Pass);
    store_is(&s, true).await;
    s.keep_alive("llm", "g", 4, &[(4, Some(&fourth))]).await;
    let request = pb::ListLeasesRequest { cluster: "llm".into(), ..Default::default() };
    let leases = s.inspect.clone().list_leases(request).await.unwrap().into_inner().leases;
    let leases: Vec<_> = leases.iter().map(|l| (l.lease, l.endpoint.as_str())).collect();
    assert_eq!(leases, [(4, &*fourth)]);
}

#[tokio::test]
async fn a_killed_client_connection_is_replaced() {
    let redis = Redis::start();
    let s = Sidecar::start(&yaml(&redis.url(), "local")).await;
    s.lease("llm", "g", 1).await;
    redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until_basis(&s, Basis::Shared, 2).await;
    redis.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(admitted(s.admit("llm", "g", 3).await).basis(), Basis::Shared);
}

/// After a single slow reply, such as while Redis forks, only the callers of that reply are answered locally.
#[tokio::test]
async fn one_slow_answer_does_not_open_the_circuit_breaker() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&yaml(&proxy.url(), "local")).await;
    s.lease("llm", "g", 1).await;
    proxy.set(Mode::Stall);
    assert_eq!(admitted(s.admit("llm", "g", 2).await).basis(), Basis::Local);
    proxy.set(Mode::Pass);
    until_basis(&s, Basis::Shared, 3).await;
    let (_, metrics) = s.get("/metrics").await;
    assert!(metrics.lines().any(|l| l == "evenkeel_store_up 1"));
    assert!(
        metrics.contains("evenkeel_store_errors_total{kind=\"timeout\",operation=\"commit\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn local_knowledge_forgets_what_was_settled_after_recovery() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let yaml = "keep_alive_interval: 20s\npools: [{cluster: llm, endpoints: [{address: a, cap: 1}]}]";
    let s = Sidecar::start(&(proxy.store(", timeout: 200ms") + yaml)).await;
    proxy.set(Mode::Refuse);
    until_basis(&s, Basis::Local, 1).await;
    proxy.set(Mode::Pass);
    store_is(&s, true).await;
    s.settle("llm", "g", 1).await;
    proxy.set(Mode::Refuse);
    until_basis(&s, Basis::Local, 2).await;
}

/// After a failover the old master responds but accepts no writes. The sidecar must leave it, even if the new master
/// has the same address (a name or a virtual address).
#[tokio::test]
async fn a_demoted_master_is_abandoned() {
    let (old, new) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(old.port).await;
    let s = Sidecar::start(&yaml(&proxy.url(), "local")).await;
    s.lease("llm", "g", 1).await;
    old.command(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]);
    until_basis(&s, Basis::Local, 2).await;
    // New connections reach the new master, while the old connections stay open.
    proxy.lead_to(new.port);
    until_basis(&s, Basis::Shared, 3).await;
}

/// The response reports the pool that was not applied, and asks for the next KeepAlive soon.
#[tokio::test]
async fn a_keep_alive_that_the_store_did_not_apply_is_repeated_soon() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = Sidecar::start(&yaml(&proxy.url(), "local")).await;
    let endpoint = s.lease("llm", "g", 1).await;
    proxy.set(Mode::Refuse);
    until_basis(&s, Basis::Local, 2).await;
    let answer = s.keep_alive("llm", "g", 1, &[(1, Some(&endpoint))]).await;
    assert_eq!((answer.unapplied_pools, answer.interval_ms, answer.restored), (1, 5000, 0));
    proxy.set(Mode::Pass);
    store_is(&s, true).await;
    let answer = s.keep_alive("llm", "g", 1, &[(1, Some(&endpoint))]).await;
    assert_eq!((answer.unapplied_pools, answer.interval_ms), (0, 20_000));
}

#[tokio::test]
async fn a_broken_pool_leaves_others_alone() {
    let redis = Redis::start();
    let s = Sidecar::start(
        &yaml(&redis.url(), "local")
            .replace("pools: [", "pools: [{cluster: other, endpoints: [{address: z}]}, "),
    )
    .await;
    redis.command(&["SET", "ek2:{|other}:in-flight", "not a hash"]);
    for lease in 1..=20 {
        assert_eq!(admitted(s.admit("other", "g", lease).await).basis(), Basis::Local);
        assert_eq!(admitted(s.admit("llm", "g", 100 + lease).await).basis(), Basis::Shared);
    }
}
