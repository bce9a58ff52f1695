//! Simulates a comparison in virtual time, with the same trace and engines, and with policies as pure functions. A
//! simulation takes seconds instead of minutes, and has no network, gateways or noise. It serves to choose the
//! parameters of a real run and to predict its result.

mod capacity;
mod policy;
mod table;

use std::time::Duration;

pub use capacity::at_load;
use policy::Chooser;
pub use policy::SimulatedPolicy;
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;
use table::{InFlightRequest, Table};

use crate::{
    engine::{Engine, EngineParams},
    percentiles::Percentiles,
    slo::Slo,
    workload::Workload,
};

#[derive(Clone, Copy, Debug, Serialize)]
pub struct SimulationResult {
    /// Time to first token.
    pub ttft_ms: Percentiles,
    /// Time to last token.
    pub e2e_ms: Percentiles,
    /// Mean fraction of slots in use during the trace.
    pub utilisation: f64,
    /// Fraction of all prompt tokens that prefix caches had.
    pub hit_rate: f64,
    /// Fraction of the requests that met the service level.
    pub slo_attainment: f64,
}

#[derive(Clone, Debug)]
pub struct System {
    pub hosts: usize,
    /// Number of gateways. Each gateway knows only its own requests.
    pub gateways: usize,
    pub engine: EngineParams,
    pub slo: Slo,
}

/// Simulates a workload until its last token.
pub fn run(workload: &Workload, system: &System, policy: SimulatedPolicy, seed: u64) -> SimulationResult {
    let (table, engines, slot_seconds) = play(workload, system, policy, seed);
    let slo = system.slo;
    let slots = (system.hosts * system.engine.slots) as f64;
    let sum = |tokens: fn(&Engine) -> u64| engines.iter().map(tokens).sum::<u64>() as f64;
    let cached = sum(|engine| engine.totals().cached_tokens);
    SimulationResult {
        slo_attainment: slo.attainment(&workload.requests, &table.ttft),
        ttft_ms: Percentiles::of(table.ttft.into_iter().flatten()),
        e2e_ms: Percentiles::of(table.e2e),
        utilisation: slot_seconds / (slots * workload.duration.as_secs_f64()),
        hit_rate: cached / (cached + sum(|engine| engine.totals().prompt_tokens)).max(1.0),
    }
}

/// Returns the table at the end, the engines, and the slots in use integrated over the duration of the trace.
fn play(
    workload: &Workload,
    system: &System,
    policy: SimulatedPolicy,
    seed: u64,
) -> (Table, Vec<Engine>, f64) {
    let mut engines: Vec<Engine> = (0..system.hosts).map(|_| Engine::new(system.engine.clone())).collect();
    let mut table = Table::new(system.hosts, system.gateways, workload.requests.len());
    let mut chooser = Chooser::new(policy, system, SmallRng::seed_from_u64(seed));
    for (id, request) in (0u64..).zip(&workload.requests) {
        advance(&mut engines, request.at, &mut table);
        let choice = chooser.choose(request, &table, &engines);
        table.add(id, InFlightRequest { sent: request.at, ..choice });
        let sizes = (request.prompt, request.output);
        engines[choice.host].submit_blocks(request.at, id, sizes, request.cache_blocks());
    }
    advance(&mut engines, workload.duration, &mut table);
    let slot_seconds = engines.iter().map(|e| e.totals().slot_seconds).sum();
    advance(&mut engines, Duration::MAX / 2, &mut table);
    (table, engines, slot_seconds)
}

fn advance(engines: &mut [Engine], now: Duration, table: &mut Table) {
    for engine in engines {
        engine.advance(now, |e| {
            if e.produced == 1 {
                table.first_token(e.id, e.at);
            }
            if e.done {
                table.end(e.id, e.at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::BLOCK_TOKENS,
        workload::{Request, synth},
    };
    use rand::Rng;

    #[test]
    fn global_counts_beat_local_counts() {
        let engine = EngineParams::default();
        let system = System { hosts: 8, gateways: 8, engine: engine.clone(), slo: Slo::default() };
        let trace = synth::generate(1, Duration::from_secs(1000), synth::RATE_RPS);
        let (trace, _) = trace.at_load(0.75, &engine, system.hosts);
        let p99 = |policy| run(&trace, &system, policy, 1).ttft_ms.p99;
        let (global, full, two, random) = (
            p99(SimulatedPolicy::GlobalLeast),
            p99(SimulatedPolicy::LocalLeast),
            p99(SimulatedPolicy::LocalTwoChoices),
            p99(SimulatedPolicy::Random),
        );
        assert!(global * 1.5 < two && global <= full && two < random, "{global} {full} {two} {random}");
    }

    /// Long prompts. Half of them continue an earlier one.
    fn conversations() -> Workload {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut requests: Vec<Request> = Vec::new();
        for i in 0..3000u64 {
            let at = Duration::from_millis(i * 260 + rng.random_range(0..250));
            let earlier = requests.len().saturating_sub(rng.random_range(1..400));
            let mut blocks = match requests.get(earlier) {
                Some(request) if rng.random_bool(0.5) => request.cache_blocks().to_vec(),
                _ => Vec::new(),
            };
            let length: f64 = rng.random();
            let more = (1.0 + 40.0 * length.powi(6)) as u64;
            blocks.extend((0..more).map(|n| 1_000_000 + i * 1000 + n));
            let prompt = blocks.len() as u32 * BLOCK_TOKENS;
            requests.push(Request { at, prompt, output: 100, blocks: blocks.into(), ..Request::default() });
        }
        Workload { source: "test".into(), requests, duration: Duration::from_millis(3000 * 260) }
    }

    #[test]
    fn work_beats_counts_and_knowledge_of_caches_beats_both() {
        let system =
            System { hosts: 4, gateways: 2, engine: EngineParams::long_context(), slo: Slo::default() };
        let (trace, factor) = at_load(&conversations(), 0.85, &system);
        assert!(factor > 0.0);
        let run = |policy| run(&trace, &system, policy, 1);
        let (count, work, indexed, higress, ideal) = (
            run(SimulatedPolicy::GlobalLeast),
            run(SimulatedPolicy::GlobalWork),
            run(SimulatedPolicy::IndexedWork),
            run(SimulatedPolicy::HigressPrefix),
            run(SimulatedPolicy::IdealWork),
        );
        assert!(work.ttft_ms.p90 < 0.8 * count.ttft_ms.p90, "{work:?} {count:?}");
        assert!(ideal.ttft_ms.p50 < work.ttft_ms.p50, "{ideal:?} {work:?}");
        assert!(higress.hit_rate > 1.3 * count.hit_rate, "{higress:?} {count:?}");
        assert!(indexed.ttft_ms.mean < 1.1 * ideal.ttft_ms.mean, "{indexed:?} {ideal:?}");
        assert!(ideal.ttft_ms.p90 < higress.ttft_ms.p90, "{ideal:?} {higress:?}");
        assert!(ideal.hit_rate > 1.3 * work.hit_rate && work.hit_rate > 0.0, "{ideal:?} {work:?}");
    }

    #[test]
    fn without_a_formula_the_capacity_is_simulated() {
        let system =
            System { hosts: 4, gateways: 2, engine: EngineParams::long_context(), slo: Slo::default() };
        let slow = at_load(&conversations(), 0.5, &system).1;
        let fast = at_load(&conversations(), 1.0, &system).1;
        assert!((fast / slow - 2.0).abs() < 1e-9, "{slow} {fast}");
        // At a load above 1, the queues grow until the trace ends.
        let p50 = |load| {
            let (trace, _) = at_load(&conversations(), load, &system);
            run(&trace, &system, SimulatedPolicy::GlobalLeast, 1).ttft_ms.p50
        };
        assert!(p50(1.5) > 10.0 * p50(0.7), "{} {}", p50(1.5), p50(0.7));
    }

    #[test]
    fn every_request_ends_and_the_same_seed_repeats_the_result() {
        let system = System { hosts: 3, gateways: 2, engine: EngineParams::default(), slo: Slo::default() };
        let trace = synth::generate(1, Duration::from_secs(200), 2.0);
        let a = run(&trace, &system, SimulatedPolicy::LocalTwoChoices, 5);
        let b = run(&trace, &system, SimulatedPolicy::LocalTwoChoices, 5);
        assert_eq!((a.ttft_ms, a.e2e_ms), (b.ttft_ms, b.e2e_ms));
        assert!(a.ttft_ms.p50 > 0.0 && a.e2e_ms.p50 > a.ttft_ms.p50);
    }
}
