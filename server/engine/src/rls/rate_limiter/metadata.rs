//! The dynamic metadata of a response, with the fields of envoyproxy/ratelimit.

use serde_json::{Map, Value, json};

use super::{
    plan::{Action, DescriptorPlan},
    quotas::{BACKEND, Group, MODEL, Quotas},
};
use crate::rls::{
    request::{Descriptor, RateLimitRequest},
    response::DescriptorStatus,
};

/// Describes the request alone, if no limit can apply to it.
pub(super) fn of_request(request: &RateLimitRequest<'_>) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("domain".to_owned(), request.domain.into());
    fields.insert("descriptors".to_owned(), request.descriptors.iter().map(describe).collect());
    if request.hits > 0 {
        fields.insert("hitsAddend".to_owned(), request.hits.into());
    }
    fields
}

/// Describes the request and its quotas. Contains the metadata of the limits that are not over, and the backends and
/// models whose quotas are not.
pub(super) fn of_response(
    request: &RateLimitRequest<'_>,
    plans: &[DescriptorPlan<'_>],
    statuses: &[DescriptorStatus],
    quotas: &Quotas<'_>,
) -> Map<String, Value> {
    let mut fields = of_request(request);
    let violations: Vec<usize> = plans
        .iter()
        .zip(statuses)
        .enumerate()
        .filter(|(_, (plan, status))| status.over && matches!(plan.action, Action::Count { quota: true, .. }))
        .map(|(i, _)| i)
        .collect();
    // Also beside a cached refusal, which evaluates no other limits, and if the descriptor gives hits back.
    let has_quotas = plans.iter().any(|plan| plan.quota);
    fields.insert("quotaModeEnabled".to_owned(), has_quotas.into());
    if !violations.is_empty() {
        fields.insert("quotaModeViolations".to_owned(), violations.into());
    }
    let (mut merged, mut backends) = (Map::new(), Vec::new());
    for ((descriptor, plan), status) in request.descriptors.iter().zip(plans).zip(statuses) {
        let is_available = !status.over && !quotas.is_over(&descriptor.entries);
        if !is_available || matches!(plan.action, Action::Unlimited) {
            continue;
        }
        if let Some(metadata) = plan.metadata.filter(|_| !matches!(plan.action, Action::Replaced)) {
            merge(&mut merged, metadata);
        }
        if let Group::Model { backend, model } = Group::of(&descriptor.entries) {
            let backend = json!({BACKEND: backend, MODEL: model});
            if !backends.contains(&backend) {
                backends.push(backend);
            }
        }
    }
    if !merged.is_empty() {
        fields.insert("metadata".to_owned(), merged.into());
    }
    if !quotas.is_empty() && !backends.is_empty() {
        fields.insert("passedBackends".to_owned(), backends.into());
    }
    fields
}

fn describe(descriptor: &Descriptor<'_>) -> Value {
    let entries: Vec<String> =
        descriptor.entries.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut fields = Map::new();
    fields.insert("entries".to_owned(), entries.into());
    if let Some((requests, unit)) = descriptor.limit {
        let unit = unit.name().to_ascii_uppercase();
        fields.insert("limit".to_owned(), format!("requests_per_unit:{requests} unit:{unit}").into());
    }
    if let Some(hits) = descriptor.hits {
        fields.insert("hitsAddend".to_owned(), hits.into());
    }
    fields.into()
}

/// Adds fields. Where both have a field, the first remains, and maps are merged.
fn merge(to: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (name, value) in from {
        match (to.get_mut(name), value) {
            (Some(Value::Object(to)), Value::Object(from)) => merge(to, from),
            (Some(_), _) => {}
            (None, value) => drop(to.insert(name.clone(), value.clone())),
        }
    }
}
