//! Versioned maps in this process's memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use evenkeel_domain::{StoreError, clock::unix_ms};
use parking_lot::Mutex;

use crate::versioned::{Entry, Put, VersionedMap};

pub struct MemoryMap {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: BTreeMap<String, Entry>,
    version: u64,
}

impl MemoryMap {
    /// Creates an empty map for at most `most` records.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }
}

#[async_trait]
impl VersionedMap for MemoryMap {
    async fn put(&self, new: &Entry) -> Result<Option<Put>, StoreError> {
        let at_ms = unix_ms();
        let mut kept = self.kept.lock();
        let before = kept.entries.contains_key(&new.name);
        if !before && kept.entries.len() >= self.most {
            kept.entries.retain(|_, old| old.expires_at_ms == 0 || old.expires_at_ms > at_ms);
            if kept.entries.len() >= self.most {
                return Ok(None);
            }
        }
        kept.entries.insert(new.name.clone(), Entry { at_ms, ..new.clone() });
        kept.version += 1;
        Ok(Some(Put { at_ms, before }))
    }

    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let mut kept = self.kept.lock();
        let there = kept.entries.remove(name).is_some();
        kept.version += u64::from(there);
        Ok(there)
    }

    async fn version(&self) -> Result<u64, StoreError> {
        Ok(self.kept.lock().version)
    }

    async fn read(&self) -> Result<(u64, Vec<Entry>), StoreError> {
        let kept = self.kept.lock();
        Ok((kept.version, kept.entries.values().cloned().collect()))
    }
}
