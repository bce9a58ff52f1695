//! Drains in Redis, in a hash with a version, and administrators' changes, in a list.

use async_trait::async_trait;
use evenkeel_domain::{PoolId, StoreError};

use super::{
    RedisStore,
    keys::{drain_field, drain_of_field},
    link::Way,
    script::{CHANGE, Call},
    versioned::{Entry, Put},
};
use crate::{
    changes::{AdminChange, CHANGES_MAX, ChangeStore},
    drains::{DRAINS_MAX, Drain, DrainList, DrainStore, PutDrain},
};

#[async_trait]
impl DrainStore for RedisStore {
    async fn put_drain(&self, new: &Drain) -> Result<Option<PutDrain>, StoreError> {
        let entry = Entry {
            name: &drain_field(&new.endpoint, new.pool.as_ref()),
            end_ms: 0,
            rest: &format!("{}\n{}", new.who, new.note),
        };
        let put = self.put_versioned(&self.keys().drains(), entry, DRAINS_MAX).await?;
        Ok(put.map(|Put { at_ms, before }| PutDrain { at_ms, before }))
    }

    async fn delete_drain(&self, endpoint: &str, pool: Option<&PoolId>) -> Result<bool, StoreError> {
        self.remove_versioned(&self.keys().drains(), &drain_field(endpoint, pool)).await
    }

    async fn drains(&self) -> Result<DrainList, StoreError> {
        let (version, drains) = self.versioned("drains", &self.keys().drains(), parse_drain).await?;
        let mut list = DrainList { version, drains };
        list.drains.sort_by(|a, b| (&a.endpoint, &a.pool).cmp(&(&b.endpoint, &b.pool)));
        Ok(list)
    }

    async fn drains_version(&self) -> Result<u64, StoreError> {
        self.version("drains", &self.keys().drains()).await
    }
}

#[async_trait]
impl ChangeStore for RedisStore {
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError> {
        let AdminChange { who, what, target, before, after, note, .. } = change;
        let mut call = Call::new(&CHANGE, &[&self.keys().changes()]);
        for text in [id, what, who, target, before, after, note] {
            call.arg(text);
        }
        call.number(CHANGES_MAX);
        self.shared.client.run(&call, Way::Beside).await.map(drop)
    }

    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError> {
        let Some(last) = most.checked_sub(1) else { return Ok(Vec::new()) };
        let range =
            self.command("changes", redis::cmd("LRANGE").arg(self.keys().changes()).arg(0).arg(last)).await?;
        let entries: Vec<String> =
            redis::from_redis_value(range).map_err(|e| corrupt("changes", e.to_string()))?;
        // Skips changes that another version of Evenkeel wrote in another layout.
        Ok(entries.iter().filter_map(|entry| parse_change(entry)).collect())
    }
}

fn corrupt(script: &'static str, detail: String) -> StoreError {
    StoreError::Corrupt { script, detail }
}

fn parse_drain(field: &str, value: &str) -> Option<Drain> {
    let (endpoint, pool) = drain_of_field(field)?;
    let mut lines = value.splitn(4, '\n');
    let at_ms = lines.next()?.parse().ok()?;
    let _end_ms: u64 = lines.next()?.parse().ok()?;
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
        let drain = parse_drain("r|c|10.0.0.1:80", "7\n0\nops\n").unwrap();
        assert_eq!((&*drain.endpoint, drain.pool), ("10.0.0.1:80", PoolId::new("r", "c").ok()));
        assert_eq!((drain.at_ms, &*drain.who, &*drain.note), (7, "ops", ""));
        assert_eq!(parse_drain("r|c|10.0.0.1:80", "7\n0\nops"), None);
        assert_eq!(parse_drain("10.0.0.1:80", "7\n0\nops\n"), None);
    }
}
