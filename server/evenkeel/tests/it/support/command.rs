//! The real `evenkeel`, run beside a sidecar in this process.

use std::process::Output;

use serde_json::Value;

use super::sidecar::Sidecar;

/// An administrator's token, for configurations that end in [`ADMIN`].
pub(crate) const TOKEN: &str = "0123456789abcdef";
/// Makes it one.
pub(crate) const ADMIN: &str = "\nadmin: {tokens: [{name: ops, token: 0123456789abcdef}]}\n";

/// Runs a command that asks this sidecar; what it needs comes from the environment.
pub(crate) async fn evenkeel(url: &str, token: Option<&str>, words: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(words).env("EVENKEEL_SERVER", url).env_remove("EVENKEEL_ADMIN_TOKEN");
    if let Some(token) = token {
        command.env("EVENKEEL_ADMIN_TOKEN", token);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Where a sidecar is asked.
pub(crate) fn url(sidecar: &Sidecar) -> String {
    format!("http://{}", sidecar.addresses.grpc.as_ref().unwrap())
}

/// Standard output of a command that succeeds, as administrator.
pub(crate) async fn says(sidecar: &Sidecar, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let output = evenkeel(&url(sidecar), Some(TOKEN), &words).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same, as JSON.
pub(crate) async fn tells(sidecar: &Sidecar, words: &str) -> Value {
    let text = says(sidecar, &format!("{words} --output json")).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: {error}: {text}"))
}
