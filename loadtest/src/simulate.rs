//! Simulates a comparison in virtual time, with the same trace and engines, and with policies as pure functions. A
//! simulation takes seconds instead of minutes, and has no network, gateways or noise. It serves to choose the
//! parameters of a real run and to predict its result.

use std::{collections::HashMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::Serialize;

use crate::{
    engine::{Engine, EngineParams},
    percentiles::Percentiles,
    workload::Workload,
};

/// How a simulated gateway chooses the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SimulatedPolicy {
    /// Each gateway cycles through the hosts from a random start.
    RoundRobin,
    Random,
    /// Of two random hosts, the host with fewer requests from this gateway: Envoy's `LEAST_REQUEST`.
    LocalTwoChoices,
    /// The host with the fewest requests from this gateway.
    LocalLeast,
    /// The host with the fewest requests from all gateways together.
    GlobalLeast,
}

impl SimulatedPolicy {
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Random, Self::LocalTwoChoices, Self::LocalLeast, Self::GlobalLeast];

    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LocalTwoChoices => "local_p2c (Envoy's least_request)",
            Self::LocalLeast => "local_full_scan",
            Self::GlobalLeast => "global_least (ideal)",
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct SimulationResult {
    /// Time to first token.
    pub ttft_ms: Percentiles,
    /// Time to last token.
    pub e2e_ms: Percentiles,
    /// Mean fraction of slots in use during the trace.
    pub utilisation: f64,
}

#[derive(Clone, Debug)]
pub struct System {
    pub hosts: usize,
    /// Number of gateways. Each gateway knows only its own requests.
    pub gateways: usize,
    pub engine: EngineParams,
}

struct InFlightRequest {
    gateway: usize,
    host: usize,
    sent: Duration,
}

#[derive(Default)]
struct InFlightTable {
    requests: HashMap<u64, InFlightRequest>,
    /// Number of requests in flight, by gateway and host.
    local: Vec<Vec<u32>>,
    global: Vec<u32>,
    ttft: Vec<f64>,
    e2e: Vec<f64>,
}

/// Simulates a workload until its last token.
pub fn run(workload: &Workload, system: &System, policy: SimulatedPolicy, seed: u64) -> SimulationResult {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut engines: Vec<Engine> = (0..system.hosts).map(|_| Engine::new(system.engine.clone())).collect();
    let mut table = InFlightTable {
        local: vec![vec![0; system.hosts]; system.gateways],
        global: vec![0; system.hosts],
        ..InFlightTable::default()
    };
    let mut next: Vec<usize> = (0..system.gateways).map(|_| rng.random_range(0..system.hosts)).collect();
    for (id, request) in (0u64..).zip(&workload.requests) {
        advance(&mut engines, request.at, &mut table);
        let gateway = rng.random_range(0..system.gateways);
        let local = &table.local[gateway];
        let host = match policy {
            SimulatedPolicy::RoundRobin => {
                next[gateway] = (next[gateway] + 1) % system.hosts;
                next[gateway]
            }
            SimulatedPolicy::Random => rng.random_range(0..system.hosts),
            SimulatedPolicy::LocalTwoChoices => {
                let (a, b) = (rng.random_range(0..system.hosts), rng.random_range(0..system.hosts));
                if local[b] < local[a] { b } else { a }
            }
            SimulatedPolicy::LocalLeast => least_loaded(local, &mut rng),
            SimulatedPolicy::GlobalLeast => least_loaded(&table.global, &mut rng),
        };
        table.local[gateway][host] += 1;
        table.global[host] += 1;
        table.requests.insert(id, InFlightRequest { gateway, host, sent: request.at });
        engines[host].submit(request.at, id, request.prompt, request.output);
    }
    let slot_seconds: f64 = {
        advance(&mut engines, workload.duration, &mut table);
        engines.iter().map(|e| e.totals().slot_seconds).sum()
    };
    advance(&mut engines, Duration::MAX / 2, &mut table);
    let slots = (system.hosts * system.engine.slots) as f64;
    SimulationResult {
        ttft_ms: Percentiles::of(table.ttft),
        e2e_ms: Percentiles::of(table.e2e),
        utilisation: slot_seconds / (slots * workload.duration.as_secs_f64()),
    }
}

/// Returns the index of the lowest count. Breaks ties at random.
pub(crate) fn least_loaded(counts: &[u32], rng: &mut impl Rng) -> usize {
    let min = counts.iter().min().copied().unwrap_or_default();
    let ties = counts.iter().filter(|n| **n == min).count().max(1);
    let chosen = rng.random_range(0..ties);
    counts.iter().enumerate().filter(|(_, n)| **n == min).nth(chosen).map_or(0, |(i, _)| i)
}

fn advance(engines: &mut [Engine], now: Duration, table: &mut InFlightTable) {
    for engine in engines {
        engine.advance(now, |e| {
            if e.produced > 1 && !e.done {
                return;
            }
            let Some(flight) = table.requests.get(&e.id) else { return };
            let after = (e.at - flight.sent).as_secs_f64() * 1e3;
            if e.produced == 1 {
                table.ttft.push(after);
            }
            if e.done {
                table.e2e.push(after);
                table.local[flight.gateway][flight.host] -= 1;
                table.global[flight.host] -= 1;
                table.requests.remove(&e.id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::synth;

    #[test]
    fn global_counts_beat_local_counts() {
        let engine = EngineParams::default();
        let system = System { hosts: 8, gateways: 8, engine: engine.clone() };
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

    #[test]
    fn every_request_ends_and_the_same_seed_repeats_the_result() {
        let system = System { hosts: 3, gateways: 2, engine: EngineParams::default() };
        let trace = synth::generate(1, Duration::from_secs(200), 2.0);
        let a = run(&trace, &system, SimulatedPolicy::LocalTwoChoices, 5);
        let b = run(&trace, &system, SimulatedPolicy::LocalTwoChoices, 5);
        assert_eq!((a.ttft_ms, a.e2e_ms), (b.ttft_ms, b.e2e_ms));
        assert!(a.ttft_ms.p50 > 0.0 && a.e2e_ms.p50 > a.ttft_ms.p50);
    }
}
