//! Gives hits back.

use std::sync::Arc;

use evenkeel_domain::{DomainError, limit::Meter};
use evenkeel_store::counters::{Entry, Reading, ReservationId, Settlement};
use tracing::debug;

use super::{RateLimiter, plan::is_same_counter};

impl RateLimiter {
    /// Gives back the cost of each meter, and returns what each counter holds then. If the store fails, nothing is
    /// given back, and the counters appear unused.
    pub(super) async fn give_back(&self, meters: &[Meter]) -> Vec<Reading> {
        if meters.is_empty() {
            return Vec::new();
        }
        self.try_give_back(meters).await.unwrap_or_else(|error| {
            debug!(error = &error as &dyn std::error::Error, "hits were not refunded");
            meters.iter().map(|meter| Reading { amount: meter.rule.most(), ..Reading::default() }).collect()
        })
    }

    /// Makes one peek and one settlement for the whole request. The peek is necessary because the store's clock decides
    /// which window is current.
    async fn try_give_back(&self, meters: &[Meter]) -> Result<Vec<Reading>, DomainError> {
        let mut counters: Vec<Meter> = Vec::with_capacity(meters.len());
        let counter_of: Vec<usize> = meters
            .iter()
            .map(|meter| {
                let known = counters.iter().position(|other| is_same_counter(other, meter));
                known.unwrap_or_else(|| {
                    // In shadow mode, because a refusal has no window: a counter may be over its limit.
                    counters.push(Meter { cost: 0, shadow: true, ..meter.clone() });
                    counters.len() - 1
                })
            })
            .collect();
        let peeked = self.counters.peek(counters).await;
        let mut readings =
            peeked.map_err(DomainError::store("reading the counters to give hits back"))?.readings;

        let entry = |(meter, counter): (&Meter, &usize)| Entry {
            bucket: Arc::clone(&meter.bucket),
            name: Arc::clone(&meter.name),
            rule: meter.rule,
            window: readings[*counter].window,
            reserved: meter.cost,
            actual: 0,
            provisional: false,
        };
        let entries = meters.iter().zip(&counter_of).map(entry).collect();
        let settlement = Settlement { id: ReservationId::nobody(), notes: Vec::new(), entries };
        self.counters.settle(settlement).await.map_err(DomainError::store("giving hits back"))?;

        let after = meters.iter().zip(&counter_of).map(|(meter, counter)| {
            self.refusals.remove(&meter.bucket, &meter.name);
            let reading = &mut readings[*counter];
            reading.used = reading.used.saturating_sub(meter.cost);
            Reading { amount: meter.rule.most(), ..*reading }
        });
        Ok(after.collect())
    }
}
