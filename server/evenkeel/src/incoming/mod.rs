//! Connections over TCP that are ready for HTTP: after the handshake if the listener has TLS. The gate of
//! [`connections`](crate::transport::connections) bounds their number and their time, handshakes included.

use std::{io, pin::Pin};

use futures::{Stream, StreamExt as _, stream};
use tokio::net::{TcpListener, TcpStream};

use crate::transport::connections::{Listener, Socket};

mod connection;
mod handshake;
mod plain_text;

pub(crate) use connection::Connection;
pub(crate) use handshake::Handshakes;

/// A listener that yields connections which are ready for HTTP.
pub(crate) struct Incoming {
    /// A stream keeps a connection that waits for its place while handshakes end.
    sockets: Pin<Box<dyn Stream<Item = io::Result<Socket<TcpStream>>> + Send>>,
    tls: Option<Handshakes>,
}

impl Incoming {
    pub(crate) fn new(listener: Listener<TcpListener>, tls: Option<Handshakes>) -> Self {
        Self { sockets: Box::pin(listener.into_stream()), tls }
    }

    /// Returns the next connection; `None` if the listener has ended. Handshakes run meanwhile, so a slow client delays no
    /// other.
    async fn next(&mut self) -> Option<io::Result<Connection>> {
        let Some(handshakes) = &mut self.tls else {
            return Some(self.sockets.next().await?.map(Connection::plain));
        };
        loop {
            tokio::select! {
                accepted = self.sockets.next() => match accepted? {
                    Ok(socket) => handshakes.start(socket),
                    Err(error) => return Some(Err(error)),
                },
                (stream, peer) = handshakes.next() => return Some(Ok(Connection::tls(stream, peer))),
            }
        }
    }

    /// Yields each connection when it is ready, until the listener ends.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |mut incoming| async move { Some((incoming.next().await?, incoming)) })
    }
}
