//! How many decisions a second one sidecar takes, beside what bounds it: a gRPC server that does nothing, a naive script in Redis,
//! a bare round trip.

mod callers;
pub mod echo;
mod idle;
mod limited;
pub mod rate_limits;
mod script;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::lab::{Lab, LabError, Process, Ready};
use callers::Target;

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// Endpoints of the pool.
    pub endpoints: usize,
    /// Callers, each with one call under way at a time.
    pub callers: usize,
    /// Connections they share.
    pub connections: usize,
    /// Length of one run.
    pub run: Duration,
    /// Runs of each kind; the median counts.
    pub rounds: usize,
    /// Single calls on the idle system.
    pub idle_calls: usize,
    /// Directory for logs and configurations.
    pub dir: Option<PathBuf>,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            endpoints: 64,
            callers: 256,
            connections: 4,
            run: Duration::from_secs(5),
            rounds: 3,
            idle_calls: 2000,
            dir: None,
        }
    }
}

/// One line of `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRun {
    /// What was called.
    pub name: String,
    /// Calls per second. For `admit_settle` an Admit and its Settle are two calls.
    pub calls_per_s: f64,
    /// Requests admitted per second, where calls admit.
    pub admits_per_s: Option<f64>,
    /// Median time of a call.
    pub p50_ms: f64,
    /// 99th percentile of a call's time.
    pub p99_ms: f64,
    /// CPU of the called gRPC server per call; none where Redis is called directly.
    pub server_cpu_us_per_call: Option<f64>,
    /// CPU of Redis per call; none where there is no Redis behind it.
    pub redis_cpu_us_per_call: Option<f64>,
    /// CPU of Redis per request admitted, its Settle included.
    pub redis_cpu_us_per_admit: Option<f64>,
    /// Calls that failed.
    pub errors: u64,
}

/// A ratio beside what it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is compared.
    pub what: String,
    /// What it is.
    pub value: f64,
    /// What it should be, in words.
    pub target: String,
    /// Whether it is.
    pub met: bool,
}

/// What a bench found: its runs are `report.json`, its checks `checks.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Endpoints of the pool.
    pub endpoints: usize,
    /// Callers.
    pub callers: usize,
    /// Connections.
    pub connections: usize,
    /// Runs, each the median of several.
    pub runs: Vec<BenchRun>,
    /// Targets.
    pub checks: Vec<Check>,
}

/// Runs everything. `echo_server` is the program to run as the bare server (this one, with its `echo` subcommand).
pub async fn run(
    config: &BenchConfig,
    echo_server: &Path,
    say: impl Fn(&str),
) -> Result<BenchReport, LabError> {
    say("starting Redis, the sidecar and the echo server");
    let builder =
        Lab::builder().hosts(config.endpoints).envoys(0).sidecars(1).redis().sidecar_yaml(limited::CONFIG);
    let builder = match &config.dir {
        Some(dir) => builder.dir(dir),
        None => builder,
    };
    let mut lab = builder.start().await?;
    let (echo, echo_ready) = start_echo(&lab, echo_server).await?;
    let redis_url = lab.redis().url();
    let redis_pid = lab.redis().process().pid();
    let sidecar_pid = lab.sidecars()[0].process().pid();
    let sidecar_ready = lab.sidecars()[0].ready().clone();

    let gateway = |name, ready: &Ready, unix: bool, pid, redis_pid| {
        Some(Job { name, target: Target::gateway(ready, unix)?, server_pid: pid, redis_pid })
    };
    let script = |name, by_rule| Job {
        name,
        target: Target::Script { url: redis_url.clone(), endpoints: config.endpoints, by_rule },
        server_pid: None,
        redis_pid,
    };
    let jobs: Vec<Job> = [
        gateway("admit_settle", &sidecar_ready, false, sidecar_pid, redis_pid),
        gateway("tonic_echo", &echo_ready, false, echo.pid(), None),
        gateway("admit_settle_limited", &sidecar_ready, false, sidecar_pid, redis_pid).map(Job::limited),
        Some(script("bare_evalsha", false)),
        Some(script("bare_evalsha_same_rule", true)),
        gateway("admit_settle_unix", &sidecar_ready, true, sidecar_pid, redis_pid),
        gateway("tonic_echo_unix", &echo_ready, true, echo.pid(), None),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut measured: Vec<Vec<BenchRun>> = vec![Vec::new(); jobs.len()];
    for round in 0..config.rounds.max(1) {
        // In turn, so that a slow minute of the machine falls on all of them.
        for (job, runs) in jobs.iter().zip(&mut measured) {
            say(&format!("round {} of {}: {}", round + 1, config.rounds, job.name));
            runs.push(job.run(config).await?);
        }
    }
    let mut runs: Vec<BenchRun> = measured.into_iter().filter_map(median).collect();
    say("single calls on the idle system");
    runs.extend(idle::run(&sidecar_ready, &echo_ready, &redis_url, config).await?);
    let checks = checks(&runs);
    Ok(BenchReport {
        endpoints: config.endpoints,
        callers: config.callers,
        connections: config.connections,
        runs,
        checks,
    })
}

async fn start_echo(lab: &Lab, program: &Path) -> Result<(Process, Ready), LabError> {
    let ready_file = lab.dir().join("echo.ready.json");
    let _ = std::fs::remove_file(&ready_file);
    let socket = lab.sidecars()[0].socket().with_file_name("echo.sock");
    let mut echo = Process::new("echo", program.to_owned(), lab.dir())
        .args(["echo".as_ref(), "--ready-file".as_ref(), ready_file.as_os_str()])
        .args(["--socket".as_ref(), socket.as_os_str()]);
    echo.spawn()?;
    echo.wait_ready(Duration::from_secs(10), async || ready_file.exists()).await?;
    let text =
        std::fs::read_to_string(&ready_file).map_err(LabError::io("reading the echo server's ready file"))?;
    let ready = serde_json::from_str(&text)
        .map_err(|fault| LabError::Answer { what: format!("the echo server's ready file: {fault}") })?;
    Ok((echo, ready))
}

struct Job {
    name: &'static str,
    target: Target,
    server_pid: Option<u32>,
    redis_pid: Option<u32>,
}

impl Job {
    /// The same, for requests that limits apply to.
    fn limited(self) -> Self {
        Self { target: Target::Limited(Box::new(self.target)), ..self }
    }

    async fn run(&self, config: &BenchConfig) -> Result<BenchRun, LabError> {
        let cpu = |pid: Option<u32>| pid.and_then(crate::cpu::of_process);
        let (target, config) = (self.target.clone(), config.clone());
        let (server, redis) = (self.server_pid, self.redis_pid);
        // A thread and a runtime of its own: the client must cost the same, whoever is called.
        let result = tokio::task::spawn_blocking(move || {
            callers::closed_loop(&target, &config, || (cpu(server), cpu(redis)))
        })
        .await
        .map_err(|fault| LabError::Answer { what: format!("the callers: {fault}") })??;
        let calls = result.calls.max(1) as f64;
        let per = |before: Option<Duration>, after: Option<Duration>, n: f64| {
            Some(after?.saturating_sub(before?).as_secs_f64() * 1e6 / n.max(1.0))
        };
        let (before, after) = (result.cpu_before, result.cpu_after);
        let admits = result.admits as f64;
        Ok(BenchRun {
            name: self.name.into(),
            calls_per_s: calls / result.wall.as_secs_f64(),
            admits_per_s: Some(admits / result.wall.as_secs_f64()),
            p50_ms: result.latency_us.value_at_quantile(0.5) as f64 / 1e3,
            p99_ms: result.latency_us.value_at_quantile(0.99) as f64 / 1e3,
            server_cpu_us_per_call: per(before.0, after.0, calls),
            redis_cpu_us_per_call: per(before.1, after.1, calls),
            redis_cpu_us_per_admit: per(before.1, after.1, admits),
            errors: result.errors,
        })
    }
}

/// The run with the median rate; its other figures belong to it.
fn median(mut runs: Vec<BenchRun>) -> Option<BenchRun> {
    runs.sort_by(|a, b| a.calls_per_s.total_cmp(&b.calls_per_s));
    let middle = runs.len().checked_sub(1)? / 2;
    runs.into_iter().nth(middle)
}

fn checks(runs: &[BenchRun]) -> Vec<Check> {
    let find = |name: &str| runs.iter().find(|run| run.name == name);
    let ratio = |what: &str, value: Option<f64>, target: &str, met: fn(f64) -> bool| {
        value.map(|value| Check { what: what.into(), value, target: target.into(), met: met(value) })
    };
    let rate = |name| find(name).map(|run| run.calls_per_s);
    let redis = |name| find(name).and_then(|run| run.redis_cpu_us_per_admit);
    let p50 = |name| find(name).map(|run| run.p50_ms);
    // Admit and Settle are two calls.
    let cpu = |name| {
        let run = find(name)?;
        Some(2.0 * run.server_cpu_us_per_call? + run.redis_cpu_us_per_admit?)
    };
    let over = |a: Option<f64>, b: Option<f64>| Some(a? / b.filter(|b| *b > 0.0)?);
    [
        ratio(
            "calls/s of admit_settle over tonic_echo",
            over(rate("admit_settle"), rate("tonic_echo")),
            "at least 0.5",
            |v| v >= 0.5,
        ),
        ratio(
            "Redis CPU per admit of admit_settle (Settle included) over bare_evalsha",
            over(redis("admit_settle"), redis("bare_evalsha")),
            "at most 0.25",
            |v| v <= 0.25,
        ),
        ratio(
            "the same over bare_evalsha_same_rule",
            over(redis("admit_settle"), redis("bare_evalsha_same_rule")),
            "at most 0.25",
            |v| v <= 0.25,
        ),
        ratio(
            "CPU of sidecar and Redis per admit of admit_settle_limited (3 limits and a quota) over admit_settle",
            over(cpu("admit_settle_limited"), cpu("admit_settle")),
            "at most 1.6",
            |v| v <= 1.6,
        ),
        ratio(
            "p50 of idle_admit over redis_evalsha, a round trip with the bare script",
            over(p50("idle_admit"), p50("redis_evalsha")),
            "at most 2",
            |v| v <= 2.0,
        ),
        ratio(
            "p50 of idle_admit over redis_round_trip, an empty one",
            over(p50("idle_admit"), p50("redis_round_trip")),
            "at most 2",
            |v| v <= 2.0,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl BenchReport {
    /// As a table of text.
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
            let mark = if check.met { "met" } else { "NOT MET" };
            out.push_str(&format!("{}: {:.2} (target: {}) {mark}\n", check.what, check.value, check.target));
        }
        out
    }
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
    fn targets_compare_like_with_like() {
        let runs = [
            run("admit_settle", 60_000.0, 6.0, 1.0),
            run("tonic_echo", 100_000.0, 0.0, 1.0),
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
            [(0.6, true), (0.2, true), (0.1, true), (18.0 / 14.0, true), (1.25, true), (2.5, false)]
        );
    }

    #[test]
    fn the_median_run_is_taken_whole() {
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
