//! Hashes with a version: overrides and drains. Sidecars poll the version, and read the hash when the version has
//! changed.

use std::sync::Once;

use evenkeel_domain::StoreError;
use redis::FromRedisValue;
use tracing::warn;

use super::{
    RedisStore,
    link::Way,
    script::{Call, VERSIONED},
};

/// An entry to write.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) end_ms: u64,
    pub(super) rest: &'a str,
}

/// The result of writing an entry.
pub(super) struct Put {
    pub(super) at_ms: u64,
    /// Whether it replaced an entry of this name.
    pub(super) before: bool,
}

/// Limits the warning to one per process, because sidecars read the hash after every change.
static OTHER_LAYOUT: Once = Once::new();

impl RedisStore {
    /// Writes an entry. Returns `None` if the hash has `most` other entries.
    pub(super) async fn put_versioned(
        &self,
        key: &str,
        entry: Entry<'_>,
        most: usize,
    ) -> Result<Option<Put>, StoreError> {
        let mut call = Call::new(&VERSIONED, &[key]);
        call.arg(entry.name).arg("put").number(entry.end_ms).arg(entry.rest).number(most);
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        let (done, at_ms) = (reply.count()? == 1, reply.count()?);
        Ok(done.then_some(Put { at_ms, before: reply.count()? == 1 }))
    }

    /// Removes an entry. Returns false if there is none.
    pub(super) async fn remove_versioned(&self, key: &str, name: &str) -> Result<bool, StoreError> {
        let mut call = Call::new(&VERSIONED, &[key]);
        call.arg(name).arg("remove").arg("0").arg("").arg("0");
        Ok(self.shared.client.run(&call, Way::Beside).await?.count()? == 1)
    }

    /// Returns the version and all entries.
    pub(super) async fn versioned<T>(
        &self,
        operation: &'static str,
        key: &str,
        parse: fn(&str, &str) -> Option<T>,
    ) -> Result<(u64, Vec<T>), StoreError> {
        let all = self.command(operation, redis::cmd("HGETALL").arg(key)).await?;
        let pairs: Vec<(String, String)> = from_value(operation, all)?;
        let (mut version, mut entries) = (0, Vec::with_capacity(pairs.len()));
        for (name, value) in &pairs {
            if name.is_empty() {
                version = value.parse().unwrap_or(0);
            } else if let Some(entry) = parse(name, value) {
                entries.push(entry);
            } else {
                // An entry that another version of Evenkeel wrote must not prevent the other entries from being read.
                OTHER_LAYOUT.call_once(|| {
                    warn!(operation, name, "skipped an entry in a layout that this version does not know");
                });
            }
        }
        Ok((version, entries))
    }

    /// Returns the version alone.
    pub(super) async fn version(&self, operation: &'static str, key: &str) -> Result<u64, StoreError> {
        let value = self.command(operation, redis::cmd("HGET").arg(key).arg("")).await?;
        Ok(from_value::<Option<u64>>(operation, value)?.unwrap_or(0))
    }
}

fn from_value<T: FromRedisValue>(operation: &'static str, value: redis::Value) -> Result<T, StoreError> {
    redis::from_redis_value(value)
        .map_err(|e| StoreError::Corrupt { script: operation, detail: e.to_string() })
}
