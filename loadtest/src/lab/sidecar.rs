//! A sidecar process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{LabError, Process, paths, ports, probe};

const READY_WITHIN: Duration = Duration::from_secs(15);

/// Content of the ready file, which a sidecar writes once it serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ready {
    /// `ip:port` of the gRPC listener.
    #[serde(default)]
    pub grpc: Option<String>,
    #[serde(default)]
    pub grpc_socket: Option<PathBuf>,
    /// `ip:port` of the HTTP listener.
    #[serde(default)]
    pub http: Option<String>,
}

/// A running `evenkeel serve`.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    config: PathBuf,
    ready_file: PathBuf,
    socket: PathBuf,
    ready: Ready,
}

impl Sidecar {
    /// Starts a sidecar. `config` receives the `listen` section and returns the whole configuration as YAML.
    pub async fn start(
        index: usize,
        dir: &Path,
        socket_dir: &Path,
        config: impl FnOnce(&str) -> String,
    ) -> Result<Self, LabError> {
        let name = format!("sidecar-{index}");
        let socket = socket_dir.join(format!("s{index}.sock"));
        let ready_file = dir.join(format!("{name}.ready.json"));
        let path = dir.join(format!("{name}.yaml"));
        // The ports are fixed, not 0, so that clients find a restarted sidecar at the same address.
        let (grpc, http) = (ports::free_port()?, ports::free_port()?);
        let listen = format!(
            "listen: {{grpc: \"127.0.0.1:{grpc}\", grpc_socket: \"{}\", http: \"127.0.0.1:{http}\"}}",
            socket.display()
        );
        fs::write(&path, config(&listen)).map_err(LabError::io(format!("writing {}", path.display())))?;
        let process = Process::new(name, paths::sidecar()?, dir)
            .args(["serve".as_ref(), "--config".as_ref(), path.as_os_str()])
            .args(["--ready-file".as_ref(), ready_file.as_os_str()]);
        let ready = Ready { grpc: None, grpc_socket: None, http: None };
        let mut sidecar = Self { process, config: path, ready_file, socket, ready };
        sidecar.launch().await?;
        Ok(sidecar)
    }

    async fn launch(&mut self) -> Result<(), LabError> {
        let _ = fs::remove_file(&self.ready_file);
        self.process.spawn()?;
        let file = self.ready_file.clone();
        self.process.wait_ready(READY_WITHIN, async || file.exists()).await?;
        let text = fs::read_to_string(&file).map_err(LabError::io(format!("reading {}", file.display())))?;
        self.ready = serde_json::from_str(&text)
            .map_err(|error| LabError::Response { what: format!("{}: {error}: {text}", file.display()) })?;
        Ok(())
    }

    /// Returns the addresses of the listeners.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Returns the Unix socket of the gRPC listener.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the path of the configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Returns `http://ip:port` of the gRPC listener.
    pub fn grpc_url(&self) -> Option<String> {
        self.ready.grpc.as_ref().map(|address| format!("http://{address}"))
    }

    /// Returns the metrics in Prometheus's text format.
    pub async fn metrics(&self) -> Result<String, LabError> {
        self.get("/metrics").await
    }

    /// Sends a GET to the HTTP listener and returns the body.
    pub async fn get(&self, path: &str) -> Result<String, LabError> {
        let address = self.ready.http.as_deref().unwrap_or_default();
        let url = format!("http://{address}{path}");
        match probe::get(&url).await {
            Some((status, body)) if status.is_success() => Ok(body),
            Some((status, body)) => Err(LabError::Response { what: format!("{url}: {status}: {body}") }),
            None => Err(LabError::Response { what: format!("{url}: no response") }),
        }
    }

    /// Kills the process with SIGKILL.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        self.process.kill9()
    }

    /// Sends SIGTERM, waits for the graceful shutdown and returns the exit code.
    pub async fn terminate(&mut self, within: Duration) -> Result<Option<i32>, LabError> {
        self.process.terminate(within).await
    }

    /// Starts the sidecar again with the same configuration, socket and ports.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.launch().await
    }

    /// Suspends the sidecar. Connections stay open, but the sidecar no longer responds.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause()
    }

    pub fn resume(&mut self) -> Result<(), LabError> {
        self.process.resume()
    }
}
