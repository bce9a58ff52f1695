//! A comparison on a machine without spare CPU has no verdict.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use evenkeel_loadtest::{lab::paths, machine::Machine, report::Report};

use crate::support::lab;

/// Exit status of a comparison that is not valid on this machine.
const NOT_VALID: i32 = 3;

/// A process that keeps one core busy. It has the lowest priority, so that it hardly slows down other tests.
struct BusyLoop(Child);

impl BusyLoop {
    fn start(core: &str) -> Self {
        let script = "echo started; while :; do :; done";
        let mut command = Command::new("taskset");
        command.args(["-c", core, "nice", "-n", "19", "sh", "-c", script]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 7]).unwrap();
        Self(child)
    }
}

impl Drop for BusyLoop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prepares a small comparison on one core.
fn comparison(core: &str, out: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, env!("CARGO_BIN_EXE_evenkeel-loadtest"), "compare"]);
    command.args(["--policies", "envoy_round_robin", "--hosts", "1", "--gateways", "1", "--duration", "60"]);
    command.arg("--out").arg(out).stdout(Stdio::piped());
    command
}

/// Returns the report of a comparison that is not valid.
fn rejected(output: &Output, out: &Path) -> Report {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(NOT_VALID), "{text}");
    assert!(text.contains("Verdict: not valid on this machine, because"), "{text}");
    assert!(!text.contains("times lower"), "{text}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Not valid on this machine"));
    let report: Report =
        serde_json::from_str(&std::fs::read_to_string(out.join("report.json")).unwrap()).unwrap();
    assert!(!report.verdict.valid && report.verdict.findings.is_empty());
    report
}

#[test]
fn a_comparison_beside_a_busy_loop_has_no_verdict() {
    if lab::found(paths::envoy()).is_none() {
        return;
    }
    let core = Machine::detect().cores[0].to_string();
    let _busy = BusyLoop::start(&core);
    let dir = tempfile::tempdir().unwrap();
    let (measured, fixed) = (dir.path().join("measured"), dir.path().join("fixed"));

    // This one waits for the busy loop to end, in vain.
    let waiting = comparison(&core, &measured).spawn().unwrap();
    let ran = comparison(&core, &fixed).args(["--time-scale", "20"]).output().unwrap();
    let report = rejected(&ran, &fixed);
    assert_eq!((report.machine.cores, report.policies.len()), (1, 1));
    assert!(
        report.verdict.reasons[0].contains("under envoy_round_robin, the CPU was"),
        "{:?}",
        report.verdict
    );

    let report = rejected(&waiting.wait_with_output().unwrap(), &measured);
    assert!(report.policies.is_empty());
    assert!(report.verdict.reasons[0].starts_with("other processes use "), "{:?}", report.verdict);
}
