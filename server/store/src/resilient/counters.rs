//! Counters that survive an outage of the store. During an outage, each limit follows its policy: `local` counts in
//! this sidecar, up to the amount divided by the number of live sidecars; `open` counts nothing and refuses nothing;
//! `closed` refuses.
//!
//! A settlement that does not reach the store waits here until the store is available again. The store applies it once.
//! So do the charges of requests under quotas that this sidecar admitted without the store, whatever the policy of the
//! quota. Such a charge has a record in the store too, under [`APART_DAYS`], so that it counts once.
//!
//! Whoever waits for the result of a settlement learns it when the store has answered. A settlement that this sidecar
//! gives up counts as the first: its request has been served, and must be in the ledger.
//!
//! The store may have applied a reservation whose call failed, although this sidecar decided the request locally. The
//! reserved amount would stay taken until its window ends, and in a prepaid balance forever. So this sidecar gives the
//! reservation back when the store answers again.
//!
//! If the store rejects a waiting call with an error, for example because a key has another type, this sidecar repeats
//! the call a few times and then drops it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map},
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
use tokio::time::Instant;

use super::{
    ResilientStore,
    quotas::{Taking, is_local_quota},
};
use crate::{
    Store as _, Undelivered,
    counters::{
        APART_DAYS, CounterState, Counters, Entry, NO_EPOCH, RecordRef, Renewal, ReservationId, Reserve,
        ReserveBasis, SettleResult, Settlement, Verdict, WhenSettled,
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

/// Time between two attempts while a shutdown waits for the store.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// Calls that wait for the store.
#[derive(Default)]
pub(super) struct Waiting {
    settlements: VecDeque<Queued>,
    /// Number of the settlements that wait or are being sent, by id and the day of their records.
    ids: HashMap<(ReservationId, u64), usize>,
    /// Reservations to give back, because the store may have applied them.
    doubtful: VecDeque<(Reserve, u8)>,
}

/// A settlement that waits.
struct Queued {
    settlement: Settlement,
    attempts: u8,
    /// Whether the store may have applied an earlier call whose reply was lost.
    in_doubt: bool,
    when_settled: WhenSettled,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.ids.values().sum::<usize>() + self.doubtful.len()
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.doubtful.is_empty()
    }

    fn remove(&mut self, settlement: &Settlement) {
        if let hash_map::Entry::Occupied(mut count) = self.ids.entry(key(settlement)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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
            records.push(RecordRef { tag: Arc::clone(&self.here), day: now_ms / DAY_MS, epoch: NO_EPOCH });
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

    async fn settle_anywhere(
        &self,
        settlement: Settlement,
        when_settled: WhenSettled,
    ) -> Option<SettleResult> {
        if settlement.records.iter().any(|record| record.tag.starts_with(HERE)) {
            return self.settle_here(settlement, when_settled).await;
        }
        self.settle_or_queue(settlement, when_settled).await
    }

    /// Settles a reservation that a sidecar made without the store. Settles limits in this sidecar's own counters. Charges
    /// quotas in the store, now or when it is back, because the reservation took nothing from them there.
    async fn settle_here(&self, settlement: Settlement, when_settled: WhenSettled) -> Option<SettleResult> {
        let Settlement { id, mut records, entries, tokens, by } = settlement;
        // Another sidecar's epoch may be the same millisecond as this sidecar's.
        for record in records.iter_mut().filter(|record| record.tag != self.here) {
            record.epoch = NO_EPOCH;
        }
        let day = records.first().map_or(0, |record| record.day);
        let (quotas, mut limits): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.rule.is_quota());
        limits.iter_mut().for_each(|entry| entry.rule = self.share(entry.rule));
        let here = Settlement { id: id.clone(), records, entries: limits, tokens, by };
        let is_first = self.local_counters.settle(here).await.is_ok_and(SettleResult::is_first);
        if !is_first {
            when_settled(false);
            return Some(SettleResult::Before { by: None });
        }
        quotas.iter().for_each(|entry| self.quotas.settle(entry));
        let entries: Vec<Entry> = (quotas.into_iter().filter(|entry| entry.actual > 0))
            .map(|entry| Entry { reserved: 0, ..entry })
            .collect();
        if entries.is_empty() && by.rolls_back() {
            when_settled(true);
            return Some(SettleResult::First);
        }
        let record = |tag| RecordRef { tag: Arc::from(tag), day: day + APART_DAYS, epoch: NO_EPOCH };
        let tags: BTreeSet<&str> = entries.iter().map(|entry| entry.bucket.tag.as_str()).collect();
        let records: Vec<RecordRef> = tags.into_iter().map(record).collect();
        let mut settlement = Settlement::without_reservation(id, day, tokens, by);
        if !records.is_empty() {
            settlement = Settlement { records, entries, ..settlement };
        }
        self.settle_or_queue(settlement, when_settled).await
    }

    /// Settles in the store, or queues the settlement until the store answers. Returns `None` if it is queued.
    async fn settle_or_queue(
        &self,
        settlement: Settlement,
        when_settled: WhenSettled,
    ) -> Option<SettleResult> {
        if self.waiting.lock().has(&settlement) {
            when_settled(false);
            return Some(SettleResult::Before { by: None });
        }
        let is_up = self.is_up();
        if is_up && let Ok(result) = self.observe(self.counters.settle(settlement.clone()).await) {
            when_settled(result.is_first());
            return Some(result);
        }
        self.queue_settlement(Queued { settlement, attempts: 0, in_doubt: is_up, when_settled });
        None
    }

    /// Queues a settlement, unless a settlement of the same reservation is already queued. If the store may have
    /// applied this one, both are sent again, because each finds out only whether it was the first itself.
    fn queue_settlement(&self, queued: Queued) {
        // Without a record, the store cannot detect a duplicate, so the sidecar does not send the settlement again.
        if queued.settlement.records.is_empty() {
            return (queued.when_settled)(true);
        }
        let given_up = {
            let mut waiting = self.waiting.lock();
            if waiting.has(&queued.settlement) && !queued.in_doubt {
                Some((queued, false))
            } else {
                *waiting.ids.entry(key(&queued.settlement)).or_default() += 1;
                self.push(&mut waiting, queued).map(|oldest| (oldest, true))
            }
        };
        if let Some((queued, is_first)) = given_up {
            (queued.when_settled)(is_first);
        }
    }

    /// Adds a settlement to the queue. Returns the settlement that is given up for it, if any.
    fn push(&self, waiting: &mut Waiting, queued: Queued) -> Option<Queued> {
        let is_full = waiting.settlements.len() >= WAITING_MAX;
        let oldest = if is_full { waiting.settlements.pop_front() } else { None };
        if let Some(oldest) = &oldest {
            waiting.remove(&oldest.settlement);
            self.lost(&oldest.settlement);
        }
        waiting.settlements.push_back(queued);
        oldest
    }

    /// Counts a settlement that is given up.
    fn lost(&self, settlement: &Settlement) {
        if !settlement.only_marks() {
            self.metrics.settlements_lost.inc();
        }
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

    /// Sends what waits, until everything has been sent or `limit` has passed. Gives up the rest, and returns it.
    pub(super) async fn send_all_waiting(&self, limit: Duration) -> Undelivered {
        let until = Instant::now() + limit;
        // Other tasks may have taken calls that they have not sent yet.
        let _ = tokio::time::timeout_at(until, self.sending.lock()).await;
        while !self.waiting.lock().is_empty() && Instant::now() < until {
            if self.is_up() {
                self.send_waiting(Some(until)).await;
            }
            if !self.waiting.lock().is_empty() {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        }
        let Waiting { settlements: given_up, doubtful, .. } = std::mem::take(&mut *self.waiting.lock());
        self.metrics.settlements_lost.inc_by(doubtful.len() as u64);
        let mut undelivered = Undelivered { settlements: doubtful.len(), tokens: 0 };
        for Queued { settlement, when_settled, .. } in given_up {
            self.lost(&settlement);
            if !settlement.only_marks() {
                undelivered.settlements += 1;
                undelivered.tokens = undelivered.tokens.saturating_add(settlement.tokens);
            }
            when_settled(true);
        }
        undelivered
    }

    /// Sends each waiting call once. What has not been sent by `until` waits on. Concurrent calls wait for each other, so
    /// that a shutdown misses nothing.
    pub(super) async fn send_waiting(&self, until: Option<Instant>) {
        let _sending = self.sending.lock().await;
        let (settlements, doubtful) = {
            let mut waiting = self.waiting.lock();
            (std::mem::take(&mut waiting.settlements), std::mem::take(&mut waiting.doubtful))
        };
        let (mut settlements, mut doubtful) = (Vec::from(settlements), Vec::from(doubtful));
        let in_time = || until.is_none_or(|until| Instant::now() < until);
        while !settlements.is_empty() && in_time() {
            let part = settlements.split_off(settlements.len().saturating_sub(CONCURRENCY));
            join_all(part.into_iter().map(|queued| self.settle_again(queued))).await;
        }
        while !doubtful.is_empty() && in_time() {
            let part = doubtful.split_off(doubtful.len().saturating_sub(CONCURRENCY));
            join_all(part.into_iter().map(|(reserve, attempts)| self.give_back_again(reserve, attempts)))
                .await;
        }
        let mut waiting = self.waiting.lock();
        waiting.settlements.extend(settlements);
        waiting.doubtful.extend(doubtful);
    }

    async fn settle_again(&self, mut queued: Queued) {
        let is_up = self.is_up();
        let settlement = queued.settlement.clone();
        match self.if_up(self.counters.settle(settlement)).await {
            Ok(result) => {
                let is_first = match queued.in_doubt {
                    true => queued.settlement.by.was_first(result),
                    false => result.is_first(),
                };
                // A shutdown waits until the id is gone, and then writes the ledger.
                (queued.when_settled)(is_first);
                self.waiting.lock().remove(&queued.settlement);
            }
            Err(error) => {
                queued.in_doubt |= is_up;
                queued.attempts += u8::from(is_final(&error));
                if self.is_hopeless(queued.attempts) {
                    (queued.when_settled)(true);
                    self.waiting.lock().remove(&queued.settlement);
                } else {
                    let given_up = self.push(&mut self.waiting.lock(), queued);
                    given_up.into_iter().for_each(|oldest| (oldest.when_settled)(true));
                }
            }
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

    async fn settle(&self, settlement: Settlement) -> Result<SettleResult, StoreError> {
        Ok(self.settle_anywhere(settlement, Box::new(|_| ())).await.unwrap_or(SettleResult::First))
    }

    async fn settle_then(&self, settlement: Settlement, when_settled: WhenSettled) -> Result<(), StoreError> {
        self.settle_anywhere(settlement, when_settled).await;
        Ok(())
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
