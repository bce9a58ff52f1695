//! Accepts connections through a [`Gate`].

use std::{
    future::Future,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::settings::Roles;
use futures::stream::{self, FusedStream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::warn;

use super::{Gate, Socket};

/// Pause after the system refused to accept a connection, usually because the process has too many open files.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that the system holds for a client that reads slowly. Without this bound it holds several MiB for each.
const SEND_BUFFER: usize = 128 * 1024;
/// Minimum time between two lines of the log about connections that cannot be accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A listening socket of the system.
pub trait Accept: Send + Sync + 'static {
    type Stream: Send + 'static;

    /// Accepts one connection. Returns it with the client's IP address, if it has one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, address) = self.accept().await?;
        // Answers are small, and their clients wait for them.
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER)?;
        Ok((stream, Some(address.ip().to_canonical())))
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((self.accept().await?.0, None))
    }
}

/// A listening socket whose connections take a place of a [`Gate`].
pub struct Listener<L> {
    inner: L,
    gate: Arc<Gate>,
    roles: Roles,
    logged: Option<Instant>,
}

impl<L: Accept> Listener<L> {
    /// `roles` are those of everybody who can connect.
    pub fn new(inner: L, gate: Arc<Gate>, roles: Roles) -> Self {
        Self { inner, gate, roles, logged: None }
    }

    /// Accepts the next connection that has a place. Closes the others.
    pub async fn accept(&mut self) -> Socket<L::Stream> {
        loop {
            match self.inner.accept().await {
                Ok((stream, address)) => match self.gate.enter(address).await {
                    Some((connection, place)) => return Socket::new(stream, connection, place, self.roles),
                    None => self
                        .log("all connections are taken: a connection is refused", &"listen.connections_max"),
                },
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// Makes room after a failure that concerns this process, and pauses, because the next attempt would fail as well.
    async fn recover(&mut self, error: &io::Error) {
        self.gate.metrics.files.inc();
        self.gate.make_room(None);
        self.log("cannot accept connections for now", error);
        tokio::time::sleep(PAUSE).await;
    }

    fn log(&mut self, message: &'static str, cause: &dyn std::fmt::Display) {
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            warn!(%cause, "{message}");
        }
    }

    /// Returns the accepted connections. The stream never ends.
    pub fn into_stream(self) -> impl FusedStream<Item = Socket<L::Stream>> {
        stream::unfold(self, |mut listener| async move { Some((listener.accept().await, listener)) })
    }
}

/// Returns whether an error concerns only the connection that was about to be accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use evenkeel_telemetry::Metrics;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::transport::connections::{Gates, Places};

    /// A system that has no files left, and then some again.
    struct WithoutFiles(AtomicU64);

    impl Accept for WithoutFiles {
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<(DuplexStream, Option<IpAddr>)> {
            const EMFILE: i32 = 24;
            if self.0.fetch_add(1, Ordering::Relaxed) < 5 {
                return Err(io::Error::from_raw_os_error(EMFILE));
            }
            Ok((tokio::io::duplex(1).0, None))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lack_of_files_is_survived_without_spinning() {
        let metrics = Metrics::new().unwrap();
        let places = Places { grpc: 2, grpc_socket: 2, http: 2 };
        let gate = Gates::new(&places, &metrics.bounds).grpc;
        let since = tokio::time::Instant::now();
        Listener::new(WithoutFiles(AtomicU64::new(0)), gate, Roles::NONE).accept().await;
        assert_eq!((metrics.bounds.grpc.files.get(), since.elapsed()), (5, 5 * PAUSE));
    }
}
