//! Endpoints from DNS: each pool with a name has a task that looks it up again when the answer's time to
//! live has passed. A failed look-up leaves the last good endpoints in place; an empty answer (a headless
//! service scaled to nothing) empties the pool.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::directory::PoolEntry;
use crate::{config::Source, domain::Endpoint, telemetry::Metrics};

/// Shortest time between two look-ups of one name, whatever its time to live.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// Starts a task for each pool that needs one, until told to stop.
pub async fn run(
    mut pools: mpsc::UnboundedReceiver<Arc<PoolEntry>>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let entry = tokio::select! {
            entry = pools.recv() => entry,
            () = shutdown.cancelled() => return,
        };
        let Some(entry) = entry else { return };
        let (metrics, shutdown) = (Arc::clone(&metrics), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = follow(&entry, &metrics) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

async fn follow(entry: &PoolEntry, metrics: &Metrics) {
    let Source::Dns { name, port, refresh, nameserver } = &entry.rule.source else { return };
    let resolver = match resolver(*nameserver) {
        Ok(resolver) => resolver,
        Err(error) => {
            warn!(%error, pool = %entry.pool.id, "no DNS resolver: the pool stays empty");
            return;
        }
    };
    let mut failing = false;
    loop {
        let wait = match look_up(&resolver, name, *port).await {
            Ok((addresses, ttl)) => {
                failing = false;
                apply(entry, addresses);
                ttl.min(*refresh)
            }
            Err(error) => {
                metrics.discovery_errors.inc();
                if !failing {
                    warn!(%error, pool = %entry.pool.id, name, "DNS look-up failed: keeping the endpoints known");
                }
                failing = true;
                *refresh
            }
        };
        tokio::time::sleep(wait.max(REFRESH_MIN)).await;
    }
}

fn apply(entry: &PoolEntry, addresses: Vec<SocketAddr>) {
    let rule = &entry.rule;
    let mut endpoints: Vec<Endpoint> = addresses
        .into_iter()
        .map(|address| Endpoint { address: address.to_string().into(), weight: rule.weight, cap: rule.cap })
        .collect();
    endpoints.sort_by(|a, b| a.address.cmp(&b.address));
    let known = entry.known_roster();
    if known.endpoints() != endpoints.as_slice() {
        info!(pool = %entry.pool.id, from = known.endpoints().len(), to = endpoints.len(), "endpoints changed");
        entry.set_endpoints(endpoints);
    }
}

async fn look_up(
    resolver: &TokioResolver,
    name: &str,
    port: u16,
) -> Result<(Vec<SocketAddr>, Duration), NetError> {
    match resolver.lookup_ip(name).await {
        Ok(answer) => {
            let ttl = answer.valid_until().saturating_duration_since(std::time::Instant::now());
            Ok((answer.iter().map(|ip| SocketAddr::new(ip, port)).collect(), ttl))
        }
        Err(error) if error.is_no_records_found() => Ok((Vec::new(), Duration::MAX)),
        Err(error) => Err(error),
    }
}

fn resolver(nameserver: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let Some(server) = nameserver else { return TokioResolver::builder_tokio()?.build() };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let name_server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}
