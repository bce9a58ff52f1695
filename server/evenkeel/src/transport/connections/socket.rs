//! A socket that its [`Gate`](super::Gate) can close.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use evenkeel_domain::settings::Roles;
use futures::task::AtomicWaker;
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
            read(&self.connection, context, |context| {
                self.inner.poll_peek(context, &mut ReadBuf::new(&mut first))
            })
        })
        .await?;
        Ok((count > 0).then_some(first[0]))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the sidecar closes the connection: a bound is exceeded")
}

fn read<T>(
    connection: &Connection,
    context: &mut Context<'_>,
    read: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if connection.is_closed() {
        return Poll::Ready(Err(closed()));
    }
    let result = read(context);
    if result.is_ready() { result } else { wait(connection, &connection.reader, context) }
}

/// Returns the result of an operation that must wait: an error if the gate has closed the connection meanwhile.
fn wait<T>(connection: &Connection, waker: &AtomicWaker, context: &Context<'_>) -> Poll<io::Result<T>> {
    waker.register(context.waker());
    if connection.is_closed() { Poll::Ready(Err(closed())) } else { Poll::Pending }
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
        wait(&self.connection, &self.connection.writer, context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, connection, .. } = self.get_mut();
        read(connection, context, |context| Pin::new(inner).poll_read(context, buffer))
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
