//! What is sent: requests with a time, a prompt size and an output size.

pub mod synth;
pub mod trace;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::EngineParams;

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it is sent, since the start of the trace.
    pub at: Duration,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens of its answer.
    pub output: u32,
}

/// Requests in the order in which they are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Where it is from, for the report.
    pub source: String,
    /// The requests, by time.
    pub requests: Vec<Request>,
    /// Length of the trace: rates are requests over this.
    pub duration: Duration,
}

/// Figures of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of requests.
    pub requests: usize,
    /// Length in seconds.
    pub duration_s: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Mean tokens of a prompt.
    pub prompt_mean: f64,
    /// Mean tokens of an answer.
    pub output_mean: f64,
}

impl Workload {
    /// The requests from `start` on, for `duration`, with times counted from `start`.
    #[must_use]
    pub fn slice(&self, start: Duration, duration: Duration) -> Self {
        let end = (start + duration).min(self.duration.max(start));
        let requests = self
            .requests
            .iter()
            .filter(|r| (start..end).contains(&r.at))
            .map(|r| Request { at: r.at - start, ..*r })
            .collect();
        Self { source: self.source.clone(), requests, duration: end.saturating_sub(start) }
    }

    /// The same requests, arriving `factor` times as fast.
    #[must_use]
    pub fn faster(&self, factor: f64) -> Self {
        let requests = self.requests.iter().map(|r| Request { at: r.at.div_f64(factor), ..*r }).collect();
        Self { source: self.source.clone(), requests, duration: self.duration.div_f64(factor) }
    }

    /// Its figures.
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

    /// Load this workload offers to `hosts` hosts: its arrival rate over what the hosts complete with all slots taken
    /// ([`EngineParams::capacity_rps`]). 1.0 is as much as they can do.
    pub fn load(&self, engine: &EngineParams, hosts: usize) -> f64 {
        let s = self.summary();
        s.rate_rps / (engine.capacity_rps(s.prompt_mean, s.output_mean) * hosts as f64)
    }

    /// The same requests, arriving faster or slower so that they offer `load`; and the factor used.
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
            .map(|i| Request { at: Duration::from_secs(i), prompt: 100, output: 10 + i as u32 })
            .collect();
        Workload { source: "test".into(), requests, duration: Duration::from_secs(100) }
    }

    #[test]
    fn a_slice_counts_from_its_start() {
        let slice = workload().slice(Duration::from_secs(10), Duration::from_secs(5));
        assert_eq!(slice.requests.len(), 5);
        assert_eq!(slice.requests[0], Request { at: Duration::ZERO, prompt: 100, output: 20 });
        assert_eq!(slice.duration, Duration::from_secs(5));
    }

    #[test]
    fn a_slice_past_the_end_is_shorter() {
        let slice = workload().slice(Duration::from_secs(90), Duration::from_secs(50));
        assert_eq!((slice.requests.len(), slice.duration), (10, Duration::from_secs(10)));
        let none = workload().slice(Duration::from_secs(200), Duration::from_secs(50));
        assert_eq!((none.requests.len(), none.duration), (0, Duration::ZERO));
    }

    #[test]
    fn a_load_is_reached_by_the_arrival_rate() {
        let engine = EngineParams::default();
        let (workload, factor) = workload().at_load(0.5, &engine, 3);
        assert!((workload.load(&engine, 3) - 0.5).abs() < 1e-6);
        assert!(factor > 1.0);
    }
}
