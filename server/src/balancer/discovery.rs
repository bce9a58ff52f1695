//! Endpoints from DNS: each pool with a name has a task that looks it up again when the answer's time to
//! live has passed. A failed look-up leaves the last good endpoints in place; an empty answer (a headless
//! service scaled to nothing) empties the pool. Empty it is only where the name server says so of A and of
//! AAAA records: hickory's own look-up of both answers with the error of one of them, which hides a failure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::directory::PoolEntry;
use crate::{
    config::Source,
    domain::{ENDPOINTS_MAX, Endpoint, Roster},
    telemetry::Metrics,
};

/// Shortest time between two look-ups of one name, whatever its time to live, unless `refresh` is shorter.
const REFRESH_MIN: Duration = Duration::from_secs(1);

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
    while !entry.is_forgotten() {
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
        tokio::time::sleep(wait.max(REFRESH_MIN.min(*refresh))).await;
    }
}

fn apply(entry: &PoolEntry, addresses: Vec<SocketAddr>) {
    let rule = &entry.rule;
    let endpoint = |address: SocketAddr| Endpoint {
        address: address.to_string().into(),
        weight: rule.weight,
        cap: rule.cap,
    };
    // Ordered before it is cut, so that the same ones stay whatever the order of the answer.
    let found = Roster::new(addresses.into_iter().map(endpoint).collect());
    let all = found.endpoints().len();
    let roster =
        if all > ENDPOINTS_MAX { Roster::new(found.endpoints()[..ENDPOINTS_MAX].to_vec()) } else { found };
    let known = entry.own_roster();
    if *known == roster {
        return;
    }
    if all > ENDPOINTS_MAX {
        warn!(pool = %entry.pool.id, all, used = ENDPOINTS_MAX, "DNS names more endpoints than one pool can have");
    }
    let (from, to) = (known.endpoints().len(), roster.endpoints().len());
    info!(pool = %entry.pool.id, from, to, "endpoints changed");
    entry.set_roster(roster);
}

/// The addresses of a name: of its A records, or else of its AAAA records. A host with both is one endpoint, and
/// what has A records is not asked for others.
async fn look_up(
    resolver: &TokioResolver,
    name: &str,
    port: u16,
) -> Result<(Vec<SocketAddr>, Duration), NetError> {
    let (mut ips, mut ttl) = match name.parse::<IpAddr>() {
        Ok(ip) => (vec![ip], Duration::MAX),
        Err(_) => records(resolver, name, RecordType::A).await?,
    };
    if ips.is_empty() {
        (ips, ttl) = records(resolver, name, RecordType::AAAA).await?;
    }
    Ok((ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(), ttl))
}

/// None where the name server says that there are none; every other failure is an error.
async fn records(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<(Vec<IpAddr>, Duration), NetError> {
    match resolver.lookup(name, kind).await {
        Ok(answer) => {
            let ips = answer.answers().iter().filter_map(|record| match &record.data {
                RData::A(ip) if kind == RecordType::A => Some(IpAddr::V4(ip.0)),
                RData::AAAA(ip) if kind == RecordType::AAAA => Some(IpAddr::V6(ip.0)),
                _ => None,
            });
            Ok((ips.collect(), answer.valid_until().saturating_duration_since(Instant::now())))
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
