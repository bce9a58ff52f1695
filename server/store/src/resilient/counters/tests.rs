mod first;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::{
    HolderId, LeaseId,
    limit::{Bucket, Window},
};
use evenkeel_telemetry::Metrics;

use super::*;
use crate::{
    counters::Settler,
    memory::{MemoryCounters, MemoryHolders, MemoryStore},
};

/// A store that applies each call. While `loses_replies` is set, the caller gets a timeout instead of the reply.
#[derive(Default)]
struct UnreliableStore {
    counters: MemoryCounters,
    loses_replies: AtomicBool,
    /// If set, the store rejects settlements.
    rejects: AtomicBool,
    rejections: AtomicU8,
}

impl UnreliableStore {
    fn answer<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if self.loses_replies.load(Ordering::Relaxed) { Err(StoreError::Timeout(1)) } else { answer }
    }
}

#[async_trait]
impl Counters for UnreliableStore {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        self.answer(self.counters.reserve(reserve).await)
    }

    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError> {
        self.answer(self.counters.give_back(reserve).await)
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        self.answer(self.counters.peek(meters).await)
    }

    async fn settle(&self, settlement: Settlement) -> Result<SettleResult, StoreError> {
        if self.rejects.load(Ordering::Relaxed) {
            self.rejections.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Script { script: "count", detail: "WRONGTYPE".to_owned() });
        }
        // Lets concurrent settlements meet.
        tokio::task::yield_now().await;
        self.answer(self.counters.settle(settlement).await)
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
        self.answer(self.counters.renew(renewals).await)
    }
}

fn shared(unreliable: &Arc<UnreliableStore>) -> Arc<ResilientStore> {
    sidecar(unreliable, Metrics::new().unwrap())
}

fn sidecar(unreliable: &Arc<UnreliableStore>, metrics: Arc<Metrics>) -> Arc<ResilientStore> {
    let ttl = Duration::from_secs(60);
    ResilientStore::new(
        Arc::new(MemoryStore::new(ttl)),
        Arc::clone(unreliable) as _,
        Arc::<MemoryHolders>::default(),
        ttl,
        metrics,
        &tokio_util::task::TaskTracker::new(),
        tokio_util::sync::CancellationToken::new(),
    )
}

fn meters() -> Vec<Meter> {
    let meter = |name: &str, rule| Meter {
        bucket: Arc::new(Bucket { tag: "consumer=a".into(), rest: String::new() }),
        name: name.into(),
        rule,
        cost: if matches!(rule, CounterRule::Running { .. }) { 1 } else { 40 },
        provisional: true,
        shadow: false,
        on_store_failure: OnStoreFailure::Local,
    };
    vec![
        meter("fixed", CounterRule::Fixed { amount: 100, window: Window::Length(86_400_000) }),
        meter("balance", CounterRule::Prepaid { default: Some(100) }),
        meter("running", CounterRule::Running { amount: 5, ttl_ms: 60_000 }),
    ]
}

fn reserve() -> Reserve {
    let id = ReservationId { holder: HolderId::new("h").unwrap(), lease: LeaseId::new(1).unwrap() };
    Reserve { id: Some(id), meters: meters() }
}

/// Returns the used amount of the fixed window, the balance, and the number of in-flight requests.
async fn seen(unreliable: &UnreliableStore) -> [u64; 3] {
    let states = unreliable.counters.peek(meters()).await.unwrap().states;
    [states[0].used, states[1].used, states[2].used]
}

/// Guards against reserved amounts that stay taken forever because the reply was lost.
#[tokio::test]
async fn a_reservation_whose_reply_was_lost_is_given_back() {
    let unreliable = Arc::new(UnreliableStore::default());
    let store = shared(&unreliable);
    unreliable.loses_replies.store(true, Ordering::Relaxed);
    assert_eq!(Counters::reserve(&*store, reserve()).await.unwrap().basis, ReserveBasis::Local);
    assert_eq!(seen(&unreliable).await, [40, 60, 1]);
    unreliable.loses_replies.store(false, Ordering::Relaxed);
    store.settle_waiting().await;
    // A request under a concurrency limit remains counted until its time to live ends.
    assert_eq!(seen(&unreliable).await, [0, 100, 1]);
}

/// The gateway asks another sidecar, because the first one is late. Guards against a request that is not charged, because
/// the first sidecar gives its reservation back, or rolls it back.
#[tokio::test]
async fn a_reservation_that_was_made_again_is_not_given_back() {
    for rolls_back in [false, true] {
        let unreliable = Arc::new(UnreliableStore::default());
        let (one, other) = (shared(&unreliable), shared(&unreliable));
        unreliable.loses_replies.store(!rolls_back, Ordering::Relaxed);
        let first = Counters::reserve(&*one, reserve()).await.unwrap();
        unreliable.loses_replies.store(false, Ordering::Relaxed);
        let verdict = Counters::reserve(&*other, reserve()).await.unwrap();
        assert_eq!((verdict.basis, seen(&unreliable).await), (ReserveBasis::Shared, [40, 60, 1]));
        if rolls_back {
            let rollback = Settlement { by: Settler::rollback(), ..settlement(&first, 0) };
            assert!(!Counters::settle(&*one, rollback).await.unwrap().is_first());
        }
        one.settle_waiting().await;
        assert_eq!(seen(&unreliable).await[..2], [40, 60]);
        assert!(Counters::settle(&*other, settlement(&verdict, 30)).await.unwrap().is_first());
        assert_eq!(seen(&unreliable).await[..2], [30, 70]);
    }
}

/// A gateway may repeat a Settle while the store is down. The repeated call must not settle again.
#[tokio::test]
async fn a_settlement_repeated_during_an_outage_settles_once() {
    let unreliable = Arc::new(UnreliableStore::default());
    let store = shared(&unreliable);
    let verdict = Counters::reserve(&*store, reserve()).await.unwrap();
    let Reserve { id, meters } = reserve();
    let entries = meters
        .iter()
        .zip(&verdict.states)
        .map(|(meter, state)| crate::counters::Entry::settling(meter, state, 30));
    let (id, entries) = (id.unwrap(), entries.collect());
    let settlement = Settlement { id, records: verdict.records, entries, tokens: 0, by: Settler::new(false) };
    store.down.store(true, Ordering::Relaxed);
    assert!(Counters::settle(&*store, settlement.clone()).await.unwrap().is_first());
    assert!(!Counters::settle(&*store, settlement.clone()).await.unwrap().is_first());
    store.down.store(false, Ordering::Relaxed);
    store.settle_waiting().await;
    assert!(!Counters::settle(&*store, settlement).await.unwrap().is_first());
    assert_eq!(seen(&unreliable).await, [30, 70, 0]);
}

/// Guards against a settlement that is repeated forever and delays the other settlements.
#[tokio::test]
async fn a_settlement_that_the_store_rejects_is_dropped_after_a_few_attempts() {
    let unreliable = Arc::new(UnreliableStore::default());
    let store = shared(&unreliable);
    let verdict = Counters::reserve(&*store, reserve()).await.unwrap();
    unreliable.rejects.store(true, Ordering::Relaxed);
    let id = reserve().id.unwrap();
    let by = Settler::new(false);
    let settlement = Settlement { id, records: verdict.records, entries: Vec::new(), tokens: 0, by };
    assert!(Counters::settle(&*store, settlement).await.unwrap().is_first());
    for _ in 0..10 {
        store.settle_waiting().await;
    }
    assert_eq!(unreliable.rejections.load(Ordering::Relaxed), 1 + ATTEMPTS_MAX);
    assert_eq!(store.metrics.settlements_lost.get(), 1);
}

/// Returns the settlement of what a reservation took, with this charge to each counter.
fn settlement(verdict: &Verdict, actual: u64) -> Settlement {
    let Reserve { id, meters } = reserve();
    let entries = meters.iter().zip(&verdict.states);
    let entries = entries.map(|(meter, state)| crate::counters::Entry::settling(meter, state, actual));
    Settlement {
        id: id.unwrap(),
        records: verdict.records.clone(),
        entries: entries.collect(),
        tokens: actual,
        by: Settler::new(false),
    }
}

/// Guards against requests that begin and end in an outage and are never charged, or twice.
#[tokio::test]
async fn a_request_of_an_outage_is_charged_once_after_it() {
    let unreliable = Arc::new(UnreliableStore::default());
    let (one, other) = (shared(&unreliable), shared(&unreliable));
    one.down.store(true, Ordering::Relaxed);
    other.down.store(true, Ordering::Relaxed);
    let verdict = Counters::reserve(&*one, reserve()).await.unwrap();
    assert_eq!((verdict.basis, verdict.admitted), (ReserveBasis::Local, true));
    assert_eq!(verdict.states[1].taken, 40);
    // The gateway repeats the settlement, also to another sidecar.
    for store in [&one, &one, &other] {
        Counters::settle(&**store, settlement(&verdict, 30)).await.unwrap();
    }
    assert_eq!((one.settlements_waiting(), other.settlements_waiting()), (1, 1));
    assert_eq!(seen(&unreliable).await[1], 100);
    for store in [&one, &other, &one] {
        store.down.store(false, Ordering::Relaxed);
        store.settle_waiting().await;
        Counters::settle(&**store, settlement(&verdict, 30)).await.unwrap();
    }
    assert_eq!(seen(&unreliable).await[1], 70);
    assert_eq!(one.metrics.settlements_lost.get(), 0);
}

/// The store has applied the reservation, and its reply was lost. The charge must neither use the record that gives the
/// reservation back, nor be lost with the reply to it.
#[tokio::test]
async fn a_lost_reply_neither_doubles_nor_loses_a_charge() {
    for settles_first in [true, false] {
        let unreliable = Arc::new(UnreliableStore::default());
        let store = shared(&unreliable);
        unreliable.loses_replies.store(true, Ordering::Relaxed);
        let verdict = Counters::reserve(&*store, reserve()).await.unwrap();
        if settles_first {
            Counters::settle(&*store, settlement(&verdict, 30)).await.unwrap();
        }
        unreliable.loses_replies.store(false, Ordering::Relaxed);
        store.settle_waiting().await;
        Counters::settle(&*store, settlement(&verdict, 30)).await.unwrap();
        store.settle_waiting().await;
        assert_eq!(seen(&unreliable).await[1], 70, "settles first: {settles_first}");
        assert_eq!(store.settlements_waiting(), 0);
    }
}

/// A consumer who was never granted anything is refused, and one who has used everything too.
#[tokio::test]
async fn an_outage_gives_nobody_credit() {
    let unreliable = Arc::new(UnreliableStore::default());
    let store = shared(&unreliable);
    let quota = |policy, default| {
        let mut meters = meters().split_off(1);
        meters.truncate(1);
        meters[0].on_store_failure = policy;
        meters[0].rule = CounterRule::Prepaid { default };
        Reserve { id: reserve().id, meters }
    };
    store.down.store(true, Ordering::Relaxed);
    let verdict = Counters::reserve(&*store, quota(OnStoreFailure::Local, None)).await.unwrap();
    assert_eq!((verdict.basis, verdict.admitted), (ReserveBasis::Closed, false), "nobody knows");
    let verdict = Counters::reserve(&*store, quota(OnStoreFailure::Open, None)).await.unwrap();
    assert!(verdict.admitted && !verdict.records.is_empty());
    store.down.store(false, Ordering::Relaxed);
    let verdict = Counters::reserve(&*store, quota(OnStoreFailure::Local, None)).await.unwrap();
    assert_eq!((verdict.basis, verdict.admitted), (ReserveBasis::Shared, false));
    store.down.store(true, Ordering::Relaxed);
    let verdict = Counters::reserve(&*store, quota(OnStoreFailure::Local, None)).await.unwrap();
    assert_eq!((verdict.basis, verdict.admitted), (ReserveBasis::Local, false), "nothing was left");
    // A quota that counts requests has no id, and is charged all the same.
    let Reserve { meters, .. } = quota(OnStoreFailure::Local, Some(1));
    let meters = vec![Meter { name: "requests".into(), provisional: false, cost: 1, ..meters[0].clone() }];
    let verdict = Counters::reserve(&*store, Reserve { id: None, meters: meters.clone() }).await.unwrap();
    assert!(verdict.admitted && !verdict.records.is_empty());
    assert!(!Counters::reserve(&*store, Reserve { id: None, meters }).await.unwrap().admitted);
}
