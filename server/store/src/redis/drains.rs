//! Drains and changes in Redis: a hash with a version, as overrides are kept, and a list.

use std::sync::Once;

use async_trait::async_trait;
use evenkeel_domain::{PoolId, StoreError};
use tracing::warn;

use super::{
    RedisStore,
    keys::{drain_field, drain_of_field},
    link::Way,
    script::{CHANGE, Call, DRAIN},
};
use crate::{
    changes::{AdminChange, CHANGES_MAX, ChangeStore},
    drains::{DRAINS_MAX, Drain, DrainList, DrainStore, PutDrain},
};

impl RedisStore {
    async fn drain(&self, field: &str, action: &str, who: &str, note: &str) -> Result<Done, StoreError> {
        let mut call = Call::new(&DRAIN, &[&self.keys.drains()]);
        call.arg(field).arg(action).arg(who).arg(note).number(DRAINS_MAX);
        let mut reply = self.shared.run(&call, Way::Beside).await?;
        let (done, at_ms) = (reply.count()? == 1, reply.count()?);
        Ok(done.then_some(PutDrain { at_ms, before: reply.count()? == 1 }))
    }
}

type Done = Option<PutDrain>;

/// Told once in the life of a process: the list is read again with every change.
static OTHER_LAYOUT: Once = Once::new();

#[async_trait]
impl DrainStore for RedisStore {
    async fn put_drain(&self, new: &Drain) -> Result<Option<PutDrain>, StoreError> {
        let field = drain_field(&new.endpoint, new.pool.as_ref());
        self.drain(&field, "drain", &new.who, &new.note).await
    }

    async fn delete_drain(&self, endpoint: &str, pool: Option<&PoolId>) -> Result<bool, StoreError> {
        Ok(self.drain(&drain_field(endpoint, pool), "undrain", "", "").await?.is_some())
    }

    async fn drains(&self) -> Result<DrainList, StoreError> {
        let all = self.command("drains", redis::cmd("HGETALL").arg(self.keys.drains())).await?;
        let pairs: Vec<(String, String)> =
            redis::from_redis_value(all).map_err(|e| corrupt("drains", e.to_string()))?;
        let mut list = DrainList::default();
        for (field, value) in &pairs {
            if field.is_empty() {
                list.version = value.parse().unwrap_or(0);
            } else if let Some(drain) = parse_drain(field, value) {
                list.drains.push(drain);
            } else {
                // One that another release wrote must not hide the rest: without a list, no drain is in force.
                OTHER_LAYOUT.call_once(|| {
                    warn!(field, "drains of another layout are passed over, as other releases write them");
                });
            }
        }
        list.drains.sort_by(|a, b| (&a.endpoint, &a.pool).cmp(&(&b.endpoint, &b.pool)));
        Ok(list)
    }

    async fn drains_version(&self) -> Result<u64, StoreError> {
        let value = self.command("drains", redis::cmd("HGET").arg(self.keys.drains()).arg("")).await?;
        let version: Option<u64> =
            redis::from_redis_value(value).map_err(|e| corrupt("drains", e.to_string()))?;
        Ok(version.unwrap_or(0))
    }
}

#[async_trait]
impl ChangeStore for RedisStore {
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError> {
        let AdminChange { who, what, target, before, after, note, .. } = change;
        let mut call = Call::new(&CHANGE, &[&self.keys.changes()]);
        for text in [id, what, who, target, before, after, note] {
            call.arg(text);
        }
        call.number(CHANGES_MAX);
        self.shared.run(&call, Way::Beside).await.map(drop)
    }

    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError> {
        let Some(last) = most.checked_sub(1) else { return Ok(Vec::new()) };
        let range =
            self.command("changes", redis::cmd("LRANGE").arg(self.keys.changes()).arg(0).arg(last)).await?;
        let entries: Vec<String> =
            redis::from_redis_value(range).map_err(|e| corrupt("changes", e.to_string()))?;
        // Those that other releases write in another layout are passed over.
        Ok(entries.iter().filter_map(|entry| parse_change(entry)).collect())
    }
}

fn corrupt(script: &'static str, detail: String) -> StoreError {
    StoreError::Corrupt { script, detail }
}

fn parse_drain(field: &str, value: &str) -> Option<Drain> {
    let (endpoint, pool) = drain_of_field(field)?;
    let mut lines = value.splitn(3, '\n');
    let at_ms = lines.next()?.parse().ok()?;
    Some(Drain { endpoint, pool, at_ms, who: lines.next()?.to_owned(), note: lines.next()?.to_owned() })
}

fn parse_change(entry: &str) -> Option<AdminChange> {
    let mut lines = entry.splitn(8, '\n').skip(1);
    let at_ms = lines.next()?.parse().ok()?;
    let mut next = || lines.next().map(str::to_owned);
    let (what, who, target) = (next()?, next()?, next()?);
    Some(AdminChange { at_ms, who, what, target, before: next()?, after: next()?, note: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let change = parse_change("id\n5\nquota.set\nops\ndaily/alice\n1\n2\na note").unwrap();
        assert_eq!((change.at_ms, &*change.what, &*change.who), (5, "quota.set", "ops"));
        assert_eq!((&*change.target, &*change.before, &*change.after), ("daily/alice", "1", "2"));
        assert_eq!(change.note, "a note");
        assert_eq!(parse_change("id\n5\nquota.set\nops\ndaily/alice\n1\n2"), None);
        let drain = parse_drain("r|c|10.0.0.1:80", "7\nops\n").unwrap();
        assert_eq!((&*drain.endpoint, drain.pool), ("10.0.0.1:80", PoolId::new("r", "c").ok()));
        assert_eq!((drain.at_ms, &*drain.who, &*drain.note), (7, "ops", ""));
        assert_eq!(parse_drain("r|c|10.0.0.1:80", "7\nops"), None);
        assert_eq!(parse_drain("10.0.0.1:80", "7\nops\n"), None);
    }
}
