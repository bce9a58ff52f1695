//! The gRPC and HTTP servers. Each handler decodes a request, calls the engine or the API, and encodes the response.

pub mod connections;
pub mod grpc;
pub mod http;
pub mod memory;
mod status;
