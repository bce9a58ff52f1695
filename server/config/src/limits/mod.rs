//! Validates limits, quotas and the sections that they use into [`LimitRules`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use evenkeel_domain::{
    limit::{Attribute, Condition, Counts, LimitRules, METERS_MAX, price::Price},
    settings::LedgerOptions,
};
use serde::Serialize;

use self::raw::RawSections;
use super::check::Check;

mod amount;
mod conditions;
mod fields;
mod limit;
mod overlap;
mod period;
mod quota;
pub(super) mod raw;
mod rejected;
mod tables;
#[cfg(test)]
mod tables_tests;
#[cfg(test)]
mod tests;

pub use amount::{AMOUNT_EXPECTED, parse_amount};

/// Maximum number of limits and quotas in total.
const LIMITS_MAX: usize = 256;

/// Maximum number of request headers that limits and quotas may use.
const HEADERS_MAX: usize = 64;

pub(super) struct Limits {
    pub(super) rules: LimitRules,
    pub(super) ledger: LedgerOptions,
}

/// Validates the sections about limits.
pub(super) fn validate(check: &mut Check, raw: RawSections) -> Limits {
    let RawSections { limits, quotas, prices, models, limit_headers, quota_admins, through_gateway, ledger } =
        raw;
    let names = limits.iter().map(|(path, limit)| (path, &limit.name));
    let names = names.chain(quotas.iter().map(|(path, quota)| (path, &quota.name)));
    names_are_unique(check, names);
    let total = limits.len() + quotas.len();
    if total > LIMITS_MAX {
        check.fault("limits", "at most 256, quotas and Higress's rules included", total);
    }

    let costs: Vec<String> = limits
        .iter()
        .map(|(path, limit)| (path, limit.counts))
        .chain(quotas.iter().map(|(path, quota)| (path, quota.counts)))
        .filter(|(_, counts)| *counts == Some(Counts::Cost))
        .map(|(path, _)| path.clone())
        .collect();
    let rules = LimitRules {
        limits: limits.into_iter().map(|(path, raw)| Arc::new(limit::limit(check, &path, raw))).collect(),
        quotas: quotas.into_iter().map(|(path, raw)| Arc::new(quota::quota(check, &path, raw))).collect(),
        prices: tables::prices(check, prices),
        models: tables::models(check, models),
        headers: tables::limit_headers(limit_headers.as_deref()),
        quota_admins: tables::quota_admins(check, quota_admins),
        quota_changes_through_gateway: through_gateway,
    };
    if let (Some(path), true) = (costs.first(), rules.prices.0.is_empty()) {
        check.required("prices", &format!("given if {path}.counts is cost"));
    }
    warn_of_gaps(check, &rules);
    let headers = headers(&rules);
    if headers > HEADERS_MAX {
        check.fault("limits", "about at most 64 headers, as gateways pass on no more", headers);
    }
    let groups = overlap::groups(&rules);
    if groups.len() > METERS_MAX && total <= LIMITS_MAX {
        let expected = "such that at most 16 of them and of the quotas can apply to one request";
        check.fault(
            "limits",
            expected,
            format!("{}, as nothing tells these apart: {}", groups.len(), groups.join(", ")),
        );
    }
    Limits { rules, ledger: tables::ledger(check, ledger) }
}

/// Validates limits that were converted from another file, without the rest of a configuration. Returns them as YAML.
pub(super) fn converted_yaml(check: &mut Check, path: &str, limits: &[raw::RawLimit]) -> String {
    #[derive(Serialize)]
    struct Converted<'a> {
        limits: &'a [raw::RawLimit],
    }

    for raw in limits {
        limit::limit(check, &format!("{path}: limit {}", raw.name), raw.clone());
    }
    let yaml = serde_saphyr::to_string(&Converted { limits });
    yaml.unwrap_or_else(|error| {
        check.push(format!("{path}: {error}"));
        String::new()
    })
}

/// Validates one condition. Returns `None` if the condition is invalid.
pub(super) fn condition(raw: &raw::RawCondition) -> Option<Condition> {
    conditions::conditions(&mut Check::default(), "", vec![raw.clone()]).pop()
}

pub(super) use self::{
    conditions::{contradict, covers},
    fields::counts_name,
};

fn names_are_unique<'a>(check: &mut Check, names: impl Iterator<Item = (&'a String, &'a String)>) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for (path, name) in names {
        if let Some(first) = seen.get(name.as_str()) {
            check.fault(&format!("{path}.name"), "unique", format!("{name:?}, which {first} has"));
        } else {
            seen.insert(name, path);
        }
    }
}

/// Counts the request headers that limits and quotas use.
fn headers(rules: &LimitRules) -> usize {
    let of_limits = rules.limits.iter().flat_map(|limit| {
        let exceptions = limit.exceptions.iter().flat_map(|exception| &exception.when);
        let conditions = limit.when.iter().chain(exceptions).map(|condition| &condition.attribute);
        limit.key.attributes().iter().chain(conditions)
    });
    let of_quotas = rules.quotas.iter().flat_map(|quota| &quota.when).map(|condition| &condition.attribute);
    of_limits.chain(of_quotas).filter_map(Attribute::wanted_header).collect::<HashSet<&str>>().len()
}

/// Warns about settings that are allowed but probably not intended.
fn warn_of_gaps(check: &mut Check, rules: &LimitRules) {
    if !rules.quota_admins.is_empty() && rules.quotas.is_empty() {
        check.warn("quota_admins", "has no effect: there are no quotas");
    } else if rules.quota_changes_through_gateway && rules.quota_admins.is_empty() {
        check.warn("admin.through_gateway", "has no effect: there are no quota_admins");
    }
    let limits = rules.limits.iter().map(|limit| (&*limit.name, limit.counts));
    let all = limits.chain(rules.quotas.iter().map(|quota| (&*quota.name, quota.counts)));
    let of_cost: Vec<&str> =
        all.filter(|(_, counts)| *counts == Counts::Cost).map(|(name, _)| name).collect();
    let prices = &rules.prices.0;
    if !of_cost.is_empty() && !prices.is_empty() && !prices.iter().any(Price::is_default) {
        let names = of_cost.join(", ");
        check.warn(
            "prices",
            &format!(
                "have no default, an entry for model \"*\": requests to models that are not listed cost nothing, so {names} \
                 never refuses them"
            ),
        );
    }
}
