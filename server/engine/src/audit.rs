//! The account of what administrators change: one line of the log and one entry of a list in the store for each
//! change that succeeded, whichever door it came through.

use std::{future::Future, sync::Arc};

use evenkeel_domain::{DomainError, page::page_size_of};
use evenkeel_store::changes::{AdminChange, Changes};
use evenkeel_telemetry::Metrics;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Longest text of an entry, in bytes: names are far shorter.
const TEXT_BYTES_MAX: usize = 2048;

/// Writes the account, and reads it.
pub struct Audit {
    changes: Arc<dyn Changes>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Audit {
    /// Over this list.
    #[must_use]
    pub fn new(changes: Arc<dyn Changes>, tasks: TaskTracker, metrics: Arc<Metrics>) -> Self {
        Self { changes, tasks, metrics }
    }

    /// Makes a change, and what is to be written of it, to its end: also where nobody waits for the answer any more.
    ///
    /// # Errors
    /// Those of the change.
    pub async fn whole<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, DomainError>> + Send + 'static,
    ) -> Result<T, DomainError> {
        self.tasks.spawn(change).await.unwrap_or(Err(DomainError::Stopped))
    }

    /// Writes a change that was made. Where the list cannot be written the change stands, and the log has it.
    pub async fn record(&self, change: AdminChange) {
        let change = cleaned(change);
        let AdminChange { who, what, target, before, after, note, .. } = &change;
        info!(target: "evenkeel::audit", who, what, target, before, after, note, "changed");
        let id = format!("{:032x}", rand::random::<u128>());
        if let Err(error) = self.changes.add_change(&id, &change).await {
            self.metrics.change_log_failures.inc();
            warn!(
                error = &error as &dyn std::error::Error,
                what, target, "a change was made and is not in the list of changes: this log has it"
            );
        }
    }

    /// The last changes, newest first; 0 asks for 100.
    ///
    /// # Errors
    /// Where more than 1000 are asked for, or the store is away.
    pub async fn list(&self, page_size: u32) -> Result<Vec<AdminChange>, DomainError> {
        let most = page_size_of(page_size)?;
        self.changes.changes(most).await.map_err(DomainError::store("reading changes"))
    }
}

/// Without control characters, which separate the texts in the store, and in bounds.
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

    /// An account of its own, in memory.
    pub(crate) fn audit() -> Arc<Audit> {
        let metrics = Metrics::new().unwrap();
        Arc::new(Audit::new(Arc::new(MemoryChanges::default()), TaskTracker::new(), metrics))
    }

    struct Away;

    #[async_trait]
    impl Changes for Away {
        async fn add_change(&self, _: &str, _: &AdminChange) -> Result<(), StoreError> {
            Err(StoreError::Unavailable("away".into()))
        }

        async fn changes(&self, _: usize) -> Result<Vec<AdminChange>, StoreError> {
            Err(StoreError::Unavailable("away".into()))
        }
    }

    #[tokio::test]
    async fn entries_hold_no_control_characters_and_are_bounded() {
        let audit = audit();
        let note = format!("{}ü", "n".repeat(TEXT_BYTES_MAX - 1));
        audit.record(AdminChange { target: "a\nb\u{7f}".into(), note, ..AdminChange::default() }).await;
        let kept = &audit.list(0).await.unwrap()[0];
        assert_eq!((&*kept.target, kept.note.len()), ("a b ", TEXT_BYTES_MAX - 1));
        assert!(audit.list(1001).await.is_err());
    }

    #[tokio::test]
    async fn a_change_that_nobody_waits_for_is_made_and_written() {
        let audit = audit();
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let inner = Arc::clone(&audit);
        let mut call = Box::pin(audit.whole(async move {
            let _ = wait.await;
            inner.record(AdminChange { what: "quota.set".into(), ..AdminChange::default() }).await;
            Ok(())
        }));
        assert!(futures::poll!(&mut call).is_pending());
        drop(call);
        go.send(()).unwrap();
        audit.tasks.close();
        audit.tasks.wait().await;
        assert_eq!(audit.list(0).await.unwrap()[0].what, "quota.set");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted() {
        let metrics = Metrics::new().unwrap();
        let audit = Audit::new(Arc::new(Away), TaskTracker::new(), Arc::clone(&metrics));
        audit.record(AdminChange::default()).await;
        assert_eq!(metrics.change_log_failures.get(), 1);
        assert!(audit.list(0).await.is_err());
    }
}
