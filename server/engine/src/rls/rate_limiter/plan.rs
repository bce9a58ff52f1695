//! Finds the limit of each descriptor, and plans the counting.

use std::sync::Arc;

use evenkeel_domain::limit::{AMOUNT_MAX, Bucket, CounterRule, Meter, Window};

use serde_json::{Map, Value};

use super::RateLimiter;
use crate::rls::{
    metrics::{ByResult, LimitMetrics},
    request::{Descriptor, RateLimitRequest},
    response::CurrentLimit,
    tree::{Amount, Domain, MatchedLimit},
};

/// The plan for a request.
pub(super) struct Plan<'r> {
    pub(super) descriptors: Vec<DescriptorPlan<'r>>,
    /// The amounts that the request takes. Contains each counter once.
    pub(super) meters: Vec<Meter>,
    /// The amounts that the request gives back. May contain a counter several times.
    pub(super) give_backs: Vec<Meter>,
}

/// The action planned for one descriptor.
pub(super) struct DescriptorPlan<'r> {
    pub(super) limit: Option<CurrentLimit>,
    pub(super) metrics: Option<&'r LimitMetrics>,
    pub(super) value_metrics: Option<Arc<ByResult>>,
    /// The metadata of the limit in the file.
    pub(super) metadata: Option<&'r Map<String, Value>>,
    /// Whether the limit is in quota mode, whatever the action is.
    pub(super) quota: bool,
    /// The hits that the descriptor takes or gives back.
    pub(super) hits: u64,
    pub(super) action: Action,
}

#[derive(Clone, Copy)]
pub(super) enum Action {
    NoLimit,
    Unlimited,
    /// Another limit of the request replaces this limit.
    Replaced,
    Count {
        /// Index in [`Plan::meters`].
        meter: usize,
        /// Whether no earlier descriptor has the same meter.
        first: bool,
        shadow: bool,
        quota: bool,
        /// The descriptor's own hits. They are charged even if the request is refused.
        own_hits: u64,
    },
    /// Index in [`Plan::give_backs`].
    GiveBack(usize),
}

/// The modes of a limit: shadow mode and quota mode.
#[derive(Clone, Copy)]
struct Mode {
    shadow: bool,
    quota: bool,
}

impl RateLimiter {
    pub(super) fn plan<'r>(&self, domain: &'r Domain, request: &RateLimitRequest<'_>) -> Plan<'r> {
        let find = |descriptor: &Descriptor<'_>| match descriptor.limit {
            Some(_) => None,
            None => domain.find(&descriptor.entries),
        };
        let found: Vec<Option<MatchedLimit<'r>>> = request.descriptors.iter().map(find).collect();
        let is_replaced = |name: &str| {
            let replaces =
                |found: &MatchedLimit<'r>| found.limit.replaces.iter().any(|other| **other == *name);
            !name.is_empty() && found.iter().flatten().any(replaces)
        };
        let meters = Vec::with_capacity(request.descriptors.len());
        let mut plan = Plan { descriptors: Vec::new(), meters, give_backs: Vec::new() };
        for (descriptor, found) in request.descriptors.iter().zip(&found) {
            let planned = match found {
                Some(found) if is_replaced(&found.limit.name) => {
                    self.plan_found(&mut plan, request, descriptor, found, true)
                }
                Some(found) => self.plan_found(&mut plan, request, descriptor, found, false),
                None => self.plan_override(&mut plan, domain, request, descriptor),
            };
            plan.descriptors.push(planned);
        }
        plan
    }

    /// Plans a descriptor that matches a limit of a file.
    fn plan_found<'r>(
        &self,
        plan: &mut Plan<'r>,
        request: &RateLimitRequest<'_>,
        descriptor: &Descriptor<'_>,
        found: &MatchedLimit<'r>,
        is_replaced: bool,
    ) -> DescriptorPlan<'r> {
        let limit = found.limit;
        let value_metrics = found.value_metrics(&descriptor.entries);
        let planned = |active_limit, action| DescriptorPlan {
            limit: active_limit,
            metrics: Some(&*limit.metrics),
            value_metrics,
            metadata: limit.metadata.as_ref(),
            quota: limit.quota || self.options.quota,
            hits: hits(request, descriptor),
            action,
        };
        match limit.amount {
            Amount::Unlimited => planned(None, Action::Unlimited),
            Amount::PerUnit(..) if is_replaced => planned(None, Action::Replaced),
            Amount::PerUnit(requests, unit) => {
                let current = CurrentLimit { name: Arc::clone(&limit.name), requests, unit };
                let mode = Mode { shadow: limit.shadow, quota: limit.quota || self.options.quota };
                let meter = self.meter(&current, found.bucket(&descriptor.entries), &limit.counter, mode);
                planned(Some(current), plan.action(request, descriptor, meter, mode))
            }
        }
    }

    /// Plans a descriptor that matches no limit of a file. The descriptor may have a limit of its own.
    fn plan_override<'r>(
        &self,
        plan: &mut Plan<'r>,
        domain: &'r Domain,
        request: &RateLimitRequest<'_>,
        descriptor: &Descriptor<'_>,
    ) -> DescriptorPlan<'r> {
        let Some((requests, unit)) = descriptor.limit else {
            return DescriptorPlan {
                limit: None,
                metrics: None,
                value_metrics: None,
                metadata: None,
                quota: false,
                hits: hits(request, descriptor),
                action: Action::NoLimit,
            };
        };
        let current = CurrentLimit { name: Arc::clone(&self.unnamed), requests, unit };
        let bucket = domain.override_bucket(&descriptor.entries);
        let mode = Mode { shadow: false, quota: self.options.quota };
        let meter = self.meter(&current, bucket, &self.override_names[unit as usize], mode);
        DescriptorPlan {
            limit: Some(current),
            metrics: Some(&domain.overrides),
            value_metrics: None,
            metadata: None,
            quota: mode.quota,
            hits: hits(request, descriptor),
            action: plan.action(request, descriptor, meter, mode),
        }
    }

    fn meter(&self, limit: &CurrentLimit, bucket: Arc<Bucket>, name: &Arc<str>, mode: Mode) -> Meter {
        Meter {
            bucket,
            name: Arc::clone(name),
            rule: CounterRule::Fixed {
                amount: u64::from(limit.requests),
                window: Window::Length(limit.unit.ms()),
            },
            cost: 0,
            provisional: false,
            shadow: mode.shadow || mode.quota || self.options.shadow,
            on_store_failure: self.options.on_store_failure,
        }
    }
}

impl Plan<'_> {
    /// Adds the hits that a descriptor takes or gives back. Descriptors with the same counter share a meter.
    fn action(
        &mut self,
        request: &RateLimitRequest<'_>,
        descriptor: &Descriptor<'_>,
        mut meter: Meter,
        Mode { shadow, quota }: Mode,
    ) -> Action {
        meter.cost = hits(request, descriptor);
        if descriptor.give_back {
            self.give_backs.push(meter);
            return Action::GiveBack(self.give_backs.len() - 1);
        }
        let own_hits = if descriptor.hits.is_some() { meter.cost } else { 0 };
        let known = self.meters.iter().position(|other| is_same_counter(other, &meter));
        let index = known.unwrap_or(self.meters.len());
        match self.meters.get_mut(index) {
            Some(other) => {
                other.cost = (other.cost + meter.cost).min(AMOUNT_MAX);
                // Descriptors' own limits on one counter may have different amounts. The smallest amount applies.
                if meter.rule.most() < other.rule.most() {
                    other.rule = meter.rule;
                }
            }
            None => self.meters.push(meter),
        }
        Action::Count { meter: index, first: known.is_none(), shadow, quota, own_hits }
    }
}

/// Returns the hits of a descriptor: its own, or the request's.
fn hits(request: &RateLimitRequest<'_>, descriptor: &Descriptor<'_>) -> u64 {
    descriptor.hits.unwrap_or(u64::from(request.hits.max(1))).min(AMOUNT_MAX)
}

pub(super) fn is_same_counter(a: &Meter, b: &Meter) -> bool {
    a.bucket == b.bucket && a.name == b.name
}
