//! The key of a descriptor's counter: a bucket, and the counter's name in the bucket.

use std::{fmt::Write as _, sync::Arc};

use evenkeel_domain::limit::{Bucket, attributes::encode_value};

use super::{request::DescriptorEntry, unit::Unit};

/// Maximum length of a bucket's tag, in bytes. In a longer tag, a digest replaces the entries.
const TAG_BYTES_MAX: usize = 512;
/// If an entry's key contains one of these words, its value is secret, and only a digest of the value is visible.
const SECRETS: [&str; 8] =
    ["auth", "token", "secret", "cookie", "password", "api_key", "api-key", "credential"];
/// Prefix of the names of counters for descriptors' own limits.
const OVERRIDE: &str = "override.";

/// Returns the bucket `rls:domain|key=value|key=value`. The whole text is the tag, so that the counters are distributed
/// over a Redis Cluster. If several values of an entry share a counter, `shared` returns the pattern that replaces the
/// value.
pub(super) fn bucket<'s>(
    domain: &str,
    entries: &[DescriptorEntry<'_>],
    shared: impl Fn(usize) -> Option<&'s str>,
) -> Arc<Bucket> {
    let mut tag = String::with_capacity(96);
    tag.push_str("rls:");
    encode_value(false, domain, &mut tag);
    let start = tag.len();
    for (i, (key, value)) in entries.iter().enumerate() {
        tag.push('|');
        encode_value(false, key, &mut tag);
        tag.push('=');
        encode_value(is_secret(key), shared(i).unwrap_or(value), &mut tag);
    }
    if tag.len() > TAG_BYTES_MAX {
        let digest = ring::digest::digest(&ring::digest::SHA256, &tag.as_bytes()[start..]);
        tag.truncate(start);
        tag.push_str("|#");
        for byte in &digest.as_ref()[..16] {
            let _ = write!(tag, "{byte:02x}");
        }
    }
    Arc::new(Bucket { tag, rest: String::new() })
}

/// Returns the name of the counter for a descriptor's own limit. The name contains the unit, because windows of
/// different durations cannot share a counter.
pub(super) fn override_name(unit: Unit) -> Arc<str> {
    format!("{OVERRIDE}{unit}").into()
}

/// Returns the name of the counter for a limit of a file. It never equals an [`override_name`].
pub(super) fn limit_name(limit: &str) -> Arc<str> {
    let mut name = String::new();
    encode_value(false, limit, &mut name);
    match name.strip_prefix(OVERRIDE) {
        Some(rest) => format!("override%2E{rest}").into(),
        None => name.into(),
    }
}

pub(super) fn is_secret(key: &str) -> bool {
    let has =
        |word: &str| key.as_bytes().windows(word.len()).any(|at| at.eq_ignore_ascii_case(word.as_bytes()));
    SECRETS.into_iter().any(has)
}
