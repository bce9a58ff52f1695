//! Measures how many decisions per second one sidecar makes. Compares the sidecar with a gRPC server with constant
//! responses, a naive script in Redis, and an empty round trip.

use std::path::Path;

use super::{
    BenchConfig,
    callers::limited_requests,
    idle,
    job::{self, Job},
    report::{BenchReport, checks},
    system::{Echo, Server, System},
    target::{GrpcServer, Target},
};
use crate::lab::LabError;

/// Runs the benchmark. `echo_server` is the path of this program, which is the bare server when run with its `echo`
/// subcommand. `log` receives progress messages.
pub async fn run(
    config: &BenchConfig,
    echo_server: &Path,
    log: impl Fn(&str),
) -> Result<BenchReport, LabError> {
    log("starting Redis, the sidecar and the echo server");
    let system = System::start(config, config.endpoints, limited_requests::CONFIG, "").await?;
    let beside = BenchConfig { dir: config.dir.as_ref().map(|dir| dir.join("by-work")), ..config.clone() };
    let by_work = System::start(&beside, config.endpoints, "", "policy: least_work").await?;
    let System { sidecar, redis_url, redis_pid, .. } = &system;
    let Echo { server: echo, .. } = &system.start_echo(echo_server).await?;

    let gateway = |name, server: Option<GrpcServer>, limited, process: &Server, redis_pid| {
        let target = Target::Gateway { server: server?, limited };
        Some(Job { name, target, server_pid: process.pid, redis_pid })
    };
    let stream = |name, system: &System, by_work| {
        let target = Target::Stream { server: GrpcServer::tcp(&system.sidecar.ready)?, by_work };
        Some(Job { name, target, server_pid: system.sidecar.pid, redis_pid: system.redis_pid })
    };
    let script = |name, by_rule| {
        let target =
            Target::PickScript { redis_url: redis_url.clone(), endpoints: config.endpoints, by_rule };
        Some(Job { name, target, server_pid: None, redis_pid: *redis_pid })
    };
    let (tcp, unix) = (GrpcServer::tcp, GrpcServer::unix);
    let jobs: Vec<Job> = [
        gateway("admit_settle", tcp(&sidecar.ready), false, sidecar, *redis_pid),
        gateway("tonic_echo", tcp(&echo.ready), false, echo, None),
        stream("admit_settle_stream", &system, false),
        stream("by_work_stream", &by_work, true),
        gateway("admit_settle_limited", tcp(&sidecar.ready), true, sidecar, *redis_pid),
        script("bare_evalsha", false),
        script("bare_evalsha_same_rule", true),
        gateway("admit_settle_unix", unix(&sidecar.ready), false, sidecar, *redis_pid),
        gateway("tonic_echo_unix", unix(&echo.ready), false, echo, None),
    ]
    .into_iter()
    .flatten()
    .collect();

    let mut runs = job::run_all(&jobs, config, &log).await?;
    log("measuring single calls on the idle system");
    runs.extend(idle::run(&sidecar.ready, &echo.ready, redis_url, config).await?);
    Ok(BenchReport {
        endpoints: config.endpoints,
        callers: config.callers,
        connections: config.connections,
        checks: checks(&runs),
        runs,
    })
}
