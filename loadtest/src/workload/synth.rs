//! A synthetic trace with the statistics of the Azure conversation trace, for users without a copy of the original.
//!
//! The trace is fitted to "Azure LLM inference trace 2023", conversation (19,366 requests in 58 minutes):
//!
//! - **Sizes.** Neither prompt sizes nor output sizes are lognormal: prompts cluster around 400, 1,050 and 4,090
//!   tokens, and outputs around 85 and 400. Both are therefore drawn from the original's quantiles, interpolated on a
//!   logarithmic scale. The correlation of their logarithms is 0.09 and is ignored.
//! - **Arrivals.** Arrivals are a Poisson process with a varying rate. The logarithm of the rate is the sum of two
//!   Ornstein-Uhlenbeck processes. The slow one (standard deviation 0.27, relaxation time 600 s) causes changes over
//!   minutes; the fast one (0.22, 1.5 s) causes bursts. They are fitted to the index of dispersion of counts: 1.4 in
//!   windows of 1 s, 2.5 of 5 s, 3.9 of 10 s, 16 of 60 s. A Poisson process with a constant rate has an index of 1 in
//!   every window.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Request, Workload,
    quantiles::{Quantiles, draw},
};

/// Mean arrival rate of the original.
pub const RATE_RPS: f64 = 5.53;

const SLOW: OrnsteinUhlenbeck = OrnsteinUhlenbeck { deviation: 0.27, relaxation_s: 600.0 };
const FAST: OrnsteinUhlenbeck = OrnsteinUhlenbeck { deviation: 0.22, relaxation_s: 1.5 };
/// Interval within which the rate is constant.
const TICK_S: f64 = 0.1;

/// Quantiles of the original's `ContextTokens`: (fraction of requests, tokens).
const PROMPT_QUANTILES: Quantiles = &[
    (0.0, 2.0),
    (0.005, 16.0),
    (0.01, 29.0),
    (0.025, 120.0),
    (0.05, 181.0),
    (0.1, 207.0),
    (0.2, 387.0),
    (0.25, 396.0),
    (0.3, 403.0),
    (0.4, 703.0),
    (0.5, 1020.0),
    (0.6, 1071.0),
    (0.7, 1130.0),
    (0.75, 1189.0),
    (0.8, 1315.0),
    (0.9, 2735.0),
    (0.95, 4083.0),
    (0.975, 4092.0),
    (0.99, 4142.0),
    (0.995, 4831.0),
    (0.999, 6212.0),
    (1.0, 14050.0),
];

/// Quantiles of the original's `GeneratedTokens`: (fraction of requests, tokens).
const OUTPUT_QUANTILES: Quantiles = &[
    (0.0, 7.0),
    (0.005, 14.0),
    (0.01, 16.0),
    (0.025, 28.0),
    (0.05, 41.0),
    (0.1, 54.0),
    (0.2, 77.0),
    (0.25, 85.0),
    (0.3, 91.0),
    (0.4, 103.0),
    (0.5, 129.0),
    (0.6, 177.0),
    (0.7, 384.0),
    (0.75, 395.0),
    (0.8, 400.0),
    (0.9, 424.0),
    (0.95, 451.0),
    (0.975, 522.0),
    (0.99, 601.0),
    (0.995, 644.0),
    (0.999, 954.0),
    (1.0, 1000.0),
];

/// An Ornstein-Uhlenbeck process with mean 0.
struct OrnsteinUhlenbeck {
    deviation: f64,
    relaxation_s: f64,
}

impl OrnsteinUhlenbeck {
    fn step(&self, at: f64, rng: &mut SmallRng) -> f64 {
        let keep = (-TICK_S / self.relaxation_s).exp();
        at * keep + self.deviation * (1.0 - keep * keep).sqrt() * normal(rng)
    }
}

/// Generates a trace with a mean of `rate_rps` requests per second. The same seed yields the same trace.
pub fn generate(seed: u64, duration: Duration, rate_rps: f64) -> Workload {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut slow = SLOW.deviation * normal(&mut rng);
    let mut fast = FAST.deviation * normal(&mut rng);
    // The mean of exp(x) is exp(variance / 2).
    let centre = rate_rps.ln() - (SLOW.deviation.powi(2) + FAST.deviation.powi(2)) / 2.0;

    let mut requests = Vec::new();
    let mut tick = 0u64;
    // Time to the next arrival of a Poisson process with rate 1. One second of real time uses up `rate` seconds of it.
    let mut left = exponential(&mut rng);
    while tick as f64 * TICK_S < duration.as_secs_f64() {
        let rate = (centre + slow + fast).exp();
        let start = tick as f64 * TICK_S;
        let mut at = 0.0;
        while at + left / rate <= TICK_S {
            at += left / rate;
            left = exponential(&mut rng);
            let prompt = draw(PROMPT_QUANTILES, &mut rng).round() as u32;
            let output = draw(OUTPUT_QUANTILES, &mut rng).round() as u32;
            // The trace format has a resolution of 100 ns.
            let at = Duration::from_nanos(((start + at) * 1e7) as u64 * 100);
            requests.push(Request { at, prompt, output, ..Request::default() });
        }
        left -= (TICK_S - at) * rate;
        slow = SLOW.step(slow, &mut rng);
        fast = FAST.step(fast, &mut rng);
        tick += 1;
    }
    requests.retain(|r| r.at < duration);
    Workload { source: format!("synthetic, seed {seed}"), requests, duration }
}

pub(super) fn exponential(rng: &mut SmallRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// Draws from the standard normal distribution with the Box-Muller transform.
fn normal(rng: &mut SmallRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3500);

    fn dispersion(trace: &Workload, window_s: f64) -> f64 {
        let mut counts = vec![0.0f64; (trace.duration.as_secs_f64() / window_s) as usize];
        for r in &trace.requests {
            if let Some(n) = counts.get_mut((r.at.as_secs_f64() / window_s) as usize) {
                *n += 1.0;
            }
        }
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        counts.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / counts.len() as f64 / mean
    }

    #[test]
    fn the_same_seed_yields_the_same_trace() {
        let a = generate(7, Duration::from_secs(300), RATE_RPS);
        assert_eq!(a, generate(7, Duration::from_secs(300), RATE_RPS));
        assert_ne!(a.requests, generate(8, Duration::from_secs(300), RATE_RPS).requests);
        assert!(a.requests.is_sorted_by_key(|r| r.at));
    }

    #[test]
    fn statistics_match_the_original() {
        let traces: Vec<_> = (0..24).map(|seed| generate(seed, HOUR, RATE_RPS)).collect();
        let mean = |f: &dyn Fn(&Workload) -> f64| traces.iter().map(f).sum::<f64>() / traces.len() as f64;
        let near = |what: &str, got: f64, original: f64, tolerance: f64| {
            assert!((got / original - 1.0).abs() < tolerance, "{what}: {got}, original {original}");
        };
        near("rate", mean(&|t| t.summary().rate_rps), 5.53, 0.15);
        near("prompt", mean(&|t| t.summary().prompt_mean), 1154.7, 0.05);
        near("output", mean(&|t| t.summary().output_mean), 211.1, 0.05);
        near("dispersion in 1 s", mean(&|t| dispersion(t, 1.0)), 1.39, 0.15);
        near("dispersion in 10 s", mean(&|t| dispersion(t, 10.0)), 3.86, 0.35);
        near("dispersion in 60 s", mean(&|t| dispersion(t, 60.0)), 16.1, 0.5);
        let mut prompts: Vec<u32> = traces[0].requests.iter().map(|r| r.prompt).collect();
        prompts.sort_unstable();
        near("median prompt", f64::from(prompts[prompts.len() / 2]), 1020.0, 0.05);
        near("p95 prompt", f64::from(prompts[prompts.len() * 95 / 100]), 4083.0, 0.1);
    }
}
