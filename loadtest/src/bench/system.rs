//! The processes that a benchmark measures: one sidecar over Redis, and perhaps the echo server.

use std::{path::Path, time::Duration};

use super::BenchConfig;
use crate::lab::{Lab, LabError, Process, Ready};

/// The running processes, with the addresses and process ids that the benchmarks need.
pub(super) struct System {
    pub(super) sidecar: Server,
    pub(super) redis_url: String,
    pub(super) redis_pid: Option<u32>,
    lab: Lab,
}

/// The running echo server.
pub(super) struct Echo {
    pub(super) server: Server,
    _process: Process,
}

/// Listeners and process id of a gRPC server.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) ready: Ready,
    pub(super) pid: Option<u32>,
}

impl System {
    /// Starts Redis and the sidecar.
    pub(super) async fn start(
        config: &BenchConfig,
        endpoints: usize,
        sidecar_yaml: &str,
        pool_yaml: &str,
    ) -> Result<Self, LabError> {
        let builder = Lab::builder().hosts(endpoints).envoys(0).sidecars(1).redis();
        let builder = builder.sidecar_yaml(sidecar_yaml).pool_yaml(pool_yaml);
        let builder = match &config.dir {
            Some(dir) => builder.dir(dir),
            None => builder,
        };
        let mut lab = builder.start().await?;
        let (redis_url, redis_pid) = (lab.redis().url(), lab.redis().process().pid());
        let sidecar = &lab.sidecars()[0];
        Ok(Self {
            sidecar: Server { ready: sidecar.ready().clone(), pid: sidecar.process().pid() },
            redis_url,
            redis_pid,
            lab,
        })
    }

    /// Starts the echo server, which is the subcommand `echo` of `program`.
    pub(super) async fn start_echo(&self, program: &Path) -> Result<Echo, LabError> {
        let ready_file = self.lab.dir().join("echo.ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let socket = self.lab.sidecars()[0].socket().with_file_name("echo.sock");
        let mut process = Process::new("echo", program.to_owned(), self.lab.dir())
            .args(["echo".as_ref(), "--ready-file".as_ref(), ready_file.as_os_str()])
            .args(["--socket".as_ref(), socket.as_os_str()]);
        process.spawn()?;
        process.wait_ready(Duration::from_secs(10), async || ready_file.exists()).await?;
        let text = std::fs::read_to_string(&ready_file)
            .map_err(LabError::io("reading the echo server's ready file"))?;
        let ready = serde_json::from_str(&text)
            .map_err(|error| LabError::Response { what: format!("the echo server's ready file: {error}") })?;
        Ok(Echo { server: Server { ready, pid: process.pid() }, _process: process })
    }
}
