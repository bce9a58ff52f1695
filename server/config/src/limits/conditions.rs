//! Validates conditions, and decides whether two conditions contradict or imply each other.

use std::{collections::HashSet, net::IpAddr};

use evenkeel_domain::{
    NAME_BYTES_MAX,
    limit::{Attribute, Condition, Matcher, condition::parse_cidr},
    shorten,
};

use super::raw::{RawCondition, RawMatcher};
use crate::check::Check;

/// Maximum number of conditions of a limit, quota or exception.
const CONDITIONS_MAX: usize = 32;
/// Maximum number of values of one condition.
const VALUES_MAX: usize = 1024;
/// Maximum length of a prefix of a consumer's or a model's name, in bytes. The sidecar keeps that much of a long name,
/// whatever its characters.
const PREFIX_BYTES_MAX: usize = 220;
/// Maximum length of a value, in bytes.
const VALUE_BYTES_MAX: usize = 1024;

const ATTRIBUTE: &str = "consumer, model, route, cluster, path, ip, ip/24, ip:x-forwarded-for, header:x, query:x, cookie:x \
                         or descriptor:x";
const MATCHERS: &str = "an attribute with one of exact, one_of, prefix, regex, cidr, present, not";

pub(super) fn attribute(check: &mut Check, path: &str, text: &str) -> Option<Attribute> {
    let attribute = Attribute::parse(text);
    if attribute.is_none() {
        check.fault(path, ATTRIBUTE, format!("{text:?}"));
    }
    if let Some(name) = attribute.as_ref().and_then(Attribute::wanted_header).filter(|name| !is_header(name))
    {
        // Gateways forward only headers with valid names.
        let expected = "a header with a name of letters, digits and !#$%&'*+-.^_`|~ (host for the domain)";
        check.fault(path, expected, format!("{name:?}"));
    }
    attribute
}

/// Returns whether a text is a valid header name.
pub(super) fn is_header(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(token)
}

/// Validates a list of conditions. Returns the valid conditions.
pub(super) fn conditions(check: &mut Check, path: &str, raw: Vec<RawCondition>) -> Vec<Condition> {
    if raw.len() > CONDITIONS_MAX {
        check.fault(path, "at most 32 conditions", raw.len());
    }
    let mut list: Vec<Condition> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(condition) = condition(check, &path, raw) else { continue };
        if let Some(other) = list.iter().find(|other| contradict(other, &condition)) {
            let expected = "a condition that can hold together with the others";
            check.fault(&path, expected, format!("{condition} beside {other}"));
        }
        list.push(condition);
    }
    list
}

fn condition(check: &mut Check, path: &str, raw: RawCondition) -> Option<Condition> {
    let attribute = attribute(check, &format!("{path}.attribute"), &raw.attribute);
    let RawCondition { exact, one_of, prefix, regex, cidr, present, not, .. } = raw;
    let plain = RawMatcher { exact, one_of, prefix, regex, cidr, present };
    let matcher = match (not, plain.given()) {
        (Some(inner), 0) => {
            matcher(check, &format!("{path}.not"), inner).map(|inner| Matcher::Not(Box::new(inner)))
        }
        (None, 1) => matcher(check, path, plain),
        (not, given) => {
            check.fault(path, MATCHERS, format_args!("{} of them", given + usize::from(not.is_some())));
            None
        }
    };
    let (attribute, matcher) = (attribute?, matcher?);
    let matcher = if is_shortened(&attribute) { shortened(check, path, matcher) } else { matcher };
    Some(Condition { attribute, matcher })
}

/// Returns whether the sidecar shortens long values of an attribute.
fn is_shortened(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Consumer | Attribute::Model)
}

/// Shortens the values of a condition, as the sidecar shortens those of requests.
fn shortened(check: &mut Check, path: &str, matcher: Matcher) -> Matcher {
    match matcher {
        Matcher::OneOf(values) => Matcher::OneOf(
            values.into_iter().map(|value| shorten(&value, NAME_BYTES_MAX).into_owned()).collect(),
        ),
        Matcher::Prefix(prefix) if prefix.len() > PREFIX_BYTES_MAX => {
            let warning = "is longer than 220 bytes: it matches no name of more than 256 bytes, because the sidecar keeps less";
            check.warn(&format!("{path}.prefix"), warning);
            Matcher::Prefix(prefix)
        }
        Matcher::Not(inner) => Matcher::Not(Box::new(shortened(check, path, *inner))),
        other => other,
    }
}

impl RawMatcher {
    fn given(&self) -> usize {
        let Self { exact, one_of, prefix, regex, cidr, present } = self;
        [
            exact.is_some(),
            one_of.is_some(),
            prefix.is_some(),
            regex.is_some(),
            cidr.is_some(),
            present.is_some(),
        ]
        .into_iter()
        .filter(|given| *given)
        .count()
    }
}

fn matcher(check: &mut Check, path: &str, raw: RawMatcher) -> Option<Matcher> {
    if raw.given() != 1 {
        let expected = "one of exact, one_of, prefix, regex, cidr, present";
        check.fault(path, expected, format_args!("{} of them", raw.given()));
        return None;
    }
    let RawMatcher { exact, one_of, prefix, regex, cidr, present } = raw;
    if let Some(value) = exact {
        return value_is_valid(check, &format!("{path}.exact"), &value).then(|| Matcher::OneOf(vec![value]));
    }
    if let Some(values) = one_of {
        let path = format!("{path}.one_of");
        let valid = values_are_valid(check, &path, &values);
        return valid.then_some(Matcher::OneOf(values));
    }
    if let Some(value) = prefix {
        return value_is_valid(check, &format!("{path}.prefix"), &value).then_some(Matcher::Prefix(value));
    }
    if let Some(source) = regex {
        let path = format!("{path}.regex");
        if !value_is_valid(check, &path, &source) {
            return None;
        }
        return match Matcher::regex(&source) {
            Ok(matcher) => Some(matcher),
            Err(error) => {
                // The last line names the error. The lines before it mark the position.
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
                check.fault(&path, "a regular expression", format!("{source:?}: {why}"));
                None
            }
        };
    }
    if let Some(texts) = cidr {
        let path = format!("{path}.cidr");
        if !values_are_valid(check, &path, &texts) {
            return None;
        }
        let networks = texts.iter().enumerate().map(|(i, text)| {
            let network = parse_cidr(text);
            if network.is_none() {
                let expected = "an address or network such as 10.0.0.0/8";
                check.fault(&format!("{path}[{i}]"), expected, format!("{text:?}"));
            }
            network
        });
        let networks: Vec<_> = networks.collect();
        return networks.into_iter().collect::<Option<_>>().map(Matcher::Cidr);
    }
    Some(if present == Some(true) { Matcher::Present } else { Matcher::Absent })
}

fn value_is_valid(check: &mut Check, path: &str, value: &str) -> bool {
    let valid = !value.is_empty() && value.len() <= VALUE_BYTES_MAX;
    if !valid {
        check.fault(
            path,
            "1..1024 bytes (an empty value counts as absent)",
            format!("{} bytes", value.len()),
        );
    }
    valid
}

fn values_are_valid(check: &mut Check, path: &str, values: &[String]) -> bool {
    let mut valid = (1..=VALUES_MAX).contains(&values.len());
    if !valid {
        check.fault(path, "1..1024 values", values.len());
    }
    for (i, value) in values.iter().enumerate() {
        valid &= value_is_valid(check, &format!("{path}[{i}]"), value);
    }
    valid
}

/// Returns whether two conditions cannot both hold. The check is conservative: it may return `false` for conditions
/// that cannot both hold, because it does not compare regular expressions.
pub(crate) fn contradict(one: &Condition, other: &Condition) -> bool {
    one.attribute == other.attribute
        && (disjoint(&one.matcher, &other.matcher) || disjoint(&other.matcher, &one.matcher))
}

fn disjoint(one: &Matcher, other: &Matcher) -> bool {
    match (one, other) {
        (Matcher::Not(inner), other) => implies(other, inner),
        (Matcher::OneOf(one), Matcher::OneOf(other)) => {
            let one: HashSet<&String> = one.iter().collect();
            !other.iter().any(|value| one.contains(value))
        }
        (Matcher::OneOf(values), other) => values.iter().all(|value| !other.matches(Some(value))),
        (Matcher::Absent, other) => !other.matches(None),
        (Matcher::Prefix(one), Matcher::Prefix(other)) => !one.starts_with(other) && !other.starts_with(one),
        (Matcher::Cidr(one), Matcher::Cidr(others)) => {
            !one.iter().any(|one| others.iter().any(|other| within(one, other) || within(other, one)))
        }
        _ => false,
    }
}

/// Returns whether every value that matches `one` also matches `other`. The check is conservative: it may return
/// `false` even if every such value matches `other`.
pub(super) fn implies(one: &Matcher, other: &Matcher) -> bool {
    match (one, other) {
        (Matcher::OneOf(one), Matcher::OneOf(other)) => {
            let other: HashSet<&String> = other.iter().collect();
            one.iter().all(|value| other.contains(value))
        }
        (one, other) if one == other => true,
        (Matcher::OneOf(values), other) => values.iter().all(|value| other.matches(Some(value))),
        (Matcher::Prefix(_) | Matcher::Regex { .. } | Matcher::Cidr(_), Matcher::Present) => true,
        (Matcher::Prefix(one), Matcher::Prefix(other)) => one.starts_with(other),
        (Matcher::Cidr(one), Matcher::Cidr(others)) => {
            one.iter().all(|one| others.iter().any(|other| within(one, other)))
        }
        (Matcher::Absent, other) => other.matches(None),
        (Matcher::Not(one), Matcher::Not(other)) => implies(other, one),
        (one, Matcher::Not(other)) => disjoint(one, other) || disjoint(other, one),
        _ => false,
    }
}

/// Returns whether `wide` holds for every request for which `narrow` holds. The check is conservative: it may return
/// `false` even if `wide` holds for every such request.
pub(crate) fn covers(wide: &Condition, narrow: &Condition) -> bool {
    wide.attribute == narrow.attribute && implies(&narrow.matcher, &wide.matcher)
}

/// Returns whether a network is contained in another network.
fn within((ip, bits): &(IpAddr, u8), (other, other_bits): &(IpAddr, u8)) -> bool {
    bits >= other_bits && Matcher::Cidr(vec![(*other, *other_bits)]).matches(Some(&ip.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of(values: &[&str]) -> Matcher {
        Matcher::OneOf(values.iter().map(|value| (*value).to_owned()).collect())
    }

    fn not(inner: Matcher) -> Matcher {
        Matcher::Not(Box::new(inner))
    }

    #[test]
    fn implications() {
        let prefix = |text: &str| Matcher::Prefix(text.into());
        let cases = [
            (prefix("b"), not(prefix("a")), true),
            (prefix("ab"), not(prefix("a")), false),
            (not(prefix("a")), prefix("b"), false),
            (not(prefix("a")), not(prefix("ab")), true),
            (prefix("ab"), prefix("a"), true),
            (Matcher::Absent, not(Matcher::Present), true),
            (Matcher::Present, not(Matcher::Absent), true),
            (not(Matcher::Absent), Matcher::Present, false),
            (Matcher::regex("a").unwrap(), Matcher::Present, true),
        ];
        for (one, other, expected) in cases {
            assert_eq!(implies(&one, &other), expected, "{one} / {other}");
        }
    }

    #[test]
    fn contradictions() {
        let prefix = |text: &str| Matcher::Prefix(text.into());
        let cidr = |text| Matcher::Cidr(vec![parse_cidr(text).unwrap()]);
        let regex = |text| Matcher::regex(text).unwrap();
        let cases = [
            (one_of(&["a"]), one_of(&["b", "c"]), true),
            (one_of(&["a", "b"]), one_of(&["b", "c"]), false),
            (one_of(&["a"]), not(one_of(&["a", "b"])), true),
            (one_of(&["a", "c"]), not(one_of(&["a", "b"])), false),
            (one_of(&["ab"]), prefix("b"), true),
            (one_of(&["ab"]), regex("a."), false),
            (regex("a."), not(regex("a.")), true),
            (regex("a."), not(Matcher::Present), true),
            (regex("a."), regex("b."), false),
            (prefix("gpt-4"), prefix("gpt-3"), true),
            (prefix("gpt-4"), prefix("gpt"), false),
            (prefix("gpt-4"), not(prefix("gpt")), true),
            (Matcher::Absent, Matcher::Present, true),
            (Matcher::Absent, not(Matcher::Present), false),
            (Matcher::Absent, not(one_of(&["a"])), false),
            (Matcher::Present, not(one_of(&["a"])), false),
            (cidr("10.0.0.0/8"), cidr("11.0.0.0/8"), true),
            (cidr("10.0.0.0/8"), cidr("10.1.0.0/16"), false),
            (cidr("10.1.0.0/16"), not(cidr("10.0.0.0/8")), true),
            (cidr("10.0.0.0/8"), not(cidr("10.1.0.0/16")), false),
            (cidr("fd00::/8"), cidr("10.0.0.0/8"), true),
        ];
        for (one, other, expected) in cases {
            let attribute = Attribute::Model;
            let condition = |matcher| Condition { attribute: attribute.clone(), matcher };
            let (one, other) = (condition(one), condition(other));
            assert_eq!(contradict(&one, &other), expected, "{one} / {other}");
            assert_eq!(contradict(&other, &one), expected, "{other} / {one}");
        }
    }
}
