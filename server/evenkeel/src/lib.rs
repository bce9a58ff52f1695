//! The Evenkeel sidecar: gRPC and HTTP servers, the wiring of the crates behind them, and the reload of the
//! configuration.

pub mod app;
mod doors;
mod incoming;
mod listeners;
pub mod reload;
mod serve;
mod stores;
mod ticket_keys;
mod tracer;
pub mod transport;
