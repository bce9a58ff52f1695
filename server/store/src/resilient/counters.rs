//! Counters that survive an outage of the store. During an outage, each limit follows its policy: `local` counts in
//! this sidecar, up to the amount divided by the number of live sidecars; `open` counts nothing and refuses nothing;
//! `closed` refuses.
//!
//! A settlement that does not reach the store waits here until the store is available again. The store applies it once.
//! Requests under quotas that were admitted during the outage are charged when they settle, if the store is available
//! by then.
//!
//! The store may have applied a reservation whose call failed, although this sidecar decided the request locally. The
//! reserved amount would stay taken until its window ends, and in a prepaid balance forever. So this sidecar gives the
//! reservation back when the store answers again.
//!
//! If the store rejects a waiting call with an error, for example because a key has another type, this sidecar repeats
//! the call a few times and then drops it.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::Ordering,
    time::Duration,
};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    limit::{CounterRule, Meter, OnStoreFailure},
};
use futures::future::join_all;

use super::{ResilientStore, away};
use crate::{
    Store as _, Undelivered,
    counters::{
        CounterState, Counters, RecordRef, Renewal, ReservationId, Reserve, ReserveBasis, Settlement, Verdict,
    },
};

/// Maximum number of settlements that wait for the store. Beyond it, the oldest is dropped and counted as lost.
const WAITING_MAX: usize = 65_536;
/// Maximum number of waiting calls that are sent at the same time.
const CONCURRENCY: usize = 64;
/// Maximum number of repeated attempts at a call that the store rejects with an error.
const ATTEMPTS_MAX: u8 = 3;
/// Tag of the records of this sidecar's own counters.
const HERE: &str = "local";

/// Time between two attempts while a shutdown waits for the store.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Calls that wait for the store.
#[derive(Default)]
pub(super) struct Waiting {
    settlements: VecDeque<(Settlement, u8)>,
    /// The settlements that wait or are being sent, with the tokens of their requests.
    ids: HashMap<ReservationId, u64>,
    /// Reservations to give back, because the store may have applied them.
    doubtful: VecDeque<(Reserve, u8)>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.settlements.len() + self.doubtful.len()
    }
}

impl ResilientStore {
    /// Decides a reservation without the store.
    async fn reserve_here(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        let closed = |meter: &Meter| meter.on_store_failure == OnStoreFailure::Closed && !meter.shadow;
        if reserve.meters.iter().any(closed) {
            let state = |meter: &Meter| CounterState { over: closed(meter), ..CounterState::default() };
            let states = reserve.meters.iter().map(state).collect();
            return Ok(Verdict { basis: ReserveBasis::Closed, states, ..Verdict::default() });
        }
        let (counted, meters): (Vec<usize>, Vec<Meter>) = (reserve.meters.iter().enumerate())
            .filter(|(_, meter)| is_counted_here(meter))
            .map(|(i, meter)| (i, Meter { rule: self.share(meter.rule), ..meter.clone() }))
            .map(|(i, meter)| {
                let cost = meter.cost.min(meter.rule.most());
                (i, Meter { cost, ..meter })
            })
            .unzip();
        let mut states = vec![CounterState::default(); reserve.meters.len()];
        let verdict = self.local_counters.reserve(Reserve { id: reserve.id, meters }).await?;
        for (i, state) in counted.into_iter().zip(verdict.states) {
            states[i] = state;
        }
        let here = |record: RecordRef| RecordRef { tag: HERE.into(), ..record };
        let records = verdict.records.into_iter().map(here).collect();
        Ok(Verdict { basis: ReserveBasis::Local, admitted: verdict.admitted, states, records })
    }

    /// Returns the rule with this sidecar's fraction of the amount.
    fn share(&self, rule: CounterRule) -> CounterRule {
        let instances = self.instances.load(Ordering::Relaxed) as u64;
        let part = |amount: u64| if amount == 0 { 0 } else { (amount / instances).max(1) };
        match rule {
            CounterRule::Fixed { amount, window } => CounterRule::Fixed { amount: part(amount), window },
            CounterRule::Sliding { amount, period_ms } => {
                CounterRule::Sliding { amount: part(amount), period_ms }
            }
            CounterRule::TokenBucket { burst, amount, period_ms } => {
                CounterRule::TokenBucket { burst: part(burst), amount: part(amount), period_ms }
            }
            CounterRule::Running { amount, ttl_ms } => CounterRule::Running { amount: part(amount), ttl_ms },
            quota => quota,
        }
    }

    /// Settles a reservation that this sidecar made without the store. Settles limits in the sidecar's own counters.
    /// Charges quotas in the store, because the reservation took nothing from them.
    async fn settle_here(&self, settlement: Settlement) -> Result<bool, StoreError> {
        let Settlement { id, records, entries, tokens } = settlement;
        let (quotas, mut limits): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.rule.is_quota());
        limits.iter_mut().for_each(|entry| entry.rule = self.share(entry.rule));
        let here = Settlement { id: id.clone(), records, entries: limits, tokens };
        let settled = self.local_counters.settle(here).await?;
        if settled && !quotas.is_empty() && self.is_up() {
            let charge = Settlement { id, records: Vec::new(), entries: quotas, tokens };
            drop(self.observe(self.counters.settle(charge).await));
        }
        Ok(settled)
    }

    /// Queues a settlement. Returns false if a settlement of the same reservation is already queued.
    fn queue_settlement(&self, settlement: Settlement, attempts: u8) -> bool {
        // Without a record, the store cannot detect a duplicate, so the sidecar does not send the settlement again.
        if settlement.records.is_empty() || self.is_hopeless(attempts) {
            return true;
        }
        let mut waiting = self.waiting.lock();
        if waiting.ids.contains_key(&settlement.id) {
            return false;
        }
        waiting.ids.insert(settlement.id.clone(), settlement.tokens);
        if waiting.settlements.len() >= WAITING_MAX
            && let Some((lost, _)) = waiting.settlements.pop_front()
        {
            waiting.ids.remove(&lost.id);
            self.metrics.settlements_lost.inc();
        }
        waiting.settlements.push_back((settlement, attempts));
        true
    }

    fn is_hopeless(&self, attempts: u8) -> bool {
        if attempts < ATTEMPTS_MAX {
            return false;
        }
        self.metrics.settlements_lost.inc();
        tracing::warn!(
            attempts,
            "gave up a settlement because the store rejects it: the reserved amounts stay charged"
        );
        true
    }

    /// Queues a reservation whose call failed, to give it back. Without an id, the store could not identify the
    /// reservation.
    fn queue_give_back(&self, reserve: Reserve, attempts: u8) {
        if reserve.id.is_none() || self.is_hopeless(attempts) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.doubtful.len() >= WAITING_MAX {
            waiting.doubtful.pop_front();
            self.metrics.settlements_lost.inc();
        }
        waiting.doubtful.push_back((reserve, attempts));
    }

    /// Sends what waits, until everything has been sent or `limit` has passed. Returns what could not be sent.
    pub(super) async fn send_all_waiting(&self, limit: Duration) -> Undelivered {
        let all = async {
            loop {
                if self.is_up() {
                    self.send_waiting().await;
                }
                if self.undelivered() == Undelivered::default() {
                    return;
                }
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        if self.undelivered() != Undelivered::default() {
            let _ = tokio::time::timeout(limit, all).await;
        }
        let undelivered = self.undelivered();
        self.metrics.settlements_lost.inc_by(undelivered.settlements as u64);
        undelivered
    }

    fn undelivered(&self) -> Undelivered {
        let waiting = self.waiting.lock();
        let tokens = waiting.ids.values().copied().fold(0, u64::saturating_add);
        Undelivered { settlements: waiting.ids.len(), tokens }
    }

    /// Sends each waiting call once.
    pub(super) async fn send_waiting(&self) {
        let (settlements, doubtful) = {
            let mut waiting = self.waiting.lock();
            (std::mem::take(&mut waiting.settlements), std::mem::take(&mut waiting.doubtful))
        };
        let (mut settlements, mut doubtful) = (Vec::from(settlements), Vec::from(doubtful));
        while !settlements.is_empty() {
            let part = settlements.split_off(settlements.len().saturating_sub(CONCURRENCY));
            join_all(part.into_iter().map(|(settlement, attempts)| self.settle_again(settlement, attempts)))
                .await;
        }
        while !doubtful.is_empty() {
            let part = doubtful.split_off(doubtful.len().saturating_sub(CONCURRENCY));
            join_all(part.into_iter().map(|(reserve, attempts)| self.give_back_again(reserve, attempts)))
                .await;
        }
    }

    async fn settle_again(&self, settlement: Settlement, attempts: u8) {
        let answer = match self.is_up() {
            true => self.observe(self.counters.settle(settlement.clone()).await),
            false => Err(away()),
        };
        self.waiting.lock().ids.remove(&settlement.id);
        if let Err(error) = answer {
            self.queue_settlement(settlement, attempts + u8::from(is_final(&error)));
        }
    }

    async fn give_back_again(&self, reserve: Reserve, attempts: u8) {
        let answer = match self.is_up() {
            true => self.observe(self.counters.give_back(reserve.clone()).await),
            false => Err(away()),
        };
        if let Err(error) = answer {
            self.queue_give_back(reserve, attempts + u8::from(is_final(&error)));
        }
    }
}

/// Whether another attempt is unlikely to succeed.
fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Script { .. } | StoreError::Corrupt { .. })
}

fn is_counted_here(meter: &Meter) -> bool {
    meter.on_store_failure == OnStoreFailure::Local && !meter.rule.is_quota()
}

#[async_trait]
impl Counters for ResilientStore {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        if self.is_up() {
            match self.observe(self.counters.reserve(reserve.clone()).await) {
                Ok(verdict) => return Ok(verdict),
                Err(error) if !error.may_be_applied() => {}
                Err(_) => self.queue_give_back(reserve.clone(), 0),
            }
        }
        self.reserve_here(reserve).await
    }

    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError> {
        self.observe(self.counters.give_back(reserve).await)
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        if !self.is_up() {
            return Err(away());
        }
        self.observe(self.counters.peek(meters).await)
    }

    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError> {
        if settlement.records.iter().any(|record| *record.tag == *HERE) {
            return self.settle_here(settlement).await;
        }
        if self.waiting.lock().ids.contains_key(&settlement.id) {
            return Ok(false);
        }
        if self.is_up()
            && let Ok(settled) = self.observe(self.counters.settle(settlement.clone()).await)
        {
            return Ok(settled);
        }
        Ok(self.queue_settlement(settlement, 0))
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
        // The local counters receive every renewal, so that they are complete when an outage starts.
        self.local_counters.renew(renewals.clone()).await?;
        if !self.is_up() {
            return Ok(());
        }
        self.observe(self.counters.renew(renewals).await)
    }
}

#[cfg(test)]
mod tests {
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
    use crate::memory::{MemoryCounters, MemoryHolders, MemoryStore};

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

        async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError> {
            if self.rejects.load(Ordering::Relaxed) {
                self.rejections.fetch_add(1, Ordering::Relaxed);
                return Err(StoreError::Script { script: "count", detail: "WRONGTYPE".to_owned() });
            }
            self.answer(self.counters.settle(settlement).await)
        }

        async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
            self.answer(self.counters.renew(renewals).await)
        }
    }

    fn shared(unreliable: &Arc<UnreliableStore>) -> Arc<ResilientStore> {
        let ttl = Duration::from_secs(60);
        ResilientStore::new(
            Arc::new(MemoryStore::new(ttl)),
            Arc::clone(unreliable) as _,
            Arc::<MemoryHolders>::default(),
            ttl,
            Metrics::new().unwrap(),
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
        let settlement = Settlement { id, records: verdict.records, entries, tokens: 0 };
        store.down.store(true, Ordering::Relaxed);
        assert!(Counters::settle(&*store, settlement.clone()).await.unwrap());
        assert!(!Counters::settle(&*store, settlement.clone()).await.unwrap());
        store.down.store(false, Ordering::Relaxed);
        store.settle_waiting().await;
        assert!(!Counters::settle(&*store, settlement).await.unwrap());
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
        let settlement = Settlement { id, records: verdict.records, entries: Vec::new(), tokens: 0 };
        assert!(Counters::settle(&*store, settlement).await.unwrap());
        for _ in 0..10 {
            store.settle_waiting().await;
        }
        assert_eq!(unreliable.rejections.load(Ordering::Relaxed), 1 + ATTEMPTS_MAX);
        assert_eq!(store.metrics.settlements_lost.get(), 1);
    }
}
