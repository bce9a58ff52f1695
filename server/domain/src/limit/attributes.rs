//! The attributes of a request that limits use, and the key under which the request is counted.

use std::{collections::HashMap, fmt, fmt::Write as _, net::IpAddr, sync::Arc};

use super::rule::Bucket;
use crate::ids::write_digest;

/// Maximum length of a value that appears in keys as text, in bytes. A longer value appears as its digest.
const PLAIN_BYTES_MAX: usize = 64;

/// The attributes of a request.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// The authenticated consumer. Empty if unknown.
    pub consumer: String,
    pub source_ip: Option<IpAddr>,
    /// The path, including the query.
    pub path: String,
    /// Headers, keyed by name in lower case.
    pub headers: HashMap<String, String>,
    pub model: String,
    pub route: String,
    pub cluster: String,
    /// Other values that the gateway sends, keyed by name.
    pub descriptors: HashMap<String, String>,
}

/// One attribute of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    Consumer,
    Model,
    Route,
    Cluster,
    /// The path, without its query.
    Path,
    /// The client's address, or its network for shorter prefix lengths.
    Ip {
        /// Prefix length for IPv4 addresses.
        v4: u8,
        /// Prefix length for IPv6 addresses.
        v6: u8,
    },
    /// The first address in a header such as `x-forwarded-for`. A client can forge the address unless a proxy in front
    /// of the gateway replaces the header.
    HeaderIp {
        /// Name of the header, in lower case.
        header: String,
        /// Prefix length for IPv4 addresses.
        v4: u8,
        /// Prefix length for IPv6 addresses.
        v6: u8,
    },
    /// A request header. The name is in lower case.
    Header(String),
    Query(String),
    Cookie(String),
    Descriptor(String),
}

impl Attribute {
    /// Parses `consumer`, `model`, `route`, `cluster`, `path`, `ip`, `ip/24`, `ip/24/56`, `ip:x`, `ip/24:x`,
    /// `header:x`, `query:x`, `cookie:x`, `descriptor:x`.
    pub fn parse(text: &str) -> Option<Self> {
        let named = |name: &str| (!name.is_empty() && name.len() <= 128).then(|| name.to_owned());
        Some(match text.split_once(':') {
            Some((ip, header)) if ip == "ip" || ip.starts_with("ip/") => {
                let (v4, v6) = prefix_lengths(ip)?;
                Self::HeaderIp { header: named(header)?.to_ascii_lowercase(), v4, v6 }
            }
            Some(("header", name)) => Self::Header(named(name)?.to_ascii_lowercase()),
            Some(("query", name)) => Self::Query(named(name)?),
            Some(("cookie", name)) => Self::Cookie(named(name)?),
            Some(("descriptor", name)) => Self::Descriptor(named(name)?),
            Some(_) => return None,
            None => match text {
                "consumer" => Self::Consumer,
                "model" => Self::Model,
                "route" => Self::Route,
                "cluster" => Self::Cluster,
                "path" => Self::Path,
                _ => {
                    let (v4, v6) = prefix_lengths(text)?;
                    Self::Ip { v4, v6 }
                }
            },
        })
    }

    /// Returns the attribute's value in a request. `None` if the attribute is absent or empty.
    pub fn value<'a>(&self, attributes: &'a Attributes) -> Option<std::borrow::Cow<'a, str>> {
        let borrowed = |value: &'a str| (!value.is_empty()).then_some(std::borrow::Cow::Borrowed(value));
        match self {
            Self::Consumer => borrowed(&attributes.consumer),
            Self::Model => borrowed(&attributes.model),
            Self::Route => borrowed(&attributes.route),
            Self::Cluster => borrowed(&attributes.cluster),
            Self::Path => borrowed(attributes.path.split(['?', '#']).next().unwrap_or_default()),
            Self::Ip { v4, v6 } => Some(network(attributes.source_ip?, *v4, *v6).into()),
            Self::HeaderIp { header, v4, v6 } => {
                let first = attributes.headers.get(header)?.split(',').next()?.trim();
                Some(network(parse_address(first)?, *v4, *v6).into())
            }
            Self::Header(name) => borrowed(attributes.headers.get(name)?),
            Self::Query(name) => {
                let query = attributes.path.split_once('?')?.1.split('#').next()?;
                let mut pairs = form_urlencoded::parse(query.as_bytes());
                let value = pairs.find(|(key, _)| key == name.as_str())?.1;
                (!value.is_empty()).then(|| value.into_owned().into())
            }
            Self::Cookie(name) => {
                let mut cookies = attributes.headers.get("cookie")?.split(';');
                borrowed(cookies.find_map(|c| c.trim().strip_prefix(name.as_str())?.strip_prefix('='))?)
            }
            Self::Descriptor(name) => borrowed(attributes.descriptors.get(name)?),
        }
    }

    /// Returns the header that the gateway must pass on for this attribute.
    pub fn wanted_header(&self) -> Option<&str> {
        match self {
            Self::Header(name) | Self::HeaderIp { header: name, .. } => Some(name),
            Self::Cookie(_) => Some("cookie"),
            _ => None,
        }
    }

    /// Returns whether the attribute's values are secrets that must not be shown.
    fn is_secret(&self) -> bool {
        match self {
            Self::Cookie(_) => true,
            Self::Header(name) | Self::Query(name) => {
                let name = name.to_ascii_lowercase();
                ["auth", "key", "token", "secret", "cookie", "password"]
                    .iter()
                    .any(|word| name.contains(word))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consumer => f.write_str("consumer"),
            Self::Model => f.write_str("model"),
            Self::Route => f.write_str("route"),
            Self::Cluster => f.write_str("cluster"),
            Self::Path => f.write_str("path"),
            Self::Ip { v4: 32, v6: 128 } => f.write_str("ip"),
            Self::Ip { v4, v6 } => write!(f, "ip/{v4}/{v6}"),
            Self::HeaderIp { header, v4: 32, v6: 128 } => write!(f, "ip:{header}"),
            Self::HeaderIp { header, v4, v6 } => write!(f, "ip/{v4}/{v6}:{header}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Descriptor(name) => write!(f, "descriptor:{name}"),
        }
    }
}

/// The attributes of a limit's key. The consumer comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(Vec<Attribute>);

impl Key {
    /// Takes the attributes in any order and puts the consumer first.
    pub fn new(mut attributes: Vec<Attribute>) -> Self {
        attributes.sort_by_key(|attribute| *attribute != Attribute::Consumer);
        Self(attributes)
    }

    pub fn attributes(&self) -> &[Attribute] {
        &self.0
    }

    /// Returns the bucket in which a request is counted. `None` if the request lacks an attribute. `limit` names the
    /// bucket of a key without attributes.
    ///
    /// If the key contains the consumer, the consumer is the tag, so that all counters of a consumer hash to one slot
    /// of a Redis Cluster.
    pub fn bucket(&self, attributes: &Attributes, limit: &str) -> Option<Arc<Bucket>> {
        let mut tag = String::with_capacity(48);
        let mut rest = String::new();
        for (i, attribute) in self.0.iter().enumerate() {
            let value = attribute.value(attributes)?;
            let into = if i > 0 && self.0[0] == Attribute::Consumer { &mut rest } else { &mut tag };
            if !into.is_empty() {
                into.push('|');
            }
            let _ = write!(into, "{attribute}=");
            encode_value(attribute.is_secret(), &value, into);
        }
        if self.0.is_empty() {
            let _ = write!(tag, "limit={limit}");
        }
        Some(Arc::new(Bucket { tag, rest }))
    }
}

/// Writes a value as it appears in keys. Replaces a secret or long value with a digest. Encodes characters that could
/// end a hash tag or a part of the key.
pub fn encode_value(secret: bool, value: &str, out: &mut String) {
    let from = out.len();
    if !secret && value.len() <= PLAIN_BYTES_MAX {
        for c in value.chars() {
            if matches!(c, '%' | '|' | '{' | '}' | '=' | '#') || c.is_whitespace() || c.is_control() {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "%{byte:02X}");
                }
            } else {
                out.push(c);
            }
        }
        // Encoding may triple the length, and keys and tickets must stay small.
        if out.len() - from <= PLAIN_BYTES_MAX {
            return;
        }
        out.truncate(from);
    }
    out.push('#');
    write_digest(value, out);
}

/// Parses `ip`, `ip/24`, `ip/24/56`.
fn prefix_lengths(text: &str) -> Option<(u8, u8)> {
    if text == "ip" {
        return Some((32, 128));
    }
    let mut bits = text.strip_prefix("ip/")?.split('/');
    let v4 = bits.next()?.parse().ok().filter(|n| *n <= 32)?;
    let v6 = bits.next().map_or(Some(64), |n| n.parse().ok().filter(|n| *n <= 128))?;
    bits.next().is_none().then_some((v4, v6))
}

/// Parses an address with or without a port: `10.0.0.1`, `10.0.0.1:80`, `::1`, `[::1]`, `[::1]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let bare = bare.unwrap_or(text);
    bare.parse().ok().or_else(|| bare.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

fn network(ip: IpAddr, v4: u8, v6: u8) -> String {
    let mask = |bits: u8, width: u32| u128::MAX.checked_shl(width - u32::from(bits)).unwrap_or(0);
    match ip.to_canonical() {
        IpAddr::V4(ip) if v4 == 32 => ip.to_string(),
        IpAddr::V4(ip) => {
            let ip = std::net::Ipv4Addr::from_bits(ip.to_bits() & mask(v4, 32) as u32);
            format!("{ip}/{v4}")
        }
        IpAddr::V6(ip) if v6 == 128 => ip.to_string(),
        IpAddr::V6(ip) => {
            let ip = std::net::Ipv6Addr::from_bits(ip.to_bits() & mask(v6, 128));
            format!("{ip}/{v6}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Attributes {
        Attributes {
            consumer: "ali|ce".into(),
            source_ip: "10.1.2.3".parse().ok(),
            path: "/v1/chat?tenant=a%20b&api_key=s#x".into(),
            headers: [
                ("cookie".into(), "a=1; sid=2".into()),
                ("x-team".into(), "red".into()),
                ("x-f".into(), " [::1]:80, 10.0.0.1".into()),
            ]
            .into(),
            model: "m".into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn attributes_are_parsed_and_displayed() {
        for text in [
            "consumer",
            "path",
            "ip",
            "ip/24/64",
            "ip:x-f",
            "ip/24/64:x-f",
            "header:x-a",
            "query:q",
            "cookie:c",
            "descriptor:d",
        ] {
            assert_eq!(Attribute::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Attribute::parse("ip/24"), Some(Attribute::Ip { v4: 24, v6: 64 }));
        for text in
            ["", "ip/33", "ip:", "ip/33:x", "ipx:y", "ip/24/129", "ip/24/1/1", "header:", "heder:x", "ip/"]
        {
            assert_eq!(Attribute::parse(text), None, "{text}");
        }
    }

    #[test]
    fn attributes_have_values() {
        let value =
            |text| Attribute::parse(text).unwrap().value(&request()).map(std::borrow::Cow::into_owned);
        let cases = [
            ("path", Some("/v1/chat")),
            ("ip", Some("10.1.2.3")),
            ("ip/24", Some("10.1.2.0/24")),
            ("ip/0", Some("0.0.0.0/0")),
            ("query:tenant", Some("a b")),
            ("query:none", None),
            ("cookie:sid", Some("2")),
            ("cookie:si", None),
            ("header:x-team", Some("red")),
            ("ip:x-f", Some("::1")),
            ("ip/24/0:x-f", Some("::/0")),
            ("ip:x-team", None),
            ("route", None),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn keys_have_buckets() {
        let bucket = |texts: &[&str]| {
            let key = Key::new(texts.iter().map(|text| Attribute::parse(text).unwrap()).collect());
            key.bucket(&request(), "l").map(|b| (b.tag.clone(), b.rest.clone()))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(bucket(&[]), pair("limit=l", ""));
        assert_eq!(bucket(&["model", "consumer"]), pair("consumer=ali%7Cce", "model=m"));
        assert_eq!(bucket(&["model", "header:x-team"]), pair("model=m|header:x-team=red", ""));
        assert_eq!(bucket(&["consumer", "route"]), None);
        let (tag, _) = bucket(&["query:api_key"]).unwrap();
        assert!(tag.starts_with("query:api_key=#") && tag.len() == "query:api_key=#".len() + 32, "{tag}");
    }
}
