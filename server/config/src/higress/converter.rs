//! Converts one configuration of a plugin to limits.

use std::collections::HashSet;

use evenkeel_domain::limit::Condition;

use super::{
    Matching, Plugin,
    key_groups::{KeyGroup, key_groups, negations, set_amounts},
    keys::{KeyMatch, any_of},
    raw::Settings,
    rule_items::{ItemParser, Key, ParsedRate, Rule},
    scope::Scope,
};
use crate::{
    check::Check,
    limits::{
        self,
        raw::{RawAlgorithm, RawCondition, RawLimit, RawRejected},
    },
};

/// Converts the configurations of one file.
pub(super) struct Converter<'a> {
    pub(super) check: &'a mut Check,
    pub(super) plugin: Plugin,
    pub(super) matching: Option<Matching>,
    /// Names that limits and quotas already have.
    pub(super) names: &'a mut HashSet<String>,
    /// Whether the sidecar sends X-RateLimit-* headers to clients.
    pub(super) shows_x: bool,
    /// Values of `rule_name` in the configurations converted so far.
    pub(super) rule_names: HashSet<String>,
}

impl Converter<'_> {
    /// Returns the limits of one configuration. `path` ends with the separator to which an error message appends a
    /// field's name.
    pub(super) fn settings(&mut self, path: &str, scope: &Scope, settings: &Settings) -> Vec<RawLimit> {
        if scope.is_empty() {
            self.check.warn(
                path.trim_end_matches(['.', ' ', ':']),
                "never applies: earlier rules cover its routes",
            );
            return Vec::new();
        }
        let rule_name = settings.rule_name.clone().unwrap_or_else(|| {
            self.check.required(&format!("{path}rule_name"), "the rule's name");
            String::new()
        });
        self.warnings(path, settings, &rule_name);
        let rejected = self.rejected(path, settings);
        let items = settings.rule_items.as_deref().unwrap_or_default();
        let matching = self.matching(path, settings, items.len());
        let mut limits = Vec::new();
        if let Some(raw) = &settings.global_threshold {
            let path = format!("{path}global_threshold");
            if let Some(rate) = self.parser().rate(&path, raw) {
                let mut limit = self.limit(&rule_name, "global", rate, &rejected);
                limit.when = scope.conditions();
                limits.push(limit);
            }
        }
        let rules: Vec<Rule> = items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| self.parser().rule(&format!("{path}rule_items[{i}]"), item))
            .collect();
        for (i, rule) in rules.iter().enumerate() {
            let earlier = if matching == Matching::First { &rules[..i] } else { &[] };
            for group in key_groups(self.check, rule, earlier) {
                let rate = group.keys[group.keys.len() - 1].rate;
                let mut limit = self.limit(&rule_name, &i.to_string(), rate, &rejected);
                limit.key = vec![rule.attribute.clone()];
                set_amounts(&mut limit, &rule.attribute, &group);
                if self.conditions(&mut limit, rule, &group, earlier, scope) {
                    limits.push(limit);
                } else {
                    self.names.remove(&limit.name);
                    self.check.warn(&group.keys[0].path, "never applies: earlier keys or items match first");
                }
            }
        }
        limits
    }

    fn warnings(&mut self, path: &str, settings: &Settings, rule_name: &str) {
        for name in &settings.unknown {
            self.check.warn(&format!("{path}{name}"), "is unknown and ignored, as in Higress");
        }
        if settings.redis.is_some() {
            self.check.warn(&format!("{path}redis"), "is ignored: Evenkeel keeps counters in its own store");
        }
        if settings.show_limit_quota_header == Some(true) && !self.shows_x {
            let warning =
                "has no effect: to send X-RateLimit-*, add x to limit_headers, which applies to all limits";
            self.check.warn(&format!("{path}show_limit_quota_header"), warning);
        }
        if !self.rule_names.insert(rule_name.to_owned()) {
            let warning = format!("is {rule_name:?} again: counted separately here, together in Higress");
            self.check.warn(&format!("{path}rule_name"), &warning);
        }
    }

    fn rejected(&mut self, path: &str, settings: &Settings) -> RawRejected {
        let status = settings.rejected_code.as_deref().map_or(Some(429), |text| text.parse().ok());
        if !status.is_some_and(|status| (200..=599).contains(&status)) {
            let got = format!("{:?}", settings.rejected_code.as_deref().unwrap_or_default());
            self.check.fault(&format!("{path}rejected_code"), "200..599", got);
        }
        let body = settings.rejected_msg.clone().unwrap_or_else(|| "Too many requests".to_owned());
        RawRejected {
            status: status.filter(|status| *status != 429),
            body: Some(body),
            ..RawRejected::default()
        }
    }

    fn matching(&mut self, path: &str, settings: &Settings, items: usize) -> Matching {
        let both = settings.global_threshold.is_some() && settings.rule_items.is_some();
        if settings.global_threshold.is_none() && settings.rule_items.is_none() {
            let path = format!("{path}rule_items");
            self.check.required(&path, "given if global_threshold is not");
        } else if settings.rule_items.is_some() && items == 0 {
            self.check.fault(&format!("{path}rule_items"), "one item at least", 0);
        }
        match self.matching {
            Some(Matching::First) if both => {
                let expected = "all if global_threshold and rule_items are both given";
                self.check.fault(&format!("{path}matching"), expected, "first");
                Matching::First
            }
            Some(matching) => matching,
            // Higress has accepted both fields since the change that made all matching items count.
            None if both => Matching::All,
            None => {
                if items > 1 {
                    let warning = "are read as in Higress until June 2026: of the items that match a request, the \
                                   first counts; set matching to all, or to first to confirm";
                    self.check.warn(&format!("{path}rule_items"), warning);
                }
                Matching::First
            }
        }
    }

    fn parser(&mut self) -> ItemParser<'_> {
        ItemParser { check: self.check, plugin: self.plugin }
    }

    /// Creates a limit with a unique name.
    fn limit(&mut self, rule_name: &str, part: &str, rate: ParsedRate, rejected: &RawRejected) -> RawLimit {
        let known = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
        let base: String = rule_name.chars().map(known).take(36).collect();
        let unit = match rate.period {
            "1s" => "second",
            "1m" => "minute",
            "1h" => "hour",
            _ => "day",
        };
        let name = format!("{base}.{}.{part}.{unit}", limits::counts_name(rate.counts));
        let mut unique = name.clone();
        for n in 2.. {
            if self.names.insert(unique.clone()) {
                break;
            }
            unique = format!("{name}-{n}");
        }
        RawLimit {
            name: unique,
            counts: Some(rate.counts),
            amount: Some(rate.amount.to_string()),
            per: Some(rate.period.to_owned()),
            algorithm: Some(RawAlgorithm::FixedWindow),
            rejected: Some(rejected.clone()),
            ..RawLimit::default()
        }
    }

    /// Adds the conditions of a limit. Returns false if the limit never applies.
    fn conditions(
        &mut self,
        limit: &mut RawLimit,
        rule: &Rule,
        group: &KeyGroup<'_>,
        earlier: &[Rule],
        scope: &Scope,
    ) -> bool {
        let matches = |keys: &[&Key]| keys.iter().map(|key| key.matches.clone()).collect::<Vec<_>>();
        let own = matches(&group.keys);
        let is = any_of(&rule.attribute, &own.iter().collect::<Vec<_>>());
        let mut is_not: Vec<RawCondition> = Vec::new();
        is_not.extend(negations(&rule.attribute, &group.before));
        for rule in earlier {
            let keys: Vec<&KeyMatch> = rule.keys.iter().map(|key| &key.matches).collect();
            is_not.extend(negations(&rule.attribute, &keys));
        }
        let positive: Option<Condition> = limits::condition(&is);
        limit.when = scope.conditions();
        limit.when.push(is);
        for raw in is_not {
            let (Some(positive), Some(negative)) = (&positive, limits::condition(&raw)) else {
                continue;
            };
            if limits::contradict(positive, &negative) {
                return false;
            }
            // Skip a condition that always holds.
            if !limits::covers(&negative, positive) {
                limit.when.push(raw);
            }
        }
        true
    }
}
