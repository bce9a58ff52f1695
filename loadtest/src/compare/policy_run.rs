//! Replays the workload under one policy, and measures the policy and the machine meanwhile.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{IDLE_WITHIN, noise::WARM_UP_REQUESTS_PER_GATEWAY, plan::Sized};
use crate::{
    lab::{Lab, LabError, Policy},
    machine::{CpuSample, LatenessProbe, Machine},
    mock::Fleet,
    percentiles::Percentiles,
    replay::{self, Client, Progress, Replay, Route},
    report::{Cpu, Imbalance, InFlight, PolicyReport, UnreadTokens},
    verdict::{Delays, RunMeasures},
    workload::{Request, Workload, prompt},
};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(40);
/// The plugin's counters of requests whose host was not chosen from the shared table.
const NOT_SHARED_COUNTERS: &str = "evenkeel_(fail_open|admits_open|admits_local|endpoint_mismatches)$";

/// Result of the run of one policy.
#[derive(Debug)]
pub(super) struct PolicyRun {
    pub(super) report: PolicyReport,
    pub(super) replay: Replay,
    pub(super) in_flight: Vec<InFlight>,
}

/// What [`run`] replays, and where.
pub(super) struct Stage<'a> {
    pub(super) size: &'a Sized,
    pub(super) lab: &'a Arc<Lab>,
    pub(super) machine: &'a Machine,
    /// Trace seconds per wall second.
    pub(super) time_scale: f64,
}

pub(super) async fn run(
    stage: &Stage<'_>,
    workload: &Workload,
    policy: Policy,
) -> Result<PolicyRun, LabError> {
    let Stage { size, lab, machine, time_scale } = *stage;
    warm_up(stage, policy).await;
    lab.wait_idle(IDLE_WITHIN).await?;
    lab.fleet().clear_caches();
    // The sidecars remember the prompts of earlier replays, which no host has in its cache any more.
    let workload = &workload.for_replay(lab.count_replay());
    lab.fleet().take_late_wall_ms();
    let not_shared = not_shared(lab).await?;

    let tokens = PromptTokens::of(lab.fleet());
    let probe = LatenessProbe::start().map_err(LabError::io("starting a thread"))?;
    let before = CpuSample::now(machine, lab.pids());
    let stop = CancellationToken::new();
    let sampler = tokio::spawn(sample_hosts(Arc::clone(lab), time_scale, stop.clone()));
    let config = size.plan.replay(lab, policy, time_scale);
    let replay = replay::run(workload, &config, Progress::new(policy.name())).await;
    stop.cancel();
    let snapshots = sampler.await.unwrap_or_default();
    let cpu = cpu_of(&CpuSample::now(machine, lab.pids()), &before, machine, workload.requests.len());
    let scheduling = Percentiles::of(probe.stop());
    lab.wait_idle(IDLE_WITHIN).await?;

    let sending = workload.duration.as_secs_f64();
    let in_flight: Vec<InFlight> =
        snapshots.iter().map(|w| w.in_flight.clone()).take_while(|s| s.at_s <= sending).collect();
    let simulated = size.prediction(policy);
    let report = PolicyReport {
        simulated_ttft_p99_ms: simulated.p99_ms,
        simulated_ttft_p99_low_ms: simulated.low_ms,
        simulated_ttft_p99_high_ms: simulated.high_ms,
        slo_attainment: size.plan.slo.attainment(&workload.requests, &replay.first_tokens_trace_ms()),
        hit_rate: PromptTokens::of(lab.fleet()).hit_rate_since(&tokens),
        unread_tokens: unread_tokens(&in_flight),
        utilisation: utilisation(size, &snapshots, in_flight.len()),
        scheduling_late_wall_ms: scheduling,
        hosts_late_wall_ms: Percentiles::of(lab.fleet().take_late_wall_ms()),
        cpu,
        not_shared: self::not_shared(lab).await?.saturating_sub(not_shared),
        ..report_of(&replay, &in_flight)
    };
    Ok(PolicyRun { report, replay, in_flight })
}

impl PolicyRun {
    /// Returns the measures that show whether the machine kept up.
    pub(super) fn measures(&self, machine: &Machine, time_scale: f64) -> RunMeasures {
        let report = &self.report;
        let trace_ms = |wall: Percentiles| wall.p99 * time_scale;
        let error = report.error_kinds.iter().max_by_key(|(_, count)| **count);
        RunMeasures {
            cpu: report.cpu.usage,
            available_cores: machine.available_cores(),
            delays: Delays {
                scheduling_ms: trace_ms(report.scheduling_late_wall_ms),
                generator_ms: trace_ms(report.generator_late_wall_ms),
                hosts_ms: trace_ms(report.hosts_late_wall_ms),
            },
            requests: report.requests,
            failed: report.errors,
            error: error.map(|(error, _)| error.clone()).unwrap_or_default(),
            not_shared: report.not_shared,
        }
    }
}

/// Prompt tokens of all hosts since they started.
struct PromptTokens {
    read: u64,
    cached: u64,
}

impl PromptTokens {
    fn of(fleet: &Fleet) -> Self {
        let totals = fleet.totals();
        Self {
            read: totals.iter().map(|host| host.prompt_tokens).sum(),
            cached: totals.iter().map(|host| host.cached_tokens).sum(),
        }
    }

    fn hit_rate_since(&self, before: &Self) -> f64 {
        let (read, cached) = (self.read - before.read, self.cached - before.cached);
        cached as f64 / (cached + read).max(1) as f64
    }
}

fn unread_tokens(samples: &[InFlight]) -> UnreadTokens {
    let count = samples.len().max(1) as f64;
    let mean_of = |tokens: fn(&[u64]) -> f64| samples.iter().map(|s| tokens(&s.unread)).sum::<f64>() / count;
    UnreadTokens {
        mean: mean_of(|hosts| hosts.iter().sum::<u64>() as f64 / hosts.len().max(1) as f64),
        busiest_mean: mean_of(|hosts| hosts.iter().max().copied().unwrap_or_default() as f64),
    }
}

/// Sums the plugin's counters over all gateways.
async fn not_shared(lab: &Lab) -> Result<usize, LabError> {
    let mut sum = 0;
    for envoy in lab.envoys() {
        sum += envoy.counted(NOT_SHARED_COUNTERS).await? as usize;
    }
    Ok(sum)
}

fn utilisation(size: &Sized, snapshots: &[Snapshot], sending: usize) -> f64 {
    let slots = (size.plan.hosts * size.plan.engine.slots) as f64;
    match (snapshots.first(), snapshots.get(sending.saturating_sub(1))) {
        (Some(first), Some(last)) if last.in_flight.at_s > first.in_flight.at_s => {
            (last.slot_seconds - first.slot_seconds) / (slots * (last.in_flight.at_s - first.in_flight.at_s))
        }
        _ => 0.0,
    }
}

fn report_of(replay: &Replay, in_flight: &[InFlight]) -> PolicyReport {
    let mut error_kinds = BTreeMap::new();
    let mut answered_by = BTreeMap::new();
    for sample in &replay.samples {
        if let Some(error) = &sample.error {
            *error_kinds.entry(error.clone()).or_default() += 1;
        }
        if let Some(host) = &sample.host {
            *answered_by.entry(host.clone()).or_default() += 1;
        }
    }
    let (ttft, e2e) = (Percentiles::of(replay.ttft_trace_ms()), Percentiles::of(replay.e2e_trace_ms()));
    let imbalances: Vec<f64> = in_flight.iter().map(InFlight::imbalance).collect();
    PolicyReport {
        ttft_ms: ttft,
        e2e_ms: e2e,
        ttft_wall_ms: ttft.divided_by(replay.time_scale),
        e2e_wall_ms: e2e.divided_by(replay.time_scale),
        requests: replay.samples.len(),
        errors: replay.errors(),
        error_kinds,
        imbalance: Imbalance {
            mean: imbalances.iter().sum::<f64>() / imbalances.len().max(1) as f64,
            max: imbalances.iter().copied().fold(0.0, f64::max),
        },
        generator_late_wall_ms: replay.late_wall_ms(),
        answered_by,
        ..PolicyReport::default()
    }
}

fn cpu_of(now: &CpuSample, before: &CpuSample, machine: &Machine, requests: usize) -> Cpu {
    let us = |kind| now.of_kind(kind, before).as_secs_f64() * 1e6 / requests.max(1) as f64;
    Cpu {
        usage: now.since(before, machine),
        envoy_us: us("envoy"),
        sidecar_us: us("sidecar"),
        redis_us: us("redis"),
        loadtest_us: us("loadtest"),
    }
}

/// Opens connections along every path before the measurement.
async fn warm_up(stage: &Stage<'_>, policy: Policy) {
    let client = Client::new(Duration::from_secs(10));
    let tiny = Request { prompt: 1, output: 2, ..Request::default() };
    let urls = stage.lab.urls(policy);
    let hosts = stage.lab.hosts();
    let count = urls.len() * WARM_UP_REQUESTS_PER_GATEWAY * stage.size.plan.envoy_concurrency;
    let tiny = &tiny;
    let sends = (0..count).map(|i| {
        let route = match policy.is_ideal() {
            true => Route::Host(hosts[i / urls.len() % hosts.len()]),
            false => Route::Gateway,
        };
        client.send(&urls[i % urls.len()], tiny, prompt::chat_request(tiny, i), route)
    });
    futures::future::join_all(sends).await;
}

#[derive(Clone, Debug)]
struct Snapshot {
    in_flight: InFlight,
    slot_seconds: f64,
}

async fn sample_hosts(lab: Arc<Lab>, time_scale: f64, stop: CancellationToken) -> Vec<Snapshot> {
    let start = Instant::now();
    let mut interval = tokio::time::interval(SAMPLE_INTERVAL);
    let mut snapshots = Vec::new();
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let fleet: &Fleet = lab.fleet();
        snapshots.push(Snapshot {
            in_flight: InFlight {
                at_s: start.elapsed().as_secs_f64() * time_scale,
                hosts: fleet.in_flight(),
                unread: fleet.unread(),
            },
            slot_seconds: fleet.totals().iter().map(|t| t.slot_seconds).sum(),
        });
    }
    snapshots
}
