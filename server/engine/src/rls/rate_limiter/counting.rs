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
    plan::{Action, DescriptorPlan, Plan},
};

/// The result of counting a request: the store's reply, or a cached refusal.
pub(super) struct Count {
    pub(super) verdict: Verdict,
    /// Whether the verdict is a cached refusal. If so, the states of counters that are not over are unknown.
    pub(super) remembered: bool,
}

impl RateLimiter {
    /// Returns the cached refusal of a request, if one of its counters is known to be over.
    pub(super) fn recall(&self, plan: &Plan<'_>) -> Option<Count> {
        let known: Vec<Option<CounterState>> =
            plan.meters.iter().map(|meter| self.refusals.get(meter)).collect();
        known.iter().find(|known| known.is_some())?;
        // Descriptors' own hits must be charged, unless nothing remains in their counter.
        let must_charge = |descriptor: &DescriptorPlan<'_>| match descriptor.action {
            Action::Count { meter, own_hits, .. } => {
                own_hits > 0 && known[meter].is_none_or(|state| state.used < state.amount)
            }
            _ => false,
        };
        if plan.descriptors.iter().any(must_charge) {
            return None;
        }
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

    /// Charges descriptors' own hits even if a limit refuses the request. Such hits report what a response used. A
    /// limit that ignored them would never be reached. Returns the charged hits by meter.
    pub(super) async fn charge_own_hits(&self, plan: &Plan<'_>, count: &Count) -> BTreeMap<usize, u64> {
        let Count { verdict, remembered } = count;
        let mut own_hits = BTreeMap::new();
        if verdict.admitted || *remembered || verdict.basis == ReserveBasis::Closed {
            return own_hits;
        }
        for descriptor in &plan.descriptors {
            if let Action::Count { meter, own_hits: hits @ 1.., .. } = descriptor.action {
                let sum = own_hits.entry(meter).or_insert(0_u64);
                *sum = (*sum + hits).min(AMOUNT_MAX);
            }
        }
        if own_hits.is_empty() {
            return own_hits;
        }
        // In shadow mode, meters are charged regardless of what remains.
        let charge = |(meter, hits): (&usize, &u64)| Meter {
            cost: *hits,
            shadow: true,
            ..plan.meters[*meter].clone()
        };
        let meters = own_hits.iter().map(charge).collect();
        match self.counters.reserve(Reserve { id: None, meters }).await {
            Ok(_) => own_hits,
            Err(error) => {
                debug!(%error, "own hits of a refused request were not charged");
                BTreeMap::new()
            }
        }
    }
}
