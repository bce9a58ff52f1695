//! Records of holders in this process's memory.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use evenkeel_domain::{HolderId, StoreError, clock::unix_ms};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::holders::{Epoch, HolderRecord, HolderStore, Secret};

/// How long a record remains after its last claim, as in Redis.
const KEPT: Duration = Duration::from_secs(3600);
/// Number of records at which a new record also removes expired records.
const PURGED_FROM: usize = 1024;

#[derive(Default)]
pub struct MemoryHolders {
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    by_holder: HashMap<HolderId, (HolderRecord, Instant)>,
    /// Number of records after the last purge.
    after_purge: usize,
}

impl Records {
    /// Removes expired records whenever the number of records has doubled.
    fn purge(&mut self, now: Instant) {
        if self.by_holder.len() >= PURGED_FROM.max(2 * self.after_purge) {
            self.by_holder.retain(|_, (_, expires)| *expires > now);
            self.after_purge = self.by_holder.len();
        }
    }
}

#[async_trait]
impl HolderStore for MemoryHolders {
    async fn claim(
        &self,
        holder: &HolderId,
        secret: &Secret,
        epoch: Epoch,
    ) -> Result<HolderRecord, StoreError> {
        let now = Instant::now();
        let mut records = self.records.lock();
        let known = records.by_holder.get(holder).filter(|(_, expires)| *expires > now);
        let record = known.map_or(HolderRecord { secret: *secret, epoch: 0 }, |(record, _)| *record);
        if record.secret != *secret {
            return Ok(record);
        }
        let least = match epoch {
            Epoch::Next => (record.epoch + 1).max(unix_ms() * 1000),
            Epoch::AtLeast(epoch) => epoch,
        };
        let record = HolderRecord { epoch: record.epoch.max(least), ..record };
        records.purge(now);
        records.by_holder.insert(holder.clone(), (record, now + KEPT));
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_record_expires_an_hour_after_its_last_claim() {
        let (store, holder) = (MemoryHolders::default(), HolderId::new("h").unwrap());
        let (one, other) = (Secret::new([1; 16]), Secret::new([2; 16]));
        let secret_after = async |wait: u64, secret: &Secret| {
            tokio::time::advance(Duration::from_secs(wait)).await;
            store.claim(&holder, secret, Epoch::AtLeast(0)).await.unwrap().secret
        };
        assert_eq!(secret_after(0, &one).await, one);
        assert_eq!(secret_after(3599, &one).await, one);
        assert_eq!(secret_after(3599, &other).await, one, "a wrong secret does not renew the record");
        assert_eq!(secret_after(1, &other).await, other);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_records_are_removed() {
        let (store, secret) = (MemoryHolders::default(), Secret::new([1; 16]));
        for hour in 0..3 {
            for number in 0..PURGED_FROM {
                let holder = HolderId::new(&format!("h-{hour}-{number}")).unwrap();
                store.claim(&holder, &secret, Epoch::Next).await.unwrap();
            }
            tokio::time::advance(KEPT).await;
        }
        let records = store.records.lock().by_holder.len();
        assert!(records <= 2 * PURGED_FROM, "{records}");
    }
}
