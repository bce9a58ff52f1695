//! Gives hits back.

use std::sync::Arc;

use evenkeel_domain::{DomainError, limit::Meter};
use evenkeel_store::counters::{CounterState, Entry, ReservationId, Settlement, Settler};
use tracing::debug;

use super::{RateLimiter, plan::is_same_counter};

impl RateLimiter {
    /// Gives back the cost of each meter. Returns the state of each counter after that. If the store fails, gives
    /// nothing back, and the counters are reported as unused.
    pub(super) async fn give_back(&self, meters: &[Meter]) -> Vec<CounterState> {
        if meters.is_empty() {
            return Vec::new();
        }
        self.try_give_back(meters).await.unwrap_or_else(|error| {
            debug!(error = &error as &dyn std::error::Error, "hits were not refunded");
            meters
                .iter()
                .map(|meter| CounterState { amount: meter.rule.most(), ..CounterState::default() })
                .collect()
        })
    }

    /// Makes one peek and one settlement for the whole request. The peek is necessary because the store's clock
    /// determines the current window.
    async fn try_give_back(&self, meters: &[Meter]) -> Result<Vec<CounterState>, DomainError> {
        let mut counters: Vec<Meter> = Vec::with_capacity(meters.len());
        let counter_of: Vec<usize> = meters
            .iter()
            .map(|meter| {
                let known = counters.iter().position(|other| is_same_counter(other, meter));
                known.unwrap_or_else(|| {
                    // In shadow mode, because a counter may be over its limit, and a refusal contains no window.
                    counters.push(Meter { cost: 0, shadow: true, ..meter.clone() });
                    counters.len() - 1
                })
            })
            .collect();
        let peeked = self.counters.peek(counters).await;
        let mut states = peeked.map_err(DomainError::store("reading the counters to give hits back"))?.states;

        let entry = |(meter, counter): (&Meter, &usize)| Entry {
            bucket: Arc::clone(&meter.bucket),
            name: Arc::clone(&meter.name),
            rule: meter.rule,
            window: states[*counter].window,
            reserved: meter.cost,
            actual: 0,
            provisional: false,
        };
        let entries = meters.iter().zip(&counter_of).map(entry).collect();
        let (id, by) = (ReservationId::nobody(), Settler::new(false));
        let settlement = Settlement { id, records: Vec::new(), entries, tokens: 0, by };
        self.counters.settle(settlement).await.map_err(DomainError::store("giving hits back"))?;

        let after = meters.iter().zip(&counter_of).map(|(meter, counter)| {
            self.refusals.remove(&meter.bucket, &meter.name);
            let state = &mut states[*counter];
            state.used = state.used.saturating_sub(meter.cost);
            CounterState { amount: meter.rule.most(), ..*state }
        });
        Ok(after.collect())
    }
}
