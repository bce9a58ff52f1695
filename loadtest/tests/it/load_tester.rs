//! The load tester's own commands, with real gateways, sidecars and Redis on small traces.

use std::{path::Path, process::Command, time::Duration};

use evenkeel_loadtest::{
    lab::{Policy, paths},
    report::DemoReport,
    slo_load::{Side, SloLoadReport},
    workload::{conversations, trace},
};

use crate::support::lab;

/// Trace seconds per wall second.
const TIME_SCALE: &str = "10";

/// Writes a trace of about `requests` conversations' requests over `duration`, and returns its path.
fn small_trace(dir: &Path, requests: f64, duration: Duration) -> std::path::PathBuf {
    let path = dir.join("conversations.jsonl");
    let workload = conversations::generate(1, duration, requests / duration.as_secs_f64());
    trace::write(&workload, std::fs::File::create(&path).unwrap()).unwrap();
    path
}

/// Runs the load tester on a trace. The machine of a test may be busy, so the result may be invalid, but it has to be there.
fn run(args: &[&str], trace_option: &str, trace: &Path, out: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel-loadtest"));
    command.args(args).arg(trace_option).arg(trace).args(["--time-scale", TIME_SCALE]).arg("--out").arg(out);
    let output = command.output().unwrap();
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}\n{log}");
    std::fs::read_to_string(out.join("report.json")).unwrap()
}

fn can_run() -> bool {
    lab::found(paths::envoy()).is_some() && lab::found(paths::plugin()).is_some()
}

#[test]
fn the_demo_compares_policies_on_conversations() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = small_trace(dir.path(), 100.0, Duration::from_secs(1900));
    let report = run(&["demo", "--only", "with_prefixes"], "--prefix-trace", &trace, &dir.path().join("out"));
    let report: DemoReport = serde_json::from_str(&report).unwrap();
    let trace = &report.traces["with_prefixes"];
    assert_eq!((report.traces.len(), trace.valid), (1, report.valid));
    for policy in [
        Policy::EnvoyLeastRequest,
        Policy::EvenkeelLeastRequest,
        Policy::EvenkeelLeastWork,
        Policy::HigressPrefix,
        Policy::IdealWork,
    ] {
        let result = &trace.report.policies[&policy];
        assert_eq!(
            (result.errors, result.requests),
            (0, trace.report.setup.requests),
            "{policy}: {result:?}"
        );
        assert!(result.ttft_ms.p50 > 0.0 && result.hit_rate > 0.0, "{policy}: {result:?}");
        assert!(result.answered_by.len() > 1, "{policy}: {result:?}");
        assert!((0.0..=1.0).contains(&result.slo_attainment) && result.slo_attainment > 0.1, "{policy}");
    }
    assert_eq!(trace.report.setup.pools.len(), 2);
}

#[test]
fn a_load_is_searched_and_checked_on_both_sides() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = small_trace(dir.path(), 60.0, Duration::from_secs(100));
    let system = ["--hosts", "2", "--gateways", "1", "--sidecars", "1", "--start", "0", "--seeds", "1"];
    let tenants = ["--models", "2", "--consumers", "5", "--policies", "evenkeel_least_work,ideal_work"];
    let args = [&["slo", "--check", "evenkeel_least_work"][..], &system, &tenants].concat();
    let report = run(&args, "--trace", &trace, &dir.path().join("out"));
    let report: SloLoadReport = serde_json::from_str(&report).unwrap();
    assert!(report.policies[&Policy::IdealWork].checks.is_empty());
    let found = &report.policies[&Policy::EvenkeelLeastWork];
    let load = found.load.unwrap();
    let [below, above] = &found.checks[..] else { panic!("{found:?}") };
    assert_eq!((below.side, above.side), (Side::Below, Side::Above));
    assert!((below.load / load - 0.9).abs() < 1e-9 && (above.load / load - 1.1).abs() < 1e-9, "{found:?}");
    for check in [below, above] {
        assert_eq!((check.requests, check.errors), (report.setup.requests, 0), "{check:?}");
        assert!(check.ttft_ms.p50 > 0.0 && check.attainment > 0.0, "{check:?}");
        assert_eq!(check.valid, check.reasons.is_empty());
    }
}
