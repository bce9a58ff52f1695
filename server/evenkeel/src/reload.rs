//! Reloads the configuration while the sidecar runs. Changes to the sections in [`Live`] take effect at once. If other
//! sections change, the sidecar logs that they need a restart.
//!
//! The sidecar watches directories and compares the contents of the files. Watching single files is not enough:
//! Kubernetes swaps a symbolic link above a mounted file, editors replace files, and a watcher may report one change
//! several times or without the name of the changed file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evenkeel_config::Config;
use evenkeel_domain::{
    clock::unix_ms,
    limit::LimitRules,
    settings::{RoleRules, Secret},
};
use evenkeel_telemetry::Metrics;
use evenkeel_tls::{ServerTls, TlsOptions};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// Wait between a change and reading the files, so that a burst of changes ends first.
const SETTLE: Duration = Duration::from_millis(100);
/// Interval at which the sidecar compares the files without an event, because network file systems send no events.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The current values of the sections that can be reloaded, from the last valid configuration.
#[derive(Clone, Debug)]
pub struct Live {
    /// Limits and quotas, with prices, models, headers and quota administrators.
    pub rules: watch::Receiver<Arc<LimitRules>>,
    /// Who has which role.
    pub roles: watch::Receiver<Arc<RoleRules>>,
    /// TLS of the listeners, from the last valid certificate files. `None` if no listener has TLS.
    pub tls: Option<watch::Receiver<ServerTls>>,
    /// The keys of tickets from a file.
    pub tickets: watch::Receiver<Arc<Vec<Secret>>>,
    /// Keeps the channels open if there is no file to reload, so that receivers wait for ever instead of failing.
    _open: Option<Arc<Senders>>,
}

/// Reads the configuration again and applies it.
pub struct Reload {
    path: PathBuf,
    /// The configuration that the sidecar started with.
    started: Config,
    /// Digests of the files as last read. The first is the configuration file.
    seen: Vec<(PathBuf, Option<Vec<u8>>)>,
    live: Senders,
    metrics: Arc<Metrics>,
}

/// The senders of [`Live`].
#[derive(Debug)]
struct Senders {
    rules: watch::Sender<Arc<LimitRules>>,
    roles: watch::Sender<Arc<RoleRules>>,
    tls: Option<(TlsOptions, watch::Sender<ServerTls>)>,
    tickets: watch::Sender<Arc<Vec<Secret>>>,
}

impl Senders {
    fn new(config: &Config) -> Self {
        Self {
            rules: watch::Sender::new(Arc::clone(&config.rules)),
            roles: watch::Sender::new(Arc::clone(&config.roles)),
            tls: config.tls.as_ref().map(|tls| (tls.options.clone(), watch::Sender::new(tls.loaded.clone()))),
            tickets: watch::Sender::new(Arc::clone(&config.tickets)),
        }
    }

    fn live(&self, open: Option<Arc<Self>>) -> Live {
        Live {
            rules: self.rules.subscribe(),
            roles: self.roles.subscribe(),
            tls: self.tls.as_ref().map(|(_, loaded)| loaded.subscribe()),
            tickets: self.tickets.subscribe(),
            _open: open,
        }
    }

    /// Returns the paths of the certificate files.
    fn certificate_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls.iter().flat_map(|(options, _)| options.paths())
    }
}

/// The result of reading the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    Applied,
    /// The files are invalid; the last valid configuration stays active.
    Rejected,
}

/// Watches the file that the configuration was loaded from, until `shutdown`. Without a file there is nothing to
/// reload, and the returned values never change.
pub fn start(
    config: &Config,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Live {
    if let Some(path) = &config.path {
        let (reload, live) = Reload::new(path, config.clone(), Arc::clone(metrics));
        tasks.spawn(run(reload, shutdown.clone()));
        return live;
    }
    loaded(metrics);
    set_expiry(metrics, config.tls.as_ref().map(|tls| &tls.loaded));
    let senders = Arc::new(Senders::new(config));
    senders.live(Some(Arc::clone(&senders)))
}

impl Reload {
    pub fn new(path: &Path, config: Config, metrics: Arc<Metrics>) -> (Self, Live) {
        loaded(&metrics);
        set_expiry(&metrics, config.tls.as_ref().map(|tls| &tls.loaded));
        let senders = Senders::new(&config);
        let (live, seen) = (senders.live(None), digests(path, &config.files));
        (Self { path: path.to_owned(), started: config, seen, live: senders, metrics }, live)
    }

    /// Reads the files if they changed, and applies them if they are valid.
    pub fn check(&mut self) -> Outcome {
        let files: Vec<PathBuf> = self.seen[1..].iter().map(|(path, _)| path.clone()).collect();
        if digests(&self.path, &files) == self.seen { Outcome::Unchanged } else { self.read() }
    }

    /// Reads the files, and applies them if they are valid.
    pub fn read(&mut self) -> Outcome {
        let seen = std::mem::take(&mut self.seen);
        let before: Vec<PathBuf> = seen[1..].iter().map(|(path, _)| path.clone()).collect();
        let outcome = match Config::load(&self.path) {
            Ok(config) => {
                let mut files = config.files.clone();
                files.extend(
                    self.live.certificate_files().filter(|path| !config.files.contains(path)).cloned(),
                );
                self.seen = digests(&self.path, &files);
                self.apply(&config);
                Outcome::Applied
            }
            Err(faults) => {
                // Keep watching the files that were read before, because the correction may be in one of them.
                self.seen = digests(&self.path, &before);
                self.metrics.config_valid.set(0);
                for fault in &faults.0 {
                    error!(file = %self.path.display(), fault, "configuration rejected: the previous one stays in force");
                }
                Outcome::Rejected
            }
        };
        let of_certificates = |(path, _): &&_| self.live.certificate_files().any(|file| file == path);
        if !seen.iter().filter(of_certificates).eq(self.seen.iter().filter(of_certificates)) {
            self.read_certificates();
        }
        outcome
    }

    /// Reads the certificate files again. They apply even if the rest of the configuration is invalid: a fault elsewhere
    /// must not let a certificate expire.
    fn read_certificates(&self) {
        let Some((options, current)) = &self.live.tls else { return };
        match options.load() {
            Ok(tls) => {
                set_expiry(&self.metrics, Some(&tls));
                self.metrics.tls.applied.inc();
                if let Some(fault) = tls.validity.fault_at(unix_ms() / 1000) {
                    warn!(file = %options.cert_file.display(), fault, "the new certificate is not valid now");
                }
                current.send_replace(tls);
                info!(file = %options.cert_file.display(), "certificates reloaded");
            }
            Err(faults) => {
                self.metrics.tls.rejected.inc();
                for fault in faults {
                    error!(%fault, "certificates rejected: the previous ones stay in force");
                }
            }
        }
    }

    fn apply(&mut self, config: &Config) {
        for warning in &config.warnings {
            warn!(file = %self.path.display(), warning, "configuration");
        }
        let restart = config.needs_restart(&self.started);
        if !restart.is_empty() {
            let sections = restart.join(", ");
            warn!(file = %self.path.display(), sections, "changed sections need a restart");
        }
        self.live.rules.send_replace(Arc::clone(&config.rules));
        self.live.roles.send_replace(Arc::clone(&config.roles));
        // The source of the keys changes only with a restart. Without a file, there are no keys to apply.
        if !config.tickets.is_empty() && !self.started.tickets.is_empty() {
            self.live.tickets.send_replace(Arc::clone(&config.tickets));
        }
        loaded(&self.metrics);
        info!(file = %self.path.display(), summary = config.summary(), "configuration reloaded");
    }

    /// Returns the directories to watch: those that contain the files, and those that contain the targets of symbolic
    /// links.
    fn directories(&self) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for (path, _) in &self.seen {
            for path in [Some(path.clone()), std::fs::canonicalize(path).ok()].into_iter().flatten() {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let directory = parent.unwrap_or(Path::new(".")).to_owned();
                if !directories.contains(&directory) {
                    directories.push(directory);
                }
            }
        }
        directories
    }
}

/// Applies each new value that the reloader publishes, until `shutdown`.
pub(crate) async fn follow<T: Clone>(
    mut published: watch::Receiver<T>,
    shutdown: CancellationToken,
    mut apply: impl FnMut(T),
) {
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        let new = published.borrow_and_update().clone();
        apply(new);
    }
}

/// Watches the files until `shutdown`. Reads them after a change and on SIGHUP.
async fn run(mut reload: Reload, shutdown: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let mut watching = DirectoryWatcher::new(changed);
    // Without a handler, SIGHUP would end the process. Install the handler even if watching fails.
    let mut hang_up = signal(SignalKind::hangup())
        .inspect_err(|error| warn!(%error, "SIGHUP will not reload the configuration"))
        .ok();
    watching.follow(reload.directories());
    let mut action: fn(&mut Reload) -> Outcome = Reload::check;
    loop {
        // The first check finds changes made between loading and watching. Reading files blocks, so a blocking thread
        // does it.
        let checked = tokio::task::spawn_blocking(move || {
            let outcome = action(&mut reload);
            (reload, outcome)
        });
        let outcome;
        (reload, outcome) = match checked.await {
            Ok(checked) => checked,
            Err(error) => return error!(%error, "the configuration cannot be reloaded any more"),
        };
        action = Reload::check;
        let directories = reload.directories();
        // Watch again even if the names are the same: the watch may be on a directory that has been replaced.
        if outcome != Outcome::Unchanged || watching.directories != directories {
            watching.follow(directories);
            // Check for changes made in the meantime.
            if outcome != Outcome::Unchanged {
                continue;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(()) = changes.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
            }
            () = hung_up(hang_up.as_mut()) => {
                info!("SIGHUP: reloading the configuration");
                action = Reload::read;
            }
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}

async fn hung_up(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Watches directories in the file system.
struct DirectoryWatcher {
    watcher: Option<RecommendedWatcher>,
    directories: Vec<PathBuf>,
}

impl DirectoryWatcher {
    fn new(changed: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Ignore reads, which the sidecar itself causes.
            let read = event.as_ref().is_ok_and(|event| event.kind.is_access());
            if !read {
                // A full channel already signals a change.
                let _ = changed.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| warn!(%error, "the configuration cannot be watched; checking it every minute"),
            )
            .ok();
        Self { watcher, directories: Vec::new() }
    }

    fn follow(&mut self, directories: Vec<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for directory in self.directories.drain(..) {
            let _ = watcher.unwatch(&directory);
        }
        for directory in directories {
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => self.directories.push(directory),
                Err(error) => warn!(%error, directory = %directory.display(), "directory cannot be watched"),
            }
        }
    }
}

/// Returns the digest of each file, or `None` if the file cannot be read. The first is the configuration file.
fn digests(path: &Path, files: &[PathBuf]) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let digest = |path: &Path| {
        let text = std::fs::read(path).ok()?;
        Some(ring::digest::digest(&ring::digest::SHA256, &text).as_ref().to_vec())
    };
    let all = std::iter::once(path).chain(files.iter().map(PathBuf::as_path));
    all.map(|path| (path.to_owned(), digest(path))).collect()
}

fn set_expiry(metrics: &Metrics, tls: Option<&ServerTls>) {
    metrics.tls.not_after.set(tls.map_or(0.0, |tls| tls.validity.not_after_s as f64));
}

fn loaded(metrics: &Metrics) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    metrics.config_valid.set(1);
    metrics.config_last_success.set(now.map_or(0.0, |since| since.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const LIMIT: &str = "limits: [{name: a, counts: requests, amount: AMOUNT, per: 1s}]\n";

    fn limit(amount: u64) -> String {
        LIMIT.replace("AMOUNT", &amount.to_string())
    }

    fn start(path: &Path) -> (Reload, Live) {
        Reload::new(path, Config::load(path).unwrap(), Metrics::new().unwrap())
    }

    fn amount(live: &Live) -> u64 {
        live.rules.borrow().limits.first().map_or(0, |limit| limit.amount)
    }

    #[test]
    fn a_valid_file_is_applied_and_a_faulty_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.yaml");
        fs::write(&path, limit(1)).unwrap();
        let (mut reload, live) = start(&path);
        let metrics = Arc::clone(&reload.metrics);
        assert_eq!(reload.check(), Outcome::Unchanged);

        fs::write(&path, limit(2) + "admin: {tokens: [{name: a, token: 0123456789abcdef}]}").unwrap();
        assert_eq!(reload.check(), Outcome::Applied);
        assert_eq!((amount(&live), live.roles.borrow().tokens.len()), (2, 1));

        let loaded = metrics.config_last_success.get();
        fs::write(&path, limit(3) + "keep_alive_interval: 1h").unwrap();
        assert_eq!(reload.check(), Outcome::Rejected);
        assert_eq!((amount(&live), metrics.config_valid.get()), (2, 0));
        assert_eq!(metrics.config_last_success.get(), loaded);
        // Unchanged files are not read again, so a fault is reported once.
        assert_eq!(reload.check(), Outcome::Unchanged);

        fs::remove_file(&path).unwrap();
        assert_eq!(reload.check(), Outcome::Rejected);
        assert_eq!(amount(&live), 2);

        fs::write(&path, limit(4)).unwrap();
        assert_eq!(reload.check(), Outcome::Applied);
        assert_eq!((amount(&live), metrics.config_valid.get()), (4, 1));
    }

    #[test]
    fn files_that_the_configuration_names_are_reloaded() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rules) = (directory.path().join("evenkeel.yaml"), directory.path().join("rules.yaml"));
        let threshold = |n| format!("rule_name: r\nglobal_threshold: {{token_per_day: {n}}}");
        fs::write(&path, "higress_rules: [{plugin: ai-token-ratelimit, file: rules.yaml}]").unwrap();
        fs::write(&rules, threshold(1)).unwrap();
        let (mut reload, live) = start(&path);
        fs::write(&rules, threshold(0)).unwrap();
        assert_eq!(reload.check(), Outcome::Rejected);
        fs::write(&rules, threshold(2)).unwrap();
        assert_eq!(reload.check(), Outcome::Applied);
        assert_eq!(amount(&live), 2);
    }

    #[test]
    fn other_sections_need_a_restart() {
        let config = |yaml| Config::parse(yaml).unwrap();
        let old = config("store: {type: redis, url: 'redis://u:one@h'}\nlimits: []\nshutdown_delay: 1s\n");
        let new = config(
            "store: {type: redis, url: 'redis://u:two@h'}\npools: [{cluster: a}]\nshutdown_delay: 1s\n",
        );
        assert_eq!(new.needs_restart(&old), ["pools", "store"]);
        assert!(new.needs_restart(&new).is_empty());
    }

    /// Kubernetes mounts a ConfigMap as a directory of symbolic links that lead through the link `..data`, and replaces
    /// that link when the ConfigMap changes.
    #[tokio::test]
    async fn a_swapped_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let version = |n: u64| {
            fs::create_dir(at(&format!("..{n}"))).unwrap();
            fs::write(at(&format!("..{n}/evenkeel.yaml")), limit(n)).unwrap();
            symlink(format!("..{n}"), at("..next")).unwrap();
            fs::rename(at("..next"), at("..data")).unwrap();
        };
        version(1);
        symlink("..data/evenkeel.yaml", at("evenkeel.yaml")).unwrap();
        let (reload, mut live) = start(&at("evenkeel.yaml"));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(reload, shutdown.clone()));
        for n in 2..5 {
            version(n);
            let applied = |rules: &Arc<LimitRules>| rules.limits[0].amount == n;
            let wait = tokio::time::timeout(Duration::from_secs(20), live.rules.wait_for(applied));
            wait.await.expect("in time").unwrap();
            fs::remove_dir_all(at(&format!("..{}", n - 1))).unwrap();
        }
        shutdown.cancel();
        task.await.unwrap();
    }

    /// Editors write a new file and rename it over the old one.
    #[tokio::test]
    async fn a_replaced_file_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.yaml");
        fs::write(&path, limit(1)).unwrap();
        let (reload, mut live) = start(&path);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(reload, shutdown.clone()));
        for n in 2..4 {
            fs::write(directory.path().join("new"), limit(n)).unwrap();
            fs::rename(directory.path().join("new"), &path).unwrap();
            let applied = |rules: &Arc<LimitRules>| rules.limits[0].amount == n;
            let wait = tokio::time::timeout(Duration::from_secs(20), live.rules.wait_for(applied));
            wait.await.expect("in time").unwrap();
        }
        shutdown.cancel();
        task.await.unwrap();
    }
}
