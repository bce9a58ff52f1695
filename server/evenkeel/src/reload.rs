//! The file read again while running: what tells of limits is applied at once, the rest is said to need a restart.
//!
//! What is watched is directories, and what decides is what the files hold: Kubernetes swaps a link above a mounted file,
//! editors replace files, and a watcher may tell of one change several times or not name what changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evenkeel_config::Config;
use evenkeel_domain::{limit::LimitRules, settings::AdminToken};
use evenkeel_telemetry::Metrics;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// How long to let a burst of changes end before reading.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the files are looked at whatever the watcher says: network file systems tell of nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What of the configuration is applied while running, always the last that was sound.
#[derive(Clone, Debug)]
pub struct Live {
    /// Limits, quotas and what they need.
    pub rules: watch::Receiver<Arc<LimitRules>>,
    /// Who may use the API of administrators.
    pub admin: watch::Receiver<Arc<Vec<AdminToken>>>,
    /// Keeps both open where nothing is ever sent, so that who waits for a change waits.
    _open: Option<Arc<Senders>>,
}

/// Reads the configuration again when asked to.
pub struct Reload {
    path: PathBuf,
    /// As started with.
    started: Config,
    /// What the files held when last read.
    seen: Vec<(PathBuf, Option<Vec<u8>>)>,
    live: Senders,
    metrics: Arc<Metrics>,
}

/// The other ends of [`Live`].
#[derive(Debug)]
struct Senders {
    rules: watch::Sender<Arc<LimitRules>>,
    admin: watch::Sender<Arc<Vec<AdminToken>>>,
}

impl Senders {
    fn new(config: &Config) -> Self {
        Self {
            rules: watch::Sender::new(Arc::clone(&config.rules)),
            admin: watch::Sender::new(Arc::clone(&config.admin)),
        }
    }

    fn subscribe(&self) -> (watch::Receiver<Arc<LimitRules>>, watch::Receiver<Arc<Vec<AdminToken>>>) {
        (self.rules.subscribe(), self.admin.subscribe())
    }
}

/// What a look at the files led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are as they were.
    Same,
    /// Applied.
    Applied,
    /// Faulty: what was, stays.
    Rejected,
}

/// Follows the file a configuration was loaded from, until `shutdown`. Without a file, it stays as it is.
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
    let senders = Senders::new(config);
    let (rules, admin) = senders.subscribe();
    Live { rules, admin, _open: Some(Arc::new(senders)) }
}

impl Reload {
    /// Of the file a configuration was loaded from.
    pub fn new(path: &Path, config: Config, metrics: Arc<Metrics>) -> (Self, Live) {
        loaded(&metrics);
        let senders = Senders::new(&config);
        let (rules, admin) = senders.subscribe();
        let seen = contents(path, &config.files);
        let reload = Self { path: path.to_owned(), started: config, seen, live: senders, metrics };
        (reload, Live { rules, admin, _open: None })
    }

    /// Reads the files where they changed, and applies what is sound.
    pub fn look(&mut self) -> Outcome {
        let files: Vec<PathBuf> = self.seen[1..].iter().map(|(path, _)| path.clone()).collect();
        if contents(&self.path, &files) == self.seen { Outcome::Same } else { self.read() }
    }

    /// Reads the files whether they changed or not, and applies what is sound.
    pub fn read(&mut self) -> Outcome {
        let before: Vec<PathBuf> = self.seen[1..].iter().map(|(path, _)| path.clone()).collect();
        match Config::load(&self.path) {
            Ok(config) => {
                self.seen = contents(&self.path, &config.files);
                self.apply(&config);
                Outcome::Applied
            }
            Err(faults) => {
                // A file that is mended may be one of those that were read before.
                self.seen = contents(&self.path, &before);
                self.metrics.config_valid.set(0);
                for fault in &faults.0 {
                    error!(file = %self.path.display(), fault, "configuration not reloaded");
                }
                Outcome::Rejected
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
            warn!(file = %self.path.display(), sections, "changed sections that only a restart applies");
        }
        self.live.rules.send_replace(Arc::clone(&config.rules));
        self.live.admin.send_replace(Arc::clone(&config.admin));
        loaded(&self.metrics);
        info!(file = %self.path.display(), summary = config.summary(), "configuration reloaded");
    }

    /// Directories in which a change may be one of the files: those of the files and of what links on the way point to.
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

/// Watches the files, and reads them on SIGHUP, until `shutdown`.
async fn run(mut reload: Reload, shutdown: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let mut watching = Watching::new(changed);
    // Without a handler SIGHUP would end the process; so one is set even where watching does not work.
    let mut hang_up =
        signal(SignalKind::hangup()).inspect_err(|error| warn!(%error, "no reload on SIGHUP")).ok();
    watching.follow(reload.directories());
    let mut look: fn(&mut Reload) -> Outcome = Reload::look;
    loop {
        // The first look finds what changed between loading and watching. Beside the runtime, as it reads files.
        let looked = tokio::task::spawn_blocking(move || {
            let outcome = look(&mut reload);
            (reload, outcome)
        });
        let outcome;
        (reload, outcome) = match looked.await {
            Ok(looked) => looked,
            Err(error) => return error!(%error, "the configuration is no longer reloaded"),
        };
        look = Reload::look;
        let directories = reload.directories();
        // Begun anew also where a directory was replaced by one of the same name: the watch is on the one that was.
        if outcome != Outcome::Same || watching.directories != directories {
            watching.follow(directories);
            // What changed meanwhile.
            if outcome != Outcome::Same {
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
                info!("SIGHUP: reading the configuration");
                look = Reload::read;
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
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

/// A watcher and what it watches.
struct Watching {
    watcher: Option<RecommendedWatcher>,
    directories: Vec<PathBuf>,
}

impl Watching {
    fn new(changed: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, which would lead to reading it.
            let read = event.as_ref().is_ok_and(|event| event.kind.is_access());
            if !read {
                // A full channel already says that something changed.
                let _ = changed.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| warn!(%error, "the configuration cannot be watched: looking at it every minute"),
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
                Err(error) => warn!(%error, directory = %directory.display(), "cannot be watched"),
            }
        }
    }
}

/// What the files hold, the configuration's own first.
fn contents(path: &Path, files: &[PathBuf]) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let digest = |path: &Path| {
        let text = std::fs::read(path).ok()?;
        Some(ring::digest::digest(&ring::digest::SHA256, &text).as_ref().to_vec())
    };
    let all = std::iter::once(path).chain(files.iter().map(PathBuf::as_path));
    all.map(|path| (path.to_owned(), digest(path))).collect()
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
    fn a_sound_file_is_applied_and_a_faulty_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.yaml");
        fs::write(&path, limit(1)).unwrap();
        let (mut reload, live) = start(&path);
        let metrics = Arc::clone(&reload.metrics);
        assert_eq!(reload.look(), Outcome::Same);

        fs::write(&path, limit(2) + "admin: {tokens: [{name: a, token: 0123456789abcdef}]}").unwrap();
        assert_eq!(reload.look(), Outcome::Applied);
        assert_eq!((amount(&live), live.admin.borrow().len()), (2, 1));

        let loaded = metrics.config_last_success.get();
        fs::write(&path, limit(3) + "keep_alive_interval: 1h").unwrap();
        assert_eq!(reload.look(), Outcome::Rejected);
        assert_eq!((amount(&live), metrics.config_valid.get()), (2, 0));
        assert_eq!(metrics.config_last_success.get(), loaded);
        // The same fault is told once.
        assert_eq!(reload.look(), Outcome::Same);

        fs::remove_file(&path).unwrap();
        assert_eq!(reload.look(), Outcome::Rejected);
        assert_eq!(amount(&live), 2);

        fs::write(&path, limit(4)).unwrap();
        assert_eq!(reload.look(), Outcome::Applied);
        assert_eq!((amount(&live), metrics.config_valid.get()), (4, 1));
    }

    #[test]
    fn files_it_refers_to_count_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rules) = (directory.path().join("evenkeel.yaml"), directory.path().join("rules.yaml"));
        let threshold = |n| format!("rule_name: r\nglobal_threshold: {{token_per_day: {n}}}");
        fs::write(&path, "higress_rules: [{plugin: ai-token-ratelimit, file: rules.yaml}]").unwrap();
        fs::write(&rules, threshold(1)).unwrap();
        let (mut reload, live) = start(&path);
        fs::write(&rules, threshold(0)).unwrap();
        assert_eq!(reload.look(), Outcome::Rejected);
        fs::write(&rules, threshold(2)).unwrap();
        assert_eq!(reload.look(), Outcome::Applied);
        assert_eq!(amount(&live), 2);
    }

    #[test]
    fn other_sections_are_told_to_need_a_restart() {
        let config = |yaml| Config::parse(yaml).unwrap();
        let old = config("store: {type: redis, url: 'redis://u:one@h'}\nlimits: []\nshutdown_delay: 1s\n");
        let new =
            config("store: {type: redis, url: 'redis://u:two@h'}\npools: [{cluster: a}]\nshutdown_delay: 1s\n");
        assert_eq!(new.needs_restart(&old), ["pools", "store"]);
        assert!(new.needs_restart(&new).is_empty());
    }

    /// A ConfigMap is a directory of links through a link `..data`, which is replaced by another.
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
            let is_there = |rules: &Arc<LimitRules>| rules.limits[0].amount == n;
            let wait = tokio::time::timeout(Duration::from_secs(20), live.rules.wait_for(is_there));
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
            let is_there = |rules: &Arc<LimitRules>| rules.limits[0].amount == n;
            let wait = tokio::time::timeout(Duration::from_secs(20), live.rules.wait_for(is_there));
            wait.await.expect("in time").unwrap();
        }
        shutdown.cancel();
        task.await.unwrap();
    }
}
