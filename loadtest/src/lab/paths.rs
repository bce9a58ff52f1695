//! Finds the programs that labs and tests run.

use std::path::{Path, PathBuf};

use super::LabError;

/// Environment variable with the path of the Envoy binary.
pub const ENVOY: &str = "EVENKEEL_ENVOY";
/// Environment variable with the path of the sidecar binary.
pub const SIDECAR: &str = "EVENKEEL_BIN";
/// Environment variable with the path of the plugin's Wasm module.
pub const PLUGIN: &str = "EVENKEEL_PLUGIN_WASM";
/// Environment variable with the path of the Redis binary.
pub const REDIS: &str = "EVENKEEL_REDIS_SERVER";
/// Environment variable with the path of a Python interpreter that has OpenAI's client library.
pub const PYTHON: &str = "EVENKEEL_PYTHON";
/// Environment variable with the path of the Prometheus binary.
pub const PROMETHEUS: &str = "EVENKEEL_PROMETHEUS";
/// Environment variable with the path of promtool.
pub const PROMTOOL: &str = "EVENKEEL_PROMTOOL";
/// Environment variable with the path of Node.js.
pub const NODE: &str = "EVENKEEL_NODE";
/// Environment variable with the path of Chromium.
pub const BROWSER: &str = "EVENKEEL_BROWSER";
/// Environment variable with the directory whose `node_modules` contains playwright-core.
pub const PAGE_TOOLS: &str = "EVENKEEL_PAGE_TOOLS";

/// Returns the root of the workspace in which this crate was built.
pub fn workspace() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir).to_owned()
}

fn find(
    variable: &str,
    candidates: Vec<PathBuf>,
    what: &'static str,
    hint: &'static str,
) -> Result<PathBuf, LabError> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(LabError::Missing { what, hint, looked: vec![path] })
        };
    }
    candidates
        .iter()
        .find(|path| path.is_file())
        // Do not canonicalize the path: Debian's redis-server is a link to a program that selects its mode by its name.
        .and_then(|path| std::path::absolute(path).ok())
        .ok_or(LabError::Missing { what, hint, looked: candidates })
}

pub fn envoy() -> Result<PathBuf, LabError> {
    let mut candidates = vec![workspace().join(".tools/envoy/envoy/_bin/envoy")];
    candidates.extend(on_path("envoy"));
    find(ENVOY, candidates, "Envoy", "fetch it with `make tools` or set EVENKEEL_ENVOY")
}

/// Finds the sidecar in the directory of this program, in its parent directory (test binaries are in `deps/`), or in a
/// target directory.
pub fn sidecar() -> Result<PathBuf, LabError> {
    let mut candidates = Vec::new();
    if let Ok(exe) = std::env::current_exe() {
        candidates.extend(exe.ancestors().skip(1).take(2).map(|dir| dir.join("evenkeel")));
    }
    for profile in ["release", "debug"] {
        candidates.extend(target_dirs().into_iter().map(|dir| dir.join(profile).join("evenkeel")));
    }
    find(SIDECAR, candidates, "the sidecar", "build it with `cargo build -p evenkeel` or set EVENKEEL_BIN")
}

pub fn plugin() -> Result<PathBuf, LabError> {
    let candidates = vec![workspace().join("out/plugin/evenkeel_plugin.wasm")];
    find(PLUGIN, candidates, "the plugin", "build it with `make plugin` or set EVENKEEL_PLUGIN_WASM")
}

pub fn redis_server() -> Result<PathBuf, LabError> {
    find(REDIS, on_path("redis-server"), "redis-server", "install Redis or set EVENKEEL_REDIS_SERVER")
}

/// Finds a Python interpreter with OpenAI's client library. Does not search `PATH`, because a Python found there
/// usually lacks the library.
pub fn python() -> Result<PathBuf, LabError> {
    let candidates = vec![workspace().join(".tools/python/bin/python")];
    find(
        PYTHON,
        candidates,
        "Python with the `openai` package",
        "install it with `.ci/setup python` or set EVENKEEL_PYTHON",
    )
}

pub fn prometheus() -> Result<PathBuf, LabError> {
    find(PROMETHEUS, on_path("prometheus"), "prometheus", "install Prometheus or set EVENKEEL_PROMETHEUS")
}

pub fn promtool() -> Result<PathBuf, LabError> {
    find(PROMTOOL, on_path("promtool"), "promtool", "install Prometheus or set EVENKEEL_PROMTOOL")
}

pub fn node() -> Result<PathBuf, LabError> {
    find(NODE, on_path("node"), "Node.js", "fetch it with `.ci/setup browser` or set EVENKEEL_NODE")
}

pub fn browser() -> Result<PathBuf, LabError> {
    find(
        BROWSER,
        on_path("chromium"),
        "Chromium",
        "fetch it with `.ci/setup browser` or set EVENKEEL_BROWSER",
    )
}

/// Returns the directory whose `node_modules` contains playwright-core, which drives the browser.
pub fn page_tools() -> Result<PathBuf, LabError> {
    let dir = std::env::var_os(PAGE_TOOLS).map_or_else(|| workspace().join(".tools/page"), PathBuf::from);
    let looked = dir.join("node_modules/playwright-core/package.json");
    if looked.is_file() {
        return Ok(dir);
    }
    let hint = "fetch it with `.ci/setup browser` or set EVENKEEL_PAGE_TOOLS";
    Err(LabError::Missing { what: "playwright-core", hint, looked: vec![looked] })
}

fn on_path(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).collect()
}

/// Returns the target directory of this program, the directory in `CARGO_TARGET_DIR`, and the workspace's default
/// target directory.
fn target_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(exe) = std::env::current_exe() {
        dirs.extend(exe.ancestors().skip(2).take(2).map(Path::to_owned));
    }
    dirs.extend(std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    dirs.push(workspace().join("target"));
    dirs
}
