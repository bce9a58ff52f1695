//! Keeps up with the files of limits: read at start, and again when something near them changes. What is wrong is
//! told, and the last good ones stay in force.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use evenkeel_domain::settings::LimitFiles;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use prometheus::{IntCounter, IntGauge};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    file::{Fault, File},
    tally::Tallies,
    tree::Rules,
};

/// Several changes within this time are one: a directory is rarely changed by a single step.
const SETTLE: Duration = Duration::from_millis(100);
/// Longest time of changes without pause that are waited for.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// The files are looked at this often in any case: not every file system tells of changes.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Longest pause after a failure to read: what fails without end is not tried without end.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Most files of a directory.
const FILES_MAX: usize = 1024;
/// Largest file.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// All that is wrong with the files.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} fault{} in the files of limits:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

/// Names and texts of the files, by name.
type Texts = Vec<(String, String)>;

/// Reads and compiles all files.
///
/// # Errors
/// All faults of all files.
pub fn load(from: &LimitFiles, tallies: &Tallies) -> Result<Rules, Faults> {
    compile(from, &read(from).map_err(|fault| Faults(vec![fault]))?, tallies)
}

fn compile(from: &LimitFiles, texts: &Texts, tallies: &Tallies) -> Result<Rules, Faults> {
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for (name, text) in texts {
        match File::parse(name, text) {
            Ok(file) => files.push(file),
            Err(found) => faults.extend(found),
        }
    }
    match Rules::compile(files, from.merge_domains, tallies) {
        Ok(rules) if faults.is_empty() => Ok(rules),
        Ok(_) => Err(Faults(faults)),
        Err(found) => {
            faults.extend(found);
            Err(Faults(faults))
        }
    }
}

fn read(from: &LimitFiles) -> Result<Texts, Fault> {
    let fault =
        |path: &Path, text: String| Fault { file: path.display().to_string(), path: String::new(), text };
    let failed = |path: &Path, error: std::io::Error| fault(path, format!("cannot be read: {error}"));
    let paths = match fs::read_dir(&from.path) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => vec![from.path.clone()],
        Err(error) => return Err(failed(&from.path, error)),
        Ok(entries) => {
            let mut paths = Vec::new();
            for entry in entries {
                let path = entry.map_err(|error| failed(&from.path, error))?.path();
                if is_ours(&path) && path.is_file() {
                    paths.push(path);
                }
            }
            paths.sort();
            paths
        }
    };
    if paths.len() > FILES_MAX {
        let text = format!("must hold at most {FILES_MAX} files, got {}", paths.len());
        return Err(fault(&from.path, text));
    }
    let read = |path: PathBuf| {
        let size = fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fault(&path, format!("must be at most {FILE_BYTES_MAX} bytes, got {size}")));
        }
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok((name, text))
    };
    paths.into_iter().map(read).collect()
}

/// Directories whose changes may concern the files: their own, and those of the symbolic links on the way.
fn near(from: &LimitFiles) -> Vec<PathBuf> {
    let path = std::path::absolute(&from.path).unwrap_or_else(|_| from.path.clone());
    let mut near = Vec::new();
    for step in path.ancestors() {
        let is_link = fs::symlink_metadata(step).is_ok_and(|meta| meta.file_type().is_symlink());
        if let Some(parent) = step.parent().filter(|_| is_link || step == path) {
            near.push(parent.to_owned());
        }
    }
    if path.is_dir() {
        near.push(path);
    }
    near.sort();
    near.dedup();
    near
}

fn is_ours(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Metrics of the files.
#[derive(Clone)]
pub struct LoadMetrics {
    /// 1 while the files as they are now are in force.
    pub valid: IntGauge,
    /// New files taken.
    pub loaded: IntCounter,
    /// New files refused.
    pub refused: IntCounter,
}

/// Keeps rules equal to their files.
pub struct Loader {
    source: LimitFiles,
    rules: Arc<ArcSwap<Rules>>,
    tallies: Arc<Tallies>,
    metrics: LoadMetrics,
    /// What was read last, good or not; `None` where reading failed.
    last: Option<Texts>,
    /// What was wrong with it, and was told.
    told: Option<Faults>,
}

impl Loader {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// All faults of all files.
    pub fn start(source: LimitFiles, tallies: Arc<Tallies>, metrics: LoadMetrics) -> Result<Self, Faults> {
        let texts = read(&source).map_err(|fault| Faults(vec![fault]))?;
        let rules = compile(&source, &texts, &tallies)?;
        metrics.valid.set(1);
        metrics.loaded.inc();
        tell(&source, &rules);
        Ok(Self {
            source,
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            tallies,
            metrics,
            last: Some(texts),
            told: None,
        })
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<ArcSwap<Rules>> {
        Arc::clone(&self.rules)
    }

    /// Follows the files until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        // A sender stays here: the channel is open also where there is no watcher.
        let mut watcher = Watcher::new(changed.clone());
        let mut pause = SETTLE;
        loop {
            // Also at the start: they may have changed before they were watched. Beside the runtime, as it reads files.
            let looked = tokio::task::spawn_blocking(move || {
                watcher.watch(&near(&self.source));
                let is_read = self.reload();
                (self, watcher, is_read)
            });
            let is_read;
            (self, watcher, is_read) = match looked.await {
                Ok(looked) => looked,
                Err(error) => return error!(%error, "the files of limits are no longer followed"),
            };
            pause = if is_read { SETTLE } else { (pause * 2).min(PAUSE_MAX) };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(LOOK_EVERY, changes.recv()) => {}
            }
            let quiet = async { while timeout(pause, changes.recv()).await.is_ok() {} };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timeout(SETTLE_MAX.max(pause), quiet) => {}
            }
        }
    }

    /// Reads the files, and takes them where they are new and good. False: they cannot be read.
    fn reload(&mut self) -> bool {
        let texts = match read(&self.source) {
            Ok(texts) => texts,
            Err(fault) => {
                // What is read next counts as new, also if it is what was read before.
                self.last = None;
                self.refuse(Faults(vec![fault]));
                return false;
            }
        };
        if self.last.as_ref() == Some(&texts) {
            return true;
        }
        match compile(&self.source, &texts, &self.tallies) {
            Ok(rules) => {
                tell(&self.source, &rules);
                self.rules.store(Arc::new(rules));
                self.told = None;
                self.metrics.valid.set(1);
                self.metrics.loaded.inc();
            }
            Err(faults) => self.refuse(faults),
        }
        self.last = Some(texts);
        true
    }

    /// Tells what is wrong, once.
    fn refuse(&mut self, faults: Faults) {
        self.metrics.valid.set(0);
        if self.told.as_ref() != Some(&faults) {
            error!(%faults, "limits not taken: the last good ones stay in force");
            self.metrics.refused.inc();
            self.told = Some(faults);
        }
    }
}

fn tell(source: &LimitFiles, rules: &Rules) {
    let (domains, limits) = rules.size();
    info!(path = %source.path.display(), domains, limits, "limits of the rate limit service loaded");
    if !rules.without_effect().is_empty() {
        warn!(fields = ?rules.without_effect(), "limits: fields without effect");
    }
}

/// A watch of directories; without one, the files are looked at now and then.
struct Watcher {
    watcher: Option<RecommendedWatcher>,
    watched: Vec<PathBuf>,
}

impl Watcher {
    fn new(changed: mpsc::Sender<()>) -> Self {
        let tell = move |event: notify::Result<notify::Event>| {
            // Reading is no change; and one change waiting is as good as many.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                let _ = changed.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(tell);
        let watcher = watcher.inspect_err(|error| {
            warn!(%error, every_s = LOOK_EVERY.as_secs(), "limits: no watch of files, they are looked at now and then");
        });
        Self { watcher: watcher.ok(), watched: Vec::new() }
    }

    /// Watches these, anew: what a path leads to may be another directory than before.
    fn watch(&mut self, near: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        for path in self.watched.drain(..) {
            let _ = watcher.unwatch(&path);
        }
        for path in near {
            if watcher.watch(path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.push(path.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: second, requests_per_unit: 1}}]";

    #[test]
    fn all_files_of_a_directory_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let source = LimitFiles { path: dir.path().to_owned(), merge_domains: false };
        let load = || load(&source, &Tallies::unregistered()).map(|rules| rules.size());
        assert_eq!(load().unwrap(), (0, 0));
        write("a.yaml", GOOD);
        write("b.yml", &GOOD.replace("domain: d", "domain: e"));
        write(".hidden.yaml", "no yaml: [");
        write("README.md", "no yaml: [");
        fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        assert_eq!(load().unwrap(), (2, 2));
        // Faults of all files at once, also of those that only show together.
        write("b.yml", GOOD);
        write("c.yaml", "domain: f\ndescriptors: [{value: x}]");
        write("d.yaml", "domain: [");
        let faults = load().unwrap_err().0;
        let files: Vec<&str> = faults.iter().map(|fault| fault.file.as_str()).collect();
        assert_eq!(files, ["c.yaml", "d.yaml", "b.yml"]);
        let missing = LimitFiles { path: dir.path().join("none"), merge_domains: false };
        assert!(
            super::load(&missing, &Tallies::unregistered())
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        let one = LimitFiles { path: dir.path().join("a.yaml"), merge_domains: false };
        assert_eq!(super::load(&one, &Tallies::unregistered()).unwrap().size(), (1, 1));
    }

    /// A loader of a directory with one good file.
    fn loader(dir: &Path) -> Loader {
        fs::write(dir.join("a.yaml"), GOOD).unwrap();
        let source = LimitFiles { path: dir.to_owned(), merge_domains: false };
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        let metrics = LoadMetrics {
            valid: IntGauge::new("valid", "valid").unwrap(),
            loaded: counter("loaded"),
            refused: counter("refused"),
        };
        Loader::start(source, Arc::new(Tallies::unregistered()), metrics).unwrap()
    }

    /// A directory away for a moment, as when a volume is mounted anew, with the same files after it.
    #[test]
    fn the_same_files_are_valid_again_after_a_failure_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut loader = loader(dir.path());
        let metrics = loader.metrics.clone();
        let state = || (metrics.valid.get(), metrics.loaded.get(), metrics.refused.get());
        let bad = dir.path().join("b.yaml");
        for _ in 0..2 {
            fs::write(&bad, b"\xff").unwrap();
            assert!(!loader.reload());
            assert_eq!(state(), (0, 1, 1), "told once");
        }
        fs::remove_file(&bad).unwrap();
        assert!(loader.reload());
        assert_eq!(state(), (1, 2, 1));
        // A fault in what can be read is told once as well, and again after another.
        for (text, refused) in [("a", 2), ("a", 2), ("domain: d", 3), ("a", 4)] {
            fs::write(&bad, text).unwrap();
            assert!(loader.reload());
            assert_eq!(state(), (0, 2, refused));
        }
    }

    /// Without a watcher, or with files that cannot be read, it neither spins nor stops looking.
    #[tokio::test(start_paused = true)]
    async fn failures_are_not_tried_without_end() {
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
        assert_eq!(metrics.refused.get(), 1);
        stop.cancel();
        task.await.unwrap();
    }
}
