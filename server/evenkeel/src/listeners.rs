//! The sockets that a sidecar listens on.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use evenkeel_config::Config;
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};

/// The bound sockets. The sidecar binds them before any task starts, so that tests can use port 0 and an address in use
/// is reported at once.
pub struct Listeners {
    pub(super) grpc: Option<TcpListener>,
    pub(super) socket: Option<(UnixListener, PathBuf)>,
    pub(super) http: TcpListener,
}

/// The addresses that a sidecar listens on, with the ports that the system assigned.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    pub grpc: Option<String>,
    /// Path of the Unix socket for gRPC.
    pub grpc_socket: Option<PathBuf>,
    pub http: String,
}

impl Listeners {
    /// Binds all listeners.
    ///
    /// # Errors
    /// Fails if an address is in use or not permitted.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let grpc = match config.listen.grpc {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("listen.grpc: cannot listen on {address}"))?,
            ),
            None => None,
        };
        let socket = match &config.listen.grpc_socket {
            Some(path) => {
                let bound = bind_socket(path, config.listen.grpc_socket_mode).await;
                let listener = bound
                    .with_context(|| format!("listen.grpc_socket: cannot listen on {}", path.display()))?;
                Some((listener, path.clone()))
            }
            None => None,
        };
        let address = config.listen.http;
        let http = TcpListener::bind(address).await;
        let http = http.with_context(|| format!("listen.http: cannot listen on {address}"))?;
        Ok(Self { grpc, socket, http })
    }

    /// Returns the bound addresses.
    ///
    /// # Errors
    /// Fails if the system cannot report an address.
    pub fn addresses(&self) -> anyhow::Result<Addresses> {
        let grpc = self.grpc.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Addresses {
            grpc: grpc.map(|address| address.to_string()),
            grpc_socket: self.socket.as_ref().map(|(_, path)| path.clone()),
            http: self.http.local_addr()?.to_string(),
        })
    }
}

/// Binds a Unix socket. Replaces a socket file that a dead process left behind.
async fn bind_socket(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            anyhow::bail!("another process listens on this socket");
        }
        std::fs::remove_file(path).context("cannot remove the stale socket")?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
