//! The same trace through the same gateways, once under each policy.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    cpu,
    engine::EngineParams,
    figures::Percentiles,
    lab::{Lab, LabBuilder, LabError, Policy},
    mock::Fleet,
    replay::{self, Progress, Replay, ReplayConfig, Sender, Spread},
    report::{Cpu, Imbalance, InFlight, Noise, NoisePath, PolicyReport, Report, Series, Setup},
    simulate::{self, Choice, System},
    workload::{Request, Workload},
};

const DRAIN_WITHIN: Duration = Duration::from_secs(30);
const SAMPLE_EVERY: Duration = Duration::from_millis(40);
const NOISE_REQUESTS: usize = 150;
const WARM_UP_PER_GATEWAY: usize = 6;

/// What to compare, and on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Policies, in the order in which they run.
    pub policies: Vec<Policy>,
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
    /// Offered load, see [`Workload::load`].
    pub load: f64,
    /// Where the slice begins.
    pub slice_start: Duration,
    /// Its length at the trace's own pace.
    pub slice_duration: Duration,
    /// How requests are spread over the gateways.
    pub spread: Spread,
    /// Seed of every random choice.
    pub seed: u64,
    /// Whether the trace is made up.
    pub synthetic: bool,
    /// Directory for logs and configurations.
    pub lab_dir: Option<PathBuf>,
}

impl Plan {
    /// The workload as it is sent, and how much faster than recorded that is.
    pub fn workload(&self, trace: &Workload) -> (Workload, f64) {
        trace.slice(self.slice_start, self.slice_duration).at_load(self.load, &self.engine, self.hosts)
    }

    fn lab(&self) -> LabBuilder {
        let lab = Lab::builder()
            .hosts(self.hosts)
            .envoys(self.gateways)
            .envoy_concurrency(self.envoy_concurrency)
            .engine(self.engine.clone())
            .time_scale(self.time_scale)
            .token_batch(self.token_batch);
        let lab = match &self.lab_dir {
            Some(dir) => lab.dir(dir),
            None => lab,
        };
        // Processes that have no part in it would only take CPU from those that have.
        if self.policies.contains(&Policy::Evenkeel) { lab.redis().sidecars(self.sidecars) } else { lab }
    }

    fn replay(&self, lab: &Lab, policy: Policy) -> ReplayConfig {
        ReplayConfig {
            gateways: lab.urls(policy),
            ideal_over: (policy == Policy::Ideal).then(|| lab.hosts()),
            time_scale: self.time_scale,
            spread: self.spread,
            seed: self.seed,
            timeout: Duration::from_secs(120),
        }
    }
}

/// A report, and what its plots need.
#[derive(Debug)]
pub struct Comparison {
    /// The figures.
    pub report: Report,
    /// The series.
    pub series: BTreeMap<Policy, Series>,
    /// Every request's fate.
    pub replays: BTreeMap<Policy, Replay>,
}

/// Runs a plan. `say` is told what is being done.
pub async fn run(plan: &Plan, trace: &Workload, say: impl Fn(&str)) -> Result<Comparison, LabError> {
    let (workload, factor) = plan.workload(trace);
    if workload.requests.is_empty() {
        return Err(LabError::Builder("the slice of the trace has no requests"));
    }
    say("starting Redis, sidecars, Envoys and mock hosts");
    let lab = plan.lab().start().await?;
    let lab = Arc::new(lab);

    say("measuring the idle system");
    let noise = measure_noise(plan, &lab).await?;
    let mut policies = BTreeMap::new();
    let mut series = BTreeMap::new();
    let mut replays = BTreeMap::new();
    for policy in &plan.policies {
        say(&format!(
            "replaying under {policy}: {} requests in {:.0} s",
            workload.requests.len(),
            workload.duration.as_secs_f64() / plan.time_scale
        ));
        let (mut report, replay, in_flight) = run_policy(plan, &lab, &workload, *policy).await?;
        report.simulated_ttft_p99_ms = simulated(plan, &workload, *policy);
        let mut ttft_ms = replay.ttft_trace_ms();
        ttft_ms.sort_by(f64::total_cmp);
        series.insert(*policy, Series { ttft_ms, in_flight });
        policies.insert(*policy, report);
        replays.insert(*policy, replay);
    }
    let summary = workload.summary();
    let setup = Setup {
        trace: trace.source.clone(),
        synthetic: plan.synthetic,
        slice_start_s: plan.slice_start.as_secs_f64(),
        slice_duration_s: workload.duration.as_secs_f64() * factor,
        arrival_factor: factor,
        requests: summary.requests,
        prompt_mean: summary.prompt_mean,
        output_mean: summary.output_mean,
        load: plan.load,
        hosts: plan.hosts,
        gateways: plan.gateways,
        sidecars: lab.sidecars().len(),
        envoy_concurrency: plan.envoy_concurrency,
        engine: plan.engine.clone(),
        time_scale: plan.time_scale,
        token_batch: plan.token_batch,
        spread: plan.spread,
        seed: plan.seed,
    };
    Ok(Comparison { report: Report { setup, noise, policies }, series, replays })
}

fn simulated(plan: &Plan, workload: &Workload, policy: Policy) -> f64 {
    let choice = match policy {
        Policy::EnvoyRoundRobin => Choice::RoundRobin,
        Policy::EnvoyRandom => Choice::Random,
        Policy::EnvoyLeastRequest => Choice::LocalTwoChoices,
        Policy::Evenkeel | Policy::Ideal => Choice::GlobalLeast,
    };
    let system = System {
        hosts: plan.hosts,
        // Envoy counts a host's requests per process, whatever its workers.
        gateways: plan.gateways,
        engine: plan.engine.clone(),
    };
    simulate::run(workload, &system, choice, plan.seed).ttft_ms.p99
}

/// Single requests, one after the other, on an idle system.
async fn measure_noise(plan: &Plan, lab: &Lab) -> Result<Noise, LabError> {
    let tiny = Request { at: Duration::ZERO, prompt: 1, output: 1 };
    let expected = plan.engine.idle_ttft(tiny.prompt);
    let mut paths: Vec<(&str, Vec<String>)> = vec![
        ("direct", lab.hosts().iter().map(|host| format!("http://{host}")).collect()),
        ("envoy", lab.urls(Policy::EnvoyRoundRobin)),
    ];
    if !lab.sidecars().is_empty() {
        paths.push(("evenkeel", lab.urls(Policy::Evenkeel)));
    }
    let mut noise = Noise { expected_ttft_ms: expected.as_secs_f64() * 1e3, paths: BTreeMap::new() };
    for (name, urls) in paths {
        let sender = Sender::new(Duration::from_secs(10));
        let mut over = Vec::new();
        for i in 0..NOISE_REQUESTS + urls.len() * WARM_UP_PER_GATEWAY {
            let start = Instant::now();
            let answer = sender.send(&urls[i % urls.len()], tiny, None).await;
            if let Some(fault) = answer.error {
                return Err(LabError::Answer {
                    what: format!("a request to {}: {fault}", urls[i % urls.len()]),
                });
            }
            // The first ones of each gateway open connections.
            if let Some(first) = answer.first.filter(|_| i >= urls.len() * WARM_UP_PER_GATEWAY) {
                let wall = (first - start).as_secs_f64() * 1e3;
                over.push(wall - noise.expected_ttft_ms / plan.time_scale);
            }
        }
        let wall = Percentiles::of(over);
        let path = NoisePath {
            requests: NOISE_REQUESTS,
            overhead_wall_ms: wall,
            overhead_ms: wall.divided_by(1.0 / plan.time_scale),
        };
        noise.paths.insert(name.into(), path);
    }
    lab.wait_drained(DRAIN_WITHIN).await?;
    Ok(noise)
}

async fn run_policy(
    plan: &Plan,
    lab: &Arc<Lab>,
    workload: &Workload,
    policy: Policy,
) -> Result<(PolicyReport, Replay, Vec<InFlight>), LabError> {
    warm_up(plan, lab, policy).await;
    lab.wait_drained(DRAIN_WITHIN).await?;

    let before = Usage::now(lab);
    let stop = CancellationToken::new();
    let watched = Arc::clone(lab);
    let sampler = tokio::spawn(watch(watched, plan.time_scale, stop.clone()));
    let config = plan.replay(lab, policy);
    let replay = replay::run(workload, &config, Progress::new(policy.name())).await;
    stop.cancel();
    let watched = sampler.await.unwrap_or_default();
    let cpu = before.until_now(lab, workload.requests.len());
    lab.wait_drained(DRAIN_WITHIN).await?;

    let sending = workload.duration.as_secs_f64();
    let in_flight: Vec<InFlight> =
        watched.iter().map(|w| w.in_flight.clone()).take_while(|s| s.at_s <= sending).collect();
    let slots = (plan.hosts * plan.engine.slots) as f64;
    let utilisation = match (watched.first(), watched.get(in_flight.len().saturating_sub(1))) {
        (Some(first), Some(last)) if last.in_flight.at_s > first.in_flight.at_s => {
            (last.slot_seconds - first.slot_seconds) / (slots * (last.in_flight.at_s - first.in_flight.at_s))
        }
        _ => 0.0,
    };
    Ok((figures(&replay, &in_flight, utilisation, cpu), replay, in_flight))
}

fn figures(replay: &Replay, in_flight: &[InFlight], utilisation: f64, cpu: Cpu) -> PolicyReport {
    let mut error_kinds = BTreeMap::new();
    let mut answered_by = BTreeMap::new();
    for sample in &replay.samples {
        if let Some(fault) = &sample.error {
            *error_kinds.entry(fault.clone()).or_default() += 1;
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
        simulated_ttft_p99_ms: 0.0,
        utilisation,
        imbalance: Imbalance {
            mean: imbalances.iter().sum::<f64>() / imbalances.len().max(1) as f64,
            max: imbalances.iter().copied().fold(0.0, f64::max),
        },
        generator_late_wall_ms: replay.late_wall_ms(),
        cpu,
        answered_by,
    }
}

/// Opens connections along every path, so that no measured request has to.
async fn warm_up(plan: &Plan, lab: &Lab, policy: Policy) {
    let sender = Sender::new(Duration::from_secs(10));
    let tiny = Request { at: Duration::ZERO, prompt: 1, output: 2 };
    let urls = lab.urls(policy);
    let hosts = lab.hosts();
    let sends = (0..urls.len() * WARM_UP_PER_GATEWAY * plan.envoy_concurrency).map(|i| {
        let host = (policy == Policy::Ideal).then(|| hosts[i / urls.len() % hosts.len()]);
        sender.send(&urls[i % urls.len()], tiny, host)
    });
    futures::future::join_all(sends).await;
}

#[derive(Clone, Debug)]
struct Watched {
    in_flight: InFlight,
    slot_seconds: f64,
}

async fn watch(lab: Arc<Lab>, time_scale: f64, stop: CancellationToken) -> Vec<Watched> {
    let start = Instant::now();
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    let mut seen = Vec::new();
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let fleet: &Fleet = lab.fleet();
        seen.push(Watched {
            in_flight: InFlight {
                at_s: start.elapsed().as_secs_f64() * time_scale,
                hosts: fleet.in_flight(),
            },
            slot_seconds: fleet.totals().iter().map(|t| t.slot_seconds).sum(),
        });
    }
    seen
}

/// CPU time used so far, by kind of process.
struct Usage {
    kinds: BTreeMap<&'static str, Duration>,
    machine: Option<(Duration, Duration)>,
}

impl Usage {
    fn now(lab: &Lab) -> Self {
        let mut kinds: BTreeMap<&'static str, Duration> = BTreeMap::new();
        for (kind, pid) in lab.pids() {
            *kinds.entry(kind).or_default() += cpu::of_process(pid).unwrap_or_default();
        }
        kinds.insert("loadtest", cpu::of_self());
        Self { kinds, machine: cpu::of_machine() }
    }

    fn until_now(&self, lab: &Lab, requests: usize) -> Cpu {
        let now = Self::now(lab);
        let us = |kind: &str| {
            let used = |usage: &Self| usage.kinds.get(kind).copied().unwrap_or_default();
            used(&now).saturating_sub(used(self)).as_secs_f64() * 1e6 / requests.max(1) as f64
        };
        let machine = match (self.machine, now.machine) {
            (Some((busy0, idle0)), Some((busy1, idle1))) => {
                let (busy, idle) =
                    ((busy1 - busy0).as_secs_f64(), (idle1.saturating_sub(idle0)).as_secs_f64());
                busy / (busy + idle).max(f64::MIN_POSITIVE)
            }
            _ => 0.0,
        };
        Cpu {
            machine,
            envoy_us: us("envoy"),
            sidecar_us: us("sidecar"),
            redis_us: us("redis"),
            loadtest_us: us("loadtest"),
        }
    }
}
