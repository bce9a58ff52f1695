//! Metrics, logs and traces.

use evenkeel_domain::settings::Log;
use tracing_subscriber::EnvFilter;

mod bounds;
mod catalogue;
mod discovery;
#[cfg(test)]
mod docs_test;
mod gateways;
mod latency;
mod ledger;
mod limits;
mod metrics;
mod pools;
mod prefixes;
mod requests;
mod rls;
mod streams;
mod tls;
pub mod traces;

pub use bounds::{BoundMetrics, ListenerMetrics, RequestsRefused};
pub use gateways::GatewayMetrics;
pub use latency::{Answer, LatencyMetrics, LatencyRoom, PoolLatencies};
pub use limits::{LimitCounters, LimitMetrics};
pub use metrics::Metrics;
pub use pools::{PoolCounts, PoolMetrics};
pub use prefixes::{PrefixFigures, PrefixMetrics};
pub use tls::{Handshake, TlsMetrics};

/// Starts logging to standard error. The levels: ERROR needs a person, WARN recovered automatically, INFO reports the
/// lifecycle, and DEBUG reports each request.
///
/// # Errors
/// Fails if the filter is invalid, or if logging has already been started.
pub fn init_logs(log: &Log) -> anyhow::Result<()> {
    let mut filter: EnvFilter = log.level.parse()?;
    // kube_client logs each failed request as an error. Turn it off, because its callers log what matters about a
    // failure.
    if !log.level.contains("kube_client") {
        filter = filter.add_directive("kube_client=off".parse()?);
    }
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|e| anyhow::anyhow!("logging: {e}"))
}
