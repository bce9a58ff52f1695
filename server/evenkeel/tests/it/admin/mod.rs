//! Administrators change quotas, overrides and drains over gRPC, over HTTP, with the command and through the gateway.

use crate::support::{
    admin::{LIMITS_AND_QUOTAS, with_admin},
    sidecar::Sidecar,
};

mod change_log;
mod command_line;
mod gateway;
mod grpc;
mod http;

/// Starts a sidecar with limits, quotas and an administrator.
async fn start() -> Sidecar {
    Sidecar::start(&with_admin(LIMITS_AND_QUOTAS)).await
}
