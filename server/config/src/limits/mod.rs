//! The part of the file that tells of limits, quotas and what they need: validated into [`LimitRules`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use evenkeel_domain::{
    limit::{Attribute, Condition, Counts, LimitRules, METERS_MAX, Matcher, price::Price},
    settings::{AdminToken, LedgerOptions},
};

use super::{Files, higress, raw::RawConfig, validate::Check};

mod amount;
mod check;
mod conditions;
mod overlap;
pub(super) mod raw;
mod tables;
#[cfg(test)]
mod tests;

pub use amount::{AMOUNT_EXPECTED, parse_amount};

/// Most limits and quotas in all.
const LIMITS_MAX: usize = 256;

/// Most headers that limits and quotas look at.
const HEADERS_MAX: usize = 64;

/// What the sections about limits say.
pub(super) struct Limits {
    pub(super) rules: LimitRules,
    pub(super) admin: Vec<AdminToken>,
    pub(super) ledger: LedgerOptions,
}

/// Takes its sections out of the file.
pub(super) fn validate(check: &mut Check, files: &mut Files, file: &mut RawConfig) -> Limits {
    let mut raw: Vec<(String, raw::RawLimit)> = std::mem::take(&mut file.limits)
        .into_iter()
        .enumerate()
        .map(|(i, limit)| (format!("limits[{i}]"), limit))
        .collect();
    let mut names: HashSet<String> = raw.iter().map(|(_, limit)| limit.name.clone()).collect();
    names.extend(file.quotas.iter().map(|quota| quota.name.clone()));
    let shows_x = file.limit_headers.iter().flatten().any(|text| text == "x");
    for (i, rules) in std::mem::take(&mut file.higress_rules).into_iter().enumerate() {
        let path = format!("higress_rules[{i}]");
        raw.extend(higress::load(check, files, &path, &rules, &mut names, shows_x));
    }
    let quotas: Vec<(String, raw::RawQuota)> = std::mem::take(&mut file.quotas)
        .into_iter()
        .enumerate()
        .map(|(i, quota)| (format!("quotas[{i}]"), quota))
        .collect();

    let names = raw.iter().map(|(path, limit)| (path, &limit.name));
    let names = names.chain(quotas.iter().map(|(path, quota)| (path, &quota.name)));
    names_are_unique(check, names);
    let total = raw.len() + quotas.len();
    if total > LIMITS_MAX {
        check.fault("limits", "at most 256, quotas and Higress's rules included", total);
    }

    let costs: Vec<String> = raw
        .iter()
        .map(|(path, limit)| (path, limit.counts.as_deref()))
        .chain(quotas.iter().map(|(path, quota)| (path, quota.counts.as_deref())))
        .filter(|(_, counts)| *counts == Some("cost"))
        .map(|(path, _)| path.clone())
        .collect();
    let rules = LimitRules {
        limits: raw.into_iter().map(|(path, raw)| Arc::new(check::limit(check, &path, raw))).collect(),
        quotas: quotas.into_iter().map(|(path, raw)| Arc::new(check::quota(check, &path, raw))).collect(),
        prices: tables::prices(check, std::mem::take(&mut file.prices)),
        models: tables::models(check, std::mem::take(&mut file.models)),
        headers: tables::limit_headers(check, file.limit_headers.take()),
        quota_admins: tables::quota_admins(check, std::mem::take(&mut file.quota_admins)),
    };
    if let (Some(path), true) = (costs.first(), rules.prices.0.is_empty()) {
        check.required("prices", &format!("given where {path}.counts is cost"));
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
    Limits {
        rules,
        admin: tables::admin(check, files, std::mem::take(&mut file.admin)),
        ledger: tables::ledger(check, std::mem::take(&mut file.ledger)),
    }
}

/// Checks limits by themselves, as they were made from another file.
pub(super) fn check_alone(check: &mut Check, path: &str, limits: &[raw::RawLimit]) {
    for raw in limits {
        check::limit(check, &format!("{path}: limit {}", raw.name), raw.clone());
    }
}

/// A condition by itself; `None` where it has faults.
pub(super) fn condition_alone(raw: &raw::RawCondition) -> Option<Condition> {
    conditions::conditions(&mut Check::default(), "", vec![raw.clone()]).pop()
}

pub(super) use self::{check::covers, conditions::contradict};

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

/// How many headers limits and quotas look at.
fn headers(rules: &LimitRules) -> usize {
    let of_limits = rules.limits.iter().flat_map(|limit| {
        let exceptions = limit.exceptions.iter().flat_map(|exception| &exception.when);
        let conditions = limit.when.iter().chain(exceptions).map(|condition| &condition.attribute);
        limit.key.attributes().iter().chain(conditions)
    });
    let of_quotas = rules.quotas.iter().flat_map(|quota| &quota.when).map(|condition| &condition.attribute);
    of_limits.chain(of_quotas).filter_map(Attribute::wanted_header).collect::<HashSet<&str>>().len()
}

/// What is allowed and probably not meant.
fn warn_of_gaps(check: &mut Check, rules: &LimitRules) {
    if !rules.quota_admins.is_empty() && rules.quotas.is_empty() {
        check.warn("quota_admins", "has no effect: there are no quotas");
    }
    let mut counts = rules.limits.iter().map(|limit| limit.counts);
    let mut of_quotas = rules.quotas.iter().map(|quota| quota.counts);
    let cost_matters = counts.any(|c| c == Counts::Cost) || of_quotas.any(|c| c == Counts::Cost);
    let prices = &rules.prices.0;
    let rest = |price: &Price| price.model == Matcher::Prefix(String::new());
    if cost_matters && !prices.is_empty() && !prices.iter().any(rest) {
        check
            .warn("prices", "have none for model \"*\": requests to models that are not listed cost nothing");
    }
}
