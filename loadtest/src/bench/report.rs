//! Results of the benchmarks.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// One entry of `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRun {
    pub name: String,
    /// Calls per second. An Admit and its Settle are two calls.
    pub calls_per_s: f64,
    /// Admitted requests per second, if the calls admit requests.
    pub admits_per_s: Option<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time of the called gRPC server per call; `None` if Redis is called directly.
    pub server_cpu_us_per_call: Option<f64>,
    /// CPU time of Redis per call; `None` if no Redis is involved.
    pub redis_cpu_us_per_call: Option<f64>,
    /// CPU time of Redis per admitted request, including its Settle.
    pub redis_cpu_us_per_admit: Option<f64>,
    pub errors: u64,
}

/// A measured ratio and its target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub what: String,
    pub value: f64,
    /// The target in words, such as `at most 2`.
    pub target: String,
    pub met: bool,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.met { "met" } else { "NOT MET" };
        write!(f, "{}: {:.2} (target: {}) {mark}", self.what, self.value, self.target)
    }
}

/// Result of the decision benchmark. The runs are written to `report.json`, the checks to `checks.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    pub endpoints: usize,
    pub callers: usize,
    pub connections: usize,
    /// The median run of each kind.
    pub runs: Vec<BenchRun>,
    pub checks: Vec<Check>,
}

/// Returns the run with the median rate. All values of the result come from this run.
pub(super) fn median(mut runs: Vec<BenchRun>) -> Option<BenchRun> {
    runs.sort_by(|a, b| a.calls_per_s.total_cmp(&b.calls_per_s));
    let middle = runs.len().checked_sub(1)? / 2;
    runs.into_iter().nth(middle)
}

/// Compares the runs with the targets.
pub(super) fn checks(runs: &[BenchRun]) -> Vec<Check> {
    let find = |name: &str| runs.iter().find(|run| run.name == name);
    let check = |what: &str, value: Option<f64>, target: &str, met: fn(f64) -> bool| {
        value.map(|value| Check { what: what.into(), value, target: target.into(), met: met(value) })
    };
    let rate = |name| find(name).map(|run| run.calls_per_s);
    let sidecar = |name| find(name).and_then(|run| run.server_cpu_us_per_call);
    let redis = |name| find(name).and_then(|run| run.redis_cpu_us_per_admit);
    let p50 = |name| find(name).map(|run| run.p50_ms);
    // Server CPU time is per call, and Admit and Settle are two calls. The sum is therefore the CPU time per admitted
    // request.
    let cpu = |name| {
        let run = find(name)?;
        Some(2.0 * run.server_cpu_us_per_call? + run.redis_cpu_us_per_admit?)
    };
    let ratio_of = |a: Option<f64>, b: Option<f64>| Some(a? / b.filter(|b| *b > 0.0)?);
    [
        check(
            "calls/s of admit_settle divided by calls/s of tonic_echo",
            ratio_of(rate("admit_settle"), rate("tonic_echo")),
            "at least 0.5",
            |v| v >= 0.5,
        ),
        check(
            "calls/s of admit_settle_stream divided by calls/s of tonic_echo, both counted as calls",
            ratio_of(rate("admit_settle_stream"), rate("tonic_echo")),
            "at least 2",
            |v| v >= 2.0,
        ),
        check(
            "sidecar CPU per call of admit_settle_stream divided by that of admit_settle",
            ratio_of(sidecar("admit_settle_stream"), sidecar("admit_settle")),
            "at most 0.5",
            |v| v <= 0.5,
        ),
        check(
            "sidecar CPU per request of by_work_stream (with its first token) divided by that of admit_settle_stream",
            ratio_of(sidecar("by_work_stream"), sidecar("admit_settle_stream")),
            "at most 1.3",
            |v| v <= 1.3,
        ),
        check(
            "Redis CPU per request of by_work_stream (with its first token) divided by that of admit_settle_stream",
            ratio_of(redis("by_work_stream"), redis("admit_settle_stream")),
            "at most 1.5",
            |v| v <= 1.5,
        ),
        check(
            "Redis CPU per admit (including Settle) of admit_settle divided by that of bare_evalsha",
            ratio_of(redis("admit_settle"), redis("bare_evalsha")),
            "at most 0.25",
            |v| v <= 0.25,
        ),
        check(
            "Redis CPU per admit (including Settle) of admit_settle divided by that of bare_evalsha_same_rule",
            ratio_of(redis("admit_settle"), redis("bare_evalsha_same_rule")),
            "at most 0.25",
            |v| v <= 0.25,
        ),
        check(
            "sidecar and Redis CPU per admit of admit_settle_limited (3 limits and a quota) divided by that of admit_settle",
            ratio_of(cpu("admit_settle_limited"), cpu("admit_settle")),
            "at most 1.6",
            |v| v <= 1.6,
        ),
        check(
            "p50 of idle_admit divided by p50 of redis_evalsha, a round trip with the naive script",
            ratio_of(p50("idle_admit"), p50("redis_evalsha")),
            "at most 2",
            |v| v <= 2.0,
        ),
        check(
            "p50 of idle_admit divided by p50 of redis_round_trip, an empty round trip",
            ratio_of(p50("idle_admit"), p50("redis_round_trip")),
            "at most 2",
            |v| v <= 2.0,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl BenchReport {
    /// Formats the report as a text table.
    pub fn table(&self) -> String {
        let cell = |value: Option<f64>, digits| value.map_or("–".into(), |v| format!("{v:.digits$}"));
        let mut out = format!(
            "{:<24} {:>10} {:>10} {:>9} {:>9} {:>11} {:>10} {:>14} {:>7}\n",
            "run",
            "calls/s",
            "admits/s",
            "p50 ms",
            "p99 ms",
            "server µs",
            "Redis µs",
            "Redis µs/admit",
            "errors"
        );
        for run in &self.runs {
            out.push_str(&format!(
                "{:<24} {:>10.0} {:>10} {:>9.3} {:>9.3} {:>11} {:>10} {:>14} {:>7}\n",
                run.name,
                run.calls_per_s,
                cell(run.admits_per_s, 0),
                run.p50_ms,
                run.p99_ms,
                cell(run.server_cpu_us_per_call, 2),
                cell(run.redis_cpu_us_per_call, 2),
                cell(run.redis_cpu_us_per_admit, 2),
                run.errors
            ));
        }
        out.push_str(&format!(
            "{} endpoints; {} callers over {} connections; µs are CPU time per call.\n\n",
            self.endpoints, self.callers, self.connections
        ));
        for check in &self.checks {
            let _ = writeln!(out, "{check}");
        }
        out
    }
}

/// Formats runs as a text table, without the columns about admissions.
pub fn runs_table(runs: &[BenchRun]) -> String {
    let cell = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.2}"));
    let mut out = format!(
        "{:<26} {:>10} {:>9} {:>9} {:>11} {:>10} {:>7}\n",
        "run", "calls/s", "p50 ms", "p99 ms", "server µs", "Redis µs", "errors"
    );
    for run in runs {
        let _ = writeln!(
            out,
            "{:<26} {:>10.0} {:>9.3} {:>9.3} {:>11} {:>10} {:>7}",
            run.name,
            run.calls_per_s,
            run.p50_ms,
            run.p99_ms,
            cell(run.server_cpu_us_per_call),
            cell(run.redis_cpu_us_per_call),
            run.errors
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, calls_per_s: f64, redis_cpu_us: f64, p50_ms: f64) -> BenchRun {
        BenchRun {
            name: name.into(),
            calls_per_s,
            admits_per_s: Some(calls_per_s / 2.0),
            p50_ms,
            p99_ms: 2.0 * p50_ms,
            server_cpu_us_per_call: Some(4.0),
            redis_cpu_us_per_call: Some(redis_cpu_us / 2.0),
            redis_cpu_us_per_admit: Some(redis_cpu_us),
            errors: 0,
        }
    }

    #[test]
    fn checks_compare_the_right_runs() {
        let runs = [
            run("admit_settle", 60_000.0, 6.0, 1.0),
            run("tonic_echo", 100_000.0, 0.0, 1.0),
            run("admit_settle_stream", 210_000.0, 6.0, 1.0),
            run("by_work_stream", 180_000.0, 12.0, 1.0),
            run("admit_settle_limited", 50_000.0, 10.0, 1.0),
            run("bare_evalsha", 30_000.0, 30.0, 1.0),
            run("bare_evalsha_same_rule", 20_000.0, 60.0, 1.0),
            run("idle_admit", 5_000.0, 0.0, 0.25),
            run("redis_round_trip", 10_000.0, 0.0, 0.1),
            run("redis_evalsha", 10_000.0, 0.0, 0.2),
        ];
        let checks = checks(&runs);
        let found: Vec<_> = checks.iter().map(|c| (c.value, c.met)).collect();
        assert_eq!(
            found,
            [
                (0.6, true),
                (2.1, true),
                (1.0, false),
                (1.0, true),
                (2.0, false),
                (0.2, true),
                (0.1, true),
                (18.0 / 14.0, true),
                (1.25, true),
                (2.5, false)
            ]
        );
    }

    #[test]
    fn all_values_of_the_median_run_come_from_one_run() {
        let runs = [3.0, 1.0, 2.0].map(|rate| run("x", rate, rate, rate)).to_vec();
        assert_eq!(median(runs).unwrap(), run("x", 2.0, 2.0, 2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let runs = vec![run("admit_settle", 1.0, 1.0, 1.0)];
        let report = BenchReport { endpoints: 64, callers: 256, connections: 4, runs, checks: Vec::new() };
        let json = serde_json::to_value(&report.runs).unwrap();
        for key in
            ["name", "calls_per_s", "p50_ms", "p99_ms", "server_cpu_us_per_call", "redis_cpu_us_per_call"]
        {
            assert!(!json[0][key].is_null(), "{key}");
        }
        assert!(report.table().contains("admit_settle"));
    }
}
