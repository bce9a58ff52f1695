//! A Redis of one's own: a free port, no persistence.

use std::{path::Path, time::Duration};

use super::{LabError, Process, paths, ports};

const READY_WITHIN: Duration = Duration::from_secs(10);

/// One `redis-server`.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts one on a free port.
    pub async fn start(dir: &Path) -> Result<Self, LabError> {
        let port = ports::free_port()?;
        let process = Process::new("redis", paths::redis_server()?, dir)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--dir".into(), dir.as_os_str().to_owned()])
            .args(["--daemonize", "no", "--loglevel", "warning"]);
        let mut redis = Self { process, port };
        redis.launch().await?;
        Ok(redis)
    }

    async fn launch(&mut self) -> Result<(), LabError> {
        self.process.spawn()?;
        let url = self.url();
        self.process.wait_ready(READY_WITHIN, async || ping(&url).await.is_ok()).await
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection, LabError> {
        connect(&self.url()).await
    }

    /// Forgets everything.
    pub async fn flushall(&mut self) -> Result<(), LabError> {
        let mut connection = self.connect().await?;
        redis::cmd("FLUSHALL")
            .exec_async(&mut connection)
            .await
            .map_err(|source| LabError::Redis { what: "FLUSHALL", source })
    }

    /// Forgets cached scripts.
    pub async fn script_flush(&mut self) -> Result<(), LabError> {
        let mut connection = self.connect().await?;
        redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec_async(&mut connection)
            .await
            .map_err(|source| LabError::Redis { what: "SCRIPT FLUSH", source })
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        self.process.kill9()
    }

    /// Starts it again on the same port; as nothing was saved, it is empty.
    pub async fn restart_empty(&mut self) -> Result<(), LabError> {
        self.launch().await
    }

    /// Lets it hang: connections stay, answers do not come.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause()
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.process.resume()
    }
}

pub(crate) async fn connect(url: &str) -> Result<redis::aio::MultiplexedConnection, LabError> {
    let client = redis::Client::open(url).map_err(|source| LabError::Redis { what: "opening", source })?;
    client
        .get_multiplexed_async_connection()
        .await
        .map_err(|source| LabError::Redis { what: "connecting", source })
}

async fn ping(url: &str) -> Result<(), LabError> {
    let mut connection = connect(url).await?;
    redis::cmd("PING")
        .exec_async(&mut connection)
        .await
        .map_err(|source| LabError::Redis { what: "PING", source })
}
