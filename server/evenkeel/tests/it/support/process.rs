//! A sidecar in a separate process.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{command::PROGRAM, eventually};

pub(crate) struct Process(Child);

impl Process {
    /// Starts a sidecar with a configuration and `more` arguments. It writes its log to `log`.
    pub(crate) fn serve(config: &Path, more: &[&Path], log: Stdio) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args([Path::new("serve"), Path::new("--config"), config]).args(more);
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Starts a sidecar on free ports, with its files in `directory`. The configuration must have no sections `listen` and
    /// `log`. Returns its address for gRPC, and the path of its log, which has one JSON object for each line.
    pub(crate) async fn start(yaml: &str, directory: &Path) -> (Self, String, PathBuf) {
        let path = |name: &str| directory.join(name);
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\nlog: {format: json}\n";
        std::fs::write(path("evenkeel.yaml"), listen.to_owned() + yaml).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let ready_file = [Path::new("--ready-file"), &path("ready")];
        let process = Self::serve(&path("evenkeel.yaml"), &ready_file, log.into());
        let ready = || async { std::fs::read(path("ready")).map_err(|error| error.to_string()) };
        let ready = eventually(Duration::from_secs(20), "serving", ready).await;
        let ready: serde_json::Value = serde_json::from_slice(&ready).unwrap();
        (process, format!("http://{}", ready["grpc"].as_str().unwrap()), path("log"))
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(kill.unwrap().success());
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
