//! The load that a workload offers.

use super::{SimulatedPolicy, System, play};
use crate::workload::Workload;

/// Arrival rate of a search, relative to the capacity found before: above it, so that the hosts never run out of work.
const OVERLOAD: f64 = 1.3;
/// The first result comes from a rough estimate of the capacity.
const ROUNDS: usize = 4;
/// Part of the trace in which caches and queues fill up, and which does not count.
const WARM_UP: f64 = 0.28;
const SEED: u64 = 1;

/// Returns the same requests, with arrivals scaled so that they offer `load`, and the scaling factor. At a load of 1, the
/// hosts are saturated.
///
/// The capacity of the hosts follows from a formula or, where contexts and prefix caches matter, from a simulation of exact
/// least request under overload.
pub fn at_load(workload: &Workload, load: f64, system: &System) -> (Workload, f64) {
    if system.engine.has_known_capacity() || workload.requests.is_empty() {
        return workload.at_load(load, &system.engine, system.hosts);
    }
    let factor = load * capacity_rps(workload, system) / workload.summary().rate_rps;
    (workload.faster(factor), factor)
}

/// Returns the requests per second that the hosts complete under exact least request while there are always more.
fn capacity_rps(workload: &Workload, system: &System) -> f64 {
    let s = workload.summary();
    let mut capacity = system.engine.capacity_rps(s.prompt_mean, s.output_mean) * system.hosts as f64;
    for _ in 0..ROUNDS {
        let overload = workload.faster(OVERLOAD * capacity / s.rate_rps);
        let (table, ..) = play(&overload, system, SimulatedPolicy::GlobalLeast, SEED);
        let counted = overload.duration.mul_f64(WARM_UP)..overload.duration;
        let done = table.ends.iter().filter(|end| counted.contains(*end)).count();
        capacity = done.max(1) as f64 / (counted.end - counted.start).as_secs_f64();
    }
    capacity
}
