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
    slo::Slo,
    workload::{Workload, conversations, synth, trace},
};

/// Seed of the synthetic trace. Like the slice of the original trace, the seed is chosen so that no trend overloads the
/// hosts for minutes under every policy.
const SYNTHETIC_SEED: u64 = 5;
/// Seed of the synthetic conversations.
const CONVERSATIONS_SEED: u64 = 1;
const SYNTHETIC_DURATION: Duration = Duration::from_secs(3500);

/// Fastest time scale. Beyond, the milliseconds that gateways and sidecars add become visible in the result.
pub const SCALE_MAX: f64 = 12.0;
/// Keeps the whole demonstration within eight minutes, or twelve with repeats.
const RUN_MAX: Duration = Duration::from_secs(80);
/// Time of a policy on the trace of conversations. That comparison has fewer policies, and stays as large as it is,
/// because a p99 needs its 3,000 requests.
const PREFIX_RUN_MAX: Duration = Duration::from_secs(150);

/// Name of the comparison on the trace without prefixes, in reports and arguments.
pub const WITHOUT_PREFIXES: &str = "without_prefixes";
/// Name of the comparison on the trace of conversations.
pub const WITH_PREFIXES: &str = "with_prefixes";

/// Returns the parameters of the comparison on the trace without prefixes.
pub fn plan() -> Plan {
    Plan {
        policies: Policy::BY_REQUESTS.into_iter().chain([Policy::EvenkeelLeastWork]).collect(),
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
        slo: Slo::default(),
        slice_start: Duration::from_secs(360),
        slice_duration: Duration::from_secs(960),
        spread: Spread::Random,
        seed: 1,
        synthetic: false,
        lab_dir: None,
    }
}

/// Returns the parameters of the comparison on the trace of conversations.
pub fn prefix_plan() -> Plan {
    Plan {
        policies: vec![
            Policy::EnvoyLeastRequest,
            Policy::EvenkeelLeastRequest,
            Policy::EvenkeelLeastWork,
            Policy::HigressPrefix,
            Policy::IdealWork,
        ],
        gateways: 4,
        sidecars: 2,
        engine: EngineParams::long_context(),
        pace: Pace::Measured { scale_max: SCALE_MAX, run_max: PREFIX_RUN_MAX },
        may_shrink: false,
        slice_start: Duration::from_secs(900),
        ..plan()
    }
}

/// Returns the paths at which a copy of the Azure trace is expected.
fn trace_candidates() -> Vec<PathBuf> {
    candidates("azure-llm-2023-conversation.csv")
}

/// Returns the paths at which a trace with this file name is expected.
fn candidates(name: &str) -> Vec<PathBuf> {
    let root = paths::workspace();
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

/// Loads the trace of conversations at `path` or, without a path, a copy of Mooncake's. If there is no copy, generates a
/// synthetic trace. The second value is true if the trace is synthetic.
pub fn load_prefix_trace(path: Option<&Path>) -> Result<(Workload, bool), trace::TraceError> {
    let found = candidates("mooncake-conversation.jsonl").into_iter().find(|path| path.is_file());
    match path.map(Path::to_owned).or(found) {
        Some(path) => Ok((trace::read_file(&path)?, false)),
        None => Ok(synthetic_conversations()),
    }
}

/// Generates the trace that replaces a missing copy of Mooncake's. The second value says that it is synthetic.
pub fn synthetic_conversations() -> (Workload, bool) {
    (conversations::generate(CONVERSATIONS_SEED, SYNTHETIC_DURATION, conversations::RATE_RPS), true)
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
        let system =
            System { hosts: plan.hosts, gateways: plan.gateways, engine: plan.engine, slo: plan.slo };
        let local = run(&workload, &system, SimulatedPolicy::LocalTwoChoices, 1).ttft_ms.p99;
        let global = run(&workload, &system, SimulatedPolicy::GlobalLeast, 1).ttft_ms.p99;
        assert!(local > 3.0 * global, "local {local}, global {global}");
    }

    #[test]
    fn the_synthetic_conversations_show_what_work_and_prefixes_bring() {
        let plan = prefix_plan();
        let (workload, _) = plan.workload(&synthetic_conversations().0);
        assert!(workload.requests.len() >= 3000, "{}", workload.requests.len());
        let system =
            System { hosts: plan.hosts, gateways: plan.gateways, engine: plan.engine, slo: plan.slo };
        let run = |policy| run(&workload, &system, policy, 1);
        let (requests, work) = (run(SimulatedPolicy::GlobalLeast), run(SimulatedPolicy::GlobalWork));
        let prefixes = run(SimulatedPolicy::IndexedWork);
        assert!(work.ttft_ms.p90 < 0.6 * requests.ttft_ms.p90, "{work:?} {requests:?}");
        assert!(prefixes.ttft_ms.p50 < 0.7 * work.ttft_ms.p50, "{prefixes:?} {work:?}");
        assert!(prefixes.hit_rate > 2.0 * work.hit_rate, "{prefixes:?} {work:?}");
        assert!(prefixes.slo_attainment > requests.slo_attainment, "{prefixes:?} {requests:?}");
    }
}
