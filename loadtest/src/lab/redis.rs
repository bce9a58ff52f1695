//! A Redis process on a free port, without persistence.

use std::{path::Path, time::Duration};

use super::{LabError, Process, paths, ports};

const READY_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
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

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Opens a new connection.
    pub async fn connect(&self) -> Result<redis::aio::MultiplexedConnection, LabError> {
        connect(&self.url()).await
    }

    pub async fn flushall(&mut self) -> Result<(), LabError> {
        let mut connection = self.connect().await?;
        redis::cmd("FLUSHALL")
            .exec_async(&mut connection)
            .await
            .map_err(|source| LabError::Redis { what: "FLUSHALL", source })
    }

    pub async fn script_flush(&mut self) -> Result<(), LabError> {
        let mut connection = self.connect().await?;
        redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec_async(&mut connection)
            .await
            .map_err(|source| LabError::Redis { what: "SCRIPT FLUSH", source })
    }

    /// Kills the process with SIGKILL.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        self.process.kill9()
    }

    /// Starts Redis again on the same port. It is empty, because nothing was persisted.
    pub async fn restart_empty(&mut self) -> Result<(), LabError> {
        self.launch().await
    }

    /// Suspends Redis. Connections stay open, but Redis no longer responds.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.process.pause()
    }

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
