//! The demonstration: a comparison with parameters chosen for it, and where its trace is from.
//!
//! The parameters were chosen with `simulate` on the Azure conversation trace:
//!
//! - **Slice.** 16 minutes from the sixth on: 4,961 requests, the longest stretch in which the arrival
//!   rate of a minute stays within a tenth or so of its mean. A slice with a tide in it would be overloaded for
//!   minutes under any policy, and no policy can help that.
//! - **Engine.** 20 slots, steps of 30 to 40 ms, 20,000 prompt tokens per second: a large model on one
//!   server of current accelerators.
//! - **Load.** 0.85, reached by letting requests arrive 2.4 times as fast as recorded.
//! - **Time.** 12 trace seconds a wall second: 33 s a policy, and a wall millisecond of noise is 12 of about 400 ms.
//!
//! The simulation then gives a p99 of 2.4 to 2.9 s for eight gateways with Envoy's least request, and of 392 to 398 ms for
//! the ideal, over five seeds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    compare::Plan,
    engine::EngineParams,
    lab::{Policy, paths},
    replay::Spread,
    workload::{Workload, synth, trace},
};

/// Seed of the made-up trace, taken where there is no real one: chosen, as the slice of the real one was, so that no tide
/// overloads the hosts for minutes under every policy.
const SYNTHETIC_SEED: u64 = 5;
/// Length of the made-up trace.
const SYNTHETIC_DURATION: Duration = Duration::from_secs(3500);

/// The demonstration's plan.
pub fn plan() -> Plan {
    Plan {
        policies: Policy::ALL.to_vec(),
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
        },
        time_scale: 12.0,
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

/// Where a copy of the Azure trace is looked for.
pub fn trace_candidates() -> Vec<PathBuf> {
    let root = paths::workspace();
    let name = "azure-llm-2023-conversation.csv";
    vec![root.join("data").join(name), root.join("../shared/data").join(name)]
}

/// The named trace; else the Azure trace if there is a copy; else a made-up one. The second value says whether it is made up.
pub fn load_trace(named: Option<&Path>) -> Result<(Workload, bool), trace::TraceError> {
    let found = trace_candidates().into_iter().find(|path| path.is_file());
    match named.map(Path::to_owned).or(found) {
        Some(path) => Ok((trace::read_file(&path)?, false)),
        None => Ok((synth::generate(SYNTHETIC_SEED, SYNTHETIC_DURATION, synth::RATE_RPS), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{Choice, System, run};

    /// Whoever has no copy of the trace is to see the same thing.
    #[test]
    fn the_made_up_trace_shows_the_effect_too() {
        let plan = plan();
        let trace = synth::generate(SYNTHETIC_SEED, SYNTHETIC_DURATION, synth::RATE_RPS);
        let (workload, _) = plan.workload(&trace);
        let system = System { hosts: plan.hosts, gateways: plan.gateways, engine: plan.engine };
        let local = run(&workload, &system, Choice::LocalTwoChoices, 1).ttft_ms.p99;
        let global = run(&workload, &system, Choice::GlobalLeast, 1).ttft_ms.p99;
        assert!(local > 3.0 * global, "local {local}, global {global}");
    }
}
