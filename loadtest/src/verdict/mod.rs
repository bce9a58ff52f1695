//! What a comparison proves, and whether it proves anything.
//!
//! A comparison runs on one machine in scaled time. If the machine is short of CPU, its delays decide the result, and
//! the result can be the opposite of the truth. A comparison therefore has a verdict only if the machine kept up while
//! every policy ran ([`RunMeasures::faults`]), and if the result does not contradict the simulation, which uses no
//! machine ([`contradictions`]).

mod bootstrap;
mod fault;
mod finding;
mod limits;

use std::collections::BTreeMap;

pub use bootstrap::{Ratio, Ratios};
pub use fault::{Cause, Fault};
pub use finding::{Finding, FirstToken, Order, Simulated, contradictions, findings, simulated_order};
pub use limits::{BUSY_MAX, Delays, RunMeasures, delay_max_ms};
use serde::{Deserialize, Serialize};

use crate::lab::Policy;

/// Result of a comparison, as `report.json` has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the policies, and not the machine, decided the result.
    pub valid: bool,
    /// Why the comparison is not valid.
    pub reasons: Vec<String>,
    /// Evenkeel compared with every other policy; empty if the comparison is not valid.
    pub findings: BTreeMap<Policy, Finding>,
}

impl Verdict {
    /// Returns the verdict on completed runs. `faults` are the faults of the runs and of the machine. They also explain
    /// why a result contradicts the simulation, which is therefore a reason only without them.
    pub fn of(first_tokens: &BTreeMap<Policy, FirstToken>, mut faults: Vec<Fault>) -> Self {
        if faults.is_empty() {
            faults = contradictions(first_tokens);
        }
        if faults.is_empty() {
            return Self { valid: true, reasons: Vec::new(), findings: findings(first_tokens) };
        }
        let reasons = faults.iter().map(Fault::to_string).collect();
        Self { valid: false, reasons, findings: BTreeMap::new() }
    }

    /// Returns the text that replaces the verdict of a comparison that is not valid: a sentence with one reason, or a
    /// list.
    pub fn rejection(&self) -> Option<String> {
        (!self.valid).then(|| rejection(&self.reasons))
    }
}

/// Explains why a result is not valid.
pub fn rejection(reasons: &[String]) -> String {
    let mut text = "not valid on this machine, because".to_owned();
    match reasons {
        [reason] => text.push_str(&format!(" {reason}.")),
        _ => text.extend(reasons.iter().map(|reason| format!("\n  - {reason}"))),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_replaces_the_findings() {
        let first_token = |measured_ms, (low_ms, high_ms)| FirstToken {
            measured_ms,
            simulated: Simulated { p99_ms: low_ms, low_ms, high_ms },
        };
        let runs = BTreeMap::from([
            (Policy::EvenkeelLeastRequest, first_token(450.0, (392.0, 398.0))),
            (Policy::EnvoyLeastRequest, first_token(2700.0, (2370.0, 2942.0))),
        ]);
        let verdict = Verdict::of(&runs, Vec::new());
        assert!(verdict.valid && verdict.rejection().is_none());
        assert_eq!(verdict.findings.keys().collect::<Vec<_>>(), [&Policy::EnvoyLeastRequest]);

        let fault = Fault { policy: None, cause: Cause::NothingRan };
        let verdict = Verdict::of(&runs, vec![fault.clone(), fault.clone()]);
        assert!(!verdict.valid && verdict.findings.is_empty());
        assert_eq!(
            verdict.rejection().unwrap(),
            "not valid on this machine, because\n  - no policy ran to its end\n  - no policy ran to its end"
        );

        let reversed = BTreeMap::from([(Policy::EvenkeelLeastRequest, first_token(3554.0, (392.0, 398.0)))]);
        assert_eq!(Verdict::of(&reversed, vec![fault]).reasons, ["no policy ran to its end"]);
        assert!(Verdict::of(&reversed, Vec::new()).reasons[0].contains("the simulated one, 392 to 398 ms"));

        let one = rejection(&["the CPU was busy".into()]);
        assert_eq!(one, "not valid on this machine, because the CPU was busy.");
    }
}
