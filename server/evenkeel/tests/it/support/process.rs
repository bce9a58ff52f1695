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
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\nlog: {format: json}\n";
        std::fs::write(directory.join("evenkeel.yaml"), listen.to_owned() + yaml).unwrap();
        let (process, ready) = Self::start_limited(directory, None).await;
        (process, format!("http://{}", ready["grpc"].as_str().unwrap()), directory.join("log"))
    }

    /// Starts a sidecar with the file `evenkeel.yaml` of `directory`, and a limit of open files. Returns its addresses.
    pub(crate) async fn start_limited(directory: &Path, files: Option<u32>) -> (Self, serde_json::Value) {
        let path = |name: &str| directory.join(name);
        let log = std::fs::File::create(path("log")).unwrap();
        let limit = files.map_or_else(String::new, |files| format!("ulimit -n {files}; "));
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{limit}exec \"$@\""), "bash", PROGRAM, "serve", "--config"]);
        command.arg(path("evenkeel.yaml")).arg("--ready-file").arg(path("ready"));
        let process = Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let ready = || async { std::fs::read(path("ready")).map_err(|error| error.to_string()) };
        let ready = eventually(Duration::from_secs(20), "serving", ready).await;
        (process, serde_json::from_slice(&ready).unwrap())
    }

    /// Returns the resident memory of the process, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
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
