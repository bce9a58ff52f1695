//! Results of the filter benchmark.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    Filter,
    paired::{Difference, median},
};
use crate::bench::report::Check;

/// The figures of one run, or the medians of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub requests_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time per request.
    pub envoy_cpu_us: f64,
    pub sidecar_cpu_us: f64,
    pub redis_cpu_us: f64,
}

/// Figures of one filter in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) filter: Filter,
    pub(super) in_flight: usize,
    pub(super) concurrency: usize,
    pub(super) figures: Figures,
    pub(super) errors: u64,
}

/// What a filter adds to a request without a filter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    pub p50_ms: Difference,
    pub p99_ms: Difference,
    pub envoy_cpu_us: Difference,
    pub sidecar_cpu_us: Difference,
}

impl Added {
    fn between(of: &[Figures], minus: &[Figures]) -> Self {
        let difference =
            |value: fn(&Figures) -> f64| Difference::between(of.iter().map(value), minus.iter().map(value));
        Self {
            p50_ms: difference(|figures| figures.p50_ms),
            p99_ms: difference(|figures| figures.p99_ms),
            envoy_cpu_us: difference(|figures| figures.envoy_cpu_us),
            sidecar_cpu_us: difference(|figures| figures.sidecar_cpu_us),
        }
    }
}

/// One entry of `report.json`: the medians of all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterRow {
    pub filter: Filter,
    pub in_flight: usize,
    pub concurrency: usize,
    #[serde(flatten)]
    pub figures: Figures,
    pub rounds: usize,
    /// Number of requests without a complete successful response, in all rounds.
    pub errors: u64,
    /// Difference to no filter in the same round; `None` for no filter.
    pub added: Option<Added>,
}

/// Result of the filter benchmark. The rows are written to `report.json`, the checks to `checks.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterReport {
    pub rows: Vec<FilterRow>,
    pub checks: Vec<Check>,
}

impl FilterReport {
    /// Summarises the samples. All filters have the same rounds in the same order.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let mut setups: Vec<(usize, usize)> = Vec::new();
        for sample in samples {
            let setup = (sample.concurrency, sample.in_flight);
            if !setups.contains(&setup) {
                setups.push(setup);
            }
        }
        let (mut rows, mut checks) = (Vec::new(), Vec::new());
        for (concurrency, in_flight) in setups {
            let is_here = |s: &&Sample| (s.concurrency, s.in_flight) == (concurrency, in_flight);
            let here: Vec<&Sample> = samples.iter().filter(is_here).collect();
            let runs = |filter| -> Vec<Figures> {
                here.iter().filter(|s| s.filter == filter).map(|s| s.figures).collect()
            };
            for filter in Filter::ALL {
                let of = runs(filter);
                let added = (filter != Filter::None).then(|| Added::between(&of, &runs(Filter::None)));
                let errors = here.iter().filter(|s| s.filter == filter).map(|s| s.errors).sum();
                let (figures, rounds) = (Figures::median(&of), of.len());
                rows.push(FilterRow { filter, in_flight, concurrency, figures, rounds, errors, added });
            }
            let more = Added::between(&runs(Filter::Plugin), &runs(Filter::Native));
            for (what, unit, difference) in
                [("p50", "ms", more.p50_ms), ("Envoy's CPU per request", "µs", more.envoy_cpu_us)]
            {
                checks.push(Check {
                    what: format!(
                        "{what} with the plugin minus native, in {unit}, {in_flight} in flight, concurrency \
                         {concurrency}"
                    ),
                    value: difference.median,
                    target: "at most 0".into(),
                    met: difference.median <= 0.0,
                });
            }
        }
        Self { rows, checks }
    }

    /// Formats the report as a text table.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<15} {:>9} {:>11} {:>9} {:>8} {:>8} {:>9} {:>10} {:>8} {:>20} {:>20} {:>7}\n",
            "filter",
            "in flight",
            "concurrency",
            "req/s",
            "p50 ms",
            "p99 ms",
            "Envoy µs",
            "sidecar µs",
            "Redis µs",
            "added p50 ms",
            "added Envoy µs",
            "errors"
        );
        let added = |difference: Option<Difference>, digits: usize| {
            difference.map_or("–".into(), |Difference { median, low, high }| {
                format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
            })
        };
        for row in &self.rows {
            let figures = &row.figures;
            let _ = writeln!(
                out,
                "{:<15} {:>9} {:>11} {:>9.0} {:>8.3} {:>8.3} {:>9.1} {:>10.1} {:>8.1} {:>20} {:>20} {:>7}",
                row.filter.name(),
                row.in_flight,
                row.concurrency,
                figures.requests_per_s,
                figures.p50_ms,
                figures.p99_ms,
                figures.envoy_cpu_us,
                figures.sidecar_cpu_us,
                figures.redis_cpu_us,
                added(row.added.map(|added| added.p50_ms), 3),
                added(row.added.map(|added| added.envoy_cpu_us), 1),
                row.errors
            );
        }
        out.push_str("µs are CPU time per request. Added: the median of the rounds' differences to no filter, with its 95 % interval.\n\n");
        for check in &self.checks {
            let _ = writeln!(out, "{check}");
        }
        out
    }
}

impl Figures {
    fn median(of: &[Self]) -> Self {
        let median = |value: fn(&Self) -> f64| median(of.iter().map(value));
        Self {
            requests_per_s: median(|figures| figures.requests_per_s),
            p50_ms: median(|figures| figures.p50_ms),
            p99_ms: median(|figures| figures.p99_ms),
            envoy_cpu_us: median(|figures| figures.envoy_cpu_us),
            sidecar_cpu_us: median(|figures| figures.sidecar_cpu_us),
            redis_cpu_us: median(|figures| figures.redis_cpu_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(filter: Filter, p50_ms: f64, envoy_cpu_us: f64) -> Sample {
        let figures = Figures { p50_ms, envoy_cpu_us, ..Figures::default() };
        Sample { filter, in_flight: 16, concurrency: 1, figures, errors: 1 }
    }

    #[test]
    fn the_plugin_is_compared_with_the_native_filter_round_by_round() {
        let mut samples = Vec::new();
        for noise in [0.0, 50.0, 7.0] {
            samples.push(sample(Filter::None, 1.0 + noise, 100.0 + noise));
            samples.push(sample(Filter::Native, 2.0 + noise, 150.0 + noise));
            samples.push(sample(Filter::Plugin, 1.5 + noise, 160.0 + noise));
            samples.push(sample(Filter::PluginReading, 3.0 + noise, 200.0 + noise));
        }
        let report = FilterReport::of(&samples);
        let checks: Vec<_> = report.checks.iter().map(|check| (check.value, check.met)).collect();
        assert_eq!(checks, [(-0.5, true), (10.0, false)]);
        let json = serde_json::to_value(&report.rows).unwrap();
        assert_eq!(json[0]["filter"], "none");
        assert_eq!((&json[0]["p50_ms"], &json[0]["added"]), (&8.0.into(), &serde_json::Value::Null));
        assert_eq!(json[2]["filter"], "plugin");
        assert_eq!(json[2]["added"]["envoy_cpu_us"]["median"], 60.0);
        assert_eq!((&json[3]["rounds"], &json[3]["errors"]), (&3.into(), &3.into()));
        assert!(report.table().contains("added p50 ms"));
    }
}
