//! Replays the same trace through the same gateways, once under each policy.

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
    lab::{Lab, LabBuilder, LabError, Policy},
    mock::Fleet,
    percentiles::Percentiles,
    replay::{self, Client, Progress, Replay, ReplayConfig, Spread},
    report::{Cpu, Imbalance, InFlight, Noise, NoisePath, PolicyReport, Report, Series, Setup},
    simulate::{self, SimulatedPolicy, System},
    workload::{Request, Workload},
};

const IDLE_WITHIN: Duration = Duration::from_secs(30);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(40);
const NOISE_REQUESTS: usize = 150;
const WARM_UP_REQUESTS_PER_GATEWAY: usize = 6;

/// Parameters of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Policies in the order in which they run.
    pub policies: Vec<Policy>,
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
    /// Offered load, see [`Workload::load`].
    pub load: f64,
    /// Start of the slice within the trace.
    pub slice_start: Duration,
    /// Duration of the slice at the recorded rate.
    pub slice_duration: Duration,
    pub spread: Spread,
    pub seed: u64,
    pub synthetic: bool,
    /// Directory for logs and configurations.
    pub lab_dir: Option<PathBuf>,
}

impl Plan {
    /// Returns the workload to send, and the factor by which its arrivals are faster than recorded.
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
        // Do not start processes that no policy uses: they would take CPU time from the others.
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

#[derive(Debug)]
pub struct Comparison {
    pub report: Report,
    pub series: BTreeMap<Policy, Series>,
    /// Results of every request, by policy.
    pub replays: BTreeMap<Policy, Replay>,
}

/// Runs a comparison. `log` receives progress messages.
pub async fn run(plan: &Plan, trace: &Workload, log: impl Fn(&str)) -> Result<Comparison, LabError> {
    let (workload, factor) = plan.workload(trace);
    if workload.requests.is_empty() {
        return Err(LabError::Invalid("the slice of the trace has no requests"));
    }
    log("starting Redis, sidecars, Envoys and mock hosts");
    let lab = plan.lab().start().await?;
    let lab = Arc::new(lab);

    log("measuring the idle system");
    let noise = measure_noise(plan, &lab).await?;
    let mut policies = BTreeMap::new();
    let mut series = BTreeMap::new();
    let mut replays = BTreeMap::new();
    for policy in &plan.policies {
        log(&format!(
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
    let policy = match policy {
        Policy::EnvoyRoundRobin => SimulatedPolicy::RoundRobin,
        Policy::EnvoyRandom => SimulatedPolicy::Random,
        Policy::EnvoyLeastRequest => SimulatedPolicy::LocalTwoChoices,
        Policy::Evenkeel | Policy::Ideal => SimulatedPolicy::GlobalLeast,
    };
    let system = System {
        hosts: plan.hosts,
        // Envoy counts a host's requests per process, not per worker.
        gateways: plan.gateways,
        engine: plan.engine.clone(),
    };
    simulate::run(workload, &system, policy, plan.seed).ttft_ms.p99
}

/// Measures sequential requests on an idle system.
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
        let client = Client::new(Duration::from_secs(10));
        let mut overheads = Vec::new();
        for i in 0..NOISE_REQUESTS + urls.len() * WARM_UP_REQUESTS_PER_GATEWAY {
            let start = Instant::now();
            let exchange = client.send(&urls[i % urls.len()], tiny, None).await;
            if let Some(error) = exchange.error {
                return Err(LabError::Response {
                    what: format!("a request to {}: {error}", urls[i % urls.len()]),
                });
            }
            // The first requests of each gateway open connections.
            if let Some(first) = exchange.first.filter(|_| i >= urls.len() * WARM_UP_REQUESTS_PER_GATEWAY) {
                let wall = (first - start).as_secs_f64() * 1e3;
                overheads.push(wall - noise.expected_ttft_ms / plan.time_scale);
            }
        }
        let wall = Percentiles::of(overheads);
        let path = NoisePath {
            requests: NOISE_REQUESTS,
            overhead_wall_ms: wall,
            overhead_ms: wall.divided_by(1.0 / plan.time_scale),
        };
        noise.paths.insert(name.into(), path);
    }
    lab.wait_idle(IDLE_WITHIN).await?;
    Ok(noise)
}

async fn run_policy(
    plan: &Plan,
    lab: &Arc<Lab>,
    workload: &Workload,
    policy: Policy,
) -> Result<(PolicyReport, Replay, Vec<InFlight>), LabError> {
    warm_up(plan, lab, policy).await;
    lab.wait_idle(IDLE_WITHIN).await?;

    let before = Usage::now(lab);
    let stop = CancellationToken::new();
    let sampler = tokio::spawn(sample_hosts(Arc::clone(lab), plan.time_scale, stop.clone()));
    let config = plan.replay(lab, policy);
    let replay = replay::run(workload, &config, Progress::new(policy.name())).await;
    stop.cancel();
    let snapshots = sampler.await.unwrap_or_default();
    let cpu = before.until_now(lab, workload.requests.len());
    lab.wait_idle(IDLE_WITHIN).await?;

    let sending = workload.duration.as_secs_f64();
    let in_flight: Vec<InFlight> =
        snapshots.iter().map(|w| w.in_flight.clone()).take_while(|s| s.at_s <= sending).collect();
    let slots = (plan.hosts * plan.engine.slots) as f64;
    let utilisation = match (snapshots.first(), snapshots.get(in_flight.len().saturating_sub(1))) {
        (Some(first), Some(last)) if last.in_flight.at_s > first.in_flight.at_s => {
            (last.slot_seconds - first.slot_seconds) / (slots * (last.in_flight.at_s - first.in_flight.at_s))
        }
        _ => 0.0,
    };
    Ok((policy_report(&replay, &in_flight, utilisation, cpu), replay, in_flight))
}

fn policy_report(replay: &Replay, in_flight: &[InFlight], utilisation: f64, cpu: Cpu) -> PolicyReport {
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

/// Opens connections along every path before the measurement.
async fn warm_up(plan: &Plan, lab: &Lab, policy: Policy) {
    let client = Client::new(Duration::from_secs(10));
    let tiny = Request { at: Duration::ZERO, prompt: 1, output: 2 };
    let urls = lab.urls(policy);
    let hosts = lab.hosts();
    let sends = (0..urls.len() * WARM_UP_REQUESTS_PER_GATEWAY * plan.envoy_concurrency).map(|i| {
        let host = (policy == Policy::Ideal).then(|| hosts[i / urls.len() % hosts.len()]);
        client.send(&urls[i % urls.len()], tiny, host)
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
            },
            slot_seconds: fleet.totals().iter().map(|t| t.slot_seconds).sum(),
        });
    }
    snapshots
}

/// CPU time that each kind of process has used so far.
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
