//! Conditions under which a limit applies.

use std::{fmt, net::IpAddr};

use regex::Regex;

use super::attributes::{Attribute, Attributes};

/// A test of an attribute's value.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Present, with any value.
    Present,
    Absent,
    /// Equal to one of these texts.
    OneOf(Vec<String>),
    Prefix(String),
    /// Matched as a whole by a regular expression. See [`Matcher::regex`].
    Regex {
        /// The expression as configured.
        source: String,
        /// The expression anchored at both ends.
        anchored: Regex,
    },
    /// An address in one of these networks, given by address and prefix length.
    Cidr(Vec<(IpAddr, u8)>),
    /// Not matched by this test.
    Not(Box<Matcher>),
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Matcher {
    /// Compiles a regular expression that must match the whole value. Matching takes linear time.
    ///
    /// # Errors
    /// If the expression is invalid.
    pub fn regex(source: &str) -> Result<Self, regex::Error> {
        let anchored = Regex::new(&format!(r"\A(?:{source})\z"))?;
        Ok(Self::Regex { source: source.to_owned(), anchored })
    }

    /// Returns whether a value matches. `None` means that the attribute is absent.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Absent, value) => value.is_none(),
            (Self::Not(inner), value) => !inner.matches(value),
            (_, None) => false,
            (Self::Present, Some(_)) => true,
            (Self::OneOf(values), Some(value)) => values.iter().any(|v| v == value),
            (Self::Prefix(prefix), Some(value)) => value.starts_with(prefix.as_str()),
            (Self::Regex { anchored, .. }, Some(value)) => anchored.is_match(value),
            (Self::Cidr(networks), Some(value)) => {
                value.parse().is_ok_and(|ip| networks.iter().any(|network| contains(*network, ip)))
            }
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("is present"),
            Self::Absent => f.write_str("is absent"),
            Self::OneOf(values) if values.len() == 1 => write!(f, "is {:?}", values[0]),
            Self::OneOf(values) => write!(f, "is one of {values:?}"),
            Self::Prefix(prefix) => write!(f, "begins with {prefix:?}"),
            Self::Regex { source, .. } => write!(f, "matches /{source}/"),
            Self::Cidr(networks) => {
                f.write_str("is in ")?;
                for (i, (ip, bits)) in networks.iter().enumerate() {
                    write!(f, "{}{ip}/{bits}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Not(inner) => write!(f, "not: {inner}"),
        }
    }
}

/// An attribute and a test of its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub attribute: Attribute,
    pub matcher: Matcher,
}

impl Condition {
    /// Returns whether the condition holds for a request.
    pub fn holds(&self, attributes: &Attributes) -> bool {
        self.matcher.matches(self.attribute.value(attributes).as_deref())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.attribute, self.matcher)
    }
}

/// Parses a network or an address, such as `10.0.0.0/8`, `::1` or `10.1.2.3`.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let ip: IpAddr = ip.parse().ok()?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(max), |bits| bits.parse().ok().filter(|bits| *bits <= max))?;
    Some((ip, bits))
}

fn contains((network, bits): (IpAddr, u8), ip: IpAddr) -> bool {
    match (network, ip.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            (network.to_bits() ^ ip.to_bits()).checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            (network.to_bits() ^ ip.to_bits()).checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_match_values() {
        let regex = |text| Matcher::regex(text).unwrap();
        let cidr = |text| Matcher::Cidr(vec![parse_cidr(text).unwrap()]);
        let cases = [
            (Matcher::Present, Some("x"), true),
            (Matcher::Present, None, false),
            (Matcher::Absent, None, true),
            (Matcher::OneOf(vec!["a".into(), "b".into()]), Some("b"), true),
            (Matcher::Prefix("gpt-4".into()), Some("gpt-4o"), true),
            (Matcher::Prefix("gpt-4".into()), Some("gpt"), false),
            (regex("gpt-[0-9]"), Some("gpt-4"), true),
            (regex("gpt-[0-9]"), Some("gpt-4o"), false),
            (regex("a|ab"), Some("ab"), true),
            (cidr("10.0.0.0/8"), Some("10.9.8.7"), true),
            (cidr("10.0.0.0/8"), Some("11.9.8.7"), false),
            (cidr("10.0.0.0/8"), Some("::ffff:10.1.1.1"), true),
            (cidr("0.0.0.0/0"), Some("1.2.3.4"), true),
            (cidr("fd00::/8"), Some("fd12::1"), true),
            (cidr("fd00::/8"), Some("10.1.1.1"), false),
            (Matcher::Not(Box::new(cidr("fd00::/8"))), Some("10.1.1.1"), true),
        ];
        for (matcher, value, expected) in cases {
            assert_eq!(matcher.matches(value), expected, "{matcher} {value:?}");
        }
    }

    #[test]
    fn networks_are_parsed() {
        assert!(parse_cidr("10.0.0.0/33").is_none());
        assert!(parse_cidr("10.0.0").is_none());
        assert_eq!(parse_cidr("::1"), Some(("::1".parse().unwrap(), 128)));
    }
}
