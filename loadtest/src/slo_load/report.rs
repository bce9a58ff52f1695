//! The result of a search as JSON and as text.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{Found, SloLoadPlan};
use crate::{
    engine::EngineParams, lab::Policy, percentiles::Percentiles, report::Report, slo::Slo, workload::Workload,
};

/// Content of `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloLoadReport {
    pub slo: Slo,
    /// Fraction of the requests that must be in time.
    pub target: f64,
    /// Whether the machine kept up in all real runs.
    pub valid: bool,
    pub setup: SloLoadSetup,
    pub policies: BTreeMap<Policy, LoadReport>,
}

/// Parameters of the search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloLoadSetup {
    pub trace: String,
    pub synthetic: bool,
    pub requests: usize,
    /// Mean prompt size in tokens.
    pub prompt_mean: f64,
    /// Mean output size in tokens.
    pub output_mean: f64,
    /// Requests per second at a load of 1: what the hosts complete under exact least request.
    pub capacity_rps: f64,
    /// Factor by which arrivals are faster than recorded at a load of 1.
    pub arrival_factor: f64,
    pub hosts: usize,
    pub gateways: usize,
    pub sidecars: usize,
    pub engine: EngineParams,
    pub pools: BTreeMap<Policy, String>,
    pub seeds: u64,
    pub margin: f64,
}

/// Result of one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Highest load at which the target is met in simulation; `None` if it lies outside the range of the search.
    pub load: Option<f64>,
    /// The end of the range that `load` lies beyond: above the highest load, or below the lowest one.
    pub outside: Option<Side>,
    /// Requests per second at this load.
    pub rate_rps: Option<f64>,
    /// The load, divided by that of `evenkeel_least_request`.
    pub times_least_request: Option<f64>,
    /// Fraction of the requests in time at this load, in simulation.
    pub simulated_attainment: f64,
    /// Real runs; empty without a check.
    pub checks: Vec<CheckReport>,
    /// Whether the real runs met the target below the load, and missed it above. `None` without two valid runs.
    pub confirmed: Option<bool>,
}

/// A side of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Below,
    Above,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Below { "below" } else { "above" })
    }
}

/// Result of one real run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    pub side: Side,
    pub load: f64,
    /// Fraction of the requests in time.
    pub attainment: f64,
    /// The same in simulation.
    pub simulated_attainment: f64,
    pub ttft_ms: Percentiles,
    pub requests: usize,
    pub errors: usize,
    /// Trace seconds per wall second.
    pub time_scale: f64,
    pub valid: bool,
    /// Why the run is not valid.
    pub reasons: Vec<String>,
}

impl CheckReport {
    pub(super) fn of(side: Side, load: f64, simulated_attainment: f64, report: &Report) -> Self {
        let result = report.policies.values().next().cloned().unwrap_or_default();
        Self {
            side,
            load,
            attainment: result.slo_attainment,
            simulated_attainment,
            ttft_ms: result.ttft_ms,
            requests: result.requests,
            errors: result.errors,
            time_scale: report.setup.time_scale,
            valid: report.verdict.valid,
            reasons: report.verdict.reasons.clone(),
        }
    }
}

impl LoadReport {
    pub(super) fn of(found: Found, capacity_rps: f64) -> Self {
        let (load, outside, simulated_attainment) = match found {
            Found::At { load, attainment } => (Some(load), None, attainment),
            Found::Below { attainment, .. } => (None, Some(Side::Below), attainment),
            Found::Above { attainment, .. } => (None, Some(Side::Above), attainment),
        };
        Self {
            load,
            outside,
            rate_rps: load.map(|load| load * capacity_rps),
            times_least_request: None,
            simulated_attainment,
            checks: Vec::new(),
            confirmed: None,
        }
    }

    fn conclude(&mut self, target: f64) {
        let attained = |side| {
            let check = self.checks.iter().find(|check| check.side == side && check.valid);
            check.map(|check| check.attainment)
        };
        let both = attained(Side::Below).zip(attained(Side::Above));
        self.confirmed = both.map(|(below, above)| below >= target && above < target);
    }

    fn load_text(&self) -> String {
        match (self.load, self.outside) {
            (Some(load), _) => format!("{load:.3}"),
            (None, Some(side)) => format!("{side} all"),
            (None, None) => String::new(),
        }
    }
}

impl SloLoadReport {
    /// `workload` offers a load of 1.
    pub(super) fn new(
        plan: &SloLoadPlan,
        trace: &Workload,
        workload: &Workload,
        arrival_factor: f64,
        policies: BTreeMap<Policy, LoadReport>,
    ) -> Self {
        let summary = workload.summary();
        let system = &plan.plan;
        let setup = SloLoadSetup {
            trace: trace.source.clone(),
            synthetic: system.synthetic,
            requests: summary.requests,
            prompt_mean: summary.prompt_mean,
            output_mean: summary.output_mean,
            capacity_rps: summary.rate_rps,
            arrival_factor,
            hosts: system.hosts,
            gateways: system.gateways,
            sidecars: system.sidecars,
            engine: system.engine.clone(),
            pools: system.pools(),
            seeds: plan.seeds,
            margin: plan.margin,
        };
        Self { slo: system.slo, target: plan.target, valid: true, setup, policies }
    }

    pub(super) fn add(&mut self, policy: Policy, check: CheckReport) {
        self.valid &= check.valid;
        if let Some(report) = self.policies.get_mut(&policy) {
            report.checks.push(check);
            report.checks.sort_by(|a, b| a.load.total_cmp(&b.load));
        }
    }

    pub(super) fn conclude(&mut self, target: f64) {
        self.policies.values_mut().for_each(|report| report.conclude(target));
    }

    /// Writes `report.json` and `report.txt` into `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(dir.join("report.json"), json)?;
        fs::write(dir.join("report.txt"), self.text())
    }

    /// Formats a line for each policy and for each real run.
    pub fn text(&self) -> String {
        let Self { slo, target, setup, .. } = self;
        let mut out = format!(
            "Highest load at which {:.0} % of the requests have their {slo}, in simulation ({} seeds).\n\
             {}: {} requests; {} hosts, {} gateways, {} sidecars. Load 1 is {:.2} requests/s, which the hosts complete under \
             exact least request.\n\n{:<22} {:>9} {:>10} {:>10} {:>9}  {}\n",
            target * 100.0,
            setup.seeds,
            setup.trace,
            setup.requests,
            setup.hosts,
            setup.gateways,
            setup.sidecars,
            setup.capacity_rps,
            "policy",
            "load",
            "requests/s",
            "times l.r.",
            "in time",
            "confirmed by real runs"
        );
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        for (policy, report) in &self.policies {
            let confirmed = match report.confirmed {
                Some(true) => "yes",
                Some(false) => "no",
                None if report.checks.is_empty() => "not checked",
                None => "not valid on this machine",
            };
            let _ = writeln!(
                out,
                "{:<22} {:>9} {:>10} {:>10} {:>7.1} %  {confirmed}",
                policy.name(),
                report.load_text(),
                number(report.rate_rps),
                number(report.times_least_request),
                report.simulated_attainment * 100.0
            );
        }
        let _ = writeln!(out, "\ntimes l.r.: load divided by that of evenkeel_least_request");
        out.push_str(&self.checks_text());
        out
    }

    fn checks_text(&self) -> String {
        let mut out = String::new();
        for (policy, report) in &self.policies {
            for check in &report.checks {
                let _ = writeln!(
                    out,
                    "real run of {policy} {} the limit, at load {:.3}: {:.1} % in time (simulated {:.1} %), {} requests, {} \
                     errors, time scale {:.1}",
                    check.side,
                    check.load,
                    check.attainment * 100.0,
                    check.simulated_attainment * 100.0,
                    check.requests,
                    check.errors,
                    check.time_scale
                );
                for reason in &check.reasons {
                    let _ = writeln!(out, "  not valid on this machine, because {reason}");
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(side: Side, attainment: f64, valid: bool) -> CheckReport {
        CheckReport {
            side,
            load: if side == Side::Below { 0.9 } else { 1.1 },
            attainment,
            simulated_attainment: 0.95,
            ttft_ms: Percentiles::default(),
            requests: 10,
            errors: 0,
            time_scale: 4.0,
            valid,
            reasons: Vec::new(),
        }
    }

    #[test]
    fn two_valid_runs_confirm_a_load_or_refute_it() {
        let confirmed = |below, above, valid| {
            let mut report = LoadReport::of(Found::At { load: 1.0, attainment: 0.95 }, 3.0);
            report.checks = vec![check(Side::Below, below, true), check(Side::Above, above, valid)];
            report.conclude(0.95);
            report.confirmed
        };
        assert_eq!(confirmed(0.97, 0.9, true), Some(true));
        assert_eq!(confirmed(0.94, 0.9, true), Some(false));
        assert_eq!(confirmed(0.97, 0.96, true), Some(false));
        assert_eq!(confirmed(0.97, 0.9, false), None);
    }

    #[test]
    fn a_load_outside_the_range_has_no_number() {
        let report = LoadReport::of(Found::Above { load: 5.0, attainment: 0.99 }, 3.0);
        assert_eq!((report.load, report.rate_rps, report.outside), (None, None, Some(Side::Above)));
        assert_eq!(report.load_text(), "above all");
    }
}
