//! Watches directories for changes.

use std::{path::PathBuf, time::Duration};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tracing::warn;

/// The files are also read at this interval without a reported change, because not every file system reports changes.
pub(super) const READ_EVERY: Duration = Duration::from_secs(30);

/// Watches directories. If the operating system cannot watch directories, no changes are reported.
pub(super) struct Watcher {
    watcher: Option<RecommendedWatcher>,
    watched: Vec<PathBuf>,
}

impl Watcher {
    /// Creates a watcher that sends to `changed` after each change.
    pub(super) fn new(changed: mpsc::Sender<()>) -> Self {
        let report = move |event: notify::Result<notify::Event>| {
            // Read accesses change nothing. If the channel is full, the loader already knows of a change.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                let _ = changed.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(report);
        let watcher = watcher.inspect_err(|error| {
            let every_s = READ_EVERY.as_secs();
            warn!(%error, every_s, "cannot watch the files of limits; the sidecar reads them at intervals");
        });
        Self { watcher: watcher.ok(), watched: Vec::new() }
    }

    /// Watches these directories instead of the previous directories. An unchanged path is watched again, because it
    /// may now lead to another directory.
    pub(super) fn watch(&mut self, directories: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        for path in self.watched.drain(..) {
            let _ = watcher.unwatch(&path);
        }
        for path in directories {
            if watcher.watch(path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.push(path.clone());
            }
        }
    }
}
