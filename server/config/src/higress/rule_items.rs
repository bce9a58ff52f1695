//! Parses `rule_items` and rates.

use evenkeel_domain::limit::{AMOUNT_MAX, Counts, condition::parse_cidr};

use super::{
    Plugin,
    keys::KeyMatch,
    raw::{Item, Rate},
};
use crate::check::Check;

const IP: &str = "from-remote-addr, or from-header- and the name of a header";

/// A rate, such as `token_per_minute: 100`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ParsedRate {
    pub(super) amount: u64,
    pub(super) period: &'static str,
    pub(super) counts: Counts,
}

/// A parsed entry of `limit_keys`.
pub(super) struct Key {
    pub(super) path: String,
    pub(super) matches: KeyMatch,
    pub(super) rate: ParsedRate,
}

/// A parsed entry of `rule_items`.
pub(super) struct Rule {
    pub(super) attribute: String,
    /// Whether all keys are exact values, so that at most one key matches a request.
    pub(super) exact: bool,
    pub(super) keys: Vec<Key>,
}

/// Parses rule items and adds their errors to `check`.
pub(super) struct ItemParser<'a> {
    pub(super) check: &'a mut Check,
    pub(super) plugin: Plugin,
}

impl ItemParser<'_> {
    pub(super) fn rate(&mut self, path: &str, rate: &Rate) -> Option<ParsedRate> {
        let (prefix, of, mut counts) = match self.plugin {
            Plugin::AiTokenRatelimit => (
                "token",
                [&rate.token_per_second, &rate.token_per_minute, &rate.token_per_hour, &rate.token_per_day],
                Counts::Tokens,
            ),
            Plugin::ClusterKeyRateLimit => (
                "query",
                [&rate.query_per_second, &rate.query_per_minute, &rate.query_per_hour, &rate.query_per_day],
                Counts::Requests,
            ),
        };
        for name in &rate.unknown {
            self.check.warn(&format!("{path}.{name}"), "is unknown and ignored, as in Higress");
        }
        match rate.limit_type.as_deref() {
            None => {}
            Some("token") => counts = Counts::Tokens,
            Some("request") => counts = Counts::Requests,
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
        let amount = text.parse().ok().filter(|amount| (1..=AMOUNT_MAX).contains(amount));
        if amount.is_none() {
            let expected = "a whole number from 1 to 10^15";
            self.check.fault(&format!("{path}.{prefix}_per_{unit}"), expected, format!("{text:?}"));
        }
        Some(ParsedRate { amount: amount?, period, counts })
    }

    pub(super) fn rule(&mut self, path: &str, item: &Item) -> Option<Rule> {
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
            self.check.warn(&format!("{path}.{name}"), "is unknown and ignored, as in Higress");
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
        let mut keys_read: Vec<Key> = Vec::with_capacity(keys.len());
        for (i, rate) in keys.iter().enumerate() {
            let path = format!("{path}.limit_keys[{i}]");
            let (matches, parsed) = (self.key(&path, rate, kind, *exact), self.rate(&path, rate));
            let (Some(matches), Some(rate)) = (matches, parsed) else { continue };
            let covered = |key: &Key| key.matches == matches || key.matches == KeyMatch::All;
            if keys_read.iter().any(covered) {
                self.check.warn(&path, "never applies: an earlier key matches first");
                continue;
            }
            keys_read.push(Key { path, matches, rate });
        }
        Some(Rule { attribute, exact: *exact, keys: keys_read })
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
            self.check.required(&path, "the value to match");
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
}
