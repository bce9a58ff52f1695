//! Doors: decode, call, encode. Wire types stop here.

pub mod administration;
pub mod auth;
pub mod capacity;
pub mod grpc;
pub mod http;
mod status;
