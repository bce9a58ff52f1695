//! Quotas while Redis is unavailable: nobody gets credit, and every request is charged in the end, once.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, Reason, admit_response::Answer};

use crate::support::{
    admin::{self, ADMIN, TOKEN, by, set_quota},
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
    requests::{admit_for, settle_success},
    sidecar::Sidecar,
};

const LIMIT: Duration = Duration::from_secs(20);

const CONFIG: &str = "
keep_alive_interval: 200ms
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
quotas:
  - {name: credit, counts: tokens, kind: prepaid, reserve_margin: 1}
  - {name: calls, counts: requests, kind: budget, per: day, default: 1M}
models: [{model: m, output_tokens: 100, bytes_per_token: 4}]
";

async fn start(store: &str) -> Sidecar {
    Sidecar::start(&format!("{store}{CONFIG}{ADMIN}")).await
}

async fn store_is(s: &Sidecar, up: bool) {
    eventually(LIMIT, &format!("the store is up: {up}"), || async {
        let now = s.metric("evenkeel_store_up").await;
        if now == f64::from(u8::from(up)) { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

async fn nothing_waits(s: &Sidecar) {
    eventually(LIMIT, "every charge has arrived", || async {
        let waiting = s.metric("evenkeel_limit_settlements_waiting").await;
        if waiting == 0.0 { Ok(()) } else { Err(waiting.to_string()) }
    })
    .await;
    assert_eq!(s.metric("evenkeel_limit_settlements_lost_total").await, 0.0);
}

async fn grant(s: &Sidecar, consumer: &str, amount: u64) {
    admin::client(s).await.set_quota(by(TOKEN, set_quota("credit", consumer, amount))).await.unwrap();
}

/// Returns the balance and the number of calls.
async fn account(s: &Sidecar, consumer: &str) -> (u64, u64) {
    let quota = async |quota: &str| {
        let request = pb::GetQuotaRequest { quota: quota.into(), consumer: consumer.into() };
        admin::client(s).await.get_quota(by(TOKEN, request)).await.unwrap().into_inner()
    };
    (quota("credit").await.balance, quota("calls").await.used)
}

/// A request of 100 tokens.
async fn once(s: &Sidecar, consumer: &str, lease: u64) -> Option<Vec<u8>> {
    match s.send(admit_for(consumer, "m", lease)).await {
        Answer::Admitted(admitted) => Some(admitted.ticket),
        _ => None,
    }
}

/// Redis is killed and comes back with its data. One consumer was never granted anything, one has 1000 tokens, and one
/// has used everything.
#[tokio::test]
async fn nobody_gets_credit_in_an_outage_and_everything_is_charged() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let s = start(&redis.store(", timeout: 2s")).await;
    grant(&s, "alice", 1000).await;
    grant(&s, "empty", 100).await;
    for (consumer, lease) in [("alice", 1), ("empty", 2)] {
        let ticket = once(&s, consumer, lease).await.unwrap();
        s.end(settle_success(lease, ticket, 0, 100)).await;
    }
    assert!(once(&s, "empty", 3).await.is_none());
    let before = once(&s, "alice", 4).await.unwrap();
    redis.kill();
    s.send(admit_for("stranger", "m", 99)).await;
    store_is(&s, false).await;
    for lease in 100..300 {
        let denied = s.denied(admit_for("stranger", "m", lease)).await;
        assert_eq!((denied.status, denied.reason()), (503, Reason::StoreUnavailable));
    }
    assert_eq!(s.denied(admit_for("empty", "m", 300)).await.reason(), Reason::Quota);
    // Alice had 800 left: 900 less what is reserved.
    let mut admitted = Vec::new();
    for lease in 301..320 {
        admitted.extend(once(&s, "alice", lease).await.map(|ticket| (lease, ticket)));
    }
    assert_eq!(admitted.len(), 8);
    // Two end in the outage, and the gateway repeats one. The others end after it.
    for (lease, ticket) in [&admitted[0], &admitted[0], &admitted[1]] {
        s.end(settle_success(*lease, ticket.clone(), 0, 60)).await;
    }
    // And the reservation of the first stranger, whose reply was lost, is given back.
    assert_eq!(s.metric("evenkeel_limit_settlements_waiting").await, 3.0);
    assert!(once(&s, "alice", 320).await.is_none(), "80 tokens are free again, too few for one more");
    redis.restart();
    store_is(&s, true).await;
    nothing_waits(&s).await;
    for (lease, ticket) in &admitted[1..] {
        s.end(settle_success(*lease, ticket.clone(), 0, 60)).await;
    }
    s.end(settle_success(4, before, 0, 100)).await;
    nothing_waits(&s).await;
    let other = start(&redis.store(", timeout: 2s")).await;
    for (lease, ticket) in &admitted {
        other.end(settle_success(*lease, ticket.clone(), 0, 60)).await;
    }
    assert_eq!(account(&s, "alice").await, (1000 - 200 - 8 * 60, 10));
    assert_eq!(account(&s, "empty").await.0, 0);
    // The next request sees what the store says.
    assert!(once(&s, "stranger", 400).await.is_none());
}

/// A proxy cuts connections and replies at any moment of a request. Every request is charged once.
#[tokio::test]
async fn each_request_is_charged_once_through_cuts() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let s = start(&proxy.store(", timeout: 100ms")).await;
    grant(&s, "alice", 1_000_000).await;
    s.end(settle_success(1, once(&s, "alice", 1).await.unwrap(), 0, 50)).await;
    let mut lease = 1;
    for (before, during) in [
        (Mode::Pass, Mode::Refuse),
        (Mode::Refuse, Mode::Refuse),
        (Mode::Refuse, Mode::Pass),
        (Mode::CutReply, Mode::Pass),
        (Mode::Pass, Mode::CutReply),
        (Mode::CutReply, Mode::CutReply),
        (Mode::Stall, Mode::Pass),
        (Mode::Pass, Mode::Stall),
        (Mode::Stall, Mode::CutReply),
    ] {
        lease += 1;
        proxy.set(before);
        let ticket = once(&s, "alice", lease).await.unwrap();
        proxy.set(during);
        s.end(settle_success(lease, ticket.clone(), 0, 50)).await;
        proxy.set(Mode::Pass);
        store_is(&s, true).await;
        nothing_waits(&s).await;
        s.end(settle_success(lease, ticket, 0, 50)).await;
        nothing_waits(&s).await;
        let balance = account(&s, "alice").await.0;
        assert_eq!(balance, 1_000_000 - 50 * lease, "request {lease}");
    }
}

/// The policies of a quota mean what they say.
#[tokio::test]
async fn open_admits_and_charges_later_and_closed_refuses() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let with = |policy: &str| {
        let quota = format!("kind: prepaid, on_store_failure: {policy}");
        (redis.store(", timeout: 2s") + CONFIG + ADMIN).replacen("kind: prepaid", &quota, 1)
    };
    let (open, closed) = (Sidecar::start(&with("open")).await, Sidecar::start(&with("closed")).await);
    grant(&open, "alice", 1000).await;
    redis.kill();
    let ticket = once(&open, "alice", 1).await.unwrap();
    store_is(&open, false).await;
    once(&open, "stranger", 2).await.unwrap();
    open.end(settle_success(1, ticket, 0, 70)).await;
    assert_eq!(closed.denied(admit_for("alice", "m", 3)).await.reason(), Reason::StoreUnavailable);
    redis.restart();
    store_is(&open, true).await;
    nothing_waits(&open).await;
    assert_eq!(account(&open, "alice").await, (930, 1));
}
