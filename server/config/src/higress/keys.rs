//! Converts the keys of `limit_keys` entries to conditions.

use crate::limits::raw::RawCondition;

/// The values that a key of a `limit_keys` entry matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyMatch {
    Exact(String),
    All,
    /// Values with this prefix.
    Prefix(String),
    /// Values that match this expression as a whole.
    Regex(String),
    /// Addresses that are in this network or equal to this address.
    Network(String),
}

impl KeyMatch {
    /// Converts a pattern for Go's `MatchString`, which finds a match anywhere in the value, to a pattern that matches
    /// the whole value.
    pub(crate) fn regex(source: &str) -> Self {
        let anchored = !source.contains('|');
        let (start, rest) = match source.strip_prefix('^') {
            Some(rest) if anchored => ("", rest),
            _ => ("(?s:.*)", source),
        };
        let ends = |rest: &str, end: &str| rest.ends_with(end) && !rest.ends_with(&format!("\\{end}"));
        let (rest, end) = if anchored && ends(rest, "$") {
            (&rest[..rest.len() - 1], "")
        } else if anchored && ends(rest, ".*") {
            (&rest[..rest.len() - 2], "(?s:.*)")
        } else {
            (rest, "(?s:.*)")
        };
        if start.is_empty() && !end.is_empty() && !rest.is_empty() && regex::escape(rest) == rest {
            return Self::Prefix(rest.to_owned());
        }
        if start.is_empty() && end.is_empty() && !rest.is_empty() && regex::escape(rest) == rest {
            return Self::Exact(rest.to_owned());
        }
        let rest = if anchored { rest.to_owned() } else { format!("(?:{rest})") };
        Self::Regex(format!("{start}{rest}{end}"))
    }

    fn as_regex(&self) -> String {
        match self {
            Self::Exact(value) => regex::escape(value),
            Self::Prefix(prefix) => format!("{}(?s:.*)", regex::escape(prefix)),
            Self::Regex(source) => format!("(?:{source})"),
            Self::All | Self::Network(_) => "(?s:.*)".to_owned(),
        }
    }
}

/// Returns a condition that holds if at least one of the keys matches.
pub(super) fn any_of(attribute: &str, keys: &[&KeyMatch]) -> RawCondition {
    let mut condition = RawCondition { attribute: attribute.to_owned(), ..RawCondition::default() };
    let exact = |key: &&KeyMatch| matches!(key, KeyMatch::Exact(_));
    let network = |key: &&KeyMatch| matches!(key, KeyMatch::Network(_));
    if keys.contains(&&KeyMatch::All) {
        condition.present = Some(true);
    } else if keys.iter().all(exact) || keys.iter().all(network) {
        let values = keys.iter().filter_map(|key| match key {
            KeyMatch::Exact(value) | KeyMatch::Network(value) => Some(value.clone()),
            _ => None,
        });
        let mut values: Vec<String> = values.collect();
        if keys.iter().all(network) {
            condition.cidr = Some(values);
        } else if values.len() == 1 {
            condition.exact = values.pop();
        } else {
            condition.one_of = Some(values);
        }
    } else if let [KeyMatch::Prefix(prefix)] = keys {
        condition.prefix = Some(prefix.clone());
    } else if let [KeyMatch::Regex(source)] = keys {
        condition.regex = Some(source.clone());
    } else {
        condition.regex = Some(keys.iter().map(|key| key.as_regex()).collect::<Vec<_>>().join("|"));
    }
    condition
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::limit::Matcher;

    use super::*;

    #[test]
    fn patterns_that_match_anywhere_are_converted_to_whole_values() {
        let cases = [
            ("^d.*", "d", true),
            ("^d.*", "d\nx", true),
            ("^d.*", "xd", false),
            ("d", "xdx", true),
            ("^d$", "d", true),
            ("^d$", "dd", false),
            ("^a|b$", "axx", true),
            ("^a|b$", "xxb", true),
            ("^a|b$", "xax", false),
            (r"a\$", "a$b", true),
            (r"a\.*", "xa..x", true),
            ("^[0-9]{3}", "123x", true),
            ("^[0-9]{3}", "12", false),
        ];
        for (source, value, expected) in cases {
            let key = KeyMatch::regex(source);
            let matcher = match &key {
                KeyMatch::Exact(value) => Matcher::OneOf(vec![value.clone()]),
                KeyMatch::Prefix(prefix) => Matcher::Prefix(prefix.clone()),
                KeyMatch::Regex(source) => Matcher::regex(source).unwrap(),
                other => panic!("{other:?}"),
            };
            assert_eq!(matcher.matches(Some(value)), expected, "{source} {value:?} {key:?}");
        }
        assert_eq!(KeyMatch::regex("^d.*"), KeyMatch::Prefix("d".into()));
    }
}
