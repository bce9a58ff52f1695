//! A cached value from the store, so that many callers cost one call of the store.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::StoreError;
use tokio::{sync::Mutex, time::Instant};

/// How long a cached value serves further callers.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// The last value that was read, or the error of reading it. Callers that arrive during a read wait for that read.
pub(super) struct Cached<T>(Mutex<Option<Reading<T>>>);

struct Reading<T> {
    at: Instant,
    value: Result<Arc<T>, StoreError>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Cached<T> {
    /// Returns the cached value if it is younger than `fresh`, else the result of `read`. An error is cached for
    /// [`FRESH`].
    pub(super) async fn get_or_read(
        &self,
        fresh: Duration,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Arc<T>, StoreError> {
        let mut cached = self.0.lock().await;
        if let Some(Reading { at, value }) = &*cached
            && at.elapsed() < if value.is_ok() { fresh } else { FRESH }
        {
            return value.clone();
        }
        let value = read.await.map(Arc::new);
        *cached = Some(Reading { at: Instant::now(), value: value.clone() });
        value
    }

    /// Whether the value is at least `age` old and no caller is reading it.
    pub(super) fn is_stale(&self, age: Duration) -> bool {
        let cached = self.0.try_lock();
        cached.is_ok_and(|cached| cached.as_ref().is_none_or(|reading| reading.at.elapsed() >= age))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_one_reading() {
        let (cached, reads) = (Cached::default(), AtomicU64::new(0));
        let read = || async {
            tokio::task::yield_now().await;
            Ok(reads.fetch_add(1, Ordering::Relaxed))
        };
        let all = futures::future::join_all((0..50).map(|_| cached.get_or_read(FRESH, read()))).await;
        assert!(all.into_iter().all(|value| *value.unwrap() == 0));
        let failing: Cached<()> = Cached::default();
        let fail = || async {
            reads.fetch_add(1, Ordering::Relaxed);
            Err(StoreError::Timeout(1))
        };
        let all = (0..50).map(|_| failing.get_or_read(Duration::from_secs(30), fail()));
        assert!(futures::future::join_all(all).await.iter().all(Result::is_err));
        assert_eq!(reads.load(Ordering::Relaxed), 2, "a failure is shared too");
    }
}
