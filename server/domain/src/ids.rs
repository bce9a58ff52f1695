//! Identities: pools, holders and leases.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    sync::Arc,
};

use super::DomainError;

/// Largest lease number: the largest integer that Lua and JSON represent exactly.
pub const LEASE_MAX: u64 = (1 << 53) - 1;
/// Maximum length of a route, cluster or endpoint name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Maximum length of a consumer's name in a call, in bytes. The sidecar [shortens](shorten) longer names than
/// [`NAME_BYTES_MAX`]. Envoy accepts request headers of 60 KiB in total by default.
pub const IDENTITY_BYTES_MAX: usize = 64 << 10;
/// Length of a digest in text, in bytes.
const DIGEST_BYTES: usize = 32;
/// Maximum length of a holder id, in bytes.
const HOLDER_BYTES_MAX: usize = 64;

/// A route and a cluster, whose endpoints share a table of requests in flight.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId {
    // Cluster first, so that the derived order sorts lists by cluster.
    cluster: Arc<str>,
    route: Arc<str>,
}

impl PoolId {
    /// Validates both names: at most 256 bytes without control characters. The cluster must not be empty.
    pub fn new(route: &str, cluster: &str) -> Result<Self, DomainError> {
        if cluster.is_empty() {
            return Err(DomainError::invalid("pool.cluster", "a name of 1..256 bytes", "an empty one"));
        }
        for (field, name) in [("pool.route", route), ("pool.cluster", cluster)] {
            check_name(field, name)?;
        }
        Ok(Self { cluster: cluster.into(), route: route.into() })
    }

    /// Name of the gateway's route. Empty if all routes of the cluster share one table.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Name of the gateway's upstream cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.route.is_empty() {
            write!(f, "{}", self.cluster)
        } else {
            write!(f, "{}:{}", self.route, self.cluster)
        }
    }
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolId({self})")
    }
}

/// Checks a name from a caller: at most 256 bytes, no control characters.
pub fn check_name(field: &'static str, name: &str) -> Result<(), DomainError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(DomainError::invalid(field, "at most 256 bytes", &format!("{} bytes", name.len())));
    }
    if name.chars().any(char::is_control) {
        return Err(DomainError::invalid(field, "no control characters", &format!("{name:?}")));
    }
    Ok(())
}

/// Checks a text from a caller: at most `bytes_max` bytes, no control characters.
pub fn check_text(
    field: &'static str,
    text: &str,
    bytes_max: usize,
    expected: &'static str,
) -> Result<(), DomainError> {
    if text.len() > bytes_max {
        return Err(DomainError::invalid(field, expected, &format!("{} bytes", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(DomainError::invalid(field, expected, &format!("{text:?}")));
    }
    Ok(())
}

/// Cleans a text that a client may have chosen: replaces control characters with U+FFFD, then truncates the text to
/// `bytes_max` bytes.
#[must_use]
pub fn clean(text: &str, bytes_max: usize) -> Cow<'_, str> {
    // In UTF-8, 0xC2 is the first byte of the control characters beyond ASCII, and of some other characters.
    let is_plain = text.bytes().all(|b| b >= 0x20 && b != 0x7f && b != 0xc2);
    if is_plain && text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let mut clean = text.replace(char::is_control, "\u{fffd}");
    let end = (0..=bytes_max.min(clean.len())).rev().find(|end| clean.is_char_boundary(*end));
    clean.truncate(end.unwrap_or(0));
    Cow::Owned(clean)
}

/// Returns the name under which the sidecar knows an identity that a client may have chosen: a consumer, a model or a
/// session. Replaces control characters as [`clean`] does. Of a name that is longer than `bytes_max`, keeps the beginning
/// and appends `#` and a digest of the whole, so that different names stay different. A shortened name stays the same if
/// it is shortened again.
#[must_use]
pub fn shorten(name: &str, bytes_max: usize) -> Cow<'_, str> {
    let cleaned = clean(name, usize::MAX);
    if cleaned.len() <= bytes_max {
        return cleaned;
    }
    let mut short = clean(&cleaned, bytes_max - 1 - DIGEST_BYTES).into_owned();
    short.push('#');
    write_digest(&cleaned, &mut short);
    Cow::Owned(short)
}

/// Writes the first half of the SHA-256 digest of a text, in hexadecimal.
pub(crate) fn write_digest(text: &str, out: &mut String) {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    for byte in &digest.as_ref()[..DIGEST_BYTES / 2] {
        let _ = write!(out, "{byte:02x}");
    }
}

/// The id of a gateway worker, which the worker's Wasm VM generates at random when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId(Arc<str>);

impl HolderId {
    /// Validates an id: 1 to 64 bytes of `[A-Za-z0-9_.-]`.
    pub fn new(id: &str) -> Result<Self, DomainError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if id.is_empty() || id.len() > HOLDER_BYTES_MAX || !id.bytes().all(plain) {
            return Err(DomainError::invalid("holder", "1..64 bytes of [A-Za-z0-9_.-]", &format!("{id:?}")));
        }
        Ok(Self(id.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a lease, unique within its holder and increasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(u64);

impl LeaseId {
    /// Validates a number from 1 to 2^53-1.
    pub fn new(number: u64) -> Result<Self, DomainError> {
        if (1..=LEASE_MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(DomainError::invalid("lease", "1..2^53-1", &number.to_string()))
        }
    }

    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cleaned_then_cut() {
        assert_eq!(clean("a\u{1f}b\n\u{7f}\u{85}c", 99), "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(clean("äöü", 5), "äö");
        assert_eq!(clean(&"x".repeat(300), NAME_BYTES_MAX).len(), 256);
    }

    #[test]
    fn long_identities_stay_different() {
        assert_eq!(shorten("alice", 256), "alice");
        assert_eq!(shorten(&"a".repeat(256), 256), "a".repeat(256));
        let long = |end: &str| "ä".repeat(200) + end;
        let (one, other) = (shorten(&long("1"), 256).into_owned(), shorten(&long("2"), 256).into_owned());
        assert_ne!(one, other);
        for name in [&one, &other] {
            assert!(name.len() <= 256 && name.starts_with(&"ä".repeat(111)), "{name}");
            assert_eq!(shorten(name, 256), *name, "stays the same");
        }
        assert_eq!(shorten(&long("\n"), 256), shorten(&long("\u{fffd}"), 256), "as gateways send it");
        assert_eq!(shorten(&"s".repeat(200), 128).len(), 128);
    }

    #[test]
    fn identities_are_checked() {
        assert!(PoolId::new("", "llm").is_ok());
        assert!(PoolId::new("r", "").is_err());
        assert!(PoolId::new("r\n", "c").is_err());
        assert!(PoolId::new("r", &"c".repeat(257)).is_err());
        assert!(HolderId::new("aZ09_.-").is_ok());
        assert!(HolderId::new("").is_err());
        assert!(HolderId::new("a{b}").is_err());
        assert!(LeaseId::new(0).is_err());
        assert!(LeaseId::new(LEASE_MAX).is_ok());
        assert!(LeaseId::new(LEASE_MAX + 1).is_err());
    }
}
