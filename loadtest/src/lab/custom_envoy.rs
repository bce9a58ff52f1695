//! Envoys with a configuration of the caller, for gateways that differ from the lab's.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use super::{
    LabError, Process,
    bootstrap::{bootstrap, listener},
    paths, ports, probe,
};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// An Envoy with one listener for each HTTP connection manager that it was started with.
#[derive(Debug)]
pub struct CustomEnvoy {
    urls: Vec<String>,
    process: Process,
}

impl CustomEnvoy {
    /// Starts an Envoy with `workers` worker threads and waits until it serves. `dir` receives its configuration and
    /// its log.
    pub async fn start(
        dir: &Path,
        name: &str,
        workers: usize,
        managers: impl IntoIterator<Item = Value>,
        clusters: &[Value],
    ) -> Result<Self, LabError> {
        let program = paths::envoy()?;
        let admin_port = ports::free_port()?;
        let (mut listeners, mut urls) = (Vec::new(), Vec::new());
        for manager in managers {
            let port = ports::free_port()?;
            listeners.push(listener(&format!("listener-{}", urls.len()), port, manager));
            urls.push(format!("http://127.0.0.1:{port}"));
        }
        let path = dir.join(format!("{name}.json"));
        let config = format!("{:#}", bootstrap(admin_port, &listeners, clusters));
        fs::write(&path, config).map_err(LabError::io(format!("writing {}", path.display())))?;
        let process = Process::new(name, program, dir)
            .args(["--config-path".as_ref(), path.as_os_str()])
            .args(["--concurrency", &workers.to_string()])
            .args(["--disable-hot-restart", "--log-level", "warning"]);
        let mut envoy = Self { urls, process };
        envoy.process.spawn()?;
        let ready = format!("http://127.0.0.1:{admin_port}/ready");
        envoy.process.wait_ready(READY_WITHIN, async || probe::succeeds(&ready).await).await?;
        Ok(envoy)
    }

    /// Returns the base URLs of the listeners, in the order of the connection managers.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}
