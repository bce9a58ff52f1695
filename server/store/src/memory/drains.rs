//! Drains in this process's memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use evenkeel_domain::{PoolId, StoreError, clock::unix_ms};
use parking_lot::Mutex;

use crate::drains::{DRAINS_MAX, Drain, DrainList, DrainStore, PutDrain};

#[derive(Default)]
pub struct MemoryDrains {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By endpoint and pool.
    drains: BTreeMap<(String, Option<PoolId>), Drain>,
    version: u64,
}

#[async_trait]
impl DrainStore for MemoryDrains {
    async fn put_drain(&self, new: &Drain) -> Result<Option<PutDrain>, StoreError> {
        let at_ms = unix_ms();
        let mut kept = self.kept.lock();
        let place = (new.endpoint.clone(), new.pool.clone());
        let before = kept.drains.contains_key(&place);
        if !before && kept.drains.len() >= DRAINS_MAX {
            return Ok(None);
        }
        kept.drains.insert(place, Drain { at_ms, ..new.clone() });
        kept.version += 1;
        Ok(Some(PutDrain { at_ms, before }))
    }

    async fn delete_drain(&self, endpoint: &str, pool: Option<&PoolId>) -> Result<bool, StoreError> {
        let mut kept = self.kept.lock();
        let there = kept.drains.remove(&(endpoint.to_owned(), pool.cloned())).is_some();
        kept.version += u64::from(there);
        Ok(there)
    }

    async fn drains(&self) -> Result<DrainList, StoreError> {
        let kept = self.kept.lock();
        Ok(DrainList { version: kept.version, drains: kept.drains.values().cloned().collect() })
    }

    async fn drains_version(&self) -> Result<u64, StoreError> {
        Ok(self.kept.lock().version)
    }
}
