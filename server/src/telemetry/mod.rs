//! Metrics and logs.

use tracing_subscriber::EnvFilter;

use crate::config::Log;

mod catalogue;
#[cfg(test)]
mod documented;
mod ledger;
mod limits;
mod metrics;
mod pools;
mod rls;

pub use catalogue::Declared;
pub use limits::{LimitCounters, LimitMetrics};
pub use metrics::Metrics;
pub use pools::{PoolCounts, PoolMetrics};

/// Starts logging to standard error. ERROR needs a person, WARN mends itself, INFO is lifecycle, DEBUG is each
/// request.
///
/// # Errors
/// Where the filter cannot be read, or logging was started before.
pub fn init_logs(log: &Log) -> anyhow::Result<()> {
    let filter: EnvFilter = log.level.parse()?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|e| anyhow::anyhow!("logging: {e}"))
}
