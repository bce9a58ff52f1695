//! gRPC and HTTP: decode, call, encode. Wire types stop here.

pub mod grpc;
pub mod http;
mod status;
