//! A request is recorded once, although a gateway settles it at one sidecar, which hangs or cannot reach Redis, and
//! repeats that at another.

use evenkeel_proto::v1 as pb;
use futures::future::join_all;

use super::*;
use crate::support::{
    admin::{self, TOKEN, by, with_admin},
    eventually,
    proxy::{Mode, Proxy},
    redis::Cluster,
    requests::{admit_for, held, keep_alive, settle_success},
    sidecar::Sidecar,
};

const POOL: &str = "
keep_alive_interval: 200ms
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
models: [{model: m, output_tokens: 20, bytes_per_token: 4}]
";
/// No limit; limits that reserve; one that reserves nothing, because it counts requests; a quota.
const LIMITS: [&str; 4] = [
    "",
    "limits: [{name: tokens, counts: tokens, amount: 1000000, per: 1d, key: [consumer]}]",
    "limits: [{name: calls, counts: requests, amount: 1000000, per: 1d, key: [consumer]}]",
    "quotas: [{name: credit, counts: tokens, kind: prepaid, default: 1000000}]",
];
/// The calls of Redis fail before or after they are applied, or nobody knows.
const FAULTS: [Mode; 3] = [Mode::Refuse, Mode::Stall, Mode::CutReply];

/// Two sidecars with one Redis. Only the first reaches Redis through the proxy.
struct Two {
    redis: Redis,
    proxy: Proxy,
    sidecars: [Sidecar; 2],
    config: String,
    recorded: usize,
}

impl Two {
    async fn start(limits: &str) -> Self {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.port).await;
        let config = with_admin(&format!("{POOL}{limits}\n"));
        let cut_off = Sidecar::start(&(proxy.store(", timeout: 100ms") + &config)).await;
        let other = Sidecar::start(&(redis.store(", timeout: 5s") + &config)).await;
        Self { redis, proxy, sidecars: [cut_off, other], config, recorded: 0 }
    }

    async fn admit(&self, lease: u64) -> pb::SettleRequest {
        let ticket = self.sidecars[0].admitted(admit_for("alice", "m", lease)).await.ticket;
        settle_success(lease, ticket, 30, 20)
    }

    /// Sends a settlement to these sidecars, one after another.
    async fn end(&self, settle: pb::SettleRequest, order: &[usize]) {
        for sidecar in order {
            self.sidecars[*sidecar].end(settle.clone()).await;
        }
    }

    /// Waits until the first sidecar uses Redis, and everything is in Redis. The ledger has more requests then.
    async fn assert_recorded(&mut self, more: usize, what: &str) {
        self.proxy.set(Mode::Pass);
        self.recorded += more;
        let expected = self.recorded;
        eventually(LIMIT, what, async || recorded_by(&self.sidecars, expected).await).await;
    }
}

/// Returns whether everything is in Redis, and this number of requests is in the ledger.
async fn recorded_by(sidecars: &[Sidecar; 2], expected: usize) -> Result<(), String> {
    let mut waiting = 0.0;
    for sidecar in sidecars {
        waiting += 1.0 - sidecar.metric("evenkeel_store_up").await;
        waiting += sidecar.metric("evenkeel_limit_settlements_waiting").await;
        waiting += sidecar.metric("evenkeel_ledger_waiting_requests").await;
    }
    let request = pb::QueryUsageRequest { consumer: "alice".into(), ..Default::default() };
    let usage = admin::client(&sidecars[1]).await.query_usage(by(TOKEN, request)).await;
    let total = usage.map_err(|status| status.to_string())?.into_inner().total;
    let requests = total.map_or(0, |total| total.requests);
    if waiting == 0.0 && requests == expected as u64 {
        return Ok(());
    }
    Err(format!("{requests} instead of {expected}, {waiting} waiting"))
}

/// Runs a test for all kinds of limits at once, each with sidecars of its own.
async fn for_each_limit(test: impl AsyncFn(Two, &str)) {
    let test = &test;
    join_all(LIMITS.map(async |limits| test(Two::start(limits).await, limits).await)).await;
}

/// The nemesis found it with `--faults sidecar_freeze`.
#[tokio::test]
async fn a_settlement_that_waits_at_one_sidecar_and_is_repeated_at_another_is_recorded_once() {
    // The settlement reaches one of them, both in either order, or one of them twice.
    const ORDERS: [&[usize]; 6] = [&[0], &[1], &[0, 1], &[1, 0], &[0, 0, 1], &[0, 1, 0]];
    for_each_limit(async |mut two, limits| {
        for (round, fault) in (1..).zip(FAULTS) {
            let settlements = join_all((0..6).map(|n| two.admit(round * 10 + n))).await;
            two.proxy.set(fault);
            // They share the call that fails.
            join_all(settlements.into_iter().zip(ORDERS).map(|(settle, order)| two.end(settle, order))).await;
            two.assert_recorded(ORDERS.len(), &format!("{limits}, {fault:?}")).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_admitted_without_redis_is_recorded_once() {
    const ORDERS: [&[usize]; 4] = [&[0], &[0, 0], &[1, 0], &[0, 1, 0]];
    for_each_limit(async |mut two, limits| {
        two.proxy.set(Mode::Refuse);
        let settlements = join_all((1..=4).map(|lease| two.admit(lease))).await;
        join_all(settlements.into_iter().zip(ORDERS).map(|(settle, order)| two.end(settle, order))).await;
        two.assert_recorded(ORDERS.len(), limits).await;
    })
    .await;
}

/// In a cluster, the limits of a request may be on several nodes, and a settlement may reach only some of them.
#[tokio::test]
async fn a_settlement_that_reaches_one_of_two_nodes_is_recorded_once() {
    const LIMITS: &str = "
limits:
  - {name: of-consumer, counts: tokens, amount: 1000000, per: 1d, key: [consumer]}
  - {name: of-model, counts: tokens, amount: 1000000, per: 1d, key: [model]}
";
    let cluster = Cluster::start();
    let config = cluster.store(", timeout: 100ms, connect_timeout: 1s") + POOL + LIMITS;
    let sidecars = [Sidecar::start(&with_admin(&config)).await, Sidecar::start(&with_admin(&config)).await];
    let mut recorded = 0;
    for (round, key) in (0..).zip(["{consumer=alice}", "{model=m}"]) {
        let orders: [&[usize]; 3] = [&[0], &[0, 1], &[1, 0]];
        let settlements = join_all((1..=3).map(async |n| {
            let lease = 10 * round + n;
            let ticket = sidecars[0].admitted(admit_for("alice", "m", lease)).await.ticket;
            settle_success(lease, ticket, 30, 20)
        }))
        .await;
        let node = &cluster.nodes[cluster.node_of(key)];
        node.signal("STOP");
        join_all(settlements.into_iter().zip(orders).map(async |(settle, order)| {
            for sidecar in order {
                sidecars[*sidecar].end(settle.clone()).await;
            }
        }))
        .await;
        node.signal("CONT");
        recorded += orders.len();
        eventually(LIMIT, key, async || recorded_by(&sidecars, recorded).await).await;
    }
}

/// A repeated settlement may arrive at the first sidecar when the second has recorded the request, and when a list or a
/// sweep has ended the lease.
#[tokio::test]
async fn a_settlement_that_arrives_late_is_recorded_once() {
    for_each_limit(async |mut two, limits| {
        for (lease, order) in (1..).zip([&[0][..], &[0, 1], &[1, 0]]) {
            let settle = two.admit(lease).await;
            if order != [1, 0] {
                let empty = keep_alive(lease, vec![held("llm", &[])]);
                two.sidecars[1].gateway.clone().keep_alive(empty).await.unwrap();
            }
            two.end(settle, order).await;
            two.assert_recorded(1, &format!("{limits}, at {order:?}")).await;
        }
    })
    .await;
}

/// Guards against a shutdown that gives up too early while Redis hangs. Usage waits in the ledger then, or the settlement
/// does.
#[tokio::test]
async fn a_sidecar_that_stops_waits_for_a_store_that_hangs() {
    for_each_limit(async |mut two, limits| {
        for (lease, hangs_before) in [(1, false), (2, true)] {
            let behind_proxy = two.proxy.store(", timeout: 100ms") + &two.config;
            let stops = Sidecar::start(&behind_proxy).await;
            let settle = two.admit(lease).await;
            if hangs_before {
                two.proxy.set(Mode::Stall);
            }
            stops.end(settle).await;
            two.proxy.set(Mode::Stall);
            stops.shutdown.cancel();
            tokio::time::sleep(Duration::from_millis(2500)).await;
            two.proxy.set(Mode::Pass);
            stops.task.await.unwrap().unwrap();
            two.assert_recorded(1, &format!("{limits}, hangs before: {hangs_before}")).await;
        }
    })
    .await;
}

/// What a sidecar has acknowledged is in the ledger when it has stopped, also if Redis was away until then, and if the
/// sidecar could not verify the ticket.
#[tokio::test]
async fn a_sidecar_that_stops_records_what_it_has_acknowledged() {
    for_each_limit(async |mut two, limits| {
        for is_new in [false, true] {
            let settle = two.admit(1 + u64::from(is_new)).await;
            two.proxy.set(Mode::Refuse);
            let behind_proxy = two.proxy.store(", timeout: 100ms") + &two.config;
            let new = if is_new { behind_proxy } else { two.redis.store(", timeout: 5s") + &two.config };
            let new = Sidecar::start(&new).await;
            let stops = if is_new { new } else { std::mem::replace(&mut two.sidecars[0], new) };
            stops.end(settle).await;
            assert_eq!(stops.metric("evenkeel_limit_settlements_waiting").await, 1.0);
            stops.shutdown.cancel();
            two.proxy.set(Mode::Pass);
            stops.task.await.unwrap().unwrap();
            two.assert_recorded(1, &format!("{limits}, new: {is_new}")).await;
        }
    })
    .await;
}
