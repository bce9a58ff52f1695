//! Versioned records: lists that administrators change and every sidecar applies, such as drains and overrides.
//!
//! Each sidecar has the whole list in memory. It polls the version four times per KeepAlive interval, and reads the
//! list when the version has changed. While the store is unavailable, the list that was last read remains active.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::{DomainError, StoreError};
use evenkeel_store::{
    changes::AdminChange,
    versioned::{Record, VersionedMap},
};
use tokio::{
    sync::{Mutex, Notify},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::change_log::ChangeLog;

/// One kind of records, and how to apply them.
pub(crate) trait RecordList: Send + Sync + 'static {
    /// The name of the records in logs, in the plural.
    const NAME: &'static str;
    type Record: Record + Send;

    /// Applies the records at this sidecar, in place of the previous records.
    fn apply(&self, records: Vec<Self::Record>);
}

/// Applies one list of records at this sidecar, and changes the list.
pub(crate) struct Versioned<L> {
    pub(crate) map: Arc<dyn VersionedMap>,
    list: L,
    pub(crate) change_log: Arc<ChangeLog>,
    /// The applied version. Locked during a read, so that an older list never replaces a newer list.
    version: Mutex<Option<u64>>,
    changed: Notify,
}

impl<L: RecordList> Versioned<L> {
    /// Creates the list. No records are active until the first [`Self::refresh`].
    pub(crate) fn new(map: Arc<dyn VersionedMap>, list: L, change_log: Arc<ChangeLog>) -> Arc<Self> {
        Arc::new(Self { map, list, change_log, version: Mutex::default(), changed: Notify::new() })
    }

    /// Runs `change`, which writes to the store. Then logs the change and applies it at this sidecar. Completes even if
    /// the caller stops waiting.
    ///
    /// # Errors
    /// The errors of `change`. If only the refresh fails, [`Self::run`] repeats the refresh.
    pub(crate) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl Future<Output = Result<(T, AdminChange), DomainError>> + Send + 'static,
    ) -> Result<T, DomainError> {
        let this = Arc::clone(self);
        let all = async move {
            let (value, change) = change.await?;
            this.change_log.record(change).await;
            if this.refresh().await.is_err() {
                this.changed.notify_one();
            }
            Ok(value)
        };
        self.change_log.run_to_end(all).await
    }

    /// Reads all records and their version. Skips a record in a layout that this version does not know, because it must
    /// not prevent the others from being read.
    pub(crate) async fn read(&self) -> Result<(u64, Vec<L::Record>), StoreError> {
        let (version, entries) = self.map.read().await?;
        Ok((version, entries.iter().filter_map(L::Record::read).collect()))
    }

    /// Reads the records if their version has changed, and applies them.
    ///
    /// # Errors
    /// If the store is unavailable. The previous records then remain active.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let mut version = self.version.lock().await;
        if *version != Some(self.map.version().await?) {
            let (read, records) = self.read().await?;
            self.list.apply(records);
            *version = Some(read);
        }
        Ok(())
    }

    /// Refreshes at once, four times per `keep_alive_interval`, and after a change whose own refresh failed, until
    /// `end`. Logs the first failure and the recovery.
    pub(crate) async fn run(&self, keep_alive_interval: Duration, end: &CancellationToken) {
        let mut tick = tokio::time::interval(keep_alive_interval / 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.changed.notified() => {}
                () = end.cancelled() => return,
            }
            let refreshed = tokio::select! {
                refreshed = self.refresh() => refreshed,
                () = end.cancelled() => return,
            };
            match (std::mem::replace(&mut failing, refreshed.is_err()), refreshed) {
                (false, Err(error)) => {
                    warn!(%error, "{} cannot be read: the last ones read stay in force", L::NAME);
                }
                (true, Ok(())) => info!("{} can be read again", L::NAME),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use evenkeel_store::versioned::{Entry, Put};
    use parking_lot::Mutex as SyncMutex;

    use super::*;
    use crate::change_log::tests::change_log;

    /// Counts how often the version is read. The reads whose numbers are in `failing` fail.
    #[derive(Default)]
    struct Numbers {
        reads: AtomicU64,
        failing: Vec<u64>,
        version: Arc<AtomicU64>,
        applied: SyncMutex<Vec<Number>>,
        hangs: bool,
    }

    #[derive(Debug, PartialEq)]
    struct Number(u64);

    impl Record for Number {
        fn entry(&self) -> Entry {
            Entry { at_ms: self.0, ..Entry::default() }
        }

        fn read(entry: &Entry) -> Option<Self> {
            Some(Self(entry.at_ms))
        }
    }

    impl RecordList for Arc<Numbers> {
        type Record = Number;

        const NAME: &'static str = "numbers";

        fn apply(&self, records: Vec<Number>) {
            *self.applied.lock() = records;
        }
    }

    #[async_trait]
    impl VersionedMap for Numbers {
        async fn put(&self, _new: &Entry) -> Result<Option<Put>, StoreError> {
            Ok(None)
        }

        async fn remove(&self, _name: &str) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn version(&self) -> Result<u64, StoreError> {
            let read = self.reads.fetch_add(1, Ordering::Relaxed);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if self.failing.contains(&read) {
                return Err(StoreError::Unavailable("away".to_owned()));
            }
            Ok(self.version.load(Ordering::Relaxed))
        }

        async fn read(&self) -> Result<(u64, Vec<Entry>), StoreError> {
            let version = self.version.load(Ordering::Relaxed);
            Ok((version, vec![Number(version).entry()]))
        }
    }

    fn versioned(numbers: &Arc<Numbers>) -> Arc<Versioned<Arc<Numbers>>> {
        let map: Arc<dyn VersionedMap> = numbers.clone();
        Versioned::new(map, Arc::clone(numbers), change_log())
    }

    async fn write(version: Arc<AtomicU64>) -> Result<((), AdminChange), DomainError> {
        version.fetch_add(1, Ordering::Relaxed);
        Ok(((), AdminChange::default()))
    }

    /// Guards against a task that stops when the store fails, polls too often or outlives its token.
    #[tokio::test(start_paused = true)]
    async fn the_task_refreshes_four_times_an_interval_until_the_end() {
        let numbers = Arc::new(Numbers { failing: vec![1], ..Numbers::default() });
        let (versioned, end) = (versioned(&numbers), CancellationToken::new());
        let story = async {
            tokio::time::sleep(Duration::from_millis(3100)).await;
            assert_eq!(numbers.reads.load(Ordering::Relaxed), 4, "at once and every second");
            end.cancel();
        };
        tokio::join!(versioned.run(Duration::from_secs(4), &end), story);
        assert_eq!(numbers.reads.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_change_is_applied_and_logged_when_the_call_returns() {
        let numbers = Arc::new(Numbers::default());
        let versioned = versioned(&numbers);
        versioned.change(write(Arc::clone(&numbers.version))).await.unwrap();
        assert_eq!(*numbers.applied.lock(), [Number(1)]);
        assert_eq!(versioned.change_log.list(0, "").await.unwrap().0.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_repeats_the_refresh_of_a_change_at_once() {
        let numbers = Arc::new(Numbers { failing: vec![1], ..Numbers::default() });
        let (versioned, end) = (versioned(&numbers), CancellationToken::new());
        let story = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            versioned.change(write(Arc::clone(&numbers.version))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(*numbers.applied.lock(), [Number(1)]);
            assert_eq!(numbers.reads.load(Ordering::Relaxed), 3, "at the start, after the change, and again");
            end.cancel();
        };
        tokio::join!(versioned.run(Duration::from_secs(3600), &end), story);
    }

    /// Guards against a shutdown that waits for a store that does not answer.
    #[tokio::test(start_paused = true)]
    async fn the_task_ends_during_a_call() {
        let numbers = Arc::new(Numbers { hangs: true, ..Numbers::default() });
        let (versioned, end) = (versioned(&numbers), CancellationToken::new());
        let story = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            end.cancel();
        };
        let both = async { tokio::join!(versioned.run(Duration::from_secs(4), &end), story) };
        tokio::time::timeout(Duration::from_secs(1), both).await.unwrap();
    }
}
