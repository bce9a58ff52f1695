//! A child process that is signalled and killed by its own process id.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::LabError;
use crate::wait::{POLL_INTERVAL, WaitError};

/// A child process that can be started more than once. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Describes a process whose output is appended to `<dir>/<name>.log`. Does not start the process.
    pub fn new(name: impl Into<String>, program: PathBuf, dir: &Path) -> Self {
        let name = name.into();
        let log = dir.join(format!("{name}.log"));
        Self { name, program, args: Vec::new(), env: Vec::new(), log, child: None }
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts the process. Kills a previous instance first.
    pub fn spawn(&mut self) -> Result<(), LabError> {
        self.reap();
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let failed = || LabError::io(format!("starting {} ({})", self.name, self.program.display()));
        let (out, err) = (open().map_err(failed())?, open().map_err(failed())?);
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(failed())?;
        self.child = Some(child);
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id; `None` if the process was never started or was killed.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills the process with SIGKILL and reaps it.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        if !self.is_running() {
            return Err(LabError::NotRunning { name: self.name.clone() });
        }
        self.reap();
        Ok(())
    }

    /// Sends SIGTERM and waits for the process to end. Returns the exit code; `None` if a signal ended the process.
    pub async fn terminate(&mut self, within: Duration) -> Result<Option<i32>, LabError> {
        self.signal(Signal::TERM)?;
        let start = Instant::now();
        loop {
            let child = self.child.as_mut().ok_or(LabError::NotRunning { name: self.name.clone() })?;
            if let Some(status) =
                child.try_wait().map_err(LabError::io(format!("waiting for {}", self.name)))?
            {
                self.child = None;
                return Ok(status.code());
            }
            if start.elapsed() > within {
                return Err(WaitError { what: format!("{} to end", self.name), within }.into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Suspends the process with SIGSTOP. Its connections stay open, but it no longer responds.
    pub fn pause(&mut self) -> Result<(), LabError> {
        self.signal(Signal::STOP)
    }

    /// Resumes the process with SIGCONT.
    pub fn resume(&mut self) -> Result<(), LabError> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        if !self.is_running() {
            return Err(LabError::NotRunning { name: self.name.clone() });
        }
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.ok_or(LabError::NotRunning { name: self.name.clone() })?;
        kill_process(pid, signal)
            .map_err(|e| LabError::Io { what: format!("signalling {}", self.name), source: e.into() })
    }

    /// Polls `ready` until it returns true.
    ///
    /// # Errors
    /// If the process ends first or is not ready in time.
    pub async fn wait_ready(
        &mut self,
        within: Duration,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            if ready().await {
                return Ok(());
            }
            if let Some(child) = self.child.as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(LabError::Exited {
                    name: self.name.clone(),
                    status: status.to_string(),
                    log_tail: self.log_tail(),
                });
            }
            if start.elapsed() > within {
                return Err(LabError::NotReady {
                    name: self.name.clone(),
                    within,
                    log_tail: self.log_tail(),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns the last 20 lines of the log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        Process::new("sleeper", "/bin/sleep".into(), dir).args(["600"])
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(dir.path());
        process.spawn().unwrap();
        let pid = process.pid().unwrap();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn a_running_process_is_signalled_and_an_ended_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(dir.path());
        process.spawn().unwrap();
        process.pause().unwrap();
        process.resume().unwrap();
        assert_eq!(process.terminate(Duration::from_secs(5)).await.unwrap(), None);
        assert!(matches!(process.kill9(), Err(LabError::NotRunning { .. })));
    }

    #[tokio::test]
    async fn an_early_exit_is_reported_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut process =
            Process::new("failing", "/bin/sh".into(), dir.path()).args(["-c", "echo no such config; exit 3"]);
        process.spawn().unwrap();
        let error = process.wait_ready(Duration::from_secs(5), async || false).await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains("exit status: 3") && message.contains("no such config"), "{message}");
    }
}
