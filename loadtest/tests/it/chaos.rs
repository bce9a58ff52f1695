//! Counts and charges stay exact through two minutes of faults.

use std::time::Duration;

use evenkeel_loadtest::chaos::{self, ChaosPlan, Topology};

use crate::support::lab;

/// The faults are the same in each run, so that a failure repeats.
const SEED: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_charges_stay_exact_through_faults() {
    // The logs remain if the test fails.
    let out = tempfile::Builder::new().prefix("evenkeel-chaos-").tempdir().unwrap().keep();
    let plan = ChaosPlan {
        duration: Duration::from_secs(120),
        seed: SEED,
        topologies: Topology::ALL.to_vec(),
        faults: Vec::new(),
        out: out.clone(),
    };
    let Some(report) = lab::found(chaos::run(&plan, &|message| eprintln!("{message}")).await) else { return };
    let summary = report.summary();
    println!("{summary}");
    assert!(report.violations.is_empty(), "{summary}");
    for segment in &report.topologies {
        assert!(segment.settled > 0 && segment.quiet_points > 1, "{summary}");
        assert!(segment.settled_in_doubt < segment.settled, "{summary}");
    }
    std::fs::remove_dir_all(out).unwrap();
}
