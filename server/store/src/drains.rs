//! Endpoints that administrators have drained. A [versioned map](super::versioned) contains the drains.

use evenkeel_domain::PoolId;

use crate::{
    name_text::{decode_pool, encode_pool},
    versioned::{Entry, Record},
};

pub const DRAINS_MAX: usize = 1000;

/// An endpoint that gets no new requests. The texts contain no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The address of the endpoint, as in the pool.
    pub endpoint: String,
    /// The pool in which the endpoint is drained. `None`: every pool.
    pub pool: Option<PoolId>,
    /// The administrator's note. May be empty.
    pub note: String,
    /// Name of the admin token.
    pub who: String,
    /// Time of the drain by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
}

impl Record for Drain {
    fn entry(&self) -> Entry {
        Entry {
            name: drain_name(&self.endpoint, self.pool.as_ref()),
            at_ms: self.at_ms,
            expires_at_ms: 0,
            value: format!("{}\n{}", self.who, self.note),
        }
    }

    fn read(entry: &Entry) -> Option<Self> {
        let (endpoint, pool) = drain_of_name(&entry.name)?;
        let mut lines = entry.value.splitn(3, '\n');
        let (who, note) = (lines.next()?.to_owned(), lines.next()?.to_owned());
        Some(Self { endpoint, pool, note, who, at_ms: entry.at_ms })
    }
}

/// Returns the name of a drain: `route|cluster|endpoint`, or `||endpoint` for every pool, as no cluster's name is
/// empty.
#[must_use]
pub fn drain_name(endpoint: &str, pool: Option<&PoolId>) -> String {
    let pool = pool.map_or_else(|| "|".to_owned(), encode_pool);
    format!("{pool}|{endpoint}")
}

/// The inverse of [`drain_name`]. Returns `None` for any other text.
fn drain_of_name(name: &str) -> Option<(String, Option<PoolId>)> {
    if let Some(endpoint) = name.strip_prefix("||") {
        return Some((endpoint.to_owned(), None));
    }
    let end = name.match_indices('|').nth(1)?.0;
    Some((name[end + 1..].to_owned(), Some(decode_pool(&name[..end])?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_survive_encoding() {
        let endpoints = ["10.0.0.1:80", "[::1]:80", "a|b", "||x"];
        let pools = [None, PoolId::new("", "outbound|80||x").ok(), PoolId::new("r|", "c%").ok()];
        for (endpoint, pool) in endpoints.iter().flat_map(|e| pools.iter().map(move |p| (*e, p.clone()))) {
            let (who, note) = ("ops".to_owned(), String::new());
            let drain = Drain { endpoint: endpoint.to_owned(), pool, note, who, at_ms: 7 };
            assert_eq!(Drain::read(&drain.entry()), Some(drain));
        }
        assert_eq!(drain_name("a:1", None), "||a:1");
        assert_eq!((drain_of_name("a:1"), drain_of_name("a|b")), (None, None));
        let short = Entry { name: "||a:1".to_owned(), value: "ops".to_owned(), ..Entry::default() };
        assert_eq!(Drain::read(&short), None);
    }
}
