//! The requests of one gateway: when they arrive, how long they run, and what they use.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{super::CONSUMERS, state::OUTPUT_TOKENS_MAX};

/// Mean number of requests per second of one gateway.
const RATE: f64 = 20.0;
/// Of the requests, most are short, and the others run so long that they see a whole fault.
const SHORT: std::ops::Range<f64> = 0.02..0.4;
const LONG: std::ops::Range<f64> = 1.0..8.0;
const LONG_PART: f64 = 0.3;
/// How long the requests of the impatient consumer wait for an answer.
const PATIENCE: Duration = Duration::from_millis(150);

/// A request before it is numbered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) consumer: usize,
    /// When the gateway gives the question up.
    pub(super) patience: Option<Duration>,
    pub(super) runs: Duration,
    pub(super) output: u64,
}

#[derive(Debug)]
pub(super) struct Traffic {
    rng: SmallRng,
}

impl Traffic {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed) }
    }

    /// Returns the time until the next request.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.rng.random::<f64>()).ln() / RATE)
    }

    pub(super) fn plan(&mut self) -> Plan {
        let consumer = self.rng.random_range(0..CONSUMERS);
        let long = self.rng.random::<f64>() < LONG_PART;
        let seconds = self.rng.random_range(if long { LONG } else { SHORT });
        Plan {
            consumer,
            // The last consumer is impatient.
            patience: (consumer == CONSUMERS - 1).then_some(PATIENCE),
            runs: Duration::from_secs_f64(seconds),
            output: self.rng.random_range(1..=OUTPUT_TOKENS_MAX),
        }
    }

    /// Returns a random part of a delay, at least half.
    pub(super) fn jitter(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(self.rng.random_range(0.5..1.0))
    }
}
