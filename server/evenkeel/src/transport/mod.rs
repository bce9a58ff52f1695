//! The gRPC and HTTP servers. `access` checks the caller's role; then a handler decodes the request, calls the engine or
//! the API, and encodes the response.

pub(crate) mod access;
mod caller;
pub mod connections;
pub mod grpc;
pub mod http;
pub mod memory;
mod status;
