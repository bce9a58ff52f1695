//! The change log: the changes that administrators make. Each successful change is one line in the sidecar's log and
//! one record in the store, regardless of the API.

use std::{future::Future, sync::Arc};

use evenkeel_domain::{
    DomainError,
    page::{page_at, page_size_of, position},
};
use evenkeel_store::changes::{AdminChange, CHANGES_MAX, ChangeStore};
use evenkeel_telemetry::Metrics;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Maximum length of a text in a change, in bytes. Names are far shorter.
const TEXT_BYTES_MAX: usize = 2048;

/// Writes and reads the change log.
pub struct ChangeLog {
    store: Arc<dyn ChangeStore>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

impl ChangeLog {
    #[must_use]
    pub fn new(store: Arc<dyn ChangeStore>, tasks: TaskTracker, metrics: Arc<Metrics>) -> Self {
        Self { store, tasks, metrics }
    }

    /// Completes a change and its record, even if the caller stops waiting.
    ///
    /// # Errors
    /// The errors of `change`.
    pub async fn run_to_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, DomainError>> + Send + 'static,
    ) -> Result<T, DomainError> {
        self.tasks.spawn(change).await.unwrap_or(Err(DomainError::Stopped))
    }

    /// Records a change that was made. If writing to the store fails, the change remains and is only in the sidecar's
    /// log.
    pub async fn record(&self, change: AdminChange) {
        let change = cleaned(change);
        let AdminChange { who, what, target, before, after, note, .. } = &change;
        info!(target: "evenkeel::change_log", who, what, target, before, after, note, "changed");
        let id = format!("{:032x}", rand::random::<u128>());
        if let Err(error) = self.store.add_change(&id, &change).await {
            self.metrics.change_log_failures.inc();
            warn!(
                error = &error as &dyn std::error::Error,
                what,
                target,
                "a change was made but not written to the change log in the store: this line is its record"
            );
        }
    }

    /// Returns one page of the stored changes, newest first, and the token of the next page.
    ///
    /// # Errors
    /// If the size or the token is invalid or the store is unavailable.
    pub async fn list(
        &self,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<AdminChange>, String), DomainError> {
        let size = page_size_of(page_size)?;
        // One more than the page shows whether there is a next page.
        let most = position(page_token)?.saturating_add(size + 1).min(CHANGES_MAX);
        let changes = self.store.changes(most).await.map_err(DomainError::store("reading changes"))?;
        page_at(changes, size, page_token)
    }
}

/// Replaces control characters, which separate the texts in the store. Truncates long texts.
fn cleaned(mut change: AdminChange) -> AdminChange {
    let AdminChange { who, what, target, before, after, note, .. } = &mut change;
    for text in [who, what, target, before, after, note] {
        if text.chars().any(char::is_control) {
            *text = text.replace(char::is_control, " ");
        }
        let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
    change
}

#[cfg(test)]
pub(crate) mod tests {
    use async_trait::async_trait;
    use evenkeel_domain::StoreError;
    use evenkeel_store::memory::MemoryChanges;

    use super::*;

    /// Returns an empty change log in memory.
    pub(crate) fn change_log() -> Arc<ChangeLog> {
        let metrics = Metrics::new().unwrap();
        Arc::new(ChangeLog::new(Arc::new(MemoryChanges::default()), TaskTracker::new(), metrics))
    }

    struct UnavailableStore;

    #[async_trait]
    impl ChangeStore for UnavailableStore {
        async fn add_change(&self, _: &str, _: &AdminChange) -> Result<(), StoreError> {
            Err(StoreError::Unavailable("away".into()))
        }

        async fn changes(&self, _: usize) -> Result<Vec<AdminChange>, StoreError> {
            Err(StoreError::Unavailable("away".into()))
        }
    }

    #[tokio::test]
    async fn texts_hold_no_control_characters_and_are_bounded() {
        let log = change_log();
        let note = format!("{}ü", "n".repeat(TEXT_BYTES_MAX - 1));
        log.record(AdminChange { target: "a\nb\u{7f}".into(), note, ..AdminChange::default() }).await;
        let kept = &log.list(0, "").await.unwrap().0[0];
        assert_eq!((&*kept.target, kept.note.len()), ("a b ", TEXT_BYTES_MAX - 1));
        assert!(log.list(1001, "").await.is_err());
    }

    #[tokio::test]
    async fn a_change_is_made_and_recorded_after_the_caller_has_gone() {
        let log = change_log();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let inner = Arc::clone(&log);
        let mut call = Box::pin(log.run_to_end(async move {
            let _ = wait.await;
            inner.record(AdminChange { what: "quota.set".into(), ..AdminChange::default() }).await;
            Ok(())
        }));
        assert!(futures::poll!(&mut call).is_pending());
        drop(call);
        go.send(()).unwrap();
        log.tasks.close();
        log.tasks.wait().await;
        assert_eq!(log.list(0, "").await.unwrap().0[0].what, "quota.set");
    }

    #[tokio::test]
    async fn a_failed_write_is_counted() {
        let metrics = Metrics::new().unwrap();
        let log = ChangeLog::new(Arc::new(UnavailableStore), TaskTracker::new(), Arc::clone(&metrics));
        log.record(AdminChange::default()).await;
        assert_eq!(metrics.change_log_failures.get(), 1);
        assert!(log.list(0, "").await.is_err());
    }
}
