//! Connections over TCP that are ready for HTTP: after the handshake if the listener has TLS. The gate of
//! [`connections`](crate::transport::connections) bounds their number and their time, handshakes included.

use std::pin::Pin;

use futures::{
    StreamExt as _,
    stream::{self, FusedStream},
};
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
    sockets: Pin<Box<dyn FusedStream<Item = Socket<TcpStream>> + Send>>,
    tls: Option<Handshakes>,
}

impl Incoming {
    pub(crate) fn new(listener: Listener<TcpListener>, tls: Option<Handshakes>) -> Self {
        Self { sockets: Box::pin(listener.into_stream()), tls }
    }

    /// Returns the next connection. Handshakes run meanwhile, so a slow client delays no other.
    async fn next(&mut self) -> Connection {
        let Some(handshakes) = &mut self.tls else {
            return Connection::plain(self.sockets.select_next_some().await);
        };
        loop {
            tokio::select! {
                socket = self.sockets.select_next_some() => handshakes.start(socket),
                (stream, peer) = handshakes.next() => return Connection::tls(stream, peer),
            }
        }
    }

    /// Yields each connection when it is ready. The stream never ends.
    pub(crate) fn into_stream(self) -> impl FusedStream<Item = Connection> {
        stream::unfold(self, |mut incoming| async move { Some((incoming.next().await, incoming)) })
    }
}
