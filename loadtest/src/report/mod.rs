//! What a comparison found, for programs (`report.json`), terminals (a table) and people (`report.html`).

mod html;
mod plots;
mod table;

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{engine::EngineParams, figures::Percentiles, lab::Policy, replay::Spread};

pub use table::table;

/// `report.json`. Times are trace milliseconds (the model servers' clock) unless their name says `wall`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What ran.
    pub setup: Setup,
    /// What the machine and the path add.
    pub noise: Noise,
    /// What each policy did, by its name.
    pub policies: BTreeMap<Policy, PolicyReport>,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Name of the trace.
    pub trace: String,
    /// Whether it was made up.
    pub synthetic: bool,
    /// Where the slice begins in the trace.
    pub slice_start_s: f64,
    /// Length of the slice at the trace's own pace.
    pub slice_duration_s: f64,
    /// Arrivals were made this much faster to reach the load.
    pub arrival_factor: f64,
    /// Requests in the slice.
    pub requests: usize,
    /// Mean tokens of a prompt.
    pub prompt_mean: f64,
    /// Mean tokens of an answer.
    pub output_mean: f64,
    /// Offered load; 1 is what the hosts complete with all slots taken.
    pub load: f64,
    /// Model servers.
    pub hosts: usize,
    /// Gateways.
    pub gateways: usize,
    /// Sidecars.
    pub sidecars: usize,
    /// Worker threads of each gateway.
    pub envoy_concurrency: usize,
    /// Engine of every host.
    pub engine: EngineParams,
    /// Trace seconds per wall second.
    pub time_scale: f64,
    /// Tokens in one SSE event.
    pub token_batch: u32,
    /// How requests were spread over the gateways.
    pub spread: Spread,
    /// Seed of every random choice.
    pub seed: u64,
}

/// Requests one after the other on an idle system, whose time to first token is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Time to first token such a request has by the engine's formula.
    pub expected_ttft_ms: f64,
    /// What came on top, by path: `direct` (no gateway), `envoy`, `evenkeel`.
    pub paths: BTreeMap<String, NoisePath>,
}

/// One path's overhead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NoisePath {
    /// Requests sent.
    pub requests: usize,
    /// Measured minus expected, wall milliseconds.
    pub overhead_wall_ms: Percentiles,
    /// The same in trace milliseconds.
    pub overhead_ms: Percentiles,
}

/// One policy's run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// Time to first token.
    pub ttft_ms: Percentiles,
    /// Time to last token.
    pub e2e_ms: Percentiles,
    /// Time to first token, wall time.
    pub ttft_wall_ms: Percentiles,
    /// Time to last token, wall time.
    pub e2e_wall_ms: Percentiles,
    /// Requests sent.
    pub requests: usize,
    /// Requests without a complete, good answer.
    pub errors: usize,
    /// Those, by what went wrong.
    pub error_kinds: BTreeMap<String, usize>,
    /// p99 of the time to first token that the simulation of this policy predicts.
    pub simulated_ttft_p99_ms: f64,
    /// Share of all slots taken, on average while requests were sent.
    pub utilisation: f64,
    /// Busiest host's requests in flight above the mean of all hosts.
    pub imbalance: Imbalance,
    /// How late the generator sent requests, wall time.
    pub generator_late_wall_ms: Percentiles,
    /// CPU used.
    pub cpu: Cpu,
    /// Requests answered by each host.
    pub answered_by: BTreeMap<String, usize>,
}

/// Requests in flight on the busiest host above the mean of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Imbalance {
    /// On average.
    pub mean: f64,
    /// At its worst.
    pub max: f64,
}

/// CPU used during one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Share of all cores of the machine that was busy, whoever used it.
    pub machine: f64,
    /// CPU microseconds per request of all gateways.
    pub envoy_us: f64,
    /// Of all sidecars.
    pub sidecar_us: f64,
    /// Of Redis.
    pub redis_us: f64,
    /// Of generator and mock hosts.
    pub loadtest_us: f64,
}

/// Requests in flight on each host at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct InFlight {
    /// When, in trace seconds since the run began.
    pub at_s: f64,
    /// On each host.
    pub hosts: Vec<u64>,
}

impl InFlight {
    /// Busiest host above the mean.
    pub fn imbalance(&self) -> f64 {
        let max = self.hosts.iter().max().copied().unwrap_or_default();
        max as f64 - self.hosts.iter().sum::<u64>() as f64 / self.hosts.len().max(1) as f64
    }
}

/// What plots need beyond the report's figures.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Times to first token, sorted, in trace milliseconds.
    pub ttft_ms: Vec<f64>,
    /// Requests in flight over time.
    pub in_flight: Vec<InFlight>,
}

/// Figures people ask for first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Headline {
    /// p99 of Evenkeel.
    pub evenkeel_p99_ms: f64,
    /// p99 of Envoy's least request over Evenkeel's.
    pub times_better: Option<f64>,
    /// p99 of Evenkeel over that of the ideal, less 1.
    pub above_ideal: Option<f64>,
}

impl Report {
    /// The headline, if Evenkeel ran.
    pub fn headline(&self) -> Option<Headline> {
        let p99 = |policy| self.policies.get(&policy).map(|p| p.ttft_ms.p99).filter(|p99| *p99 > 0.0);
        let ours = p99(Policy::Evenkeel)?;
        Some(Headline {
            evenkeel_p99_ms: ours,
            times_better: p99(Policy::EnvoyLeastRequest).map(|theirs| theirs / ours),
            above_ideal: p99(Policy::Ideal).map(|ideal| ours / ideal - 1.0),
        })
    }

    /// Writes `report.json` and `report.html` into `dir`.
    pub fn write(&self, dir: &Path, series: &BTreeMap<Policy, Series>) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(dir.join("report.json"), json)?;
        fs::write(dir.join("report.html"), html::page(self, series))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> (Report, BTreeMap<Policy, Series>) {
        let mut policies = BTreeMap::new();
        let mut series = BTreeMap::new();
        for (i, policy) in Policy::ALL.into_iter().enumerate() {
            let base = 400.0 * (5 - i) as f64;
            let ttft: Vec<f64> = (1..=1000).map(|n| base * f64::from(n) / 1000.0 + 50.0).collect();
            let in_flight = (0..50)
                .map(|t| InFlight { at_s: f64::from(t), hosts: vec![3, 4, 5 + (t % 7) as u64] })
                .collect();
            let report = PolicyReport {
                ttft_ms: Percentiles::of(ttft.clone()),
                e2e_ms: Percentiles::of(ttft.iter().map(|t| t * 10.0)),
                requests: 1000,
                ..PolicyReport::default()
            };
            policies.insert(policy, report);
            series.insert(policy, Series { ttft_ms: ttft, in_flight });
        }
        let setup = Setup {
            trace: "a <trace>.csv".into(),
            synthetic: false,
            slice_start_s: 360.0,
            slice_duration_s: 960.0,
            arrival_factor: 2.4,
            requests: 1000,
            prompt_mean: 1100.0,
            output_mean: 200.0,
            load: 0.85,
            hosts: 3,
            gateways: 8,
            sidecars: 8,
            envoy_concurrency: 1,
            engine: EngineParams::default(),
            time_scale: 12.0,
            token_batch: 8,
            spread: Spread::Random,
            seed: 1,
        };
        let paths = [("direct".to_owned(), NoisePath::default())].into();
        let noise = Noise { expected_ttft_ms: 30.0, paths };
        (Report { setup, noise, policies }, series)
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let json = serde_json::to_value(sample().0).unwrap();
        for policy in ["envoy_least_request", "envoy_round_robin", "envoy_random", "evenkeel", "ideal"] {
            for key in ["ttft_ms", "e2e_ms"] {
                for p in ["p50", "p90", "p99", "p999"] {
                    assert!(json["policies"][policy][key][p].is_f64(), "{policy}.{key}.{p}");
                }
            }
            assert_eq!(json["policies"][policy]["requests"], 1000);
            assert_eq!(json["policies"][policy]["errors"], 0);
        }
        assert!(json["noise"]["paths"]["direct"]["overhead_wall_ms"]["p99"].is_f64());
        assert_eq!(json["setup"]["load"], 0.85);
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back, sample().0);
    }

    #[test]
    fn the_headline_compares_p99() {
        let (mut report, _) = sample();
        let headline = report.headline().unwrap();
        assert!(headline.times_better.unwrap() > 1.2 && headline.above_ideal.unwrap() > 0.0);
        report.policies.remove(&Policy::Ideal);
        assert_eq!(report.headline().unwrap().above_ideal, None);
        report.policies.remove(&Policy::Evenkeel);
        assert_eq!(report.headline(), None);
    }

    #[test]
    fn files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (report, series) = sample();
        report.write(&dir.path().join("out"), &series).unwrap();
        assert!(dir.path().join("out/report.json").is_file());
        assert!(dir.path().join("out/report.html").is_file());
    }
}
