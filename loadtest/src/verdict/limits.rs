//! The limits within which the machine does not decide the result of a run.

use serde::{Deserialize, Serialize};

use super::fault::{Cause, Fault};
use crate::{lab::Policy, machine::CpuUse};

/// Highest fraction of the available cores that may be busy. The busier the cores, the longer a thread waits for one: at
/// half load about as long as it then runs, at 90 % nine times as long.
pub const BUSY_MAX: f64 = 0.6;

/// Highest delay by the machine, as a fraction of the p99 time to first token without any delay by the machine.
const DELAY_SHARE_MAX: f64 = 0.25;

/// Highest fraction of requests that may fail. Percentiles exclude failed requests, so p99 tolerates one in a hundred.
const FAILED_SHARE_MAX: f64 = 0.01;

/// Highest fraction of requests whose host may be chosen without the shared table. These requests follow another
/// policy, so p99 tolerates one in a hundred.
const NOT_SHARED_SHARE_MAX: f64 = 0.01;

/// Returns the highest acceptable delay for a p99 time to first token without any delay by the machine.
pub fn delay_max_ms(undelayed_p99_ms: f64) -> f64 {
    undelayed_p99_ms * DELAY_SHARE_MAX
}

/// The 99th percentiles of the delays that the machine caused in one run, in trace milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delays {
    /// From the time at which a thread wanted to run until it ran.
    pub scheduling_ms: f64,
    /// From the time in the trace until the load generator sent the request.
    pub generator_ms: f64,
    /// From the end of the engine's step until the mock host sent the first token.
    pub hosts_ms: f64,
}

/// Measures of one run that show whether the machine kept up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunMeasures {
    pub cpu: CpuUse,
    pub available_cores: f64,
    pub delays: Delays,
    pub requests: usize,
    pub failed: usize,
    /// The most frequent error.
    pub error: String,
    /// Requests under Evenkeel whose host was not chosen from the shared table.
    pub not_shared: usize,
}

impl RunMeasures {
    /// Returns why this run is not valid. `delay_max_ms` is in trace milliseconds.
    pub fn faults(&self, policy: Option<Policy>, delay_max_ms: f64) -> Vec<Fault> {
        let mut causes = Vec::new();
        if self.cpu.busy > BUSY_MAX {
            causes.push(Cause::Busy {
                cpu: self.cpu,
                busy_max: BUSY_MAX,
                available_cores: self.available_cores,
            });
        }
        for (what, p99_ms) in [
            ("threads ran", self.delays.scheduling_ms),
            ("the load generator sent requests", self.delays.generator_ms),
            ("the mock hosts sent first tokens", self.delays.hosts_ms),
        ] {
            if p99_ms > delay_max_ms {
                causes.push(Cause::Late { what, p99_ms, max_ms: delay_max_ms });
            }
        }
        let requests = self.requests;
        let exceeds = |count: usize, share_max: f64| count as f64 > share_max * requests as f64;
        if exceeds(self.failed, FAILED_SHARE_MAX) {
            causes.push(Cause::Failed {
                failed: self.failed,
                requests,
                share_max: FAILED_SHARE_MAX,
                error: self.error.clone(),
            });
        }
        if exceeds(self.not_shared, NOT_SHARED_SHARE_MAX) {
            causes.push(Cause::NotShared { not_shared: self.not_shared, requests });
        }
        causes.into_iter().map(|cause| Fault { policy, cause }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RunMeasures {
        RunMeasures {
            cpu: CpuUse { busy: 0.5, ours_cores: 0.9, others_cores: 0.1, stolen_cores: 0.0 },
            available_cores: 2.0,
            delays: Delays { scheduling_ms: 20.0, generator_ms: 30.0, hosts_ms: 40.0 },
            requests: 1000,
            failed: 10,
            error: "timeout".into(),
            not_shared: 10,
        }
    }

    fn texts(measures: &RunMeasures) -> Vec<String> {
        measures.faults(Some(Policy::EvenkeelLeastRequest), 100.0).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn a_run_within_all_limits_has_no_fault() {
        assert_eq!(texts(&good()), [""; 0]);
    }

    #[test]
    fn each_exceeded_limit_is_a_fault() {
        type Change = fn(&mut RunMeasures);
        let cases: [(Change, &str); 6] = [
            (|m| m.cpu.busy = 0.92, "the CPU was 92 % busy"),
            (|m| m.delays.scheduling_ms = 101.0, "threads ran 101 ms late at p99"),
            (|m| m.delays.generator_ms = 101.0, "the load generator sent requests 101 ms late"),
            (|m| m.delays.hosts_ms = 101.0, "the mock hosts sent first tokens 101 ms late"),
            (|m| m.failed = 11, "11 of 1000 requests failed, more than 1 %, most of them with “timeout”"),
            (|m| m.not_shared = 11, "11 of 1000 requests without a choice from the shared table"),
        ];
        for (change, expected) in cases {
            let mut measures = good();
            change(&mut measures);
            let texts = texts(&measures);
            assert_eq!(texts.len(), 1, "{texts:?}");
            assert!(
                texts[0].starts_with("under evenkeel_least_request, ") && texts[0].contains(expected),
                "{texts:?}"
            );
        }
    }

    /// The run of the report in which Evenkeel came out behind Envoy's least request.
    #[test]
    fn a_run_at_92_percent_is_not_valid() {
        let cpu = CpuUse { busy: 0.92, ours_cores: 1.2, others_cores: 0.64, stolen_cores: 0.2 };
        let faults = RunMeasures { cpu, ..good() }.faults(Some(Policy::EvenkeelLeastRequest), 100.0);
        assert_eq!(
            faults[0].to_string(),
            "under evenkeel_least_request, the CPU was 92 % busy, which is above 60 %: of 2.0 cores, the comparison used 1.2, and other \
             processes 0.4, and other virtual machines 0.2"
        );
    }
}
