//! The real `evenkeel` command.

use std::{ffi::OsStr, process::Output};

use serde_json::Value;

use super::{admin::TOKEN, sidecar::Sidecar};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_evenkeel");

fn command(words: &[impl AsRef<OsStr>]) -> std::process::Command {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(words);
    for name in ["SERVER", "SERVER_NAME", "TOKEN", "CA_FILE", "CERT_FILE", "KEY_FILE"] {
        command.env_remove(format!("EVENKEEL_{name}"));
    }
    command
}

/// Runs a command that needs no sidecar. Returns whether it succeeds, its standard output and its standard error.
pub(crate) fn offline(words: &[impl AsRef<OsStr>]) -> (bool, String, String) {
    let output = command(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// Runs a command that calls the sidecar at `url`. The environment contains the address and the token.
pub(crate) async fn evenkeel(url: &str, token: Option<&str>, words: &[&str]) -> Output {
    let mut command = command(words);
    command.env("EVENKEEL_SERVER", url);
    if let Some(token) = token {
        command.env("EVENKEEL_TOKEN", token);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs a command as administrator, which must succeed, and returns what it prints. Spaces separate the words of the
/// command.
pub(crate) async fn prints(sidecar: &Sidecar, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let output = evenkeel(&sidecar.url(), Some(TOKEN), &words).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command, as [`prints`] does, and returns the JSON that the command prints.
pub(crate) async fn prints_json(sidecar: &Sidecar, words: &str) -> Value {
    let text = prints(sidecar, &format!("{words} --output json")).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: {error}: {text}"))
}

/// Returns the exit code and standard error of a command, which must print nothing on standard output.
pub(crate) async fn fails(sidecar: &Sidecar, token: Option<&str>, words: &str) -> (i32, String) {
    let words: Vec<&str> = words.split(' ').collect();
    let output = evenkeel(&sidecar.url(), token, &words).await;
    assert!(output.stdout.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}
