//! Envoys with a configuration of the caller, for gateways that differ from the lab's.

use std::path::Path;

use serde_json::Value;

use super::{
    LabError, Process,
    bootstrap::{bootstrap, listener},
    envoy, ports,
};

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
        let admin_port = ports::free_port()?;
        let (mut listeners, mut urls) = (Vec::new(), Vec::new());
        for manager in managers {
            let port = ports::free_port()?;
            listeners.push(listener(&format!("listener-{}", urls.len()), port, manager));
            urls.push(format!("http://127.0.0.1:{port}"));
        }
        let config = format!("{:#}", bootstrap(admin_port, &listeners, clusters));
        let (mut process, _) = envoy::spawn(name, dir, workers, &config)?;
        envoy::wait_ready(&mut process, admin_port).await?;
        Ok(Self { urls, process })
    }

    /// Returns the base URLs of the listeners, in the order of the connection managers.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}
