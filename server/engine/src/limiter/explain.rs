//! Explains which limits and quotas apply to a request, and why or why not.

use std::sync::Arc;

use evenkeel_domain::{
    StoreError,
    activity::FullestKey,
    clock::unix_ms,
    limit::{Attributes, Bucket, Meter, price::Tokens},
};
use evenkeel_store::counters::{CounterState, ReserveBasis};

use super::{LimitRequest, Limiter, compiled::CompiledLimit, estimates::Estimate};

/// One limit or quota as it applies to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub name: Arc<str>,
    pub applies: bool,
    /// Why the limit applies or does not apply.
    pub why: String,
    /// The key under which the request is counted. Empty if the limit does not apply.
    pub key: String,
    /// The amount that the request would reserve.
    pub cost: u64,
    /// The current state of the counter. The explanation reserves nothing.
    pub state: CounterState,
    pub shadow: bool,
    pub quota: bool,
    /// Whether this is a prepaid quota. If so, `used` in the state is the balance.
    pub prepaid: bool,
}

/// The explanation of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// The limits and then the quotas, in configuration order.
    pub limits: Vec<Explanation>,
    /// Whether all limits and quotas would admit the request now.
    pub admitted: bool,
    /// The estimated usage, without the margin.
    pub estimate: Tokens,
}

impl Limiter {
    /// Updates the rows from the store. If the store fails, the rows remain as they were last seen. Removes rows whose
    /// limit is no longer configured, and rows whose key an override exempts. The amount is the amount of an override
    /// or, without an override, the amount at the key's last request: exceptions depend on attributes that are not
    /// known here.
    pub async fn refresh(&self, rows: &mut Vec<FullestKey>) {
        let (compiled, overrides, now_ms) = (self.compiled(), self.overrides.load_full(), unix_ms());
        rows.retain_mut(|row| {
            let set = overrides.get(&row.limit, &row.key());
            row.amount = set.and_then(|set| set.amount).unwrap_or(row.amount);
            compiled.by_name(&row.limit).is_some() && set.is_none_or(|set| set.amount.is_some())
        });
        let meters: Vec<(usize, Meter)> = rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| {
                let entry = compiled.by_name(&row.limit)?;
                let bucket = Arc::new(Bucket { tag: row.tag.clone(), rest: row.rest.clone() });
                Some((at, compiled.meter_to_read(entry, bucket, row.amount, now_ms)))
            })
            .collect();
        let Ok(verdict) = self.counters.peek(meters.iter().map(|(_, meter)| meter.clone()).collect()).await
        else {
            return;
        };
        if verdict.basis != ReserveBasis::Shared {
            return;
        }
        for ((at, _), state) in meters.iter().zip(&verdict.states) {
            let row = &mut rows[*at];
            row.used = state.used;
            row.reset_at_ms = if state.reset_ms == 0 { 0 } else { now_ms + state.reset_ms };
            row.seen_at_ms = now_ms;
        }
    }

    /// Explains which limits and quotas apply to a request. Reserves nothing.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn explain(&self, request: &LimitRequest) -> Result<Explained, StoreError> {
        let compiled = self.compiled();
        let overrides = self.overrides.load();
        let estimate = self.estimates.estimate(&compiled.rules, &request.attributes.model, &request.body);
        let selected = compiled.select(&request.attributes, &overrides, &estimate, unix_ms());
        let verdict = self.counters.peek(selected.iter().map(|limit| limit.meter.clone()).collect()).await?;
        let mut limits = Vec::with_capacity(compiled.entries.len());
        for (i, entry) in compiled.entries.iter().enumerate() {
            let mut explanation = Explanation {
                name: Arc::clone(entry.name()),
                applies: false,
                why: String::new(),
                key: String::new(),
                cost: 0,
                state: CounterState::default(),
                shadow: entry.definition.shadow(),
                quota: entry.definition.is_quota(),
                prepaid: false,
            };
            match selected.iter().position(|limit| limit.entry == i) {
                Some(at) => {
                    let meter = &selected[at].meter;
                    explanation.applies = true;
                    explanation.why = why(entry, &request.attributes);
                    explanation.key = meter.bucket.to_string();
                    explanation.cost = meter.cost;
                    explanation.state = verdict.states.get(at).copied().unwrap_or_default();
                    explanation.prepaid =
                        matches!(meter.rule, evenkeel_domain::limit::CounterRule::Prepaid { .. });
                }
                None if !entry.counts(&estimate) => {
                    explanation.why = "does not apply: the request generates nothing".to_owned();
                }
                None => {
                    explanation.why = match (
                        entry.unmet(&request.attributes),
                        compiled.bucket_of(entry, &request.attributes),
                    ) {
                        (Some(condition), _) => {
                            let value = condition.attribute.value(&request.attributes);
                            let value = value.map_or("absent".to_owned(), |value| format!("{value:?}"));
                            format!("does not apply: needs {condition}; it is {value}")
                        }
                        (None, Err(lacks)) => format!("does not apply: the request has no {lacks}"),
                        (None, Ok(bucket)) => format!("unlimited for {bucket}"),
                    };
                }
            }
            limits.push(explanation);
        }
        Ok(Explained { limits, admitted: verdict.admitted, estimate: without_margin(&estimate) })
    }
}

fn why(entry: &CompiledLimit, attributes: &Attributes) -> String {
    let conditions = entry.conditions();
    if conditions.is_empty() {
        return "applies to every request that has its key".to_owned();
    }
    let held = conditions.iter().map(|condition| {
        let value = condition.attribute.value(attributes).unwrap_or_default();
        format!("{condition} (it is {value:?})")
    });
    held.collect::<Vec<_>>().join(", ")
}

fn without_margin(estimate: &Estimate) -> Tokens {
    estimate.with_margin(1.0)
}
