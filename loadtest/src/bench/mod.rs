//! Closed-loop benchmarks of one sidecar, and of the filters that call it.

mod callers;
mod closed_loop;
pub mod decisions;
pub mod echo;
pub mod filters;
mod idle;
mod job;
pub mod rate_limits;
mod recorder;
mod report;
mod system;
mod target;
pub mod transport_security;

use std::{path::PathBuf, time::Duration};

pub use report::{BenchReport, BenchRun, Check, runs_table};

/// Parameters of a benchmark.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// Number of endpoints in the pool.
    pub endpoints: usize,
    /// Number of callers, each with one call in flight.
    pub callers: usize,
    /// Number of connections that the callers share.
    pub connections: usize,
    /// Duration of one run, without the warm-up.
    pub run: Duration,
    /// Number of runs of each kind. The report contains the median run.
    pub rounds: usize,
    /// Number of single calls on the idle system.
    pub idle_calls: usize,
    /// Directory for logs and configurations.
    pub dir: Option<PathBuf>,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            endpoints: 64,
            callers: 256,
            connections: 4,
            run: Duration::from_secs(5),
            rounds: 3,
            idle_calls: 2000,
            dir: None,
        }
    }
}
