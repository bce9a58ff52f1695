//! A real terminal: a tmux server, which stops when this value is dropped.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use super::eventually;

pub(crate) const PROMPT: &str = "ready>";

/// One terminal in which a shell runs.
pub(crate) struct Tmux {
    dir: tempfile::TempDir,
}

impl Tmux {
    /// Opens a terminal of this size.
    pub(crate) async fn start(columns: u16, rows: u16) -> Self {
        let tmux = Self { dir: tempfile::tempdir().unwrap() };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = format!("PS1='{PROMPT} ' exec sh");
        tmux.command(&["new-session", "-d", "-x", &columns, "-y", &rows, &shell]);
        tmux.shows("the shell waits", |screen| screen.contains(PROMPT)).await;
        tmux
    }

    /// Returns a directory for the test's files.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(self.dir.path().join("tmux")).args(["-f", "/dev/null"]).args(words);
        // The developer's own tmux and settings must not affect the test.
        for name in ["TMUX", "NO_COLOR", "EVENKEEL_SERVER", "EVENKEEL_TOKEN", "ENV"] {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color");
        command.output().expect("tmux is installed: see .ci/setup tmux")
    }

    /// Runs a tmux command and returns its output.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types a line into the terminal.
    pub(crate) fn types(&self, line: &str) {
        self.command(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// Presses keys, named as in tmux.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.command(&[&["send-keys"], keys].concat());
    }

    pub(crate) fn screen(&self) -> String {
        self.command(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as wanted, and returns the screen.
    pub(crate) async fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(Duration::from_secs(60), what, async || {
            let screen = self.screen();
            if wanted(&screen) { Ok(screen) } else { Err(format!("\n{screen}")) }
        })
        .await
    }

    /// Returns whether a program uses the terminal's alternate screen.
    pub(crate) fn is_taken(&self) -> bool {
        self.command(&["display-message", "-p", "#{alternate_on}"]).trim() == "1"
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
