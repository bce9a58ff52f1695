//! Evenkeel's gateway plugin. It asks the sidecar for an endpoint before a request goes upstream, applies the answer,
//! and reports how the request ended. It makes no decisions itself.
//!
//! | module | content |
//! |---|---|
//! | [`config`] | plugin configuration; reports every fault |
//! | [`host`] | the gateway's interface: this crate's only way out |
//! | [`worker`] | one plugin instance in one gateway worker: its streams, calls and tick |
//! | [`lease_table`] | the leases this worker holds, which KeepAlive reports |
//! | [`attributes`] | request attributes from the gateway, for Admit |
//! | [`request_body`] | model and prompt size from a JSON body; the edit that requests usage |
//! | [`usage`] | model, tokens and text size of a response, for each API |
//! | [`usage_stripper`] | removes from a stream the usage that the client did not request |
//! | [`outcome`] | how a request ended, from its status and flags |
//! | [`scan`] | a streaming JSON scanner with constant memory |
//! | [`metrics`] | the counters |
//!
//! Only the `entry` module, compiled for Wasm, uses proxy-wasm. Tests run everything else natively against a mock host.

pub mod attributes;
pub mod config;
pub mod host;
pub mod lease_table;
pub mod metrics;
pub mod outcome;
mod path;
pub mod request_body;
pub mod scan;
mod text;
pub mod usage;
pub mod usage_stripper;
pub mod worker;

#[cfg(target_arch = "wasm32")]
mod entry;
#[cfg(target_arch = "wasm32")]
mod header_map;
#[cfg(all(target_arch = "wasm32", feature = "higress"))]
mod higress;

#[cfg(test)]
mod mock;
