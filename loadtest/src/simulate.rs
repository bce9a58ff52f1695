//! The same trace, the same engines, the policies as pure functions: a run in seconds instead of minutes,
//! without network, gateways or noise. Used to choose the parameters of the real run, and to know what it should show.

use std::{collections::HashMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde::Serialize;

use crate::{
    engine::{Engine, EngineParams},
    figures::Percentiles,
    workload::Workload,
};

/// How a gateway chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Each gateway goes round, from a random start.
    RoundRobin,
    /// At random.
    Random,
    /// Two at random, the one with fewer of this gateway's own requests: Envoy's default.
    LocalTwoChoices,
    /// Fewest of this gateway's own requests.
    LocalLeast,
    /// Fewest requests of all gateways.
    GlobalLeast,
}

impl Choice {
    /// All.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Random, Self::LocalTwoChoices, Self::LocalLeast, Self::GlobalLeast];

    /// Name in tables.
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

/// What a simulated run showed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    /// Time to first token.
    pub ttft_ms: Percentiles,
    /// Time to last token.
    pub e2e_ms: Percentiles,
    /// Slots taken, as a share of all slots, over the length of the trace.
    pub utilisation: f64,
}

/// The size of the system.
#[derive(Clone, Debug)]
pub struct System {
    /// Model servers.
    pub hosts: usize,
    /// Gateways, each knowing only its own requests.
    pub gateways: usize,
    /// Engine of every host.
    pub engine: EngineParams,
}

struct Flight {
    gateway: usize,
    host: usize,
    sent: Duration,
}

#[derive(Default)]
struct Board {
    flights: HashMap<u64, Flight>,
    local: Vec<Vec<u32>>,
    global: Vec<u32>,
    ttft: Vec<f64>,
    e2e: Vec<f64>,
}

/// Runs a workload to its last token.
pub fn run(workload: &Workload, system: &System, choice: Choice, seed: u64) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut engines: Vec<Engine> = (0..system.hosts).map(|_| Engine::new(system.engine.clone())).collect();
    let mut board = Board {
        local: vec![vec![0; system.hosts]; system.gateways],
        global: vec![0; system.hosts],
        ..Board::default()
    };
    let mut next: Vec<usize> = (0..system.gateways).map(|_| rng.random_range(0..system.hosts)).collect();
    for (id, request) in (0u64..).zip(&workload.requests) {
        advance(&mut engines, request.at, &mut board);
        let gateway = rng.random_range(0..system.gateways);
        let local = &board.local[gateway];
        let host = match choice {
            Choice::RoundRobin => {
                next[gateway] = (next[gateway] + 1) % system.hosts;
                next[gateway]
            }
            Choice::Random => rng.random_range(0..system.hosts),
            Choice::LocalTwoChoices => {
                let (a, b) = (rng.random_range(0..system.hosts), rng.random_range(0..system.hosts));
                if local[b] < local[a] { b } else { a }
            }
            Choice::LocalLeast => least(local, &mut rng),
            Choice::GlobalLeast => least(&board.global, &mut rng),
        };
        board.local[gateway][host] += 1;
        board.global[host] += 1;
        board.flights.insert(id, Flight { gateway, host, sent: request.at });
        engines[host].submit(request.at, id, request.prompt, request.output);
    }
    let slot_seconds: f64 = {
        advance(&mut engines, workload.duration, &mut board);
        engines.iter().map(|e| e.totals().slot_seconds).sum()
    };
    advance(&mut engines, Duration::MAX / 2, &mut board);
    let slots = (system.hosts * system.engine.slots) as f64;
    Outcome {
        ttft_ms: Percentiles::of(board.ttft),
        e2e_ms: Percentiles::of(board.e2e),
        utilisation: slot_seconds / (slots * workload.duration.as_secs_f64()),
    }
}

/// Index of the least count, ties at random.
pub(crate) fn least(counts: &[u32], rng: &mut impl Rng) -> usize {
    let min = counts.iter().min().copied().unwrap_or_default();
    let ties = counts.iter().filter(|n| **n == min).count().max(1);
    let chosen = rng.random_range(0..ties);
    counts.iter().enumerate().filter(|(_, n)| **n == min).nth(chosen).map_or(0, |(i, _)| i)
}

fn advance(engines: &mut [Engine], now: Duration, board: &mut Board) {
    for engine in engines {
        engine.advance(now, |e| {
            if e.produced > 1 && !e.done {
                return;
            }
            let Some(flight) = board.flights.get(&e.id) else { return };
            let after = (e.at - flight.sent).as_secs_f64() * 1e3;
            if e.produced == 1 {
                board.ttft.push(after);
            }
            if e.done {
                board.e2e.push(after);
                board.local[flight.gateway][flight.host] -= 1;
                board.global[flight.host] -= 1;
                board.flights.remove(&e.id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::synth;

    #[test]
    fn knowing_all_requests_beats_knowing_ones_own() {
        let engine = EngineParams::default();
        let system = System { hosts: 8, gateways: 8, engine: engine.clone() };
        let trace = synth::generate(1, Duration::from_secs(1000), synth::RATE_RPS);
        let (trace, _) = trace.at_load(0.75, &engine, system.hosts);
        let p99 = |choice| run(&trace, &system, choice, 1).ttft_ms.p99;
        let (global, full, two, random) = (
            p99(Choice::GlobalLeast),
            p99(Choice::LocalLeast),
            p99(Choice::LocalTwoChoices),
            p99(Choice::Random),
        );
        assert!(global * 1.5 < two && global <= full && two < random, "{global} {full} {two} {random}");
    }

    #[test]
    fn every_request_ends_and_the_same_seed_repeats_itself() {
        let system = System { hosts: 3, gateways: 2, engine: EngineParams::default() };
        let trace = synth::generate(1, Duration::from_secs(200), 2.0);
        let a = run(&trace, &system, Choice::LocalTwoChoices, 5);
        let b = run(&trace, &system, Choice::LocalTwoChoices, 5);
        assert_eq!((a.ttft_ms, a.e2e_ms), (b.ttft_ms, b.e2e_ms));
        assert!(a.ttft_ms.p50 > 0.0 && a.e2e_ms.p50 > a.ttft_ms.p50);
    }
}
