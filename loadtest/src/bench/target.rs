//! The targets that a benchmark calls.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use evenkeel_proto::{HolderClient, HolderSecret};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};

use crate::lab::{LabError, Ready};

/// The secret of all holders of this process, because several connections may share a holder.
static SECRET: LazyLock<[u8; 16]> = LazyLock::new(rand::random);

#[derive(Clone, Debug)]
pub(super) enum GrpcServer {
    /// URL of a TCP listener, and how to use TLS there.
    Tcp(String, Option<Arc<ClientTlsConfig>>),
    Unix(PathBuf),
}

impl GrpcServer {
    /// Returns the TCP listener that a ready file names, if any.
    pub(super) fn tcp(ready: &Ready) -> Option<Self> {
        ready.grpc.as_ref().map(|address| Self::Tcp(format!("http://{address}"), None))
    }

    /// Returns the TCP listener that a ready file names, with TLS, if any.
    pub(super) fn tls(ready: &Ready, tls: &Arc<ClientTlsConfig>) -> Option<Self> {
        ready.grpc.as_ref().map(|address| Self::Tcp(format!("https://{address}"), Some(Arc::clone(tls))))
    }

    /// Returns the Unix socket that a ready file names, if any.
    pub(super) fn unix(ready: &Ready) -> Option<Self> {
        ready.grpc_socket.clone().map(Self::Unix)
    }

    pub(super) async fn connect(&self) -> Result<Channel, LabError> {
        let failed = |error: tonic::transport::Error| LabError::Response {
            what: format!("connecting to {self:?}: {error}"),
        };
        match self {
            Self::Tcp(url, tls) => {
                let mut endpoint = Endpoint::from_shared(url.clone()).map_err(failed)?;
                if let Some(tls) = tls {
                    endpoint = endpoint.tls_config(ClientTlsConfig::clone(tls)).map_err(failed)?;
                }
                endpoint.tcp_nodelay(true).connect().await.map_err(failed)
            }
            Self::Unix(path) => {
                let path = path.clone();
                // tonic needs a URI for the headers. The connection goes to the socket.
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
                });
                let endpoint = Endpoint::from_static("http://localhost");
                endpoint.connect_with_connector(connector).await.map_err(failed)
            }
        }
    }

    /// Opens one connection to the gateway service.
    pub(super) async fn gateway_client(&self) -> Result<HolderClient<Channel>, LabError> {
        Ok(HolderClient::new(HolderSecret::new(*SECRET).on(self.connect().await?)))
    }
}

/// The target that the callers of one run call.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Admit and Settle of `evenkeel.v1.Gateway`.
    Gateway {
        server: GrpcServer,
        /// Whether limits and a quota apply to the requests.
        limited: bool,
    },
    /// Admissions and settlements on streams of `evenkeel.v1.Gateway`, one stream for each connection.
    Stream {
        server: GrpcServer,
        /// Whether the pool chooses by work, and first tokens are reported.
        by_work: bool,
    },
    /// Envoy's rate limit service.
    RateLimitService {
        server: GrpcServer,
        /// Key of the descriptor; each call uses one of many values.
        key: &'static str,
    },
    /// A gateway that serves HTTP/1; each caller has its own connection.
    Http {
        /// `ip:port` of the gateway.
        address: String,
    },
    /// A fixed-window counter in Redis; each call uses one of many keys.
    FixedWindow { redis_url: String },
    /// A script in Redis that picks an endpoint.
    PickScript {
        redis_url: String,
        endpoints: usize,
        /// Whether the script applies Evenkeel's rule instead of the naive rule.
        by_rule: bool,
    },
}
