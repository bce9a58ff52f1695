//! Versioned maps in Redis: each is a hash whose field `''` holds the version.

use std::sync::{Arc, Once};

use async_trait::async_trait;
use evenkeel_domain::StoreError;
use redis::FromRedisValue;
use tracing::warn;

use super::{RedisStore, call::Call, link::Way, script::VERSIONED};
use crate::versioned::{Entry, Put, VersionedMap};

/// A versioned map that all sidecars share.
pub struct RedisMap {
    store: Arc<RedisStore>,
    /// The name of the map in metrics and errors.
    operation: &'static str,
    /// Hash: name → lines: ms when the record was put, when it expires, value.
    key: String,
    most: usize,
}

impl RedisStore {
    /// Returns the map of this name, for at most `most` records.
    #[must_use]
    pub fn map(self: &Arc<Self>, name: &'static str, most: usize) -> RedisMap {
        RedisMap { store: Arc::clone(self), operation: name, key: self.keys().map(name), most }
    }
}

/// Limits the warning to one per process, because sidecars read the hash after every change.
static OTHER_LAYOUT: Once = Once::new();

#[async_trait]
impl VersionedMap for RedisMap {
    async fn put(&self, new: &Entry) -> Result<Option<Put>, StoreError> {
        let mut call = Call::new(&VERSIONED, &[&self.key]);
        call.arg(&new.name).arg("put").number(new.expires_at_ms).arg(&new.value).number(self.most);
        let mut reply = self.store.shared.client.run(&call, Way::Beside).await?;
        let (done, at_ms) = (reply.count()? == 1, reply.count()?);
        Ok(done.then_some(Put { at_ms, before: reply.count()? == 1 }))
    }

    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let mut call = Call::new(&VERSIONED, &[&self.key]);
        call.arg(name).arg("remove").arg("0").arg("").arg("0");
        Ok(self.store.shared.client.run(&call, Way::Beside).await?.count()? == 1)
    }

    async fn version(&self) -> Result<u64, StoreError> {
        let value = self.store.command(self.operation, redis::cmd("HGET").arg(&self.key).arg("")).await?;
        Ok(from_value::<Option<u64>>(self.operation, value)?.unwrap_or(0))
    }

    async fn read(&self) -> Result<(u64, Vec<Entry>), StoreError> {
        let operation = self.operation;
        let all = self.store.command(operation, redis::cmd("HGETALL").arg(&self.key)).await?;
        let pairs: Vec<(String, String)> = from_value(operation, all)?;
        let (mut version, mut entries) = (0, Vec::with_capacity(pairs.len()));
        for (name, value) in pairs {
            if name.is_empty() {
                version = value.parse().unwrap_or(0);
            } else if let Some(entry) = parse(&name, &value) {
                entries.push(entry);
            } else {
                OTHER_LAYOUT.call_once(|| {
                    warn!(operation, name, "skipped an entry in a layout that this version does not know");
                });
            }
        }
        Ok((version, entries))
    }
}

fn parse(name: &str, text: &str) -> Option<Entry> {
    let mut lines = text.splitn(3, '\n');
    let (at_ms, expires_at_ms) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    Some(Entry { name: name.to_owned(), at_ms, expires_at_ms, value: lines.next()?.to_owned() })
}

fn from_value<T: FromRedisValue>(operation: &'static str, value: redis::Value) -> Result<T, StoreError> {
    redis::from_redis_value(value)
        .map_err(|e| StoreError::Corrupt { script: operation, detail: e.to_string() })
}
