//! Starts the servers on the bound sockets.

use std::{convert::Infallible, time::Duration};

use axum::Router;
use futures::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tracing::error;

use crate::{
    incoming::Incoming,
    transport::{connections::Listener, http},
};

/// Maximum number of unary calls that clients have given up and that the server has not looked at. Beyond it, the server
/// closes the connection. h2's default is 20, which a pause of 200 ms can exceed.
const PENDING_RESETS_MAX: usize = 4096;
/// Maximum number of requests in progress on one connection, which is also hyper's default. A gateway worker has one, its
/// stream.
const STREAMS_MAX: u32 = 200;
/// Maximum size of the headers of one request, in bytes, as HTTP/2 counts them. Gateways send some hundred.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Maximum number of bytes that a client sends on one stream, and on all streams of a connection, before the sidecar reads
/// them. Twice the usual message, so that a list of leases is not slowed down.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// How often the sidecar pings a client, to notice when it is gone. tonic waits 20 s for the answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);

pub(crate) fn grpc(
    servers: &TaskTracker,
    tcp: Option<Incoming>,
    socket: Option<Listener<UnixListener>>,
    routes: &Routes,
    stop: &CancellationToken,
) {
    if let Some(incoming) = tcp {
        servers.spawn(serve_grpc(incoming.into_stream(), routes.clone(), stop.clone(), "TCP"));
    }
    if let Some(listener) = socket {
        servers.spawn(serve_grpc(listener.into_stream(), routes.clone(), stop.clone(), "the Unix socket"));
    }
}

async fn serve_grpc<S>(
    incoming: impl Stream<Item = S>,
    routes: Routes,
    stop: CancellationToken,
    on: &'static str,
) where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_routes(routes);
    let incoming = incoming.map(Ok::<_, Infallible>);
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
        error!(%error, on, "the gRPC server failed");
    }
}

pub(crate) fn http(servers: &TaskTracker, incoming: Incoming, router: Router, stop: &CancellationToken) {
    servers.spawn(http::serve(incoming.into_stream(), router, stop.clone()));
}
