//! What a run has done and found.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::{plan::Kind, record::ServedCounts, store::Topology};
use crate::percentiles::Percentiles;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    /// Duration that was asked for, in seconds.
    pub duration_s: f64,
    pub topologies: Vec<SegmentReport>,
    pub faults: Vec<FaultReport>,
    pub violations: Vec<Violation>,
}

/// The run of one topology.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentReport {
    pub topology: Topology,
    /// Directory of the logs and configurations of sidecars and Redis.
    pub logs: PathBuf,
    /// Admissions outside faults that stop a sidecar or a gateway.
    pub admit_ms: Percentiles,
    pub admit_bound: LatencyBound,
    /// Admissions over the whole run.
    pub served: ServedCounts,
    /// Number of settlements that sidecars have acknowledged.
    pub settled: u64,
    /// Number of these whose charge the documentation leaves open: admitted without the store, or lost by the store.
    pub settled_in_doubt: u64,
    /// Number of requests that were given up, or whose gateway was killed.
    pub abandoned: u64,
    /// Number of times that the table and the gateways' leases were compared at rest.
    pub quiet_points: u64,
    /// Number of times that the table was checked under load.
    pub samples: u64,
    /// Before the first fault.
    pub usage_at_start: Usage,
    /// After all requests have ended and the gateways have left.
    pub usage_at_end: Usage,
    /// Names of the faults that this machine could not make.
    pub skipped: Vec<&'static str>,
}

/// What the system uses.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Number of keys in Redis by kind, which is a part of their names.
    pub keys: BTreeMap<String, u64>,
    /// Bytes of data in Redis.
    pub redis_bytes: u64,
    /// Resident memory of each sidecar.
    pub resident_bytes: Vec<u64>,
}

/// What the machine allows for the p99 of an admission.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencyBound {
    /// `store.timeout` plus 5 ms.
    pub promised_ms: f64,
    /// How late the operating system ran a thread that wanted to run, at p99.
    pub machine_late_ms: f64,
    /// Whether the p99 is within the promise and the delays of the machine.
    pub met: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct FaultReport {
    pub topology: Topology,
    /// Seconds since the start of the run.
    pub at_s: f64,
    pub kind: Kind,
    pub target: String,
    pub duration_s: f64,
    /// Time from the end of the fault until every sidecar used the store and every gateway had a sidecar.
    pub recovered_after_s: f64,
    /// Time from then until the table was equal to the gateways' leases, in a quiet system.
    pub exact_after_s: f64,
    /// Worst latency of an admission in the fault or until the recovery.
    pub worst_admit_ms: f64,
    pub served: ServedCounts,
}

/// A promise that did not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// What is wrong: `table`, `count`, `charge`, `balance`, `reservation`, `ledger`, `concurrency`, `recovery`, `unanswered`,
    /// `protocol`, `keys`, `memory`.
    pub kind: &'static str,
    pub topology: Topology,
    /// Seconds since the start of the run.
    pub at_s: f64,
    /// The last fault before.
    pub fault: Option<String>,
    pub expected: String,
    pub found: String,
    /// Command that repeats the run.
    pub repeat: String,
    pub logs: PathBuf,
}

impl Usage {
    fn text(&self) -> String {
        let keys: u64 = self.keys.values().sum();
        let resident: Vec<String> =
            self.resident_bytes.iter().map(|bytes| (bytes >> 20).to_string()).collect();
        let (redis_kib, resident) = (self.redis_bytes >> 10, resident.join(" and "));
        format!("{keys} keys, {redis_kib} KiB of data in Redis, sidecars of {resident} MiB")
    }
}

impl Report {
    /// Returns the report as text for a terminal.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for segment in &self.topologies {
            let SegmentReport { admit_ms, admit_bound, served, .. } = segment;
            let faults = self.faults.iter().filter(|fault| fault.topology == segment.topology).count();
            let _ = writeln!(
                text,
                "{}: {faults} faults, {} quiet points, {} samples; {} settled ({} in doubt), {} abandoned",
                segment.topology.name(),
                segment.quiet_points,
                segment.samples,
                segment.settled,
                segment.settled_in_doubt,
                segment.abandoned
            );
            let _ = writeln!(
                text,
                "  Admit p50 {:.1} ms, p99 {:.1} ms (promised {:.0} ms; threads ran up to {:.1} ms late at p99): {}",
                admit_ms.p50,
                admit_ms.p99,
                admit_bound.promised_ms,
                admit_bound.machine_late_ms,
                if admit_bound.met { "met" } else { "NOT met" }
            );
            let _ = writeln!(text, "  served: {}", counts(*served));
            let (start, end) = (&segment.usage_at_start, &segment.usage_at_end);
            let _ = writeln!(text, "  at the start: {}; at the end: {}", start.text(), end.text());
        }
        let _ = writeln!(
            text,
            "\n{:<12} {:>7}  {:<22} {:<26} {:>6} {:>9} {:>7} {:>9}  served",
            "topology", "at s", "fault", "target", "for s", "recover s", "exact s", "worst ms"
        );
        for fault in &self.faults {
            let _ = writeln!(
                text,
                "{:<12} {:>7.1}  {:<22} {:<26} {:>6.1} {:>9.2} {:>7.2} {:>9.0}  {}",
                fault.topology.name(),
                fault.at_s,
                format!("{:?}", fault.kind),
                fault.target,
                fault.duration_s,
                fault.recovered_after_s,
                fault.exact_after_s,
                fault.worst_admit_ms,
                counts(fault.served)
            );
        }
        for violation in &self.violations {
            let _ = writeln!(
                text,
                "\nVIOLATION ({}) in {} at {:.1} s, after {}\n  expected: {}\n  found: {}\n  repeat: {}\n  logs: {}",
                violation.kind,
                violation.topology.name(),
                violation.at_s,
                violation.fault.as_deref().unwrap_or("no fault"),
                violation.expected,
                violation.found,
                violation.repeat,
                violation.logs.display()
            );
        }
        let _ = writeln!(
            text,
            "\nseed {}: {} faults, {} violations",
            self.seed,
            self.faults.len(),
            self.violations.len()
        );
        text
    }
}

fn counts(served: ServedCounts) -> String {
    let ServedCounts { shared, local, open, refused, unanswered } = served;
    let named = [(shared, "shared"), (local, "local"), (open, "open"), (refused, "refused")];
    let named = named.into_iter().chain([(unanswered, "unanswered")]).filter(|(count, _)| *count > 0);
    let named: Vec<String> = named.map(|(count, name)| format!("{count} {name}")).collect();
    named.join(", ")
}
