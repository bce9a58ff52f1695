//! The Wasm modules under test, as `make plugin` leaves them.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the general module. `EVENKEEL_PLUGIN_WASM` may contain another path.
pub(crate) fn general() -> Vec<u8> {
    module("EVENKEEL_PLUGIN_WASM", "evenkeel_plugin.wasm")
}

/// Returns the module for Higress. `EVENKEEL_PLUGIN_HIGRESS_WASM` may contain another path.
pub(crate) fn higress() -> Vec<u8> {
    module("EVENKEEL_PLUGIN_HIGRESS_WASM", "evenkeel_plugin_higress.wasm")
}

fn module(variable: &str, name: &str) -> Vec<u8> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/plugin").join(name);
    let path = env::var_os(variable).map_or(built, PathBuf::from);
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; build it with `make plugin`", path.display()))
}
