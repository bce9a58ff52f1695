//! Evenkeel's gateway plugin. Before a request goes upstream, the plugin asks the sidecar for an endpoint (Admit) and
//! applies the answer. When the request ends, the plugin reports the outcome (its settlement). It makes no decisions
//! itself.
//!
//! A *lease* is the sidecar's record of one request in flight. The plugin instance that owns a lease is the lease's
//! *holder*. On a timer tick, the holder lists all its leases. All of this passes through one stream to the sidecar.
//!
//! | module | content |
//! |---|---|
//! | [`config`] | plugin configuration; reports every error. A crate of its own, compiled for size |
//! | [`host`] | the interface to the gateway; all host calls go through it |
//! | [`worker`] | one plugin instance in one gateway worker: its streams, its stream to the sidecar and its tick |
//! | [`lease_table`] | the leases of this instance, which it lists to the sidecar |
//! | [`attributes`] | request attributes from the gateway, for Admit |
//! | [`request_body`] | model and prompt size from a JSON body; the edit that requests usage |
//! | [`usage`] | model, tokens and text size of a response, for each API |
//! | [`usage_stripper`] | removes from a stream the usage that the client did not request |
//! | [`outcome`] | how a request ended, from its status and flags |
//! | [`scan`] | a streaming JSON scanner with constant memory |
//! | [`metrics`] | the counters |
//!
//! Only the `entry` module, compiled for Wasm, uses proxy-wasm. Tests run all other modules natively against a mock
//! host.

pub mod attributes;
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

pub use evenkeel_plugin_config as config;

#[cfg(target_arch = "wasm32")]
mod entry;
#[cfg(target_arch = "wasm32")]
mod header_map;
#[cfg(all(target_arch = "wasm32", feature = "higress"))]
mod higress;

#[cfg(test)]
mod mock;
