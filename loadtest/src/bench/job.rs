//! One kind of run: a target, and the processes whose CPU time the run reports.

use std::time::Duration;

use super::{
    BenchConfig, closed_loop,
    report::{BenchRun, median},
    target::Target,
};
use crate::{cpu, lab::LabError};

pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) target: Target,
    pub(super) server_pid: Option<u32>,
    pub(super) redis_pid: Option<u32>,
}

impl Job {
    async fn run(&self, config: &BenchConfig) -> Result<BenchRun, LabError> {
        let cpu = |pid: Option<u32>| pid.and_then(cpu::of_process);
        let (target, config) = (self.target.clone(), config.clone());
        let (server, redis) = (self.server_pid, self.redis_pid);
        // Each run has its own thread and runtime, so that the client has the same cost for every target.
        let result = tokio::task::spawn_blocking(move || {
            closed_loop::run(&target, &config, || (cpu(server), cpu(redis)))
        })
        .await
        .map_err(|error| LabError::Response { what: format!("running {}: {error}", self.name) })??;
        let recording = result.recording;
        let (calls, admits) = (recording.calls.max(1) as f64, recording.admits as f64);
        let cpu_us = |before: Option<Duration>, after: Option<Duration>, n: f64| {
            Some(after?.saturating_sub(before?).as_secs_f64() * 1e6 / n.max(1.0))
        };
        let (before, after) = (result.cpu_before, result.cpu_after);
        Ok(BenchRun {
            name: self.name.into(),
            calls_per_s: calls / result.wall.as_secs_f64(),
            admits_per_s: Some(admits / result.wall.as_secs_f64()),
            p50_ms: recording.latency_us.value_at_quantile(0.5) as f64 / 1e3,
            p99_ms: recording.latency_us.value_at_quantile(0.99) as f64 / 1e3,
            server_cpu_us_per_call: cpu_us(before.0, after.0, calls),
            redis_cpu_us_per_call: cpu_us(before.1, after.1, calls),
            redis_cpu_us_per_admit: cpu_us(before.1, after.1, admits),
            errors: recording.errors,
        })
    }
}

/// Runs every job `config.rounds` times and returns the median run of each job.
pub(super) async fn run_all(
    jobs: &[Job],
    config: &BenchConfig,
    log: impl Fn(&str),
) -> Result<Vec<BenchRun>, LabError> {
    let mut runs_of: Vec<Vec<BenchRun>> = vec![Vec::new(); jobs.len()];
    for round in 0..config.rounds.max(1) {
        // The jobs alternate, so that a slow minute of the machine affects all of them.
        for (job, runs) in jobs.iter().zip(&mut runs_of) {
            log(&format!("round {} of {}: {}", round + 1, config.rounds, job.name));
            runs.push(job.run(config).await?);
        }
    }
    Ok(runs_of.into_iter().filter_map(median).collect())
}
