//! Parameters and trace of the demonstration.
//!
//! The parameters are chosen with `simulate` on the Azure conversation trace:
//!
//! - **Slice.** 16 minutes from minute 6 on, with 4,961 requests. This is the longest period in which the arrival rate
//!   of each minute stays within about a tenth of the mean. A slice with a stronger trend would overload the hosts for
//!   minutes under every policy.
//! - **Engine.** 20 slots, steps of 30 to 40 ms, 20,000 prompt tokens per second: a large model on one server with
//!   current accelerators.
//! - **Load.** 0.85, with arrivals 2.4 times as fast as recorded.
//! - **Time.** At most 12 trace seconds per wall second. Each policy then takes 33 s, and one wall millisecond of noise
//!   adds 12 ms to a time to first token of about 400 ms. A slower machine runs at a slower scale, and then with a
//!   shorter slice and fewer hosts and gateways.
//!
//! Over five seeds, the simulation predicts a p99 time to first token of 2.4 to 2.9 s for eight gateways with Envoy's
//! least request, and of 392 to 398 ms for the ideal policy.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    compare::Plan,
    engine::EngineParams,
    lab::{Policy, paths},
    pace::Pace,
    replay::Spread,
    workload::{Workload, synth, trace},
};

/// Seed of the synthetic trace. Like the slice of the original trace, the seed is chosen so that no trend overloads the
/// hosts for minutes under every policy.
const SYNTHETIC_SEED: u64 = 5;
const SYNTHETIC_DURATION: Duration = Duration::from_secs(3500);

/// Fastest time scale. Beyond, the milliseconds that gateways and sidecars add become visible in the result.
pub const SCALE_MAX: f64 = 12.0;
/// Keeps the whole demonstration within eight minutes, or twelve with repeats.
const RUN_MAX: Duration = Duration::from_secs(80);

pub fn plan() -> Plan {
    Plan {
        policies: Policy::BY_REQUESTS.to_vec(),
        hosts: 8,
        gateways: 8,
        sidecars: 8,
        envoy_concurrency: 1,
        engine: EngineParams {
            slots: 20,
            base_ms: 30.0,
            per_seq_ms: 0.5,
            per_prefill_token_ms: 0.05,
            prefill_budget: 2048,
            kv_tokens: 100_000,
            ..EngineParams::default()
        },
        pace: Pace::Measured { scale_max: SCALE_MAX, run_max: RUN_MAX },
        may_shrink: true,
        token_batch: 8,
        load: 0.85,
        slice_start: Duration::from_secs(360),
        slice_duration: Duration::from_secs(960),
        spread: Spread::Random,
        seed: 1,
        synthetic: false,
        lab_dir: None,
    }
}

/// Returns the paths at which a copy of the Azure trace is expected.
pub fn trace_candidates() -> Vec<PathBuf> {
    let root = paths::workspace();
    let name = "azure-llm-2023-conversation.csv";
    vec![root.join("data").join(name), root.join("../shared/data").join(name)]
}

/// Loads the trace at `path` or, without a path, a copy of the Azure trace. If there is no copy, generates a synthetic
/// trace. The second value is true if the trace is synthetic.
pub fn load_trace(path: Option<&Path>) -> Result<(Workload, bool), trace::TraceError> {
    let found = trace_candidates().into_iter().find(|path| path.is_file());
    match path.map(Path::to_owned).or(found) {
        Some(path) => Ok((trace::read_file(&path)?, false)),
        None => Ok(synthetic_trace()),
    }
}

/// Generates the trace that replaces a missing copy of the original. The second value says that it is synthetic.
pub fn synthetic_trace() -> (Workload, bool) {
    (synth::generate(SYNTHETIC_SEED, SYNTHETIC_DURATION, synth::RATE_RPS), true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{SimulatedPolicy, System, run};

    /// The synthetic trace shows the same effect as the original, for users without a copy of the original.
    #[test]
    fn the_synthetic_trace_shows_the_effect() {
        let plan = plan();
        let trace = synth::generate(SYNTHETIC_SEED, SYNTHETIC_DURATION, synth::RATE_RPS);
        let (workload, _) = plan.workload(&trace);
        let system = System { hosts: plan.hosts, gateways: plan.gateways, engine: plan.engine };
        let local = run(&workload, &system, SimulatedPolicy::LocalTwoChoices, 1).ttft_ms.p99;
        let global = run(&workload, &system, SimulatedPolicy::GlobalLeast, 1).ttft_ms.p99;
        assert!(local > 3.0 * global, "local {local}, global {global}");
    }
}
