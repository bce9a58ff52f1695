//! Counters while the store may be away. What a meter's policy says then: `local` counts here, up to the amount
//! divided by the number of sidecars alive; `open` counts nothing and refuses nothing; `closed` refuses.
//!
//! Settlements that do not reach the store wait here until it is back: it is told once, as a reservation is settled
//! only once. What quotas were asked for meanwhile is charged when it is settled, if the store is back by then.
//!
//! A reservation whose call failed may have been made all the same, while the request goes on by what is known here. It
//! would stay until its window ends, and in a prepaid balance for good: so it waits here as well, and is given back.
//!
//! What the store refuses for a reason of its own (a key of another type, say) is tried a few times and then dropped.

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::Ordering,
};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    limit::{CounterRule, Meter, OnOutage},
};
use evenkeel_telemetry::traces::StoreSpan;
use futures::future::join_all;

use super::ResilientStore;
use crate::counters::{
    Counters, Ground, Note, Reading, Renewal, ReservationId, Reserve, Settlement, Verdict,
};

/// Most settlements that wait for the store; beyond, the oldest are lost, and counted.
const WAITING_MAX: usize = 65_536;
/// How many are sent at the same time.
const CONCURRENCY: usize = 64;
/// Times something is sent that the store answers with an error.
const ATTEMPTS_MAX: u8 = 3;
/// Tag of notes made here.
const HERE: &str = "local";

/// What waits for the store.
#[derive(Default)]
pub(super) struct Waiting {
    settlements: VecDeque<(Settlement, u8)>,
    /// Whose settlements wait or are being sent.
    ids: HashSet<ReservationId>,
    /// Reservations that may have been made, to be given back.
    doubtful: VecDeque<(Reserve, u8)>,
}

impl ResilientStore {
    /// What is done without the store.
    async fn reserve_here(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        let Some(here) = &self.local_counters else { return Err(away()) };
        let closed = |meter: &Meter| meter.on_outage == OnOutage::Closed && !meter.shadow;
        if reserve.meters.iter().any(closed) {
            let reading = |meter: &Meter| Reading { over: closed(meter), ..Reading::default() };
            let readings = reserve.meters.iter().map(reading).collect();
            return Ok(Verdict { ground: Ground::Closed, readings, ..Verdict::default() });
        }
        let (counted, meters): (Vec<usize>, Vec<Meter>) = (reserve.meters.iter().enumerate())
            .filter(|(_, meter)| is_counted_here(meter))
            .map(|(i, meter)| (i, Meter { rule: self.share(meter.rule), ..meter.clone() }))
            .map(|(i, meter)| {
                let cost = meter.cost.min(meter.rule.most());
                (i, Meter { cost, ..meter })
            })
            .unzip();
        let mut readings = vec![Reading::default(); reserve.meters.len()];
        let _span = span(meters.len());
        let verdict = here.reserve(Reserve { id: reserve.id, meters }).await?;
        for (i, reading) in counted.into_iter().zip(verdict.readings) {
            readings[i] = reading;
        }
        let here = |note: Note| Note { tag: HERE.into(), ..note };
        let notes = verdict.notes.into_iter().map(here).collect();
        Ok(Verdict { ground: Ground::Local, admitted: verdict.admitted, readings, notes })
    }

    /// This sidecar's part of an amount.
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

    /// Settles what was reserved here: limits here, and quotas, which nothing was taken of, in the store.
    async fn settle_here(&self, settlement: Settlement) -> Result<bool, StoreError> {
        let Some(here) = &self.local_counters else { return Err(away()) };
        let Settlement { id, notes, entries } = settlement;
        let (quotas, mut limits): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.rule.is_quota());
        limits.iter_mut().for_each(|entry| entry.rule = self.share(entry.rule));
        let here = {
            let _span = span(limits.len());
            here.settle(Settlement { id: id.clone(), notes, entries: limits }).await
        };
        let settled = here?;
        if settled && !quotas.is_empty() && self.is_up() {
            let charge = Settlement { id, notes: Vec::new(), entries: quotas };
            drop(self.observe(self.counters.settle(charge).await));
        }
        Ok(settled)
    }

    /// False: it waits already.
    fn wait(&self, settlement: Settlement, attempts: u8) -> bool {
        // Without a note it is not known whether it was applied.
        if settlement.notes.is_empty() || self.is_hopeless(attempts) {
            return true;
        }
        let mut waiting = self.waiting.lock();
        if !waiting.ids.insert(settlement.id.clone()) {
            return false;
        }
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
            "settlement given up because the store rejects it: what it reserved stays charged"
        );
        true
    }

    /// Remembers a reservation whose call failed. One without an id cannot be told from another.
    fn doubt(&self, reserve: Reserve, attempts: u8) {
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

    /// Settlements that wait for the store, and reservations to be given back.
    #[must_use]
    pub fn settlements_waiting(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.settlements.len() + waiting.doubtful.len()
    }

    /// Sends what waited for the store, each once. To be called now and then.
    pub async fn settle_waiting(&self) {
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
            self.wait(settlement, attempts + u8::from(is_final(&error)));
        }
    }

    async fn give_back_again(&self, reserve: Reserve, attempts: u8) {
        let answer = match self.is_up() {
            true => self.observe(self.counters.give_back(reserve.clone()).await),
            false => Err(away()),
        };
        if let Err(error) = answer {
            self.doubt(reserve, attempts + u8::from(is_final(&error)));
        }
    }
}

/// Whether trying again will hardly help.
fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Script { .. } | StoreError::Corrupt { .. })
}

fn is_counted_here(meter: &Meter) -> bool {
    meter.on_outage == OnOutage::Local && !meter.rule.is_quota()
}

fn away() -> StoreError {
    StoreError::Unavailable("circuit open after earlier failures".to_owned())
}

/// Of a call to the counters in this process.
fn span(counters: usize) -> Option<Box<StoreSpan>> {
    let mut span = StoreSpan::memory("evenkeel.store count")?;
    span.set_number("evenkeel.store.counters", counters);
    Some(span)
}

#[async_trait]
impl Counters for ResilientStore {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        if self.local_counters.is_none() {
            let _span = span(reserve.meters.len());
            return self.counters.reserve(reserve).await;
        }
        if self.is_up() {
            match self.observe(self.counters.reserve(reserve.clone()).await) {
                Ok(verdict) => return Ok(verdict),
                // It was not sent.
                Err(StoreError::Overloaded(_)) => {}
                Err(_) => self.doubt(reserve.clone(), 0),
            }
        }
        self.reserve_here(reserve).await
    }

    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError> {
        self.observe(self.counters.give_back(reserve).await)
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        if self.local_counters.is_some() && !self.is_up() {
            return Err(away());
        }
        self.observe(self.counters.peek(meters).await)
    }

    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError> {
        if self.local_counters.is_none() {
            let _span = span(settlement.entries.len());
            return self.counters.settle(settlement).await;
        }
        if settlement.notes.iter().any(|note| *note.tag == *HERE) {
            return self.settle_here(settlement).await;
        }
        if self.waiting.lock().ids.contains(&settlement.id) {
            return Ok(false);
        }
        if self.is_up()
            && let Ok(settled) = self.observe(self.counters.settle(settlement.clone()).await)
        {
            return Ok(settled);
        }
        Ok(self.wait(settlement, 0))
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
        let Some(here) = &self.local_counters else { return self.counters.renew(renewals).await };
        // Local knowledge is always at hand.
        here.renew(renewals.clone()).await?;
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
    use crate::memory::{MemoryCounters, MemoryStore};

    /// Does what it is told, and while it is lame lets nobody know.
    #[derive(Default)]
    struct Lame {
        counters: MemoryCounters,
        lame: AtomicBool,
        /// Refuses to settle, and counts how often it was asked to.
        refuses: AtomicBool,
        refused: AtomicU8,
    }

    impl Lame {
        fn answer<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
            if self.lame.load(Ordering::Relaxed) { Err(StoreError::Timeout(1)) } else { answer }
        }
    }

    #[async_trait]
    impl Counters for Lame {
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
            if self.refuses.load(Ordering::Relaxed) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(StoreError::Script { script: "count", detail: "WRONGTYPE".to_owned() });
            }
            self.answer(self.counters.settle(settlement).await)
        }

        async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
            self.answer(self.counters.renew(renewals).await)
        }
    }

    fn shared(lame: &Arc<Lame>) -> Arc<ResilientStore> {
        let ttl = Duration::from_secs(60);
        ResilientStore::build(
            Arc::new(MemoryStore::new(ttl)),
            Arc::clone(lame) as _,
            Some(MemoryStore::new(ttl)),
            ttl,
            Metrics::new().unwrap(),
            tokio_util::task::TaskTracker::new(),
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
            on_outage: OnOutage::Local,
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

    /// What is used of the limit, left of the balance, and running.
    async fn seen(lame: &Lame) -> [u64; 3] {
        let readings = lame.counters.peek(meters()).await.unwrap().readings;
        [readings[0].used, readings[1].used, readings[2].used]
    }

    /// What was reserved by a call whose answer never came was left reserved for good.
    #[tokio::test]
    async fn what_was_reserved_unknown_to_us_is_given_back() {
        let lame = Arc::new(Lame::default());
        let store = shared(&lame);
        lame.lame.store(true, Ordering::Relaxed);
        assert_eq!(Counters::reserve(&*store, reserve()).await.unwrap().ground, Ground::Local);
        assert_eq!(seen(&lame).await, [40, 60, 1]);
        lame.lame.store(false, Ordering::Relaxed);
        store.settle_waiting().await;
        // What counts as running ends by itself.
        assert_eq!(seen(&lame).await, [0, 100, 1]);
    }

    /// A Settle that a gateway repeats while the store is away is told from the first one.
    #[tokio::test]
    async fn a_repeated_settlement_that_waits_is_the_same_one() {
        let lame = Arc::new(Lame::default());
        let store = shared(&lame);
        let verdict = Counters::reserve(&*store, reserve()).await.unwrap();
        let Reserve { id, meters } = reserve();
        let entries = meters
            .iter()
            .zip(&verdict.readings)
            .map(|(meter, reading)| crate::counters::Entry::settling(meter, reading, 30));
        let (id, entries) = (id.unwrap(), entries.collect());
        let settlement = Settlement { id, notes: verdict.notes, entries };
        store.down.store(true, Ordering::Relaxed);
        assert!(Counters::settle(&*store, settlement.clone()).await.unwrap());
        assert!(!Counters::settle(&*store, settlement.clone()).await.unwrap());
        store.down.store(false, Ordering::Relaxed);
        store.settle_waiting().await;
        assert!(!Counters::settle(&*store, settlement).await.unwrap());
        assert_eq!(seen(&lame).await, [30, 70, 0]);
    }

    /// One settlement that the store refused was sent again without end, and nothing else was done.
    #[tokio::test]
    async fn what_the_store_refuses_is_dropped_after_a_few_times() {
        let lame = Arc::new(Lame::default());
        let store = shared(&lame);
        let verdict = Counters::reserve(&*store, reserve()).await.unwrap();
        lame.refuses.store(true, Ordering::Relaxed);
        let id = reserve().id.unwrap();
        let settlement = Settlement { id, notes: verdict.notes, entries: Vec::new() };
        assert!(Counters::settle(&*store, settlement).await.unwrap());
        for _ in 0..10 {
            store.settle_waiting().await;
        }
        assert_eq!(lame.refused.load(Ordering::Relaxed), 1 + ATTEMPTS_MAX);
        assert_eq!(store.metrics.settlements_lost.get(), 1);
    }
}
