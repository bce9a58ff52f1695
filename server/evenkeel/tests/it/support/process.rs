//! A sidecar in a separate process.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use super::command::PROGRAM;

pub(crate) struct Process(Child);

impl Process {
    /// Starts a sidecar with a configuration and `more` arguments. It writes its log to `log`.
    pub(crate) fn serve(config: &Path, more: &[&Path], log: Stdio) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args([Path::new("serve"), Path::new("--config"), config]).args(more);
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
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
