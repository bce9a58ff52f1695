//! Wiring: configuration to running tasks, and the ordered drain.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tracing::{error, info, warn};

use crate::{
    balancer::{Balancer, directory::Directory, discovery, sweep},
    config::{Config, StoreConfig},
    store::{memory::MemoryStore, redis::RedisStore, resilient::ResilientStore},
    telemetry::Metrics,
    transport::{grpc, http},
};

/// Longest wait for calls under way when draining.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Bound listeners: made before anything runs, so that tests can use port 0 and faults show at once.
pub struct Listeners {
    grpc: Option<TcpListener>,
    socket: Option<(UnixListener, PathBuf)>,
    http: TcpListener,
}

/// Where a sidecar really listens.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// gRPC over TCP.
    pub grpc: Option<String>,
    /// gRPC over a Unix socket.
    pub grpc_socket: Option<PathBuf>,
    /// HTTP.
    pub http: String,
}

impl Listeners {
    /// Binds everything.
    ///
    /// # Errors
    /// Where an address is taken or not allowed.
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

    /// The addresses bound.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn addresses(&self) -> anyhow::Result<Addresses> {
        let grpc = self.grpc.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Addresses {
            grpc: grpc.map(|address| address.to_string()),
            grpc_socket: self.socket.as_ref().map(|(_, path)| path.clone()),
            http: self.http.local_addr()?.to_string(),
        })
    }
}

/// Binds a Unix socket, replacing one that a dead process left behind.
async fn bind_socket(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            anyhow::bail!("another process listens there");
        }
        std::fs::remove_file(path).context("cannot remove the socket left behind")?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Serves until `shutdown`, then drains: readiness off, no new connections, calls under way finished,
/// background tasks ended.
///
/// # Errors
/// Where a listener fails.
pub async fn run(
    config: Config,
    listeners: Listeners,
    ready: impl FnOnce(&Addresses) -> anyhow::Result<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let addresses = listeners.addresses()?;
    let metrics = Metrics::new()?;
    let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
    let store = open_store(&config, &metrics, &tasks, &background).await?;
    let (directory, discovered) = Directory::new(config.pools.clone(), config.unlisted.clone());
    let balancer = Arc::new(Balancer::new(directory, store, Arc::clone(&metrics)));
    let views = Arc::new(sweep::Views::default());

    tasks.spawn(discovery::run(discovered, Arc::clone(&metrics), tasks.clone(), background.clone()));
    tasks.spawn(sweep::run(
        Arc::clone(&balancer),
        Arc::clone(&views),
        Arc::clone(&metrics),
        config.sweep_interval(),
        background.clone(),
    ));
    let (routes, health) =
        grpc::routes(Arc::clone(&balancer), Arc::clone(&views), config.keep_alive_interval, shutdown.clone())
            .await?;
    let http = Arc::new(http::Http { balancer, views, metrics, draining: AtomicBool::new(false) });

    let servers = TaskTracker::new();
    serve(&servers, listeners, routes, http::router(Arc::clone(&http)), &shutdown)?;
    ready(&addresses)?;
    info!(grpc = addresses.grpc, socket = ?addresses.grpc_socket, http = addresses.http, "serving");

    shutdown.cancelled().await;
    info!("draining");
    http.draining.store(true, Ordering::Relaxed);
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    servers.close();
    if tokio::time::timeout(DRAIN_MAX, servers.wait()).await.is_err() {
        warn!(after_s = DRAIN_MAX.as_secs(), "calls still under way: stopping all the same");
    }
    background.cancel();
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await.is_err() {
        warn!("background tasks still running: stopping all the same");
    }
    if let Some(path) = &addresses.grpc_socket {
        let _ = std::fs::remove_file(path);
    }
    info!("stopped");
    Ok(())
}

async fn open_store(
    config: &Config,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    background: &CancellationToken,
) -> anyhow::Result<Arc<ResilientStore>> {
    let (ttl, metrics, tasks) = (config.holder_ttl(), Arc::clone(metrics), tasks.clone());
    match &config.store {
        StoreConfig::Memory => {
            let store = MemoryStore::new(ttl);
            Ok(ResilientStore::embedded(store, ttl, metrics, tasks, background.clone()))
        }
        StoreConfig::Redis(options) => {
            let redis = Arc::new(RedisStore::new(options, ttl, Arc::clone(&metrics), tasks.clone())?);
            let shared = Arc::clone(&redis);
            let store = ResilientStore::shared(shared, ttl, metrics, tasks, background.clone());
            store.connect().await;
            if let Ok(Some(policy)) = redis.evicting_policy().await {
                warn!(
                    policy,
                    "Redis may evict keys when its memory is full: set maxmemory-policy to noeviction"
                );
            }
            Ok(store)
        }
    }
}

fn serve(
    servers: &TaskTracker,
    listeners: Listeners,
    routes: Routes,
    http: axum::Router,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let server = || Server::builder().http2_keepalive_interval(Some(Duration::from_secs(30)));
    if let Some(listener) = listeners.grpc {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let grpc = server().add_routes(routes.clone());
        let stop = shutdown.clone().cancelled_owned();
        servers.spawn(async move {
            if let Err(error) = grpc.serve_with_incoming_shutdown(incoming, stop).await {
                error!(%error, "gRPC over TCP ended");
            }
        });
    }
    if let Some((listener, _)) = listeners.socket {
        let grpc = server().add_routes(routes);
        let stop = shutdown.clone().cancelled_owned();
        servers.spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            if let Err(error) = grpc.serve_with_incoming_shutdown(incoming, stop).await {
                error!(%error, "gRPC over the Unix socket ended");
            }
        });
    }
    let stop = shutdown.clone().cancelled_owned();
    servers.spawn(async move {
        if let Err(error) = axum::serve(listeners.http, http).with_graceful_shutdown(stop).await {
            error!(%error, "HTTP ended");
        }
    });
    Ok(())
}
