//! Endpoints from DNS. Each pool has a task that looks up the pool's name again when the TTL of the answer has passed,
//! and after `refresh` at the latest. After a failed look-up the pool keeps its last endpoints. An empty answer (a
//! headless service scaled to zero) empties the pool.
//!
//! An answer counts as empty only if the name server has neither A nor AAAA records. The sidecar looks up A and AAAA
//! separately: hickory's combined look-up returns only one of two errors, and so can hide a failure.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use evenkeel_domain::settings::Source;
use evenkeel_telemetry::Metrics;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use tracing::warn;

use super::Target;

/// Minimum time between two look-ups of a name, even if its TTL is shorter. A shorter `refresh` replaces this minimum.
const REFRESH_MIN: Duration = Duration::from_secs(1);

pub(super) async fn follow(target: &Target<'_>, metrics: &Metrics) {
    let entry = target.entry;
    let Source::Dns { name, port, refresh, nameserver } = &entry.rule.source else { return };
    let resolver = match resolver(*nameserver) {
        Ok(resolver) => resolver,
        Err(error) => {
            warn!(%error, pool = %entry.pool.id, "cannot create a DNS resolver; the pool stays empty");
            return;
        }
    };
    let mut failing = false;
    while !entry.is_forgotten() {
        let wait = match look_up(&resolver, name, *port).await {
            Ok((addresses, ttl)) => {
                failing = false;
                target.set_source_up(true);
                target.apply(addresses);
                ttl.min(*refresh)
            }
            Err(error) => {
                metrics.discovery.errors_dns.inc();
                target.set_source_up(false);
                if !failing {
                    warn!(%error, pool = %entry.pool.id, name, "DNS look-up failed; keeping the last endpoints");
                }
                failing = true;
                *refresh
            }
        };
        tokio::time::sleep(wait.max(REFRESH_MIN.min(*refresh))).await;
    }
}

/// Returns the addresses in a name's A records or, if the name has no A records, in its AAAA records, with their TTL. A
/// host with both kinds is thus one endpoint.
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

/// Returns the addresses in a name's records of one type, and their TTL. Returns no addresses if the name server
/// answers that there are no such records. Every other failure is an error.
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
