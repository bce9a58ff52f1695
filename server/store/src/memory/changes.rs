//! The change log in this process's memory.

use std::collections::VecDeque;

use async_trait::async_trait;
use evenkeel_domain::{StoreError, clock::unix_ms};
use parking_lot::Mutex;

use crate::changes::{AdminChange, CHANGES_MAX, ChangeStore};

#[derive(Default)]
pub struct MemoryChanges {
    /// Ids and changes, newest first.
    kept: Mutex<VecDeque<(String, AdminChange)>>,
}

#[async_trait]
impl ChangeStore for MemoryChanges {
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        if kept.iter().all(|(known, _)| known != id) {
            kept.push_front((id.to_owned(), AdminChange { at_ms: unix_ms(), ..change.clone() }));
            kept.truncate(CHANGES_MAX);
        }
        Ok(())
    }

    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError> {
        Ok(self.kept.lock().iter().take(most).map(|(_, change)| change.clone()).collect())
    }
}
