//! Workloads: requests with an arrival time, a prompt and an output size.

pub mod conversations;
mod error;
mod mooncake;
pub mod prompt;
mod quantiles;
pub mod synth;
mod tenants;
pub mod trace;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::engine::{BLOCK_TOKENS, EngineParams};

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Arrival time, relative to the start of the trace.
    pub at: Duration,
    /// Tokens in the prompt.
    pub prompt: u32,
    /// Tokens in the response.
    pub output: u32,
    /// Ids of the prompt's blocks of [`BLOCK_TOKENS`] tokens. The last block may be shorter. Prompts have the
    /// same id where their text so far is the same. Empty if the trace does not know them.
    pub blocks: Arc<[u64]>,
    /// Number of the model ([`prompt::model_name`]).
    pub model: u32,
    /// Number of the consumer; 0 if the request names none.
    pub consumer: u32,
}

impl Request {
    /// Returns the ids under which a prefix cache keeps the prompt's blocks: those of the complete blocks, different for
    /// each model.
    pub fn cache_blocks(&self) -> Arc<[u64]> {
        let complete = (self.prompt / BLOCK_TOKENS) as usize;
        if self.model == 0 && complete >= self.blocks.len() {
            return Arc::clone(&self.blocks);
        }
        let of_model = |id: &u64| match self.model {
            0 => *id,
            model => prompt::mix(id ^ prompt::mix(model.into())),
        };
        self.blocks.iter().take(complete).map(of_model).collect()
    }
}

/// Requests in order of arrival.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Origin of the requests, for the report.
    pub source: String,
    pub requests: Vec<Request>,
    /// Duration of the trace. Rates are the number of requests divided by this duration.
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub requests: usize,
    pub duration_s: f64,
    pub rate_rps: f64,
    /// Mean prompt size in tokens.
    pub prompt_mean: f64,
    /// Mean output size in tokens.
    pub output_mean: f64,
}

impl Workload {
    /// Returns the requests of `duration` from `start` on, with times relative to `start`.
    #[must_use]
    pub fn slice(&self, start: Duration, duration: Duration) -> Self {
        let end = (start + duration).min(self.duration.max(start));
        let requests = self
            .requests
            .iter()
            .filter(|r| (start..end).contains(&r.at))
            .map(|r| Request { at: r.at - start, ..r.clone() })
            .collect();
        Self { source: self.source.clone(), requests, duration: end.saturating_sub(start) }
    }

    /// Returns the same requests, arriving `factor` times as fast.
    #[must_use]
    pub fn faster(&self, factor: f64) -> Self {
        let requests =
            self.requests.iter().map(|r| Request { at: r.at.div_f64(factor), ..r.clone() }).collect();
        Self { source: self.source.clone(), requests, duration: self.duration.div_f64(factor) }
    }

    /// Returns whether the trace knows which prompts share their beginning.
    pub fn has_blocks(&self) -> bool {
        self.requests.iter().any(|r| !r.blocks.is_empty())
    }

    pub fn summary(&self) -> Summary {
        let n = self.requests.len().max(1) as f64;
        let sum = |size: fn(&Request) -> u32| self.requests.iter().map(|r| f64::from(size(r))).sum::<f64>();
        let duration_s = self.duration.as_secs_f64();
        Summary {
            requests: self.requests.len(),
            duration_s,
            rate_rps: self.requests.len() as f64 / duration_s.max(f64::MIN_POSITIVE),
            prompt_mean: sum(|r| r.prompt) / n,
            output_mean: sum(|r| r.output) / n,
        }
    }

    /// Returns the load that this workload offers to `hosts` hosts: its arrival rate divided by the hosts' capacity
    /// ([`EngineParams::capacity_rps`]). At 1.0 the hosts are saturated.
    pub fn load(&self, engine: &EngineParams, hosts: usize) -> f64 {
        let s = self.summary();
        s.rate_rps / (engine.capacity_rps(s.prompt_mean, s.output_mean) * hosts as f64)
    }

    /// Returns the same requests, with arrivals scaled so that they offer `load`. The second value is the scaling
    /// factor.
    pub fn at_load(&self, load: f64, engine: &EngineParams, hosts: usize) -> (Self, f64) {
        let factor = load / self.load(engine, hosts);
        (self.faster(factor), factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        let requests = (0..100)
            .map(|i| Request {
                at: Duration::from_secs(i),
                prompt: 100,
                output: 10 + i as u32,
                ..Request::default()
            })
            .collect();
        Workload { source: "test".into(), requests, duration: Duration::from_secs(100) }
    }

    #[test]
    fn times_in_a_slice_are_relative_to_its_start() {
        let slice = workload().slice(Duration::from_secs(10), Duration::from_secs(5));
        assert_eq!(slice.requests.len(), 5);
        assert_eq!(slice.requests[0], Request { prompt: 100, output: 20, ..Request::default() });
        assert_eq!(slice.duration, Duration::from_secs(5));
    }

    #[test]
    fn a_slice_past_the_end_is_truncated() {
        let slice = workload().slice(Duration::from_secs(90), Duration::from_secs(50));
        assert_eq!((slice.requests.len(), slice.duration), (10, Duration::from_secs(10)));
        let none = workload().slice(Duration::from_secs(200), Duration::from_secs(50));
        assert_eq!((none.requests.len(), none.duration), (0, Duration::ZERO));
    }

    #[test]
    fn arrivals_are_scaled_to_the_load() {
        let engine = EngineParams::default();
        let (workload, factor) = workload().at_load(0.5, &engine, 3);
        assert!((workload.load(&engine, 3) - 0.5).abs() < 1e-6);
        assert!(factor > 1.0);
    }
}
