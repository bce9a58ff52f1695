//! One Redis process that a run kills, freezes and restarts.

use std::{fs, path::Path, time::Duration};

use redis::{AsyncConnectionConfig, FromRedisValue, aio::MultiplexedConnection};

use super::super::clock::Clock;
use crate::lab::{LabError, Process, paths, ports};

const READY_WITHIN: Duration = Duration::from_secs(20);
/// A frozen process accepts connections and never answers. On a busy machine, an answer may take seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(in super::super) struct Node {
    process: Process,
    port: u16,
    /// Whether the process serves: it is neither dead nor frozen.
    serves: bool,
}

impl Node {
    /// Starts a process with its own directory, whose data it reads again after a restart.
    pub(super) async fn start(
        name: &str,
        dir: &Path,
        args: &[&str],
        clock: Option<&Clock>,
    ) -> Result<Self, LabError> {
        let port = ports::free_port()?;
        let data = dir.join(format!("{name}-data"));
        fs::create_dir_all(&data).map_err(LabError::io(format!("creating {}", data.display())))?;
        let process = Process::new(name, paths::redis_server()?, dir)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .args(["--dir".into(), data.into_os_string()])
            .args(args.iter().copied());
        let process = match clock {
            Some(clock) => clock.on(process),
            None => process,
        };
        Self::of(process, port).await
    }

    /// Starts a sentinel, which reads and rewrites its configuration file.
    pub(super) async fn sentinel(name: &str, dir: &Path, file: &Path, port: u16) -> Result<Self, LabError> {
        let process = Process::new(name, paths::redis_server()?, dir);
        Self::of(process.args([file.as_os_str(), "--sentinel".as_ref()]), port).await
    }

    async fn of(process: Process, port: u16) -> Result<Self, LabError> {
        let mut node = Self { process, port, serves: false };
        node.launch().await?;
        Ok(node)
    }

    /// Starts the process, also again after [`Self::kill`] and [`Self::terminate`].
    pub(in super::super) async fn launch(&mut self) -> Result<(), LabError> {
        self.process.spawn()?;
        let url = self.url();
        // An answer with an error, such as LOADING, means that the process is not ready.
        self.process.wait_ready(READY_WITHIN, async || ping(&url).await).await?;
        self.serves = true;
        Ok(())
    }

    pub(in super::super) fn serves(&self) -> bool {
        self.serves
    }

    pub(in super::super) fn port(&self) -> u16 {
        self.port
    }

    pub(in super::super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(in super::super) fn kill(&mut self) -> Result<(), LabError> {
        self.serves = false;
        self.process.kill9()
    }

    pub(in super::super) async fn terminate(&mut self) -> Result<(), LabError> {
        self.serves = false;
        self.process.terminate(READY_WITHIN).await.map(|_| ())
    }

    pub(in super::super) fn freeze(&mut self) -> Result<(), LabError> {
        self.serves = false;
        self.process.pause()
    }

    pub(in super::super) fn thaw(&mut self) -> Result<(), LabError> {
        self.serves = true;
        self.process.resume()
    }

    /// Sends one command on a new connection.
    pub(in super::super) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, LabError> {
        self.query(redis::cmd(words[0]).arg(&words[1..])).await
    }

    pub(in super::super) async fn query<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, LabError> {
        let url = self.url();
        let answer = async {
            let mut connection = connect(&url).await?;
            let answer = command.query_async(&mut connection).await;
            answer.map_err(|source| LabError::Redis { what: "a command of the run", source })
        };
        let silent = || LabError::Response { what: format!("{} does not answer", self.process.name()) };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| silent())?
    }

    /// Opens a connection for several commands in a row.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, LabError> {
        connect(&self.url()).await
    }

    /// Returns a field of the reply to INFO.
    pub(in super::super) async fn info(&self, section: &str, field: &str) -> Result<String, LabError> {
        let info: String = self.command(&["INFO", section]).await?;
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let missing = || LabError::Response { what: format!("INFO {section} has no {field}") };
        value.map(|value| value.trim().to_owned()).ok_or_else(missing)
    }
}

async fn connect(url: &str) -> Result<MultiplexedConnection, LabError> {
    let failed = |source| LabError::Redis { what: "connecting", source };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN));
    let client = redis::Client::open(url).map_err(failed)?;
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)
}

async fn ping(url: &str) -> bool {
    let answer = async {
        let mut connection = connect(url).await.ok()?;
        redis::cmd("PING").exec_async(&mut connection).await.ok()
    };
    tokio::time::timeout(ANSWER_WITHIN, answer).await.is_ok_and(|answer| answer.is_some())
}
