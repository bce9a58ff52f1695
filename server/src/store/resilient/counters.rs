//! Counters while the store may be away. What a meter's policy says then: `local` counts here, up to the amount
//! divided by the number of sidecars alive; `open` counts nothing and refuses nothing; `closed` refuses.
//!
//! Settlements that do not reach the store wait here until it is back: it is told once, as a reservation is settled
//! only once. What quotas were asked for meanwhile is charged when it is settled, if the store is back by then.

use std::{collections::VecDeque, sync::atomic::Ordering};

use async_trait::async_trait;

use super::ResilientStore;
use crate::{
    domain::limit::{Meter, OnOutage, Rule},
    store::{
        StoreError,
        counters::{Counters, Ground, Hold, Note, Reading, Reserve, Settlement, Verdict},
    },
};

/// Most settlements that wait for the store; beyond, the oldest are lost, and counted.
const WAITING_MAX: usize = 65_536;
/// How many are sent at the same time.
const CONCURRENCY: usize = 64;
/// Tag of notes made here.
const HERE: &str = "local";

/// Settlements that wait for the store.
pub(super) type Waiting = parking_lot::Mutex<VecDeque<Settlement>>;

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
        let verdict = here.reserve(Reserve { id: reserve.id, meters }).await?;
        for (i, reading) in counted.into_iter().zip(verdict.readings) {
            readings[i] = reading;
        }
        let here = |note: Note| Note { tag: HERE.into(), ..note };
        let notes = verdict.notes.into_iter().map(here).collect();
        Ok(Verdict { ground: Ground::Local, admitted: verdict.admitted, readings, notes })
    }

    /// This sidecar's part of an amount.
    fn share(&self, rule: Rule) -> Rule {
        let instances = self.instances.load(Ordering::Relaxed) as u64;
        let part = |amount: u64| if amount == 0 { 0 } else { (amount / instances).max(1) };
        match rule {
            Rule::Fixed { amount, window } => Rule::Fixed { amount: part(amount), window },
            Rule::Sliding { amount, period_ms } => Rule::Sliding { amount: part(amount), period_ms },
            Rule::Drain { burst, amount, period_ms } => {
                Rule::Drain { burst: part(burst), amount: part(amount), period_ms }
            }
            Rule::Running { amount, ttl_ms } => Rule::Running { amount: part(amount), ttl_ms },
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
        let settled = here.settle(Settlement { id: id.clone(), notes, entries: limits }).await?;
        if settled && !quotas.is_empty() && self.is_up() {
            let charge = Settlement { id, notes: Vec::new(), entries: quotas };
            drop(self.observe(self.counters.settle(charge).await));
        }
        Ok(settled)
    }

    fn wait(&self, settlement: Settlement) {
        // Without a note it is not known whether it was applied.
        if settlement.notes.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
            self.metrics.settlements_lost.inc();
        }
        waiting.push_back(settlement);
    }

    /// Sends the settlements that waited for the store, as far as it takes them. To be called now and then.
    pub async fn settle_waiting(&self) {
        while self.is_up() {
            let batch: Vec<Settlement> = {
                let mut waiting = self.waiting.lock();
                let count = waiting.len().min(CONCURRENCY);
                waiting.drain(..count).collect()
            };
            if batch.is_empty() {
                return;
            }
            futures::future::join_all(batch.into_iter().map(|settlement| Counters::settle(self, settlement)))
                .await;
        }
    }
}

fn is_counted_here(meter: &Meter) -> bool {
    meter.on_outage == OnOutage::Local && !meter.rule.is_quota()
}

fn away() -> StoreError {
    StoreError::Unavailable("circuit open after earlier failures".to_owned())
}

#[async_trait]
impl Counters for ResilientStore {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        if self.local_counters.is_none() {
            return self.counters.reserve(reserve).await;
        }
        if self.is_up()
            && let Ok(verdict) = self.observe(self.counters.reserve(reserve.clone()).await)
        {
            return Ok(verdict);
        }
        self.reserve_here(reserve).await
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        if self.local_counters.is_some() && !self.is_up() {
            return Err(away());
        }
        self.observe(self.counters.peek(meters).await)
    }

    async fn settle(&self, settlement: Settlement) -> Result<bool, StoreError> {
        if self.local_counters.is_none() {
            return self.counters.settle(settlement).await;
        }
        if settlement.notes.iter().any(|note| *note.tag == *HERE) {
            return self.settle_here(settlement).await;
        }
        if self.is_up()
            && let Ok(settled) = self.observe(self.counters.settle(settlement.clone()).await)
        {
            return Ok(settled);
        }
        self.wait(settlement);
        Ok(true)
    }

    async fn hold(&self, holds: Vec<Hold>) -> Result<(), StoreError> {
        let Some(here) = &self.local_counters else { return self.counters.hold(holds).await };
        // Local knowledge is always at hand.
        here.hold(holds.clone()).await?;
        if !self.is_up() {
            return Ok(());
        }
        self.observe(self.counters.hold(holds).await)
    }
}
