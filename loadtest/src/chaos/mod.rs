//! A nemesis: it breaks sidecars, gateways, Redis and the network between them, and checks that Evenkeel keeps its
//! promises.
//!
//! Model gateways know the truth: which of their requests are in flight, and what the acknowledged settlements have
//! charged. After each fault, the table in Redis must equal the gateways' leases within one KeepAlive interval. At the
//! end, balances and the ledger must equal what the gateways know. docs/failure-modes.md states the exceptions, such as
//! what a store may lose, and [`truth::Doubt`] is the list of them.

mod accounts;
mod checks;
mod clock;
mod gateway;
mod inject;
mod plan;
mod proxy;
mod record;
mod report;
mod segment;
mod sentinels;
mod store;
mod system;
mod table;
mod truth;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::ValueEnum;
pub use plan::Kind;
pub use record::ServedCounts;
pub use report::{FaultReport, LatencyBound, Report, SegmentReport, Usage, Violation};
pub use store::Topology;

use crate::lab::LabError;

/// Number of consumers. The last one gives up after a short time.
const CONSUMERS: usize = 5;

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct ChaosPlan {
    /// Time for all topologies together. The checks at the end of each topology take some seconds more.
    pub duration: Duration,
    /// Decides on the faults, their targets, times and durations, and on the traffic.
    pub seed: u64,
    pub topologies: Vec<Topology>,
    /// Only these faults, to reduce a violation; empty for all.
    pub faults: Vec<Kind>,
    /// Directory of the report and of the logs.
    pub out: PathBuf,
}

type Progress<'a> = &'a dyn Fn(&str);

/// Runs all topologies one after another, and writes `report.json`.
///
/// # Errors
/// If a process of the system does not start or end, so that nothing can be checked.
pub async fn run(plan: &ChaosPlan, progress: Progress<'_>) -> Result<Report, LabError> {
    let started = Instant::now();
    let ChaosPlan { duration, seed, topologies, faults, out } = plan;
    let mut report = Report {
        seed: *seed,
        duration_s: duration.as_secs_f64(),
        topologies: Vec::new(),
        faults: Vec::new(),
        violations: Vec::new(),
    };
    let names: Vec<&str> = topologies.iter().map(|topology| topology.name()).collect();
    let mut repeat = format!(
        "evenkeel-loadtest chaos --duration {}s --seed {seed} --topologies {}",
        duration.as_secs(),
        names.join(",")
    );
    if !faults.is_empty() {
        let names: Vec<_> = faults.iter().filter_map(ValueEnum::to_possible_value).collect();
        let names: Vec<&str> = names.iter().map(clap::builder::PossibleValue::get_name).collect();
        repeat += &format!(" --faults {}", names.join(","));
    }
    for topology in topologies {
        let dir = out.join("logs").join(topology.name());
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        let dir = dir.canonicalize().map_err(LabError::io(format!("finding {}", dir.display())))?;
        let lasts = *duration / topologies.len() as u32;
        let run = segment::Run { topology: *topology, seed: *seed, lasts, started, faults, repeat: &repeat };
        let finished = segment::run(&run, &dir, progress).await?;
        report.topologies.push(finished.segment);
        report.faults.extend(finished.faults);
        report.violations.extend(finished.violations);
        let path = out.join("report.json");
        let json = serde_json::to_string_pretty(&report).unwrap_or_default();
        fs::write(&path, json).map_err(LabError::io(format!("writing {}", path.display())))?;
    }
    Ok(report)
}
