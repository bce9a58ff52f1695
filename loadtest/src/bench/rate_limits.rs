//! Measures how many requests per second the rate limit service of one sidecar checks, compared with a gRPC server with
//! constant responses and with a bare fixed-window counter in Redis. Each request uses one of a thousand keys.

use std::path::Path;

use super::{
    BenchConfig, BenchRun,
    callers::rate_limit_service::{DOMAIN, OVER_LIMIT, UNLIMITED, WITHIN_LIMIT},
    job::{self, Job},
    system::{Echo, Server, System},
    target::{GrpcServer, Target},
};
use crate::lab::LabError;

/// Numbers of callers with which each target is measured.
const CALLERS: [usize; 2] = [64, 256];

/// Runs the benchmark and returns one run per target and number of callers. `log` receives progress messages.
pub async fn run(
    config: &BenchConfig,
    echo_server: &Path,
    log: impl Fn(&str),
) -> Result<Vec<BenchRun>, LabError> {
    log("starting Redis, the sidecar and the echo server");
    let dir = tempfile::tempdir().map_err(LabError::io("creating a temporary directory"))?;
    let system = System::start(config, 1, &section(dir.path())?, "").await?;
    let System { sidecar, redis_url, redis_pid, .. } = &system;
    let Echo { server: echo, .. } = &system.start_echo(echo_server).await?;

    let service = |name, key, process: &Server, redis_pid| {
        let target = Target::RateLimitService { server: GrpcServer::tcp(&process.ready)?, key };
        Some(Job { name, target, server_pid: process.pid, redis_pid })
    };
    let bare_redis = Job {
        name: "bare_redis",
        target: Target::FixedWindow { redis_url: redis_url.clone() },
        server_pid: None,
        redis_pid: *redis_pid,
    };
    let jobs: Vec<Job> = [
        service("rate_limit", WITHIN_LIMIT, sidecar, *redis_pid),
        service("tonic_echo", WITHIN_LIMIT, echo, None),
        Some(bare_redis),
        service("rate_limit_over", OVER_LIMIT, sidecar, *redis_pid),
        service("rate_limit_unlimited", UNLIMITED, sidecar, *redis_pid),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut runs = Vec::new();
    for callers in CALLERS {
        let config = BenchConfig { callers, ..config.clone() };
        let log = |message: &str| log(&format!("{message} with {callers} callers"));
        let measured = job::run_all(&jobs, &config, log).await?;
        runs.extend(
            measured.into_iter().map(|run| BenchRun { name: format!("{}_{callers}", run.name), ..run }),
        );
    }
    Ok(runs)
}

/// Writes descriptors with a limit that no run reaches, with a limit that every request exceeds, and without a limit, to a
/// file in `dir`. Returns the section of a sidecar's configuration that names the file.
pub(super) fn section(dir: &Path) -> Result<String, LabError> {
    let limits = format!(
        "domain: {DOMAIN}\n\
         descriptors:\n\
         - {{key: {WITHIN_LIMIT}, rate_limit: {{unit: second, requests_per_unit: 1000000}}}}\n\
         - {{key: {OVER_LIMIT}, rate_limit: {{unit: year, requests_per_unit: 0}}}}\n\
         - {{key: {UNLIMITED}, rate_limit: {{unlimited: true}}}}\n"
    );
    let path = dir.join("limits.yaml");
    std::fs::write(&path, limits).map_err(LabError::io("writing the limits"))?;
    Ok(format!("rate_limit_service: {{config: \"{}\"}}\n", path.display()))
}
