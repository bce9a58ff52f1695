//! A socket that its [`Gate`](super::Gate) can close.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use evenkeel_domain::settings::Roles;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tonic::transport::server::Connected;

use super::{Connection, Peer, gate::Place};

/// An accepted socket, with its place among the listener's connections.
pub struct Socket<S> {
    inner: S,
    connection: Arc<Connection>,
    roles: Roles,
    _place: Place,
}

impl<S> Socket<S> {
    pub(super) fn new(inner: S, connection: Arc<Connection>, place: Place, roles: Roles) -> Self {
        Self { inner, connection, roles, _place: place }
    }

    pub fn peer(&self) -> Peer {
        Peer { connection: Arc::clone(&self.connection), roles: self.roles, certificate: None }
    }
}

impl Connected for Socket<UnixStream> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

impl Socket<TcpStream> {
    /// Waits for the first byte, which stays unread. Returns `None` if the client closed the connection before.
    pub(crate) async fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let count = poll_fn(|context| {
            if self.connection.is_closed() {
                return Poll::Ready(Err(closed()));
            }
            let result = self.inner.poll_peek(context, &mut ReadBuf::new(&mut first));
            if result.is_ready() {
                return result;
            }
            self.connection.reader.register(context.waker());
            if self.connection.is_closed() { Poll::Ready(Err(closed())) } else { Poll::Pending }
        })
        .await?;
        Ok((count > 0).then_some(first[0]))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the sidecar closes the connection: a bound is exceeded")
}

impl<S: Unpin> Socket<S> {
    fn write<T>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let result = write(&mut self.inner, context);
        if result.is_ready() {
            self.connection.flows();
            return result;
        }
        self.connection.stalls();
        self.connection.writer.register(context.waker());
        if self.connection.is_closed() { Poll::Ready(Err(closed())) } else { Poll::Pending }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.is_closed() {
            return Poll::Ready(Err(closed()));
        }
        let result = Pin::new(&mut self.inner).poll_read(context, buffer);
        if result.is_ready() {
            return result;
        }
        self.connection.reader.register(context.waker());
        if self.connection.is_closed() { Poll::Ready(Err(closed())) } else { Poll::Pending }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(context, |inner, context| Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |inner, context| Pin::new(inner).poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
