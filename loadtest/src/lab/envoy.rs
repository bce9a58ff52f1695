//! An Envoy process.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{LabError, Policy, Process, envoy_config::EnvoyConfig, paths, ports, probe};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// One gateway with a listener per policy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    config: PathBuf,
    admin_port: u16,
    listeners: BTreeMap<Policy, u16>,
}

impl Envoy {
    /// Starts an Envoy. `describe` receives the admin port and the listeners' ports, and returns the configuration.
    pub(crate) async fn start(
        index: usize,
        dir: &Path,
        concurrency: usize,
        policies: &[Policy],
        describe: impl FnOnce(u16, &BTreeMap<Policy, u16>) -> EnvoyConfig,
    ) -> Result<Self, LabError> {
        let name = format!("envoy-{index}");
        let admin_port = ports::free_port()?;
        let mut listeners = BTreeMap::new();
        for policy in policies {
            listeners.insert(*policy, ports::free_port()?);
        }
        let text = describe(admin_port, &listeners).to_json(&name);
        let (process, config) = spawn(&name, dir, concurrency, &text)?;
        Ok(Self { process, config, admin_port, listeners })
    }

    pub async fn wait_ready(&mut self) -> Result<(), LabError> {
        wait_ready(&mut self.process, self.admin_port).await
    }

    /// Returns the base URL of the listener for `policy`.
    ///
    /// # Panics
    /// If the policy needs the plugin and sidecars, and the lab was built without them.
    #[allow(clippy::expect_used)]
    pub fn url(&self, policy: Policy) -> String {
        let port = self.listeners.get(&policy).expect("the lab has no listener for this policy");
        format!("http://127.0.0.1:{port}")
    }

    /// Returns the base URL of the admin interface.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// Returns the sum of the counters whose names match the regular expression `filter`.
    pub async fn counted(&self, filter: &str) -> Result<u64, LabError> {
        let url = format!("{}/stats?filter={filter}", self.admin_url());
        match probe::get(&url).await {
            Some((status, text)) if status.is_success() => {
                Ok(text.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum())
            }
            _ => Err(LabError::Response { what: format!("{url}: no successful response") }),
        }
    }

    /// Returns the path of the configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills the process with SIGKILL.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        self.process.kill9()
    }

    /// Starts the process again on the same ports.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.process.spawn()?;
        self.wait_ready().await
    }

    /// Suspends the process with SIGSTOP.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause()
    }

    pub fn resume(&mut self) -> Result<(), LabError> {
        self.process.resume()
    }
}

/// Starts an Envoy with this configuration. Returns the process and the path of its configuration file in `dir`.
pub(super) fn spawn(
    name: &str,
    dir: &Path,
    workers: usize,
    config: &str,
) -> Result<(Process, PathBuf), LabError> {
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, config).map_err(LabError::io(format!("writing {}", path.display())))?;
    let mut process = Process::new(name, paths::envoy()?, dir)
        .args(["--config-path".as_ref(), path.as_os_str()])
        .args(["--concurrency", &workers.to_string()])
        // Soon after a change, Envoy drops the earlier configuration.
        .args(["--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1"]);
    process.spawn()?;
    Ok((process, path))
}

pub(super) async fn wait_ready(process: &mut Process, admin_port: u16) -> Result<(), LabError> {
    let url = format!("http://127.0.0.1:{admin_port}/ready");
    process.wait_ready(READY_WITHIN, async || probe::succeeds(&url).await).await
}
