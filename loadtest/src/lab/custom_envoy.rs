//! Envoys with a configuration of the caller, for gateways that differ from the lab's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    LabError, Process,
    bootstrap::{bootstrap, listener},
    envoy, ports,
};

/// An Envoy with one listener for each HTTP connection manager. It reads the listeners from a file, which it watches.
#[derive(Debug)]
pub struct CustomEnvoy {
    ports: Vec<u16>,
    urls: Vec<String>,
    listeners: PathBuf,
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
        let managers: Vec<Value> = managers.into_iter().collect();
        let ports = managers.iter().map(|_| ports::free_port()).collect::<Result<Vec<u16>, _>>()?;
        let listeners = dir.join(format!("{name}-listeners.json"));
        write_listeners(&listeners, &ports, managers)?;
        let mut config = bootstrap(admin_port, &[], clusters);
        config["node"] = json!({"id": name, "cluster": name});
        config["dynamic_resources"] = json!({"lds_config": {"path_config_source": {"path": listeners}}});
        let (mut process, _) = envoy::spawn(name, dir, workers, &format!("{config:#}"))?;
        envoy::wait_ready(&mut process, admin_port).await?;
        let urls = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        Ok(Self { ports, urls, listeners, process })
    }

    /// Gives the listeners other connection managers. Envoy applies the change soon afterwards, and requests in flight
    /// continue with their earlier configuration.
    pub fn reconfigure(&self, managers: impl IntoIterator<Item = Value>) -> Result<(), LabError> {
        write_listeners(&self.listeners, &self.ports, managers)
    }

    /// Returns the base URLs of the listeners, in the order of the connection managers.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Replaces the file of listeners. Envoy reads it only when another file takes its place.
fn write_listeners(
    path: &Path,
    ports: &[u16],
    managers: impl IntoIterator<Item = Value>,
) -> Result<(), LabError> {
    let of_port = |(index, (port, manager)): (usize, (&u16, Value))| {
        let mut listener = listener(&format!("listener-{index}"), *port, manager);
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
        listener
    };
    let resources: Vec<Value> = ports.iter().zip(managers).enumerate().map(of_port).collect();
    let next = path.with_extension("next");
    fs::write(&next, format!("{:#}", json!({"resources": resources})))
        .and_then(|()| fs::rename(&next, path))
        .map_err(LabError::io(format!("writing {}", path.display())))
}
