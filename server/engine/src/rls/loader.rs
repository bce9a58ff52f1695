//! Loads the rules from their files, at start and after each change of the files. If a file contains errors, the last
//! valid rules remain active.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::settings::LimitFiles;
use prometheus::{IntCounter, IntGauge};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    files::{Faults, Sources, compile_sources, read, watched_directories},
    metrics::RateLimitMetrics,
    tree::Rules,
    watcher::{READ_EVERY, Watcher},
};

/// Changes that follow each other within this time are read together, because an update of a directory usually consists
/// of several changes.
const SETTLE: Duration = Duration::from_millis(100);
/// Maximum time to wait until such changes end.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Maximum pause after a failed read. The pause grows, so that a permanent failure costs little.
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct LoadMetrics {
    /// 1 while the rules in use are from the current files, else 0.
    pub valid: IntGauge,
    pub loaded: IntCounter,
    pub rejected: IntCounter,
}

/// Watches the files of limits and replaces the rules when the files change.
pub struct Loader {
    source: LimitFiles,
    rules: Arc<ArcSwap<Rules>>,
    rate_limit_metrics: Arc<RateLimitMetrics>,
    metrics: LoadMetrics,
    /// The files that were last read, valid or not. `None` after a failed read.
    last: Option<Sources>,
    /// The errors that were last logged, if the files still contain errors.
    reported: Option<Faults>,
}

impl Loader {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Returns all errors in all files.
    pub fn start(
        source: LimitFiles,
        rate_limit_metrics: Arc<RateLimitMetrics>,
        metrics: LoadMetrics,
    ) -> Result<Self, Faults> {
        let sources = read(&source)?;
        let rules = compile_sources(&source, &sources, &rate_limit_metrics)?;
        metrics.valid.set(1);
        metrics.loaded.inc();
        log_loaded(&source, &rules);
        Ok(Self {
            source,
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            rate_limit_metrics,
            metrics,
            last: Some(sources),
            reported: None,
        })
    }

    /// Returns the active rules. Each reload replaces the rules inside.
    #[must_use]
    pub fn rules(&self) -> Arc<ArcSwap<Rules>> {
        Arc::clone(&self.rules)
    }

    /// Watches the files until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        // This sender keeps the channel open if the watcher does not exist.
        let mut watcher = Watcher::new(changed.clone());
        let mut pause = SETTLE;
        loop {
            // Also reads at the start, because the files may have changed before the watch started.
            let reading = tokio::task::spawn_blocking(move || {
                watcher.watch(&watched_directories(&self.source));
                let is_read = self.reload();
                (self, watcher, is_read)
            });
            let is_read;
            (self, watcher, is_read) = match reading.await {
                Ok(state) => state,
                Err(error) => return error!(%error, "the sidecar no longer follows the files of limits"),
            };
            pause = if is_read { SETTLE } else { (pause * 2).min(PAUSE_MAX) };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(READ_EVERY, changes.recv()) => {}
            }
            let quiet = async { while timeout(pause, changes.recv()).await.is_ok() {} };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(SETTLE_MAX.max(pause), quiet) => {}
            }
        }
    }

    /// Reads the files. If they are new and valid, applies them. Returns false if they cannot be read.
    fn reload(&mut self) -> bool {
        let sources = match read(&self.source) {
            Ok(sources) => sources,
            Err(faults) => {
                // The next successful read counts as new, even if its files equal the previous files.
                self.last = None;
                self.reject(faults);
                return false;
            }
        };
        if self.last.as_ref() == Some(&sources) {
            return true;
        }
        match compile_sources(&self.source, &sources, &self.rate_limit_metrics) {
            Ok(rules) => {
                log_loaded(&self.source, &rules);
                self.rules.store(Arc::new(rules));
                self.reported = None;
                self.metrics.valid.set(1);
                self.metrics.loaded.inc();
            }
            Err(faults) => self.reject(faults),
        }
        self.last = Some(sources);
        true
    }

    /// Logs and counts errors, unless they equal the errors that were last reported.
    fn reject(&mut self, faults: Faults) {
        self.metrics.valid.set(0);
        if self.reported.as_ref() != Some(&faults) {
            error!(%faults, "files of limits rejected; the last valid ones stay in force");
            self.metrics.rejected.inc();
            self.reported = Some(faults);
        }
    }
}

fn log_loaded(source: &LimitFiles, rules: &Rules) {
    let (domains, limits) = rules.size();
    info!(path = %source.path.display(), domains, limits, "loaded the limits of the rate limit service");
    for warning in rules.warnings() {
        warn!(%warning, "the files of limits are probably not as intended");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const GOOD: &str = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: second, requests_per_unit: 1}}]";

    /// Starts a loader on a directory with one valid file.
    fn loader(dir: &Path) -> Loader {
        fs::write(dir.join("a.yaml"), GOOD).unwrap();
        let source = LimitFiles { path: dir.to_owned(), merge_domains: false };
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        let metrics = LoadMetrics {
            valid: IntGauge::new("valid", "valid").unwrap(),
            loaded: counter("loaded"),
            rejected: counter("rejected"),
        };
        Loader::start(source, Arc::new(RateLimitMetrics::unregistered()), metrics).unwrap()
    }

    /// A volume that is mounted again makes its directory unreadable for a moment. Then the same files are there again.
    #[test]
    fn the_same_files_are_valid_again_after_a_failure_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut loader = loader(dir.path());
        let metrics = loader.metrics.clone();
        let state = || (metrics.valid.get(), metrics.loaded.get(), metrics.rejected.get());
        let bad = dir.path().join("b.yaml");
        for _ in 0..2 {
            fs::write(&bad, b"\xff").unwrap();
            assert!(!loader.reload());
            assert_eq!(state(), (0, 1, 1), "reported once");
        }
        fs::remove_file(&bad).unwrap();
        assert!(loader.reload());
        assert_eq!(state(), (1, 2, 1));
        // An error in readable files is also reported once, and reported again after a different error.
        for (text, rejected) in [("a", 2), ("a", 2), ("domain: d", 3), ("a", 4)] {
            fs::write(&bad, text).unwrap();
            assert!(loader.reload());
            assert_eq!(state(), (0, 2, rejected));
        }
    }

    /// If files cannot be read, the loader neither loops without a pause nor stops.
    #[tokio::test(start_paused = true)]
    async fn failed_reads_are_repeated_with_pauses() {
        let dir = tempfile::tempdir().unwrap();
        let loader = loader(dir.path());
        let (metrics, stop) = (loader.metrics.clone(), CancellationToken::new());
        let bad = dir.path().join("b.yaml");
        fs::write(&bad, b"\xff").unwrap();
        let task = tokio::spawn(loader.run(stop.clone()));
        let wait = async |valid: i64| {
            while metrics.valid.get() != valid {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        wait(0).await;
        fs::remove_file(&bad).unwrap();
        wait(1).await;
        assert_eq!(metrics.rejected.get(), 1);
        stop.cancel();
        task.await.unwrap();
    }
}
