//! Counters that survive an outage of the store. During an outage, each limit follows its policy: `local` counts in
//! this sidecar, up to the amount divided by the number of live sidecars; `open` counts nothing and refuses nothing;
//! `closed` refuses.
//!
//! A settlement that does not reach the store waits here until the store is available again. The store applies it once.
//! So do the charges of requests under quotas that this sidecar admitted without the store, whatever the policy of the
//! quota. Such a charge has a record in the store too, under [`OUTAGE_DAYS`], so that it counts once.
//!
//! The store may have applied a reservation whose call failed, although this sidecar decided the request locally. The
//! reserved amount would stay taken until its window ends, and in a prepaid balance forever. So this sidecar gives the
//! reservation back when the store answers again.
//!
//! If the store rejects a waiting call with an error, for example because a key has another type, this sidecar repeats
//! the call a few times and then drops it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    clock::{DAY_MS, unix_ms},
    limit::{CounterRule, Meter, OnStoreFailure},
};
use futures::future::join_all;

use super::{
    ResilientStore,
    quotas::{Taking, is_local_quota},
};
use crate::{
    Store as _, Undelivered,
    counters::{
        CounterState, Counters, Entry, RecordRef, Renewal, ReservationId, Reserve, ReserveBasis, Settlement,
        Verdict,
    },
};

/// Maximum number of settlements that wait for the store. Beyond it, the oldest is dropped and counted as lost.
const WAITING_MAX: usize = 65_536;
/// Maximum number of waiting calls that are sent at the same time.
const CONCURRENCY: usize = 64;
/// Maximum number of repeated attempts at a call that the store rejects with an error.
const ATTEMPTS_MAX: u8 = 3;
/// Beginning of the tag of the records of sidecars' own counters. The rest identifies the sidecar's process.
const HERE: &str = "local:";
/// What is added to the day of a request's admission for the record of its charges to quotas. The store may have another
/// record of the same request, of a reservation that it is about to give back.
const OUTAGE_DAYS: u64 = 1_000_000;
/// The epoch in the record of such a charge. No store has it, so the first settlement charges in full and leaves a record.
const OUTAGE_EPOCH: u64 = 0;

/// Time between two attempts while a shutdown waits for the store.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Calls that wait for the store.
#[derive(Default)]
pub(super) struct Waiting {
    settlements: VecDeque<(Settlement, u8)>,
    /// The settlements that wait or are being sent, by id and the day of their records, with the tokens of their requests.
    ids: HashMap<(ReservationId, u64), u64>,
    /// Reservations to give back, because the store may have applied them.
    doubtful: VecDeque<(Reserve, u8)>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.settlements.len() + self.doubtful.len()
    }

    fn has(&self, settlement: &Settlement) -> bool {
        !self.ids.is_empty() && self.ids.contains_key(&key(settlement))
    }
}

/// Returns what identifies a settlement: the charges of a request to quotas are apart from its other settlement.
fn key(settlement: &Settlement) -> (ReservationId, u64) {
    (settlement.id.clone(), settlement.records.first().map_or(0, |record| record.day))
}

/// Returns the verdict that refuses a request because of these meters.
fn closed_by(meters: &[Meter], is_closed: impl Fn(&Meter) -> bool) -> Verdict {
    let state = |meter: &Meter| CounterState { over: is_closed(meter), ..CounterState::default() };
    let states = meters.iter().map(state).collect();
    Verdict { basis: ReserveBasis::Closed, states, ..Verdict::default() }
}

/// Returns the tag of the records of this sidecar's own counters.
pub(super) fn here() -> Arc<str> {
    format!("{HERE}{:016x}", RandomState::new().hash_one(unix_ms())).into()
}

impl ResilientStore {
    /// Decides a reservation without the store.
    async fn reserve_here(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        let closed = |meter: &Meter| meter.on_store_failure == OnStoreFailure::Closed && !meter.shadow;
        if reserve.meters.iter().any(closed) {
            return Ok(closed_by(&reserve.meters, closed));
        }
        let now_ms = unix_ms();
        let mut states = vec![CounterState::default(); reserve.meters.len()];
        let quotas: Vec<(usize, Meter)> = (reserve.meters.iter().enumerate())
            .filter(|(_, meter)| is_local_quota(meter))
            .map(|(i, meter)| (i, meter.clone()))
            .collect();
        let mut refusal = None;
        for (i, meter) in &quotas {
            match self.quotas.take(meter, self.instances.load(Ordering::Relaxed) as u64, now_ms) {
                Taking::Taken(state) => states[*i] = state,
                Taking::Refused(state) => {
                    states[*i] = state;
                    refusal = Some(ReserveBasis::Local);
                }
                Taking::Unknown if meter.shadow => {}
                Taking::Unknown => {
                    refusal = Some(ReserveBasis::Closed);
                    break;
                }
            }
        }
        if let Some(basis) = refusal {
            self.give_back_quotas(&quotas, &mut states);
            if basis == ReserveBasis::Closed {
                return Ok(closed_by(&reserve.meters, is_local_quota));
            }
            return Ok(Verdict { basis, states, ..Verdict::default() });
        }
        let is_charged_later = reserve.meters.iter().any(|meter| meter.rule.is_quota());
        let verdict = self.reserve_limits_here(reserve, &mut states).await?;
        if !verdict.admitted {
            self.give_back_quotas(&quotas, &mut states);
        }
        let here = |record: RecordRef| RecordRef { tag: Arc::clone(&self.here), ..record };
        let mut records: Vec<RecordRef> = verdict.records.into_iter().map(here).collect();
        // The charge to a quota that counts requests must not get lost either.
        if verdict.admitted && is_charged_later && records.is_empty() {
            records.push(RecordRef {
                tag: Arc::clone(&self.here),
                day: now_ms / DAY_MS,
                epoch: OUTAGE_EPOCH,
            });
        }
        Ok(Verdict { basis: ReserveBasis::Local, admitted: verdict.admitted, states, records })
    }

    fn give_back_quotas(&self, quotas: &[(usize, Meter)], states: &mut [CounterState]) {
        for (i, meter) in quotas {
            self.quotas.give_back(meter, std::mem::take(&mut states[*i].taken));
        }
    }

    /// Reserves in this sidecar's own counters of limits, and sets their states.
    async fn reserve_limits_here(
        &self,
        reserve: Reserve,
        states: &mut [CounterState],
    ) -> Result<Verdict, StoreError> {
        let (counted, meters): (Vec<usize>, Vec<Meter>) = (reserve.meters.iter().enumerate())
            .filter(|(_, meter)| is_counted_here(meter))
            .map(|(i, meter)| (i, Meter { rule: self.share(meter.rule), ..meter.clone() }))
            .map(|(i, meter)| {
                let cost = meter.cost.min(meter.rule.most());
                (i, Meter { cost, ..meter })
            })
            .unzip();
        let mut verdict = self.local_counters.reserve(Reserve { id: reserve.id, meters }).await?;
        for (i, state) in counted.into_iter().zip(verdict.states.drain(..)) {
            states[i] = state;
        }
        Ok(verdict)
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

    /// Settles a reservation that a sidecar made without the store. Settles limits in this sidecar's own counters. Charges
    /// quotas in the store, now or when it is back, because the reservation took nothing from them there.
    async fn settle_here(&self, settlement: Settlement) -> Result<bool, StoreError> {
        let Settlement { id, mut records, entries, tokens } = settlement;
        // Another sidecar's epoch may be the same millisecond as this sidecar's.
        for record in records.iter_mut().filter(|record| record.tag != self.here) {
            record.epoch = OUTAGE_EPOCH;
        }
        let day = records.first().map_or(0, |record| record.day);
        let (quotas, mut limits): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.rule.is_quota());
        limits.iter_mut().for_each(|entry| entry.rule = self.share(entry.rule));
        let here = Settlement { id: id.clone(), records, entries: limits, tokens };
        if !self.local_counters.settle(here).await? {
            return Ok(false);
        }
        quotas.iter().for_each(|entry| self.quotas.settle(entry));
        let entries: Vec<Entry> = (quotas.into_iter().filter(|entry| entry.actual > 0))
            .map(|entry| Entry { reserved: 0, ..entry })
            .collect();
        if entries.is_empty() {
            return Ok(true);
        }
        let record = |tag| RecordRef { tag: Arc::from(tag), day: day + OUTAGE_DAYS, epoch: OUTAGE_EPOCH };
        let tags: BTreeSet<&str> = entries.iter().map(|entry| entry.bucket.tag.as_str()).collect();
        let records = tags.into_iter().map(record).collect();
        self.settle_or_queue(Settlement { id, records, entries, tokens }).await
    }

    /// Settles in the store, or queues the settlement until the store answers.
    async fn settle_or_queue(&self, settlement: Settlement) -> Result<bool, StoreError> {
        if self.waiting.lock().has(&settlement) {
            return Ok(false);
        }
        if self.is_up()
            && let Ok(settled) = self.observe(self.counters.settle(settlement.clone()).await)
        {
            return Ok(settled);
        }
        Ok(self.queue_settlement(settlement, 0))
    }

    /// Queues a settlement. Returns false if a settlement of the same reservation is already queued.
    fn queue_settlement(&self, settlement: Settlement, attempts: u8) -> bool {
        // Without a record, the store cannot detect a duplicate, so the sidecar does not send the settlement again.
        if settlement.records.is_empty() || self.is_hopeless(attempts) {
            return true;
        }
        let mut waiting = self.waiting.lock();
        if waiting.has(&settlement) {
            return false;
        }
        waiting.ids.insert(key(&settlement), settlement.tokens);
        if waiting.settlements.len() >= WAITING_MAX
            && let Some((lost, _)) = waiting.settlements.pop_front()
        {
            waiting.ids.remove(&key(&lost));
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
        let answer = self.if_up(self.counters.settle(settlement.clone())).await;
        self.waiting.lock().ids.remove(&key(&settlement));
        if let Err(error) = answer {
            self.queue_settlement(settlement, attempts + u8::from(is_final(&error)));
        }
    }

    async fn give_back_again(&self, reserve: Reserve, attempts: u8) {
        let answer = self.if_up(self.counters.give_back(reserve.clone())).await;
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
                Ok(verdict) => {
                    self.quotas.saw(&reserve.meters, &verdict.states, unix_ms());
                    return Ok(verdict);
                }
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
        self.if_up(self.counters.peek(meters)).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError> {
        if settlement.records.iter().any(|record| record.tag.starts_with(HERE)) {
            return self.settle_here(settlement).await;
        }
        self.settle_or_queue(settlement).await
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
mod tests;
