//! The sockets that a sidecar listens on.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use evenkeel_config::{Config, Tls};
use rustix::fs::Mode;
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};

/// The bound sockets. The sidecar binds them before any task starts, so that tests can use port 0 and an address in use
/// is reported at once.
pub struct Listeners {
    pub(super) grpc: Option<TcpListener>,
    pub(super) socket: Option<(UnixListener, SocketFile)>,
    pub(super) http: TcpListener,
}

/// The addresses that a sidecar listens on, with the ports that the system assigned.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    pub grpc: Option<String>,
    /// Path of the Unix socket for gRPC.
    pub grpc_socket: Option<PathBuf>,
    pub http: String,
    /// Whether the address for gRPC has TLS.
    pub grpc_tls: bool,
    /// Whether the address for HTTP has TLS.
    pub http_tls: bool,
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
                let bound = bound
                    .with_context(|| format!("listen.grpc_socket: cannot listen on {}", path.display()))?;
                Some(bound)
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
    pub fn addresses(&self, tls: Option<&Tls>) -> anyhow::Result<Addresses> {
        let grpc = self.grpc.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Addresses {
            grpc: grpc.map(|address| address.to_string()),
            grpc_socket: self.socket.as_ref().map(|(_, file)| file.path.clone()),
            http: self.http.local_addr()?.to_string(),
            grpc_tls: grpc.is_some() && tls.is_some_and(|tls| tls.grpc),
            http_tls: tls.is_some_and(|tls| tls.http),
        })
    }
}

/// The file of a Unix socket that this process has bound.
pub(super) struct SocketFile {
    path: PathBuf,
    /// The device and the inode, which tell it from a file that replaces it.
    identity: (u64, u64),
}

impl SocketFile {
    /// Removes the file, unless another process has replaced it.
    pub(super) fn remove(&self) {
        let is_own = |found: fs::Metadata| {
            found.file_type().is_socket() && (found.dev(), found.ino()) == self.identity
        };
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket. Replaces a socket file that a dead process left behind, and no other file.
async fn bind_socket(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            anyhow::bail!("the file exists and is not a socket: choose another path, or remove the file");
        }
        Ok(_) if tokio::net::UnixStream::connect(path).await.is_ok() => {
            anyhow::bail!("another process listens on this socket");
        }
        Ok(_) => fs::remove_file(path).context("cannot remove the stale socket")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot look at the file"),
    }
    // The file has its mode from the start. If the mode were changed later, others could connect until then.
    let before = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    let bound = fs::symlink_metadata(path)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: (bound.dev(), bound.ino()) }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener};

    use super::*;

    #[tokio::test]
    async fn only_a_socket_is_replaced_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "kept").unwrap();
        fs::create_dir(path("directory")).unwrap();
        drop(UnixListener::bind(path("stale")).unwrap());
        std::os::unix::fs::symlink(path("stale"), path("link")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        for name in ["file", "directory", "link", "dangling"] {
            let error = bind_socket(&path(name), 0o600).await.err().unwrap();
            assert!(error.to_string().starts_with("the file exists and is not a socket"), "{name}: {error}");
        }
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "kept");

        let (listener, file) = bind_socket(&path("stale"), 0o640).await.unwrap();
        assert_eq!(fs::metadata(path("stale")).unwrap().permissions().mode() & 0o777, 0o640);
        drop(listener);
        fs::remove_file(path("stale")).unwrap();
        fs::write(path("stale"), "of another process").unwrap();
        file.remove();
        assert!(path("stale").exists());
    }
}
