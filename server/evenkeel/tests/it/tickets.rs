//! Nobody forges, replays or changes a ticket: a settlement or a list with such a ticket changes nothing.

use std::time::Duration;

use evenkeel_proto::v1 as pb;
use prost::Message as _;
use tonic::Code;

use crate::support::{
    admin::{self, ADMIN, TOKEN, by, set_quota},
    eventually,
    redis::Redis,
    requests::{admit_for, held, keep_alive, settle_success},
    sidecar::Sidecar,
    worker::Worker,
};

const CONFIG: &str = "
keep_alive_interval: 200ms
pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]
limits:
  - {name: tokens, counts: tokens, amount: 1M, per: 1d, key: [consumer], reserve_margin: 1}
  - {name: at-once, counts: requests, amount: 4, algorithm: concurrency, key: [consumer]}
quotas:
  - {name: credit, counts: tokens, kind: prepaid}
";

/// A ticket as an attacker writes it.
#[derive(Clone, PartialEq, prost::Message)]
struct Forged {
    #[prost(string, tag = "1")]
    consumer: String,
    #[prost(string, tag = "2")]
    model: String,
    #[prost(message, repeated, tag = "6")]
    records: Vec<ForgedRecord>,
    #[prost(message, repeated, tag = "7")]
    buckets: Vec<ForgedBucket>,
    #[prost(uint64, tag = "10")]
    issued_s: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedRecord {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(uint64, tag = "2")]
    day: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedBucket {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(string, tag = "2")]
    rest: String,
    #[prost(message, repeated, tag = "3")]
    debits: Vec<ForgedDebit>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedDebit {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    window: u64,
    #[prost(uint64, tag = "3")]
    reserved: u64,
}

/// Returns a ticket that claims to have reserved this amount of the victim's balance. `valid` is a real ticket of the
/// attacker, whose records it copies.
fn forged(valid: &[u8], reserved: u64, with_record: bool) -> Vec<u8> {
    let real = Forged::decode(&valid[..valid.len() - 16]).unwrap();
    let debits = vec![ForgedDebit { name: "credit".into(), window: 0, reserved }];
    let bucket = ForgedBucket { tag: "consumer=victim".into(), rest: String::new(), debits };
    let records = real.records.into_iter().map(|record| ForgedRecord { epoch: 1, ..record });
    let forged = Forged {
        consumer: "victim".into(),
        model: "m".into(),
        records: records.take(usize::from(with_record)).collect(),
        buckets: if with_record { vec![bucket] } else { Vec::new() },
        issued_s: real.issued_s,
    };
    let mut bytes = forged.encode_to_vec();
    bytes.extend(&valid[valid.len() - 16..]);
    bytes
}

async fn balance(sidecar: &Sidecar, consumer: &str) -> u64 {
    let request = pb::GetQuotaRequest { quota: "credit".into(), consumer: consumer.into() };
    admin::client(sidecar).await.get_quota(by(TOKEN, request)).await.unwrap().into_inner().balance
}

async fn used(sidecar: &Sidecar, consumer: &str) -> (u64, u64) {
    let request = pb::ExplainRequest { request: Some(admit_for(consumer, "m", 0)) };
    let explained = admin::client(sidecar).await.explain(request).await.unwrap().into_inner();
    let of = |name: &str| explained.limits.iter().find(|limit| limit.name == name).unwrap().used;
    (of("tokens"), of("at-once"))
}

/// Settles with a ticket that must not verify.
async fn rejected(sidecar: &Sidecar, request: pb::SettleRequest) {
    let error = sidecar.gateway.clone().settle(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let message =
        "ticket: must be the ticket that Admit returned for this holder and lease, or empty, got another";
    assert_eq!(error.message(), message);
}

const REJECTED: &str = "evenkeel_tickets_rejected_total{reason=\"not_verified\"}";

async fn start(store: &str) -> Sidecar {
    Sidecar::start(&format!("{store}{CONFIG}{ADMIN}")).await
}

async fn grant(sidecar: &Sidecar, consumer: &str, amount: u64) {
    admin::client(sidecar).await.set_quota(by(TOKEN, set_quota("credit", consumer, amount))).await.unwrap();
}

fn by_holder(holder: &str, request: pb::SettleRequest) -> pb::SettleRequest {
    pb::SettleRequest { holder: holder.into(), ..request }
}

/// A neighbour emptied a balance, filled another, and billed a consumer.
async fn forged_tickets_change_nothing(s: &Sidecar) {
    for consumer in ["victim", "attacker"] {
        grant(s, consumer, 10_000).await;
    }
    let mut valid = Vec::new();
    for lease in 1..=4 {
        let request = pb::AdmitRequest { holder: "evil".into(), ..admit_for("attacker", "m", lease) };
        valid.push(s.admitted(request).await.ticket);
    }
    let before = (balance(s, "attacker").await, used(s, "attacker").await);
    let attacks = [
        // Empties the balance.
        (forged(&valid[0], 0, true), 90_000_000),
        // Fills it.
        (forged(&valid[0], 1_000_000_000_000, true), 0),
        // Bills the victim in the ledger alone.
        (forged(&valid[0], 0, false), 100_000_000),
        // The ticket of another lease.
        (valid[1].clone(), 5000),
        (valid[0][..valid[0].len() - 1].to_vec(), 5000),
        ([&valid[0][..], &[0]].concat(), 5000),
        (valid[0][..16].to_vec(), 5000),
        (b"x".to_vec(), 5000),
    ];
    for (ticket, tokens) in &attacks {
        rejected(s, by_holder("evil", settle_success(1, ticket.clone(), *tokens, 0))).await;
    }
    // The ticket of another holder.
    rejected(s, by_holder("other", settle_success(1, valid[0].clone(), 5000, 0))).await;
    assert_eq!(s.metric(REJECTED).await, attacks.len() as f64 + 1.0);
    assert_eq!(balance(s, "victim").await, 10_000);
    assert_eq!((balance(s, "attacker").await, used(s, "attacker").await), before);
    assert_eq!(s.pool("llm").await.in_flight, 4, "a lease was released");
    assert_eq!(s.metric("evenkeel_limit_overrun_total{limit=\"credit\"}").await, 0.0);
    // The right ticket still settles, once.
    for _ in 0..3 {
        s.end(by_holder("evil", settle_success(1, valid[0].clone(), 300, 0))).await;
    }
    assert_eq!(used(s, "attacker").await.1, 3);
    s.get("/api/v1/usage?by=consumer").await;
    eventually(Duration::from_secs(20), "the ledger has one request, and none of the victim", || async {
        let (_, usage) = s.get("/api/v1/usage?by=consumer").await;
        assert!(!usage.contains("victim"), "{usage}");
        if usage.contains("attacker") && usage.contains("300") { Ok(()) } else { Err(usage) }
    })
    .await;
}

#[tokio::test]
async fn forged_tickets_change_nothing_in_redis() {
    let redis = Redis::start();
    forged_tickets_change_nothing(&start(&redis.store(", timeout: 5s")).await).await;
}

#[tokio::test]
async fn forged_tickets_change_nothing_in_the_embedded_store() {
    forged_tickets_change_nothing(&start("").await).await;
}

/// A handful of settlements of many tokens, repeated and forged, raised the estimate of all requests of a model.
#[tokio::test]
async fn estimates_learn_from_each_verified_request_once() {
    let s = start("").await;
    grant(&s, "alice", 100_000_000).await;
    let expected = async || {
        let request = pb::ExplainRequest { request: Some(admit_for("alice", "m", 0)) };
        let explained = admin::client(&s).await.explain(request).await.unwrap().into_inner();
        explained.estimate.unwrap().output
    };
    for lease in 1..=6 {
        let ticket = s.admitted(admit_for("alice", "m", lease)).await.ticket;
        s.end(settle_success(lease, ticket, 10, 100)).await;
    }
    let before = expected().await;
    let ticket = s.admitted(admit_for("alice", "m", 7)).await.ticket;
    for _ in 0..100 {
        s.end(settle_success(7, ticket.clone(), 10, 90_000_000)).await;
        rejected(&s, settle_success(8, ticket.clone(), 10, 90_000_000)).await;
    }
    // The seventh of all requests has a seventh of the weight, and counts as four times the mean.
    let after = expected().await;
    assert!(after > before && after < before * 3 / 2, "{before} {after}");
}

/// A list renews only requests whose tickets verify, and all of its leases.
#[tokio::test]
async fn a_list_with_forged_tickets_renews_no_request_of_another() {
    let s = start("").await;
    for consumer in ["victim", "attacker"] {
        grant(&s, consumer, 1_000_000).await;
    }
    let valid = s.admitted(admit_for("attacker", "m", 1)).await.ticket;
    let mut forged = Forged::decode(&valid[..valid.len() - 16]).unwrap();
    for bucket in &mut forged.buckets {
        bucket.tag = "consumer=victim".into();
    }
    let forged = [forged.encode_to_vec(), valid[valid.len() - 16..].to_vec()].concat();
    let leases: Vec<_> = (1..=10).map(|lease| (lease, Some("a:1"))).collect();
    let tickets = std::iter::once(valid).chain((0..9).map(|_| forged.clone())).collect();
    let list = keep_alive(10, vec![pb::HeldPool { tickets, ..held("llm", &leases) }]);
    s.gateway.clone().keep_alive(list).await.unwrap();
    assert_eq!(s.metric(REJECTED).await, 9.0);
    assert_eq!((used(&s, "victim").await.1, used(&s, "attacker").await.1), (0, 1));
    s.admitted(pb::AdmitRequest { holder: "g".into(), ..admit_for("victim", "m", 1) }).await;
}

/// A stream goes on after a forged ticket: its worker would otherwise send the settlement again for ever.
#[tokio::test]
async fn a_stream_acknowledges_what_it_rejects() {
    let s = start("").await;
    grant(&s, "w", 1_000_000).await;
    let mut w = Worker::start(&s.url(), "w", "llm").await;
    let (one, other) = (w.admit().await, w.admit().await);
    let ticket = w.live[&other].1.clone();
    w.live.get_mut(&one).unwrap().1 = ticket;
    w.settle(&[one, other]).await;
    w.quiet().await.unwrap();
    assert_eq!(s.metric(REJECTED).await, 1.0);
    assert_eq!(s.metric("evenkeel_limit_settlements_total{result=\"charged\"}").await, 1.0);
    w.listed().await;
    assert_eq!(s.pool("llm").await.in_flight, 0);
}

/// All sidecars verify the tickets of each other, also after Redis has lost the key and another sidecar has started.
#[tokio::test]
async fn sidecars_verify_each_others_tickets_after_a_flush() {
    let redis = Redis::start();
    let store = redis.store(", timeout: 5s");
    let (one, other) = (start(&store).await, start(&store).await);
    grant(&one, "alice", 1_000_000).await;
    let before = one.admitted(admit_for("alice", "m", 1)).await.ticket;
    redis.command(&["FLUSHALL"]);
    let third = start(&store).await;
    eventually(Duration::from_secs(20), "the key is back", || async {
        let keys: i64 = redis::from_redis_value(redis.command(&["HLEN", "ek2:ticket-keys"])).unwrap();
        if keys >= 1 { Ok(()) } else { Err(keys.to_string()) }
    })
    .await;
    grant(&one, "alice", 1_000_000).await;
    // Each sidecar has read the keys of the others once its next interval has passed.
    eventually(Duration::from_secs(20), "every sidecar settles every ticket", || async {
        for (lease, issuer) in (10..).zip([&one, &other, &third]) {
            let ticket = issuer.admitted(admit_for("alice", "m", lease)).await.ticket;
            for sidecar in [&one, &other, &third] {
                let settle = settle_success(lease, ticket.clone(), 1, 1);
                sidecar.gateway.clone().settle(settle).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    })
    .await;
    for sidecar in [&other, &third] {
        sidecar.end(settle_success(1, before.clone(), 100, 0)).await;
    }
}

/// Sidecars with a file of keys verify each other's tickets, and no others.
#[tokio::test]
async fn keys_come_from_a_file() {
    let (redis, directory) = (Redis::start(), tempfile::tempdir().unwrap());
    let store = redis.store(", timeout: 5s");
    let file = |name: &str, key: &str| {
        std::fs::write(directory.path().join(name), key.repeat(32)).unwrap();
        format!("tickets: {{key_file: '{}'}}\n{store}", directory.path().join(name).display())
    };
    let (one, other) = (start(&file("a", "a")).await, start(&file("a", "a")).await);
    let stranger = start(&file("b", "b")).await;
    grant(&one, "alice", 1_000_000).await;
    let ticket = one.admitted(admit_for("alice", "m", 1)).await.ticket;
    rejected(&stranger, settle_success(1, ticket.clone(), 5, 5)).await;
    other.end(settle_success(1, ticket, 5, 5)).await;
    let keys: i64 = redis::from_redis_value(redis.command(&["EXISTS", "ek2:ticket-keys"])).unwrap();
    assert_eq!(keys, 0, "the store needs no key");
}

/// A sidecar that restarts while Redis is unavailable cannot verify tickets from before. It settles them later.
#[tokio::test]
async fn a_settlement_waits_for_the_key() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = redis.store(", timeout: 2s");
    let before = start(&store).await;
    grant(&before, "alice", 1_000_000).await;
    let ticket = before.admitted(admit_for("alice", "m", 1)).await.ticket;
    before.shutdown.cancel();
    before.task.await.unwrap().unwrap();
    redis.kill();
    let after = start(&store).await;
    after.end(settle_success(1, ticket, 600, 0)).await;
    redis.restart();
    eventually(Duration::from_secs(20), "the settlement is charged", || async {
        let charged = after.metric("evenkeel_limit_settlements_total{result=\"charged\"}").await;
        if charged == 1.0 { Ok(()) } else { Err(charged.to_string()) }
    })
    .await;
    assert_eq!(balance(&after, "alice").await, 1_000_000 - 600);
    assert_eq!(after.metric(REJECTED).await, 0.0);
}
