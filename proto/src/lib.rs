//! Evenkeel's gRPC API, generated from the `.proto` files in this crate's directory. The generated items have the
//! comments of the `.proto` files.

#[cfg(feature = "grpc")]
mod holder_secret;
#[cfg(feature = "json")]
pub mod json;

#[cfg(feature = "grpc")]
pub use holder_secret::{HOLDER_SECRET, HolderClient, HolderSecret};

/// Package `evenkeel.v1`: the services `Gateway` (for gateways), `Inspect` (for operators) and `Admin` (for
/// administrators).
#[allow(unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    include!("../generated/evenkeel.v1.rs");
}

/// Package `envoy.service.ratelimit.v3`: Envoy's rate limit service.
#[cfg(feature = "grpc")]
#[allow(unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod rate_limit_service {
    include!("../generated/envoy.service.ratelimit.v3.rs");
}

/// The encoded `FileDescriptorSet` of `evenkeel.v1`, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("../generated/evenkeel.v1.bin");
