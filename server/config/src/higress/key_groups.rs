//! Groups the keys of a rule item into limits.

use super::{
    keys::{KeyMatch, any_of},
    rule_items::{Key, Rule},
    scope::negated,
};
use crate::{
    check::Check,
    limits::{
        self,
        raw::{RawCondition, RawException, RawLimit},
    },
};

/// Keys of one item that become one limit.
pub(super) struct KeyGroup<'a> {
    /// Earlier keys of the item, whose requests are counted by other limits.
    pub(super) before: Vec<&'a KeyMatch>,
    pub(super) keys: Vec<&'a Key>,
}

/// Returns conditions that hold if none of the keys matches. All exact values share one condition, and all networks
/// share one.
pub(super) fn negations(attribute: &str, keys: &[&KeyMatch]) -> Vec<RawCondition> {
    let exact = |key: &&&KeyMatch| matches!(key, KeyMatch::Exact(_));
    let network = |key: &&&KeyMatch| matches!(key, KeyMatch::Network(_));
    let values: Vec<&KeyMatch> = keys.iter().filter(exact).copied().collect();
    let networks: Vec<&KeyMatch> = keys.iter().filter(network).copied().collect();
    let rest = keys.iter().filter(|key| !exact(key) && !network(key)).map(|key| vec![*key]);
    [values, networks]
        .into_iter()
        .filter(|keys| !keys.is_empty())
        .chain(rest)
        .map(|keys| match keys[..] {
            [KeyMatch::All] => RawCondition {
                attribute: attribute.to_owned(),
                present: Some(false),
                ..RawCondition::default()
            },
            _ => negated(&any_of(attribute, &keys)),
        })
        .collect()
}

/// Groups the keys of an item so that each group becomes one limit. Exact values with the same period form one group in
/// any order, because at most one of them matches a request. Other keys form a group only if they are adjacent.
pub(super) fn key_groups<'a>(check: &mut Check, rule: &'a Rule, earlier: &[Rule]) -> Vec<KeyGroup<'a>> {
    let same =
        |one: &Key, other: &Key| one.rate.period == other.rate.period && one.rate.counts == other.rate.counts;
    let mut groups: Vec<KeyGroup<'a>> = Vec::new();
    for (i, key) in rule.keys.iter().enumerate() {
        if rule.exact
            && earlier.iter().any(|rule_before| covers_value(rule_before, &rule.attribute, &key.matches))
        {
            check.warn(&key.path, "never applies: an earlier item matches first");
            continue;
        }
        let candidates = if rule.exact { 0 } else { groups.len().saturating_sub(1) };
        match groups[candidates..].iter_mut().find(|group| same(group.keys[0], key)) {
            Some(group) => group.keys.push(key),
            None => {
                let before = if rule.exact { &[] } else { &rule.keys[..i] };
                groups.push(KeyGroup {
                    before: before.iter().map(|key| &key.matches).collect(),
                    keys: vec![key],
                });
            }
        }
    }
    groups
}

/// Returns whether an item matches every request in which the attribute has the value.
fn covers_value(rule: &Rule, attribute: &str, value: &KeyMatch) -> bool {
    let KeyMatch::Exact(_) = value else { return false };
    let own = limits::condition(&any_of(attribute, &[value]));
    rule.keys.iter().any(|key| {
        let theirs = limits::condition(&any_of(&rule.attribute, &[&key.matches]));
        own.as_ref().zip(theirs).is_some_and(|(own, theirs)| limits::covers(&theirs, own))
    })
}

/// Sets a limit's amount, and adds exceptions for keys with other amounts.
pub(super) fn set_amounts(limit: &mut RawLimit, attribute: &str, group: &KeyGroup<'_>) {
    let last = group.keys[group.keys.len() - 1];
    if group.keys.iter().all(|key| key.rate.amount == last.rate.amount) {
        return;
    }
    let mut groups: Vec<(u64, Vec<&KeyMatch>)> = Vec::new();
    let all_exact = group.keys.iter().all(|key| matches!(key.matches, KeyMatch::Exact(_)));
    for key in &group.keys[..] {
        let candidates = if all_exact { 0 } else { groups.len().saturating_sub(1) };
        match groups[candidates..].iter_mut().find(|(amount, _)| *amount == key.rate.amount) {
            Some((_, keys)) => keys.push(&key.matches),
            None => groups.push((key.rate.amount, vec![&key.matches])),
        }
    }
    // The first exception that matches applies, so the limit itself takes the amount of the last keys. If all keys are
    // exact values, their order does not matter, and the limit takes the amount that most keys have.
    let base = if all_exact {
        let (base, _) = groups
            .iter()
            .enumerate()
            .max_by_key(|(i, (_, keys))| (keys.len(), *i))
            .unwrap_or((0, &groups[0]));
        base
    } else {
        groups.len() - 1
    };
    let (amount, _) = groups.remove(base);
    limit.amount = Some(amount.to_string());
    limit.exceptions = groups
        .into_iter()
        .map(|(amount, keys)| RawException {
            when: vec![any_of(attribute, &keys)],
            amount: Some(amount.to_string()),
            ..RawException::default()
        })
        .collect();
}
