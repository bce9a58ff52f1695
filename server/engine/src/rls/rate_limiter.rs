//! Evaluates requests: finds the limits of all descriptors ([`plan`]), counts the request under all limits or none
//! ([`counting`]), gives hits back ([`give_back`]), and reports a status for each descriptor.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use counting::{Charge, Count};
use evenkeel_domain::{
    DomainError,
    clock::unix_ms,
    limit::{Meter, OnStoreFailure},
    settings::RateLimiterOptions,
};
use evenkeel_store::counters::{CounterState, Counters, ReserveBasis, Verdict};
use plan::{Action, DescriptorPlan, Plan};
use prometheus::IntCounter;
use quotas::Quotas;

use super::{
    counter_key::override_name,
    headers::headers,
    metrics::{DescriptorResult, LimitMetrics, RateLimitMetrics},
    request::RateLimitRequest,
    response::{CurrentLimit, DescriptorStatus, Evaluation},
    tree::{Domain, Rules},
    unit::Unit,
};
use crate::limiter::refusal_cache::RefusalCache;

mod counting;
mod give_back;
mod metadata;
mod plan;
mod quotas;

/// Maximum number of descriptors in a request. A request with more is refused. An error would not be safe: Envoy lets a
/// request pass after an error by default.
const DESCRIPTORS_MAX: usize = 256;
/// The remaining amount that an unlimited limit reports.
const REMAINING_MAX: u32 = u32::MAX;

/// Evaluates requests against rules that may change at run time.
pub struct RateLimiter {
    rules: Arc<ArcSwap<Rules>>,
    counters: Arc<dyn Counters>,
    refusals: RefusalCache,
    options: RateLimiterOptions,
    unknown_domain: IntCounter,
    invalid_requests: IntCounter,
    /// The names of the counters for descriptors' own limits, by unit.
    override_names: [Arc<str>; Unit::ALL.len()],
    unnamed: Arc<str>,
}

impl RateLimiter {
    #[must_use]
    pub fn new(
        rules: Arc<ArcSwap<Rules>>,
        counters: Arc<dyn Counters>,
        options: RateLimiterOptions,
        metrics: &RateLimitMetrics,
    ) -> Self {
        Self {
            rules,
            counters,
            refusals: RefusalCache::default(),
            options,
            unknown_domain: metrics.unknown_domain(),
            invalid_requests: metrics.invalid_requests(),
            override_names: Unit::ALL.map(override_name),
            unnamed: "".into(),
        }
    }

    /// Evaluates and counts a request.
    ///
    /// # Errors
    /// `Invalid` if the request has no domain or no descriptors; `Store` if the store fails and `on_store_failure` does not
    /// cover the failure.
    pub async fn evaluate(&self, request: &RateLimitRequest<'_>) -> Result<Evaluation, DomainError> {
        if let Err(error) = check(request) {
            self.invalid_requests.inc();
            return Err(error);
        }
        let rules = self.rules.load_full();
        let Some(domain) = rules.domain(request.domain) else {
            self.unknown_domain.inc();
            let statuses = vec![DescriptorStatus::default(); request.descriptors.len()];
            let metadata = self.options.metadata.then(|| metadata::of_request(request));
            return Ok(Evaluation { statuses, metadata, ..Evaluation::default() });
        };
        if request.descriptors.len() > DESCRIPTORS_MAX {
            self.invalid_requests.inc();
            return Ok(self.refuse_unchecked(request));
        }
        let plan = self.plan(domain, request);
        let count = match self.recall(&plan.meters) {
            Some(count) => count,
            None => self.count(&plan.meters).await?,
        };
        let charged = self.charge_own_hits(&plan, &count).await;
        let given_back = self.give_back(&plan.give_backs).await;
        Ok(self.report(domain, request, &plan, &Replies { count, charged, given_back }))
    }

    fn refuse_unchecked(&self, request: &RateLimitRequest<'_>) -> Evaluation {
        let status = DescriptorStatus { over: true, ..DescriptorStatus::default() };
        Evaluation {
            over: !self.options.shadow,
            statuses: vec![status; request.descriptors.len()],
            ..Evaluation::default()
        }
    }

    /// Returns the status of each descriptor, and counts the descriptor in the metrics. A request is over its limits if
    /// a limit is over, or if all its quotas are over.
    fn report(
        &self,
        domain: &Domain,
        request: &RateLimitRequest<'_>,
        plan: &Plan<'_>,
        replies: &Replies,
    ) -> Evaluation {
        let mut statuses = Vec::with_capacity(plan.descriptors.len());
        let mut over = false;
        let mut quotas = Quotas::default();
        for (descriptor, asked) in plan.descriptors.iter().zip(&request.descriptors) {
            let (status, result) = self.status(descriptor, plan, replies);
            if matches!(descriptor.action, Action::NoLimit) {
                domain.no_limit.inc();
            }
            if let Some(result) = result {
                if let Some(metrics) = descriptor.metrics {
                    metrics.count(result, descriptor.hits);
                    replies.count_near(descriptor.action, metrics);
                }
                descriptor.value_metrics.as_ref().inspect(|metrics| metrics.count(result));
                if let Action::Count { quota: true, .. } = descriptor.action {
                    quotas.add(&asked.entries, status.over);
                } else {
                    over |= status.over;
                }
            }
            statuses.push(status);
        }
        over |= quotas.all_over();
        let metadata = self
            .options
            .metadata
            .then(|| metadata::of_response(request, &plan.descriptors, &statuses, &quotas));
        let headers = headers(self.options.headers, &statuses);
        Evaluation { over: over && !self.options.shadow, statuses, headers, metadata }
    }

    /// Returns the status of a descriptor, and its result for the metrics. The result is `None` if nothing was counted.
    fn status(
        &self,
        descriptor: &DescriptorPlan<'_>,
        plan: &Plan<'_>,
        replies: &Replies,
    ) -> (DescriptorStatus, Option<DescriptorResult>) {
        let Count { verdict, remembered } = &replies.count;
        let limit = descriptor.limit.as_ref();
        match descriptor.action {
            Action::NoLimit => (DescriptorStatus::default(), None),
            Action::Unlimited => {
                let status = DescriptorStatus { remaining: REMAINING_MAX, ..DescriptorStatus::default() };
                (status, Some(DescriptorResult::Unlimited))
            }
            Action::Replaced => (DescriptorStatus::default(), Some(DescriptorResult::Replaced)),
            Action::GiveBack(i) => {
                let status = status(limit, &replies.given_back[i], ReserveBasis::Shared, false);
                (status, Some(DescriptorResult::Refunded))
            }
            Action::Count { meter, shadow, .. } => {
                let charge = replies.charged.get(&meter);
                let mut state = verdict.states[meter];
                if *remembered && !state.over {
                    // Only a charge shows the counter.
                    let Some(&Charge { hits, state: Some(after) }) = charge else {
                        return (DescriptorStatus::default(), None);
                    };
                    state = CounterState { used: after.used.saturating_sub(hits), ..after };
                    state.over = state.used + plan.meters[meter].cost > state.amount;
                }
                let over = is_over(&plan.meters[meter], &state, verdict);
                state.used += charge.map_or(0, |charge| charge.hits);
                let result = match over {
                    false => DescriptorResult::Ok,
                    true if shadow || self.options.shadow => DescriptorResult::ShadowOverLimit,
                    true if *remembered => DescriptorResult::OverLimitCached,
                    true => DescriptorResult::OverLimit,
                };
                let status = status(limit, &state, verdict.basis, over);
                (DescriptorStatus { over: over && !shadow, ..status }, Some(result))
            }
        }
    }
}

/// The store's replies for a request.
struct Replies {
    count: Count,
    /// Descriptors' own hits that were charged although the request is refused, by meter.
    charged: BTreeMap<usize, Charge>,
    /// The counters after hits were given back, by the index in [`Action::GiveBack`].
    given_back: Vec<CounterState>,
}

impl Replies {
    /// Counts the hits that a counter took near its limit. Descriptors with the same counter count them once.
    fn count_near(&self, action: Action, metrics: &LimitMetrics) {
        let Action::Count { meter, first: true, .. } = action else { return };
        let Count { verdict, .. } = &self.count;
        match (verdict.admitted, self.charged.get(&meter)) {
            (true, _) => {
                let state = verdict.states[meter];
                metrics.count_near(state.amount, state.used.saturating_sub(state.taken), state.used);
            }
            (false, Some(Charge { hits, state: Some(state) })) => {
                metrics.count_near(state.amount, state.used.saturating_sub(*hits), state.used);
            }
            (false, _) => {}
        }
    }
}

fn check(request: &RateLimitRequest<'_>) -> Result<(), DomainError> {
    if request.domain.is_empty() {
        return Err(DomainError::invalid("domain", "a name", "none"));
    }
    if request.descriptors.is_empty() {
        return Err(DomainError::invalid("descriptors", "at least one descriptor", "none"));
    }
    Ok(())
}

/// Returns whether a counter is over its limit. A meter in shadow mode never refuses, so its `over` flag is not enough.
fn is_over(meter: &Meter, state: &CounterState, verdict: &Verdict) -> bool {
    let is_counted = match verdict.basis {
        ReserveBasis::Shared => true,
        ReserveBasis::Local => meter.on_store_failure == OnStoreFailure::Local,
        ReserveBasis::Closed => false,
    };
    let cost = if verdict.admitted { 0 } else { meter.cost };
    state.over || is_counted && meter.shadow && state.used + cost > state.amount
}

fn status(
    limit: Option<&CurrentLimit>,
    state: &CounterState,
    basis: ReserveBasis,
    over: bool,
) -> DescriptorStatus {
    let Some(limit) = limit else { return DescriptorStatus::default() };
    let is_uncounted = basis != ReserveBasis::Shared && state.amount == 0;
    let amount = if is_uncounted { u64::from(limit.requests) } else { state.amount };
    let remaining = if over { 0 } else { amount.saturating_sub(state.used) };
    let reset_ms = match state.reset_ms {
        0 => limit.unit.ms() - unix_ms() % limit.unit.ms(),
        ms => ms,
    };
    DescriptorStatus {
        over,
        limit: Some(limit.clone()),
        remaining: u32::try_from(remaining).unwrap_or(REMAINING_MAX),
        reset_s: reset_ms.div_ceil(1000),
    }
}

#[cfg(test)]
mod tests;
