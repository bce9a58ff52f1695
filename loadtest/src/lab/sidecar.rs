//! The sidecar, as a process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{LabError, Process, paths, wait};

const READY_WITHIN: Duration = Duration::from_secs(15);

/// What a sidecar writes into its ready file once it serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ready {
    /// `ip:port` of gRPC.
    #[serde(default)]
    pub grpc: Option<String>,
    /// Unix socket of gRPC.
    #[serde(default)]
    pub grpc_socket: Option<PathBuf>,
    /// `ip:port` of HTTP.
    #[serde(default)]
    pub http: Option<String>,
}

/// One `evenkeel serve`.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    config: PathBuf,
    ready_file: PathBuf,
    socket: PathBuf,
    ready: Ready,
}

impl Sidecar {
    /// Starts one. `config` is given the socket and the ports of the listeners, and answers the whole YAML.
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
        // Ports are fixed, not 0, so that a restarted sidecar is where its clients look for it.
        let (grpc, http) = (super::ports::free_port()?, super::ports::free_port()?);
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
            .map_err(|fault| LabError::Answer { what: format!("{}: {fault}: {text}", file.display()) })?;
        Ok(())
    }

    /// Where it listens.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its gRPC Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// `http://ip:port` of gRPC over TCP.
    pub fn grpc_url(&self) -> Option<String> {
        self.ready.grpc.as_ref().map(|address| format!("http://{address}"))
    }

    /// Its metrics in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String, LabError> {
        self.get("/metrics").await
    }

    /// One of its HTTP pages.
    pub async fn get(&self, path: &str) -> Result<String, LabError> {
        let address = self.ready.http.as_deref().unwrap_or_default();
        let url = format!("http://{address}{path}");
        match wait::get(&url).await {
            Some((status, body)) if status.is_success() => Ok(body),
            Some((status, body)) => Err(LabError::Answer { what: format!("{url}: {status}: {body}") }),
            None => Err(LabError::Answer { what: format!("{url}: no answer") }),
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        self.process.kill9()
    }

    /// Asks it to drain and end; answers its exit code.
    pub async fn terminate(&mut self, within: Duration) -> Result<Option<i32>, LabError> {
        self.process.terminate(within).await
    }

    /// Starts it again with the same configuration, socket and ports.
    pub async fn restart(&mut self) -> Result<(), LabError> {
        self.launch().await
    }

    /// Stops it in its tracks: connections stay, answers do not come.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause()
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.process.resume()
    }
}
