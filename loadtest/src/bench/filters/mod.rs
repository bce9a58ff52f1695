//! Measures what a filter adds to a request in one Envoy: Envoy's own rate limit filter with the sidecar as its service,
//! the plugin, and no filter. The same limit applies to both filters. The plugin also chooses the endpoint, and settles.

mod gateways;
mod paired;
mod report;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use self::report::Sample;
pub use self::{
    paired::Difference,
    report::{Added, Figures, FilterReport, FilterRow},
};
use super::{BenchConfig, closed_loop, target::Target};
use crate::{
    cpu,
    lab::{CustomEnvoy, Lab, LabError},
};

/// Requests per second that the limit allows, which no run reaches.
const LIMIT: u64 = 1_000_000;

/// What handles a request before the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    None,
    /// Envoy's rate limit filter.
    Native,
    /// The plugin, which reads neither bodies nor usage.
    Plugin,
    /// The plugin, which reads bodies and usage.
    PluginReading,
}

impl Filter {
    pub const ALL: [Self; 4] = [Self::None, Self::Native, Self::Plugin, Self::PluginReading];

    /// Returns the name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Native => "native",
            Self::Plugin => "plugin",
            Self::PluginReading => "plugin_reading",
        }
    }
}

/// Parameters of the benchmark.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    /// Duration of one run, without the warm-up.
    pub run: Duration,
    /// Number of runs of each filter in each setup.
    pub rounds: usize,
    /// Numbers of requests in flight.
    pub in_flight: Vec<usize>,
    /// Numbers of the gateway's worker threads.
    pub concurrency: Vec<usize>,
    /// Directory for logs and configurations.
    pub dir: PathBuf,
}

/// Runs the benchmark. `log` receives progress messages.
pub async fn run(config: &FilterConfig, log: impl Fn(&str)) -> Result<FilterReport, LabError> {
    log("starting Redis, the sidecar and the Envoys");
    let dir = &config.dir;
    std::fs::create_dir_all(dir).map_err(LabError::io("creating the directory of logs"))?;
    let (_upstream, address) = gateways::start_upstream(dir).await?;
    let limits = dir.join("limits.yaml");
    std::fs::write(&limits, service_yaml()).map_err(LabError::io("writing the limits"))?;
    let sidecar_yaml = format!(
        "limits:\n  - {{name: all, counts: requests, amount: {LIMIT}, per: 1s}}\nlimit_headers: []\n\
         rate_limit_service: {{config: \"{}\"}}",
        limits.display()
    );
    let builder = Lab::builder().hosts(1).endpoints(vec![address]).envoys(0).sidecars(1).redis();
    let lab = builder.sidecar_yaml(&sidecar_yaml).dir(dir).start().await?;

    let mut samples = Vec::new();
    for &concurrency in &config.concurrency {
        let gateway =
            gateways::start_gateway(lab.dir(), concurrency, address, lab.sidecars()[0].socket()).await?;
        for &in_flight in &config.in_flight {
            for round in 0..config.rounds.max(1) {
                // The filters alternate, so that a slow minute of the machine affects all of them.
                for (filter, url) in Filter::ALL.into_iter().zip(gateway.urls()) {
                    log(&format!(
                        "round {} of {}: {} with {in_flight} in flight, concurrency {concurrency}",
                        round + 1,
                        config.rounds,
                        filter.name()
                    ));
                    let load = BenchConfig { callers: in_flight, run: config.run, ..BenchConfig::default() };
                    let (figures, errors) = measure(url, load, &gateway, &lab).await?;
                    samples.push(Sample { filter, in_flight, concurrency, figures, errors });
                }
            }
        }
    }
    Ok(FilterReport::of(&samples))
}

/// Returns the limit as envoyproxy/ratelimit's configuration describes it.
fn service_yaml() -> String {
    let (domain, key) = (gateways::DOMAIN, gateways::KEY);
    format!(
        "domain: {domain}\n\
         descriptors: [{{key: {key}, rate_limit: {{unit: second, requests_per_unit: {LIMIT}}}}}]\n"
    )
}

async fn measure(
    url: &str,
    config: BenchConfig,
    gateway: &CustomEnvoy,
    lab: &Lab,
) -> Result<(Figures, u64), LabError> {
    let address = url.trim_start_matches("http://").to_owned();
    let target = Target::Http { address };
    let redis = lab.pids().into_iter().find(|(name, _)| *name == "redis").map(|(_, pid)| pid);
    let pids = [gateway.process().pid(), lab.sidecars()[0].process().pid(), redis];
    let cpu = move || pids.map(|pid| pid.and_then(cpu::of_process).unwrap_or_default());
    let result = tokio::task::spawn_blocking(move || closed_loop::run(&target, &config, cpu))
        .await
        .map_err(|error| LabError::Response { what: format!("measuring a filter: {error}") })??;
    let recording = result.recording;
    let calls = recording.calls.max(1) as f64;
    let us = |index: usize| -> f64 {
        let (before, after): (Duration, Duration) = (result.cpu_before[index], result.cpu_after[index]);
        after.saturating_sub(before).as_secs_f64() * 1e6 / calls
    };
    let figures = Figures {
        requests_per_s: calls / result.wall.as_secs_f64(),
        p50_ms: recording.latency_us.value_at_quantile(0.5) as f64 / 1e3,
        p99_ms: recording.latency_us.value_at_quantile(0.99) as f64 / 1e3,
        envoy_cpu_us: us(0),
        sidecar_cpu_us: us(1),
        redis_cpu_us: us(2),
    };
    Ok((figures, recording.errors))
}
