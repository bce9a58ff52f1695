//! The report of a comparison as `report.json`, as `report.html` and as a text table.

mod demo;
mod html;
mod machine;
mod markup;
mod plots;
mod table;

use std::{collections::BTreeMap, fs, io, path::Path};

pub use demo::{DemoPart, DemoReport, TraceReport, write_demo};
use serde::{Deserialize, Serialize};
pub use table::table;

use crate::{
    engine::EngineParams,
    lab::Policy,
    machine::CpuUse,
    percentiles::Percentiles,
    replay::Spread,
    slo::Slo,
    verdict::{Ratio, Ratios, Verdict},
};

/// Content of `report.json`. Times are trace milliseconds (on the model servers' clock) unless the name contains `wall`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub verdict: Verdict,
    pub setup: Setup,
    pub machine: MachineReport,
    /// Latency that the machine and each path add.
    pub noise: Noise,
    pub policies: BTreeMap<Policy, PolicyReport>,
    /// Times to first token under `evenkeel_least_work`, divided by those under `evenkeel_least_request`; `None` if one
    /// of them did not run.
    #[serde(default)]
    pub least_work_to_least_request: Option<Ratios>,
    /// The same, divided by those under `ideal_work`.
    #[serde(default)]
    pub least_work_to_ideal_work: Option<Ratios>,
}

/// Parameters of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub trace: String,
    pub synthetic: bool,
    /// Start of the slice within the trace.
    pub slice_start_s: f64,
    /// Duration of the slice at the recorded rate.
    pub slice_duration_s: f64,
    /// Factor by which arrivals were accelerated to reach the load.
    pub arrival_factor: f64,
    pub requests: usize,
    /// Mean prompt size in tokens.
    pub prompt_mean: f64,
    /// Mean output size in tokens.
    pub output_mean: f64,
    /// Offered load; at 1 the hosts are saturated.
    pub load: f64,
    pub slo: Slo,
    /// Lines of the sidecars' pool for each of Evenkeel's policies, beside the endpoints.
    pub pools: BTreeMap<Policy, String>,
    pub hosts: usize,
    pub gateways: usize,
    pub sidecars: usize,
    /// Worker threads per gateway.
    pub envoy_concurrency: usize,
    pub engine: EngineParams,
    /// Trace seconds per wall second.
    pub time_scale: f64,
    /// Tokens per SSE event.
    pub token_batch: u32,
    pub spread: Spread,
    pub seed: u64,
}

/// The machine, and how the time scale was chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// Number of cores on which the comparison may run.
    pub cores: usize,
    /// CPU limit of the control group, in cores.
    pub quota_cores: Option<f64>,
    /// CPU that other processes used before the policies ran.
    pub others_cores: f64,
    /// CPU that the system uses without traffic; `None` if it was not measured.
    pub idle_cores: Option<f64>,
    /// CPU of a request; `None` if it was not measured.
    pub request_cost: Option<RequestCost>,
    /// Whether the load tester chose the time scale.
    pub time_scale_measured: bool,
    /// Number of runs that were repeated because the machine did not keep up.
    pub repeats: usize,
    /// Why the time scale was chosen; empty if nothing ran.
    pub explanation: String,
}

/// CPU microseconds of one request in the calibration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestCost {
    pub policy: Policy,
    pub envoy_us: f64,
    pub sidecar_us: f64,
    pub redis_us: f64,
    /// The load generator and the mock hosts.
    pub loadtest_us: f64,
    /// Part of the sum of the above that the system uses without traffic.
    pub idle_us: f64,
}

impl RequestCost {
    /// Returns what one more request costs.
    pub fn total_us(&self) -> f64 {
        (self.envoy_us + self.sidecar_us + self.redis_us + self.loadtest_us - self.idle_us).max(0.0)
    }
}

/// Measurement of sequential requests on an idle system, where the time to first token is known in advance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Time to first token according to the engine's formula.
    pub expected_ttft_ms: f64,
    /// Additional latency by path: `direct` (no gateway), `envoy`, `evenkeel`.
    pub paths: BTreeMap<String, NoisePath>,
}

/// Overhead of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NoisePath {
    pub requests: usize,
    /// Measured minus expected time in wall milliseconds.
    pub overhead_wall_ms: Percentiles,
    /// Measured minus expected time in trace milliseconds.
    pub overhead_ms: Percentiles,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyReport {
    pub ttft_ms: Percentiles,
    pub e2e_ms: Percentiles,
    pub ttft_wall_ms: Percentiles,
    pub e2e_wall_ms: Percentiles,
    pub requests: usize,
    /// Requests without a complete, successful response.
    pub errors: usize,
    pub error_kinds: BTreeMap<String, usize>,
    /// p99 time to first token that the simulation predicts for this policy.
    pub simulated_ttft_p99_ms: f64,
    /// Lowest such prediction over several seeds.
    pub simulated_ttft_p99_low_ms: f64,
    /// Highest such prediction over several seeds.
    pub simulated_ttft_p99_high_ms: f64,
    /// Mean fraction of slots in use while requests were sent.
    pub utilisation: f64,
    pub imbalance: Imbalance,
    /// Fraction of the prompts' tokens that the hosts' prefix caches had.
    pub hit_rate: f64,
    /// Fraction of the requests that met the service level.
    pub slo_attainment: f64,
    pub unread_tokens: UnreadTokens,
    /// Delay between the time in the trace and the actual sending.
    pub generator_late_wall_ms: Percentiles,
    /// Delay between the end of the engine's step and the sending of the first token.
    pub hosts_late_wall_ms: Percentiles,
    /// Delay between the moment at which a thread wants to run and the moment at which it runs.
    pub scheduling_late_wall_ms: Percentiles,
    pub cpu: Cpu,
    /// Requests under Evenkeel whose host was not chosen from the shared table.
    pub not_shared: usize,
    pub answered_by: BTreeMap<String, usize>,
}

/// Requests in flight on the busiest host minus the mean of all hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Imbalance {
    pub mean: f64,
    pub max: f64,
}

/// Prompt tokens that a host has not read yet, while requests were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnreadTokens {
    /// Mean of all hosts.
    pub mean: f64,
    /// Mean of the host with the most of them at each moment.
    pub busiest_mean: f64,
}

/// CPU usage during one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    #[serde(flatten)]
    pub usage: CpuUse,
    /// CPU microseconds per request, summed over all gateways.
    pub envoy_us: f64,
    /// CPU microseconds per request, summed over all sidecars.
    pub sidecar_us: f64,
    /// CPU microseconds of Redis per request.
    pub redis_us: f64,
    /// CPU microseconds per request of the load generator and the mock hosts.
    pub loadtest_us: f64,
}

/// Requests in flight on each host at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct InFlight {
    /// Trace seconds since the start of the run.
    pub at_s: f64,
    pub hosts: Vec<u64>,
    /// Prompt tokens that each host has not read yet.
    pub unread: Vec<u64>,
}

impl InFlight {
    /// Returns the number of requests on the busiest host minus the mean of all hosts.
    pub fn imbalance(&self) -> f64 {
        let max = self.hosts.iter().max().copied().unwrap_or_default();
        max as f64 - self.hosts.iter().sum::<u64>() as f64 / self.hosts.len().max(1) as f64
    }
}

impl Report {
    /// Describes how `evenkeel_least_work` compares with the policies that it is always compared with, a sentence for each.
    fn ratios(&self) -> Vec<String> {
        let of = |rival, times: &Option<Ratios>| times.as_ref().map(|times| ratios(rival, times));
        let requests = of(Policy::EvenkeelLeastRequest, &self.least_work_to_least_request);
        let ideal = of(Policy::IdealWork, &self.least_work_to_ideal_work);
        requests.into_iter().chain(ideal).collect()
    }
}

/// Describes the ratios in one sentence.
fn ratios(rival: Policy, ratios: &Ratios) -> String {
    let of =
        |name, ratio: &Ratio| format!("{name} {:.2} ({:.2} to {:.2})", ratio.value, ratio.low, ratio.high);
    format!(
        "Times to first token under evenkeel_least_work divided by those under {rival}, {} requests, with 95 % intervals: {}, {}, {}, {}.",
        ratios.pairs,
        of("p50", &ratios.p50),
        of("p90", &ratios.p90),
        of("p99", &ratios.p99),
        of("mean", &ratios.mean)
    )
}

/// Data that the plots need and the report does not contain.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Times to first token in trace milliseconds, ascending.
    pub ttft_ms: Vec<f64>,
    pub in_flight: Vec<InFlight>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Headline {
    /// p99 time to first token with Evenkeel.
    pub evenkeel_p99_ms: f64,
    /// p99 time to first token with Evenkeel, divided by the p99 with its ideal policy, minus 1. Without that, the ideal
    /// by requests takes its place.
    pub above_ideal: Option<f64>,
}

impl Report {
    /// Returns the headline; `None` if the comparison is not valid, or Evenkeel did not run.
    pub fn headline(&self) -> Option<Headline> {
        if !self.verdict.valid {
            return None;
        }
        let p99 = |policy| self.policies.get(&policy).map(|p| p.ttft_ms.p99).filter(|p99| *p99 > 0.0);
        let judged = Policy::judged(self.policies.keys().copied())?;
        let ours = p99(judged)?;
        Some(Headline {
            evenkeel_p99_ms: ours,
            above_ideal: p99(judged.ideal()).or(p99(Policy::Ideal)).map(|ideal| ours / ideal - 1.0),
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
    use crate::verdict::{Finding, Order};

    pub(crate) fn sample() -> (Report, BTreeMap<Policy, Series>) {
        let mut policies = BTreeMap::new();
        let mut series = BTreeMap::new();
        for (i, policy) in Policy::ALL.into_iter().enumerate() {
            let base = 400.0 * (Policy::ALL.len() - i) as f64;
            let ttft: Vec<f64> = (1..=1000).map(|n| base * f64::from(n) / 1000.0 + 50.0).collect();
            let in_flight = (0..50)
                .map(|t| InFlight {
                    at_s: f64::from(t),
                    hosts: vec![3, 4, 5 + (t % 7) as u64],
                    unread: vec![0; 3],
                })
                .collect();
            let report = PolicyReport {
                ttft_ms: Percentiles::of(ttft.clone()),
                e2e_ms: Percentiles::of(ttft.iter().map(|t| t * 10.0)),
                requests: 1000,
                simulated_ttft_p99_ms: base,
                simulated_ttft_p99_low_ms: base * 0.9,
                simulated_ttft_p99_high_ms: base * 1.1,
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
            slo: Slo::default(),
            pools: [(Policy::EvenkeelLeastWork, "policy: least_work".to_owned())].into(),
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
        let finding = Finding {
            order: Order::Ahead,
            times_lower: 2.0,
            simulated_times_lower: 2.0,
            significant_times: 1.5,
        };
        let findings = [(Policy::EnvoyLeastRequest, finding), (Policy::EnvoyRandom, finding)].into();
        let verdict = Verdict { valid: true, reasons: Vec::new(), findings };
        let machine = MachineReport {
            cores: 2,
            others_cores: 0.1,
            explanation: "A request costs 8.0 ms of CPU.".into(),
            ..MachineReport::default()
        };
        let ratio = Ratio { value: 0.5, low: 0.4, high: 0.6 };
        let ratios = Ratios { pairs: 990, p50: ratio, p90: ratio, p99: ratio, mean: ratio };
        let report = Report {
            verdict,
            setup,
            machine,
            noise,
            policies,
            least_work_to_least_request: Some(ratios),
            least_work_to_ideal_work: Some(ratios),
        };
        (report, series)
    }

    /// A comparison without a verdict.
    pub(crate) fn not_valid() -> (Report, BTreeMap<Policy, Series>) {
        let (report, series) = sample();
        let reasons = vec!["the CPU & more".into()];
        let verdict = Verdict { valid: false, reasons, findings: BTreeMap::new() };
        (Report { verdict, ..report }, series)
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let json = serde_json::to_value(sample().0).unwrap();
        for policy in [
            "envoy_least_request",
            "envoy_round_robin",
            "envoy_random",
            "evenkeel_least_request",
            "evenkeel_unread",
            "evenkeel_least_work",
            "ideal",
            "higress_prefix",
            "ideal_work",
        ] {
            for key in ["ttft_ms", "e2e_ms"] {
                for p in ["p50", "p90", "p99", "p999", "mean"] {
                    assert!(json["policies"][policy][key][p].is_f64(), "{policy}.{key}.{p}");
                }
            }
            assert_eq!(json["policies"][policy]["requests"], 1000);
            assert_eq!(json["policies"][policy]["errors"], 0);
        }
        assert!(json["noise"]["paths"]["direct"]["overhead_wall_ms"]["p99"].is_f64());
        assert_eq!(json["policies"]["ideal"]["cpu"]["machine"], 0.0);
        assert_eq!(json["least_work_to_least_request"]["p99"]["high"], 0.6);
        assert_eq!(json["setup"]["load"], 0.85);
        assert_eq!(json["machine"]["others_cores"], 0.1);
        assert_eq!(json["verdict"]["valid"], true);
        assert_eq!(json["verdict"]["findings"]["envoy_random"]["order"], "ahead");
        let rejected = serde_json::to_value(not_valid().0).unwrap();
        assert_eq!(rejected["verdict"]["reasons"][0], "the CPU & more");
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back, sample().0);
    }

    #[test]
    fn only_a_valid_comparison_with_evenkeel_has_a_headline() {
        let (mut report, _) = sample();
        let headline = report.headline().unwrap();
        assert!(headline.evenkeel_p99_ms > 0.0 && headline.above_ideal.unwrap() > 0.0);
        assert_eq!(not_valid().0.headline(), None);
        // Without the ideal by work, the ideal by requests takes its place.
        let above = |report: &Report| report.headline().unwrap().above_ideal;
        let by_work = above(&report);
        report.policies.remove(&Policy::IdealWork);
        assert!(above(&report).is_some() && above(&report) != by_work);
        report.policies.remove(&Policy::Ideal);
        assert_eq!(above(&report), None);
        report.policies.remove(&Policy::EvenkeelLeastWork);
        report.policies.remove(&Policy::EvenkeelUnread);
        assert!(report.headline().is_some());
        report.policies.remove(&Policy::EvenkeelLeastRequest);
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
