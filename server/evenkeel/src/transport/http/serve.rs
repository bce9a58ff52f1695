//! Serves HTTP connections.

use std::pin::pin;

use axum::{Router, body::Body, http::Request};
use futures::{StreamExt as _, stream::FusedStream};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tower::ServiceExt as _;
use tracing::debug;

/// Maximum size of a request's head: the longest URI that the `http` crate accepts, 64 KiB, and its headers.
const HEAD_BYTES_MAX: usize = 96 * 1024;

/// Maximum number of requests in progress on an HTTP/2 connection. Only gRPC clients that call this port by mistake use it,
/// and get an answer that says so.
const STREAMS_MAX: u32 = 16;

/// Serves connections until `stop`, and waits for the requests in progress. What a connection reports about itself is an
/// extension of its requests.
pub async fn serve<S>(incoming: impl FusedStream<Item = S>, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    // A connection's `Gate` bounds the time of heads, so hyper needs no timer.
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    server.http2().max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_BYTES_MAX as u32);
    let connections = GracefulShutdown::new();
    {
        let mut incoming = pin!(incoming);
        loop {
            let socket = tokio::select! {
                () = stop.cancelled() => break,
                socket = incoming.select_next_some() => socket,
            };
            let info = socket.connect_info();
            let service = router.clone().map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(info.clone());
                request.map(Body::new)
            });
            let connection = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
            let connection = connections.watch(connection.into_owned());
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(error = &*error, "an HTTP connection has failed");
                }
            });
        }
    }
    connections.shutdown().await;
}
