//! Why a comparison is not valid.

use std::fmt;

use crate::{lab::Policy, machine::CpuUse};

/// One reason for which a comparison is not valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Policy whose run shows the fault; `None` if no run does.
    pub policy: Option<Policy>,
    pub cause: Cause,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// The comparison has no completed run.
    NothingRan,
    /// Other processes leave too little CPU to start.
    OthersBusy { others_cores: f64, cores: f64 },
    /// The machine is too slow for the slowest time scale that the time limit allows.
    TooSlow { needed_cores: f64, spare_cores: f64, available_cores: f64, run_max_s: f64 },
    /// The fraction of the cores that was busy exceeded `busy_max`.
    Busy { cpu: CpuUse, busy_max: f64, available_cores: f64 },
    /// `what` was late at the 99th percentile.
    Late { what: &'static str, p99_ms: f64, max_ms: f64 },
    /// The fraction of requests that failed exceeded `share_max`.
    Failed { failed: usize, requests: usize, share_max: f64, error: String },
    /// Gateways chose hosts without the shared table, because the sidecar's answer was late or absent.
    NotShared { not_shared: usize, requests: usize },
    /// The measured p99 of the policy is far outside the simulated range.
    Disagrees { measured_ms: f64, low_ms: f64, high_ms: f64, factor: f64 },
    /// The measured order of two policies is the opposite of the simulated order.
    Reversed { rival: Policy, times_lower: f64, simulated_times_lower: f64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(policy) = self.policy {
            write!(f, "under {policy}, ")?;
        }
        write!(f, "{}", self.cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingRan => f.write_str("no policy ran to its end"),
            Self::OthersBusy { others_cores, cores } => write!(
                f,
                "other processes use {others_cores:.1} of the {cores:.0} cores on which the comparison may run; stop them and \
                 run the comparison again"
            ),
            Self::TooSlow { needed_cores, spare_cores, available_cores, run_max_s } => write!(
                f,
                "the comparison needs {needed_cores:.1} cores to replay the trace within {run_max_s:.0} s for each policy, and \
                 may use {:.1} of {available_cores:.1} cores, so that they stay half idle",
                spare_cores.max(0.0)
            ),
            Self::Busy { cpu, busy_max, available_cores } => {
                write!(
                    f,
                    "the CPU was {:.0} % busy, which is above {:.0} %: of {available_cores:.1} cores, the comparison used {:.1}, and \
                     other processes {:.1}",
                    cpu.busy * 100.0,
                    busy_max * 100.0,
                    cpu.ours_cores,
                    cpu.others_cores - cpu.stolen_cores
                )?;
                if cpu.stolen_cores >= 0.05 {
                    write!(f, ", and other virtual machines {:.1}", cpu.stolen_cores)?;
                }
                Ok(())
            }
            Self::Late { what, p99_ms, max_ms } => {
                write!(f, "{what} {p99_ms:.0} ms late at p99 in trace time, which is above {max_ms:.0} ms")
            }
            Self::Failed { failed, requests, share_max, error } => write!(
                f,
                "{failed} of {requests} requests failed, more than {:.0} %, most of them with “{error}”",
                share_max * 100.0
            ),
            Self::NotShared { not_shared, requests } => write!(
                f,
                "the gateways sent {not_shared} of {requests} requests without a choice from the shared table, because the \
                 sidecar or Redis answered too late"
            ),
            Self::Disagrees { measured_ms, low_ms, high_ms, factor } => write!(
                f,
                "the measured p99 time to first token, {measured_ms:.0} ms, is not within a factor of {factor:.0} of the simulated \
                 one, {low_ms:.0} to {high_ms:.0} ms"
            ),
            Self::Reversed { rival, times_lower, simulated_times_lower } => write!(
                f,
                "the p99 time to first token is {} than under {rival}, but {} in simulation: the measured order contradicts the \
                 simulated order",
                factor(*times_lower),
                factor(*simulated_times_lower)
            ),
        }
    }
}

fn factor(times_lower: f64) -> String {
    if times_lower >= 1.0 {
        format!("{times_lower:.1} times lower")
    } else {
        format!("{:.1} times higher", 1.0 / times_lower)
    }
}
