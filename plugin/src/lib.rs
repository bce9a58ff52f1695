//! Evenkeel's gateway plugin: asks the sidecar for an endpoint before a request goes upstream, applies
//! the answer, and reports how the request ended. It decides nothing itself.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | plugin configuration, with every fault named |
//! | [`host`] | what the gateway offers: the only way out of this crate |
//! | [`worker`] | one plugin instance in one worker: its streams, its calls, its tick |
//! | [`book`] | the leases this worker holds; what KeepAlive reports |
//! | [`facts`] | what the gateway knows of a request, put into Admit |
//! | [`outcome`] | how a request ended, read from status and flags |
//! | [`body`] | model and prompt size from a JSON body, and the edit that asks a stream for its usage |
//! | [`scan`] | JSON read from chunks cut anywhere, in fixed memory |
//! | [`usage`] | model, tokens and text of a response, whatever its shape |
//! | [`hide`] | takes out of a stream the usage the client had not asked for |
//! | [`metrics`] | every counter, declared once |
//!
//! Only the `entry` module, compiled for Wasm, knows proxy-wasm; everything else is tested natively with a
//! mock host.

pub mod body;
pub mod book;
pub mod config;
pub mod facts;
pub mod hide;
pub mod host;
pub mod metrics;
pub mod outcome;
pub mod scan;
pub mod usage;
pub mod worker;

#[cfg(target_arch = "wasm32")]
mod entry;
#[cfg(target_arch = "wasm32")]
mod headers;
#[cfg(all(target_arch = "wasm32", feature = "higress"))]
mod higress;

#[cfg(test)]
mod mock;
