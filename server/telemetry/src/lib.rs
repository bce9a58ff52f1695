//! Metrics, logs and traces.

use evenkeel_domain::settings::Log;
use tracing_subscriber::EnvFilter;

mod catalogue;
mod discovery;
#[cfg(test)]
mod docs_test;
mod ledger;
mod limits;
mod metrics;
mod pools;
mod requests;
mod rls;
pub mod traces;

pub use limits::{LimitCounters, LimitMetrics};
pub use metrics::Metrics;
pub use pools::{PoolCounts, PoolMetrics};

/// Starts logging to standard error. ERROR needs a person, WARN recovers without one, INFO is lifecycle, and DEBUG is
/// each request.
///
/// # Errors
/// Fails if the filter is invalid, or if logging was started before.
pub fn init_logs(log: &Log) -> anyhow::Result<()> {
    let mut filter: EnvFilter = log.level.parse()?;
    // kube_client logs each failed request as an error. Its callers log what matters about the failure.
    if !log.level.contains("kube_client") {
        filter = filter.add_directive("kube_client=off".parse()?);
    }
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|e| anyhow::anyhow!("logging: {e}"))
}
