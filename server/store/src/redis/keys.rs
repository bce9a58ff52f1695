//! Builds every Redis key. All keys of one pool contain its hash tag, so that they hash to one slot of a Redis Cluster.
//! docs/redis-layout.md describes the layout.

use evenkeel_domain::{
    HolderId,
    activity::Resolution,
    limit::Bucket,
    usage::{Day, SessionKey},
};

use crate::{
    Pool,
    name_text::{encode, encode_pool},
};

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
    /// Hash: endpoint → unread prompt tokens.
    pub(crate) unread: String,
    /// Sorted set: endpoint of a large roster → its load.
    pub(crate) order: String,
    /// Sorted set: holder → deadline.
    pub(crate) holders: String,
    /// Stream: batches of placements.
    pub(crate) placements: String,
}

impl PoolKeys {
    /// Returns the keys with which nearly all scripts on a pool begin: see lua/fragments/order.lua.
    pub(crate) fn loads(&self) -> [&str; 3] {
        [&self.in_flight, &self.unread, &self.order]
    }
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

    /// Hash: a versioned map, such as `overrides` and `drains`.
    pub(crate) fn map(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// List: changes by administrators.
    pub(crate) fn changes(&self) -> String {
        format!("{}:changes", self.prefix)
    }

    /// Sorted set: sidecar → time in ms until which the sidecar counts as alive unless it announces itself again.
    pub(crate) fn sidecars(&self) -> String {
        format!("{}:sidecars", self.prefix)
    }

    /// Hash: secret and epoch of a holder.
    pub(crate) fn holder(&self, holder: &HolderId) -> String {
        format!("{}:holder:{holder}", self.prefix)
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
        PoolKeys {
            in_flight,
            unread: format!("{tagged}:unread"),
            order: format!("{tagged}:order"),
            holders: format!("{tagged}:holders"),
            placements: format!("{tagged}:placements"),
            tagged,
        }
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

#[cfg(test)]
mod tests {
    use evenkeel_domain::PoolId;

    use super::*;

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
