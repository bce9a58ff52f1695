//! Counts a request, and caches refusals.

use std::collections::BTreeMap;

use evenkeel_domain::{
    DomainError,
    limit::{AMOUNT_MAX, Meter},
};
use evenkeel_store::counters::{CounterState, Reserve, ReserveBasis, Verdict};
use tracing::debug;

use super::{
    RateLimiter,
    plan::{Action, Plan},
};

/// The result of counting a request: the store's reply, or a cached refusal.
pub(super) struct Count {
    pub(super) verdict: Verdict,
    /// Whether the verdict is a cached refusal. If so, the states of counters that are not over are unknown.
    pub(super) remembered: bool,
}

/// Descriptors' own hits that were charged although the request is refused.
#[derive(Clone, Copy)]
pub(super) struct Charge {
    pub(super) hits: u64,
    /// The counter after the charge. `None` if this sidecar counted alone, because the store was unavailable.
    pub(super) state: Option<CounterState>,
}

impl RateLimiter {
    /// Returns the cached refusal of a request, if one of its counters is known to be over.
    pub(super) fn recall(&self, meters: &[Meter]) -> Option<Count> {
        let known: Vec<Option<CounterState>> = meters.iter().map(|meter| self.refusals.get(meter)).collect();
        known.iter().find(|known| known.is_some())?;
        let states = known.into_iter().map(Option::unwrap_or_default).collect();
        Some(Count { verdict: Verdict { states, ..Verdict::default() }, remembered: true })
    }

    /// Takes from all counters, or from none.
    pub(super) async fn count(&self, meters: &[Meter]) -> Result<Count, DomainError> {
        if meters.is_empty() {
            let verdict = Verdict { admitted: true, ..Verdict::default() };
            return Ok(Count { verdict, remembered: false });
        }
        let only_reads = meters.iter().all(|meter| meter.cost == 0);
        let peeked = if only_reads { self.counters.peek(meters.to_vec()).await.ok() } else { None };
        let verdict = match peeked {
            Some(verdict) => verdict,
            // Also after a failed peek: `on_store_failure` covers a reservation of nothing, but not a peek.
            None => {
                let reserved = self.counters.reserve(Reserve { id: None, meters: meters.to_vec() }).await;
                reserved.map_err(DomainError::store("counting a request"))?
            }
        };
        if !verdict.admitted && verdict.basis == ReserveBasis::Shared {
            for (meter, state) in meters.iter().zip(&verdict.states) {
                self.refusals.insert(meter, state);
            }
        }
        Ok(Count { verdict, remembered: false })
    }

    /// Charges descriptors' own hits even if a limit refuses the request, whether the store refused it now or a cached
    /// refusal did. Such hits report what a response used. A limit that ignored them would never be reached, and hits
    /// that are given back later would find too little. Returns the charges by meter.
    pub(super) async fn charge_own_hits(&self, plan: &Plan<'_>, count: &Count) -> BTreeMap<usize, Charge> {
        let Verdict { admitted, basis, .. } = count.verdict;
        let mut own_hits = BTreeMap::new();
        if admitted || basis == ReserveBasis::Closed {
            return BTreeMap::new();
        }
        for descriptor in &plan.descriptors {
            if let Action::Count { meter, own_hits: hits @ 1.., .. } = descriptor.action {
                let sum = own_hits.entry(meter).or_insert(0_u64);
                *sum = (*sum + hits).min(AMOUNT_MAX);
            }
        }
        if own_hits.is_empty() {
            return BTreeMap::new();
        }
        // In shadow mode, meters are charged regardless of what remains.
        let charge = |(meter, hits): (&usize, &u64)| Meter {
            cost: *hits,
            shadow: true,
            ..plan.meters[*meter].clone()
        };
        let meters = own_hits.iter().map(charge).collect();
        match self.counters.reserve(Reserve { id: None, meters }).await {
            Ok(charged) => {
                let is_shared = charged.basis == ReserveBasis::Shared;
                let states = charged.states.into_iter();
                let charge =
                    |((meter, hits), state)| (meter, Charge { hits, state: is_shared.then_some(state) });
                own_hits.into_iter().zip(states).map(charge).collect()
            }
            Err(error) => {
                debug!(%error, "own hits of a refused request were not charged");
                BTreeMap::new()
            }
        }
    }
}
