//! Builds every Redis key. All keys of one pool contain its hash tag, so that they hash to one slot of a Redis Cluster.
//! docs/redis-layout.md describes the layout.

use std::fmt::Write as _;

use evenkeel_domain::{
    HolderId, PoolId,
    activity::Resolution,
    limit::Bucket,
    usage::{Day, SessionKey},
};

use crate::Pool;

/// Version of the layout. Each change of the layout changes it, so that two versions of Evenkeel can share one Redis.
pub(crate) const LAYOUT: &str = "ek2";

/// Builds keys under a configured prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// The keys of one pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolKeys {
    tagged: String,
    /// Hash: endpoint → requests in flight.
    pub(crate) in_flight: String,
    /// Sorted set: holder → deadline.
    pub(crate) holders: String,
}

impl Keys {
    /// Builds keys under `prefix`, which separates deployments that share one Redis. May be empty.
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { LAYOUT.to_owned() } else { format!("{prefix}:{LAYOUT}") };
        Self { prefix }
    }

    /// Sorted set: pool → time it was last registered, in ms.
    pub(crate) fn pools(&self) -> String {
        format!("{}:pools", self.prefix)
    }

    /// Sorted set, all scores equal: consumers with a record in a quota.
    pub(crate) fn quota_index(&self, quota: &str) -> String {
        format!("{}:quotas:{quota}", self.prefix)
    }

    /// List: changes of a consumer's record in a quota; under the tag of the record.
    pub(crate) fn quota_changes(&self, bucket: &Bucket, quota: &str) -> String {
        format!("{}:{{{}}}:changes:{quota}", self.prefix, bucket.tag)
    }

    /// Hash: limit and key → override.
    pub(crate) fn overrides(&self) -> String {
        format!("{}:overrides", self.prefix)
    }

    /// Hash: pool and endpoint → drain.
    pub(crate) fn drains(&self) -> String {
        format!("{}:drains", self.prefix)
    }

    /// List: changes by administrators.
    pub(crate) fn changes(&self) -> String {
        format!("{}:changes", self.prefix)
    }

    /// Sorted set: sidecar → time in ms until which the sidecar counts as alive unless it announces itself again.
    pub(crate) fn sidecars(&self) -> String {
        format!("{}:sidecars", self.prefix)
    }

    /// Hash: sidecar → its report of this kind. For `refusals` and `repairs`, a list of these events.
    pub(crate) fn activity(&self, kind: &str) -> String {
        format!("{}:{{activity}}:{kind}", self.prefix)
    }

    /// Hash: sidecar → its counts of one page.
    pub(crate) fn activity_page(&self, resolution: Resolution, page_ms: u64) -> String {
        format!("{}:{{activity}}:{}:{page_ms}", self.prefix, resolution.name())
    }

    /// String: a refusal, by its request's id.
    pub(crate) fn refusal(&self, request_id: &str) -> String {
        format!("{}:refusal:{request_id}", self.prefix)
    }

    /// String: the probe writes it to find out whether Redis accepts writes.
    pub(crate) fn probe(&self) -> String {
        format!("{}:probe", self.prefix)
    }

    /// The keys of one day's usage.
    pub(crate) fn usage_day(&self, day: Day) -> DayKeys {
        let tagged = format!("{}:{{usage:{day}}}", self.prefix);
        DayKeys {
            rows: format!("{tagged}:rows"),
            sessions: format!("{tagged}:sessions"),
            session_sums: format!("{tagged}:session-sums"),
            tagged,
        }
    }

    /// The keys of one part of the sessions.
    pub(crate) fn sessions(&self, part: u8) -> SessionsKeys {
        let tagged = format!("{}:{{sessions:{part}}}", self.prefix);
        SessionsKeys { last: format!("{tagged}:last"), sums: format!("{tagged}:sums"), tagged }
    }

    /// String: all counters of one key. Quotas are counters of their consumer, with an empty `rest`.
    pub(crate) fn counters(&self, tag: &str, rest: &str) -> String {
        let separator = if rest.is_empty() { "" } else { ":" };
        format!("{}:{{{tag}}}:counters{separator}{rest}", self.prefix)
    }

    /// Sorted set: in-flight request under a concurrency limit → deadline.
    pub(crate) fn running(&self, bucket: &Bucket, limit: &str) -> String {
        let Bucket { tag, rest } = bucket;
        let separator = if rest.is_empty() { "" } else { ":" };
        format!("{}:{{{tag}}}:running:{limit}{separator}{rest}", self.prefix)
    }

    /// Hash: reservation of one day → its record. Settling the reservation removes the record.
    pub(crate) fn reservations(&self, tag: &str, day: u64) -> String {
        format!("{}:{{{tag}}}:reserved:{day}", self.prefix)
    }

    pub(crate) fn pool(&self, pool: &Pool) -> PoolKeys {
        let tagged = format!("{}:{{{}}}", self.prefix, encode_pool(&pool.id));
        let in_flight = if pool.higress_table {
            format!("higress:global_least_request_table:{}:{}", pool.id.route(), pool.id.cluster())
        } else {
            format!("{tagged}:in-flight")
        };
        PoolKeys { in_flight, holders: format!("{tagged}:holders"), tagged }
    }
}

/// The keys of one day's usage.
#[derive(Clone, Debug)]
pub(crate) struct DayKeys {
    tagged: String,
    /// Hash: consumer, model, route → counts.
    pub(crate) rows: String,
    /// Sorted set: session → tokens.
    pub(crate) sessions: String,
    /// Hash: session → counts.
    pub(crate) session_sums: String,
}

impl DayKeys {
    /// String: number of an instance's last flush.
    pub(crate) fn applied(&self, instance: &str) -> String {
        format!("{}:applied:{instance}", self.tagged)
    }
}

/// The keys of one part of the sessions.
#[derive(Clone, Debug)]
pub(crate) struct SessionsKeys {
    tagged: String,
    /// Sorted set: session → time of its last turn, in ms.
    pub(crate) last: String,
    /// Hash: session → counts.
    pub(crate) sums: String,
}

impl SessionsKeys {
    pub(crate) fn turns(&self, session: &SessionKey) -> String {
        let mut key = format!("{}:turns:", self.tagged);
        encode(session.consumer(), &mut key);
        key.push('|');
        encode(session.session(), &mut key);
        key
    }

    /// String: number of an instance's last flush.
    pub(crate) fn applied(&self, instance: &str) -> String {
        format!("{}:applied:{instance}", self.tagged)
    }
}

impl PoolKeys {
    /// Hash: lease → "ms:endpoint", of one holder.
    pub(crate) fn leases(&self, holder: &HolderId) -> String {
        format!("{}:leases:{holder}", self.tagged)
    }
}

/// Returns `route|cluster`. Percent-encodes characters that could end a hash tag or look like the separator.
pub(crate) fn encode_pool(pool: &PoolId) -> String {
    let mut out = String::with_capacity(pool.route().len() + pool.cluster().len() + 1);
    encode(pool.route(), &mut out);
    out.push('|');
    encode(pool.cluster(), &mut out);
    out
}

/// The inverse of [`encode_pool`]. Returns `None` for any other text.
pub(crate) fn decode_pool(text: &str) -> Option<PoolId> {
    let (route, cluster) = text.split_once('|')?;
    PoolId::new(&decode(route)?, &decode(cluster)?).ok()
}

/// Returns the field of a drain: `route|cluster|endpoint`, or `||endpoint` for every pool, as no cluster's name is
/// empty.
pub(crate) fn drain_field(endpoint: &str, pool: Option<&PoolId>) -> String {
    let pool = pool.map_or_else(|| "|".to_owned(), encode_pool);
    format!("{pool}|{endpoint}")
}

/// The inverse of [`drain_field`]. Returns `None` for any other text.
pub(crate) fn drain_of_field(field: &str) -> Option<(String, Option<PoolId>)> {
    if let Some(endpoint) = field.strip_prefix("||") {
        return Some((endpoint.to_owned(), None));
    }
    let end = field.match_indices('|').nth(1)?.0;
    Some((field[end + 1..].to_owned(), Some(decode_pool(&field[..end])?)))
}

fn encode(name: &str, out: &mut String) {
    for c in name.chars() {
        if matches!(c, '%' | '|' | '{' | '}') || c.is_whitespace() {
            for byte in c.to_string().bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_names_survive_encoding_and_stay_apart() {
        let names = [
            ("", "llm"),
            ("r", "outbound|80||svc.ns.svc.cluster.local"),
            ("r|outbound", "80"),
            ("a{b}", "c%7C"),
            ("ü x", "{}"),
        ];
        let mut seen = std::collections::HashSet::new();
        for (route, cluster) in names {
            let pool = PoolId::new(route, cluster).unwrap();
            let text = encode_pool(&pool);
            assert!(!text.contains(['{', '}', ' ']), "{text}");
            assert_eq!(decode_pool(&text), Some(pool));
            assert!(seen.insert(text));
        }
        assert_eq!(decode_pool("no-separator"), None);
        assert_eq!(decode_pool("a|%zz"), None);
    }

    #[test]
    fn fields_of_drains_survive() {
        let endpoints = ["10.0.0.1:80", "[::1]:80", "a|b", "||x"];
        let pools = [None, PoolId::new("", "outbound|80||x").ok(), PoolId::new("r|", "c%").ok()];
        for (endpoint, pool) in endpoints.iter().flat_map(|e| pools.iter().map(move |p| (e, p))) {
            let field = drain_field(endpoint, pool.as_ref());
            assert_eq!(drain_of_field(&field), Some(((*endpoint).to_owned(), pool.clone())), "{field}");
        }
        assert_eq!(drain_field("a:1", None), "||a:1");
        assert_eq!((drain_of_field("a:1"), drain_of_field("a|b")), (None, None));
    }

    #[test]
    fn keys_of_usage_share_a_tag_each() {
        let keys = Keys::new("prod");
        let day = keys.usage_day(Day::parse("2026-11-21").unwrap());
        assert_eq!(day.rows, "prod:ek2:{usage:2026-11-21}:rows");
        assert_eq!(day.applied("i"), "prod:ek2:{usage:2026-11-21}:applied:i");
        let part = keys.sessions(7);
        assert_eq!(part.last, "prod:ek2:{sessions:7}:last");
        assert_eq!(part.turns(&SessionKey::new("a|b}", "s 1")), "prod:ek2:{sessions:7}:turns:a%7Cb%7D|s%201");
    }

    #[test]
    fn keys_of_a_pool_share_its_tag() {
        let pool = |higress_table| Pool { id: PoolId::new("r", "c").unwrap(), higress_table };
        let keys = Keys::new("prod").pool(&pool(false));
        assert_eq!(keys.in_flight, "prod:ek2:{r|c}:in-flight");
        assert_eq!(keys.holders, "prod:ek2:{r|c}:holders");
        assert_eq!(keys.leases(&HolderId::new("h").unwrap()), "prod:ek2:{r|c}:leases:h");
        assert_eq!(Keys::new("").pool(&pool(true)).in_flight, "higress:global_least_request_table:r:c");
    }
}
