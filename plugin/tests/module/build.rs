//! Builds the Wasm modules under test, or reads modules whose paths are in the environment.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Returns the general module. `EVENKEEL_PLUGIN_WASM` may contain the path of a module that is already built.
pub(crate) fn general() -> Vec<u8> {
    module("EVENKEEL_PLUGIN_WASM", "general", &[])
}

/// Returns the module for Higress. `EVENKEEL_PLUGIN_HIGRESS_WASM` may contain the path of a module that is already
/// built.
pub(crate) fn higress() -> Vec<u8> {
    module("EVENKEEL_PLUGIN_HIGRESS_WASM", "higress", &["--features", "higress"])
}

fn module(variable: &str, name: &str, features: &[&str]) -> Vec<u8> {
    let path = env::var_os(variable).map_or_else(|| build(name, features), PathBuf::from);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn build(name: &str, features: &[&str]) -> PathBuf {
    // Use separate directories, because both builds write the same file name and tests may run in parallel.
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plugin-{name}"));
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "-p", "evenkeel-plugin", "--profile", "plugin", "--target", "wasm32-wasip1"])
        .args(features)
        .arg("--target-dir")
        .arg(&target_dir)
        .output()
        .expect("cargo can be run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the module could not be built. If the wasm32-wasip1 target is missing: rustup target add \
         wasm32-wasip1. Cargo said:\n{stderr}"
    );
    target_dir.join("wasm32-wasip1/plugin/evenkeel_plugin.wasm")
}
