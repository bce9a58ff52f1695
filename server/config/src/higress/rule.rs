//! One configuration of a plugin to limits.

use std::collections::HashSet;

use evenkeel_domain::limit::{Condition, matcher::parse_cidr};

use super::{
    Matching, Plugin,
    keys::{KeyMatch, any_of},
    raw::{Item, Rate, Settings},
    scope::{Scope, negated},
};
use crate::{
    limits::{
        self,
        raw::{RawCondition, RawException, RawLimit, RawRejected},
    },
    validate::Check,
};

const IP: &str = "from-remote-addr, or from-header- and the name of a header";

/// Converts the configurations of one file.
pub(super) struct Converter<'a> {
    pub(super) check: &'a mut Check,
    pub(super) plugin: Plugin,
    pub(super) matching: Option<Matching>,
    /// Names of limits taken.
    pub(super) names: &'a mut HashSet<String>,
    /// Whether X-RateLimit-* headers are shown at all.
    pub(super) shows_x: bool,
    /// Names of rules met so far.
    pub(super) rule_names: HashSet<String>,
}

/// How much, how often, of what.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pace {
    amount: u64,
    period: &'static str,
    counts: &'static str,
}

/// An entry of `limit_keys`.
struct Key {
    path: String,
    matches: KeyMatch,
    pace: Pace,
}

/// An entry of `rule_items`, understood.
struct Rule {
    attribute: String,
    /// Each key is a value, and so excludes the others.
    exact: bool,
    keys: Vec<Key>,
}

/// Keys of one item that are one limit.
struct Run<'a> {
    /// Keys that come before it, and are counted elsewhere.
    before: Vec<&'a KeyMatch>,
    keys: Vec<&'a Key>,
}

impl Converter<'_> {
    /// The limits of one configuration; `path` ends with what stands before the name of a field.
    pub(super) fn settings(&mut self, path: &str, scope: &Scope, settings: &Settings) -> Vec<RawLimit> {
        if scope.is_empty() {
            self.check
                .warn(path.trim_end_matches(['.', ' ', ':']), "never applies: earlier rules have its routes");
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
        if let Some(rate) = &settings.global_threshold {
            let path = format!("{path}global_threshold");
            if let Some(pace) = self.pace(&path, rate) {
                let mut limit = self.limit(&rule_name, "global", pace, &rejected);
                limit.when = scope.conditions();
                limits.push(limit);
            }
        }
        let rules: Vec<Rule> = items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| self.rule(&format!("{path}rule_items[{i}]"), item))
            .collect();
        for (i, rule) in rules.iter().enumerate() {
            let earlier = if matching == Matching::First { &rules[..i] } else { &[] };
            for run in runs(self.check, rule, earlier) {
                let pace = run.keys[run.keys.len() - 1].pace;
                let mut limit = self.limit(&rule_name, &i.to_string(), pace, &rejected);
                limit.key = vec![rule.attribute.clone()];
                amounts(&mut limit, &rule.attribute, &run);
                if self.conditions(&mut limit, rule, &run, earlier, scope) {
                    limits.push(limit);
                } else {
                    self.names.remove(&limit.name);
                    self.check.warn(&run.keys[0].path, "never applies: what comes before it matches first");
                }
            }
        }
        limits
    }

    fn warnings(&mut self, path: &str, settings: &Settings, rule_name: &str) {
        for name in &settings.unknown {
            self.check.warn(&format!("{path}{name}"), "is not known, and ignored as Higress does");
        }
        if settings.redis.is_some() {
            self.check.warn(&format!("{path}redis"), "is ignored: counters are in Evenkeel's own store");
        }
        if settings.show_limit_quota_header == Some(true) && !self.shows_x {
            let warning = "has no effect: for X-RateLimit-* add x to limit_headers, which is for all limits";
            self.check.warn(&format!("{path}show_limit_quota_header"), warning);
        }
        if !self.rule_names.insert(rule_name.to_owned()) {
            let warning = format!("is {rule_name:?} again: counted apart here, together in Higress");
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
            self.check.required(&path, "given where global_threshold is not");
        } else if settings.rule_items.is_some() && items == 0 {
            self.check.fault(&format!("{path}rule_items"), "one item at least", 0);
        }
        match self.matching {
            Some(Matching::First) if both => {
                let expected = "all where global_threshold and rule_items are both given";
                self.check.fault(&format!("{path}matching"), expected, "first");
                Matching::First
            }
            Some(matching) => matching,
            // Higress takes both since the change that made all items count.
            None if both => Matching::All,
            None => {
                if items > 1 {
                    let warning = "are taken as Higress did until June 2026: of the items that match a request the \
                                   first counts; set matching to all, or to first to confirm";
                    self.check.warn(&format!("{path}rule_items"), warning);
                }
                Matching::First
            }
        }
    }

    /// A limit with a name of its own.
    fn limit(&mut self, rule_name: &str, part: &str, pace: Pace, rejected: &RawRejected) -> RawLimit {
        let known = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
        let base: String = rule_name.chars().map(known).take(36).collect();
        let unit = match pace.period {
            "1s" => "second",
            "1m" => "minute",
            "1h" => "hour",
            _ => "day",
        };
        let name = format!("{base}.{}.{part}.{unit}", pace.counts);
        let mut unique = name.clone();
        for n in 2.. {
            if self.names.insert(unique.clone()) {
                break;
            }
            unique = format!("{name}-{n}");
        }
        RawLimit {
            name: unique,
            counts: Some(pace.counts.to_owned()),
            amount: Some(pace.amount.to_string()),
            per: Some(pace.period.to_owned()),
            algorithm: Some("fixed_window".to_owned()),
            rejected: Some(rejected.clone()),
            ..RawLimit::default()
        }
    }

    fn pace(&mut self, path: &str, rate: &Rate) -> Option<Pace> {
        let (prefix, of, mut counts) = match self.plugin {
            Plugin::AiTokenRatelimit => (
                "token",
                [&rate.token_per_second, &rate.token_per_minute, &rate.token_per_hour, &rate.token_per_day],
                "tokens",
            ),
            Plugin::ClusterKeyRateLimit => (
                "query",
                [&rate.query_per_second, &rate.query_per_minute, &rate.query_per_hour, &rate.query_per_day],
                "requests",
            ),
        };
        for name in &rate.unknown {
            self.check.warn(&format!("{path}.{name}"), "is not known, and ignored as Higress does");
        }
        match rate.limit_type.as_deref() {
            None => {}
            Some("token") => counts = "tokens",
            Some("request") => counts = "requests",
            Some(other) => {
                self.check.fault(&format!("{path}.limit_type"), "token or request", format!("{other:?}"));
            }
        }
        let units = ["second", "minute", "hour", "day"];
        let given = units.into_iter().zip(["1s", "1m", "1h", "1d"]).zip(of);
        let given: Vec<_> = given.filter_map(|(unit, text)| Some((unit, text.as_ref()?))).collect();
        let [((unit, period), text)] = given[..] else {
            let names: Vec<_> = units.iter().map(|unit| format!("{prefix}_per_{unit}")).collect();
            let expected = format!("a rate with one of {}", names.join(", "));
            self.check.fault(path, &expected, format_args!("{} of them", given.len()));
            return None;
        };
        let amount =
            text.parse().ok().filter(|amount| (1..=evenkeel_domain::limit::AMOUNT_MAX).contains(amount));
        if amount.is_none() {
            let expected = "a whole number from 1 to 10^15";
            self.check.fault(&format!("{path}.{prefix}_per_{unit}"), expected, format!("{text:?}"));
        }
        Some(Pace { amount: amount?, period, counts })
    }

    fn rule(&mut self, path: &str, item: &Item) -> Option<Rule> {
        let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        let given: Vec<(&str, String, bool)> = [
            ("header:", filled(&item.header), true),
            ("query:", filled(&item.param), true),
            ("cookie:", filled(&item.cookie), true),
            ("header:", filled(&item.per_header), false),
            ("query:", filled(&item.per_param), false),
            ("cookie:", filled(&item.per_cookie), false),
            ("consumer", item.consumer.as_ref().map(|_| String::new()), true),
            ("consumer", item.per_consumer.as_ref().map(|_| String::new()), false),
            ("ip", filled(&item.per_ip), false),
        ]
        .into_iter()
        .filter_map(|(kind, name, exact)| Some((kind, name?, exact)))
        .collect();
        for name in &item.unknown {
            self.check.warn(&format!("{path}.{name}"), "is not known, and ignored as Higress does");
        }
        let [(kind, name, exact)] = &given[..] else {
            self.check.fault(path, "an item with one of limit_by_*", format_args!("{} of them", given.len()));
            return None;
        };
        let attribute = match *kind {
            "ip" => self.ip(path, name)?,
            "header:" => format!("{kind}{}", name.to_ascii_lowercase()),
            kind => format!("{kind}{name}"),
        };
        let keys = item.limit_keys.as_deref().unwrap_or_default();
        if keys.is_empty() {
            self.check.required(&format!("{path}.limit_keys"), "one key at least");
        }
        let mut understood: Vec<Key> = Vec::with_capacity(keys.len());
        for (i, rate) in keys.iter().enumerate() {
            let path = format!("{path}.limit_keys[{i}]");
            let (matches, pace) = (self.key(&path, rate, kind, *exact), self.pace(&path, rate));
            let (Some(matches), Some(pace)) = (matches, pace) else { continue };
            let covered = |key: &Key| key.matches == matches || key.matches == KeyMatch::All;
            if understood.iter().any(covered) {
                self.check.warn(&path, "never applies: a key before it matches first");
                continue;
            }
            understood.push(Key { path, matches, pace });
        }
        Some(Rule { attribute, exact: *exact, keys: understood })
    }

    fn ip(&mut self, path: &str, source: &str) -> Option<String> {
        if source == "from-remote-addr" {
            return Some("ip".to_owned());
        }
        let header = source.strip_prefix("from-header-").filter(|header| !header.is_empty());
        if header.is_none() {
            self.check.fault(&format!("{path}.limit_by_per_ip"), IP, format!("{source:?}"));
        }
        header.map(|header| format!("ip:{}", header.to_ascii_lowercase()))
    }

    fn key(&mut self, path: &str, rate: &Rate, kind: &str, exact: bool) -> Option<KeyMatch> {
        let path = format!("{path}.key");
        let Some(text) = rate.key.as_deref().filter(|text| !text.is_empty()) else {
            self.check.required(&path, "the value it is for");
            return None;
        };
        if kind == "ip" {
            if parse_cidr(text).is_none() {
                self.check.fault(&path, "an address or network such as 10.0.0.0/8", format!("{text:?}"));
                return None;
            }
            return Some(KeyMatch::Network(text.to_owned()));
        }
        if exact {
            return Some(KeyMatch::Exact(text.to_owned()));
        }
        if text == "*" {
            return Some(KeyMatch::All);
        }
        let Some(source) = text.strip_prefix("regexp:") else {
            self.check.fault(&path, "* or regexp: and a regular expression", format!("{text:?}"));
            return None;
        };
        if regex::Regex::new(source).is_err() {
            self.check.fault(&path, "regexp: and a regular expression", format!("{text:?}"));
            return None;
        }
        Some(KeyMatch::regex(source))
    }

    /// Adds when a limit applies; false where it never does.
    fn conditions(
        &mut self,
        limit: &mut RawLimit,
        rule: &Rule,
        run: &Run<'_>,
        earlier: &[Rule],
        scope: &Scope,
    ) -> bool {
        let matches = |keys: &[&Key]| keys.iter().map(|key| key.matches.clone()).collect::<Vec<_>>();
        let own = matches(&run.keys);
        let is = any_of(&rule.attribute, &own.iter().collect::<Vec<_>>());
        let mut is_not: Vec<RawCondition> = Vec::new();
        is_not.extend(negations(&rule.attribute, &run.before));
        for rule in earlier {
            let keys: Vec<&KeyMatch> = rule.keys.iter().map(|key| &key.matches).collect();
            is_not.extend(negations(&rule.attribute, &keys));
        }
        let positive: Option<Condition> = limits::condition_alone(&is);
        limit.when = scope.conditions();
        limit.when.push(is);
        for raw in is_not {
            let (Some(positive), Some(negative)) = (&positive, limits::condition_alone(&raw)) else {
                continue;
            };
            if limits::contradict(positive, &negative) {
                return false;
            }
            // What holds anyway need not be said.
            if !limits::covers(&negative, positive) {
                limit.when.push(raw);
            }
        }
        true
    }
}

/// That none of these matches, said as shortly as possible.
fn negations(attribute: &str, keys: &[&KeyMatch]) -> Vec<RawCondition> {
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

/// Parts the keys of an item into those that can be one limit: values of the same period in any order, as they exclude
/// each other, other keys only while they follow each other.
fn runs<'a>(check: &mut Check, rule: &'a Rule, earlier: &[Rule]) -> Vec<Run<'a>> {
    let same =
        |one: &Key, other: &Key| one.pace.period == other.pace.period && one.pace.counts == other.pace.counts;
    let mut runs: Vec<Run<'a>> = Vec::new();
    for (i, key) in rule.keys.iter().enumerate() {
        if rule.exact && earlier.iter().any(|rule_before| takes(rule_before, &rule.attribute, &key.matches)) {
            check.warn(&key.path, "never applies: an item before it matches first");
            continue;
        }
        let candidates = if rule.exact { 0 } else { runs.len().saturating_sub(1) };
        match runs[candidates..].iter_mut().find(|run| same(run.keys[0], key)) {
            Some(run) => run.keys.push(key),
            None => {
                let before = if rule.exact { &[] } else { &rule.keys[..i] };
                runs.push(Run { before: before.iter().map(|key| &key.matches).collect(), keys: vec![key] });
            }
        }
    }
    runs
}

/// Whether an item takes a value of an attribute.
fn takes(rule: &Rule, attribute: &str, value: &KeyMatch) -> bool {
    let KeyMatch::Exact(_) = value else { return false };
    let own = limits::condition_alone(&any_of(attribute, &[value]));
    rule.keys.iter().any(|key| {
        let theirs = limits::condition_alone(&any_of(&rule.attribute, &[&key.matches]));
        own.as_ref().zip(theirs).is_some_and(|(own, theirs)| limits::covers(&theirs, own))
    })
}

/// The amounts of a run: one, and exceptions for keys that have another.
fn amounts(limit: &mut RawLimit, attribute: &str, run: &Run<'_>) {
    let last = run.keys[run.keys.len() - 1];
    if run.keys.iter().all(|key| key.pace.amount == last.pace.amount) {
        return;
    }
    let mut groups: Vec<(u64, Vec<&KeyMatch>)> = Vec::new();
    let all_exact = run.keys.iter().all(|key| matches!(key.matches, KeyMatch::Exact(_)));
    for key in &run.keys[..] {
        let candidates = if all_exact { 0 } else { groups.len().saturating_sub(1) };
        match groups[candidates..].iter_mut().find(|(amount, _)| *amount == key.pace.amount) {
            Some((_, keys)) => keys.push(&key.matches),
            None => groups.push((key.pace.amount, vec![&key.matches])),
        }
    }
    // The first that matches applies; what is left is the last group's, or the largest of values.
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
