//! How many requests a second the rate limit service of one sidecar judges, beside a gRPC server that answers without
//! looking, and the least that a fixed window can be in Redis: one limit per second, a thousand keys, each request one
//! of them at random.

use std::{fmt::Write as _, path::Path, rc::Rc, time::Instant};

use envoy_types::pb::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, rate_limit_response::Code, rate_limit_service_client::RateLimitServiceClient,
    },
};
use rand::Rng as _;
use tonic::transport::Channel;

use super::{
    BenchConfig, BenchRun, Job,
    callers::{Tally, Target},
    median, start_echo,
};
use crate::lab::{Lab, LabError};

/// Keys counted apart.
const KEYS: u32 = 1000;
/// Callers, each with one call under way at a time.
const CALLERS: [usize; 2] = [64, 256];
const DOMAIN: &str = "bench";
/// A limit that no run reaches, one that all are over at once, and none.
const LIMITS: &str = "
domain: bench
descriptors:
- {key: within, rate_limit: {unit: second, requests_per_unit: 1000000}}
- {key: over, rate_limit: {unit: year, requests_per_unit: 0}}
- {key: unlimited, rate_limit: {unlimited: true}}
";

/// Runs of each kind for each number of callers.
pub async fn run(
    config: &BenchConfig,
    echo_server: &Path,
    say: impl Fn(&str),
) -> Result<Vec<BenchRun>, LabError> {
    say("starting Redis, the sidecar and the echo server");
    let dir = tempfile::tempdir().map_err(LabError::io("creating a temporary directory"))?;
    let limits = dir.path().join("limits.yaml");
    std::fs::write(&limits, LIMITS).map_err(LabError::io("writing the limits"))?;
    let section = format!("rate_limit_service: {{config: \"{}\"}}", limits.display());
    let builder = Lab::builder().hosts(1).envoys(0).sidecars(1).redis().sidecar_yaml(&section);
    let builder = match &config.dir {
        Some(dir) => builder.dir(dir),
        None => builder,
    };
    let mut lab = builder.start().await?;
    let (echo, echo_ready) = start_echo(&lab, echo_server).await?;
    let (redis_url, redis_pid) = (lab.redis().url(), lab.redis().process().pid());
    let sidecar = &lab.sidecars()[0];
    let job = |name, key, ready, server_pid, redis_pid| {
        let server = Box::new(Target::gateway(ready, false)?);
        Some(Job { name, target: Target::RateLimits { server, key }, server_pid, redis_pid })
    };
    let (ready, pid) = (sidecar.ready(), sidecar.process().pid());
    let jobs: Vec<Job> = [
        job("rate_limit", "within", ready, pid, redis_pid),
        job("tonic_echo", "within", &echo_ready, echo.pid(), None),
        Some(Job {
            name: "bare_redis",
            target: Target::Window { url: redis_url },
            server_pid: None,
            redis_pid,
        }),
        job("rate_limit_over", "over", ready, pid, redis_pid),
        job("rate_limit_unlimited", "unlimited", ready, pid, redis_pid),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut runs = Vec::new();
    for callers in CALLERS {
        let config = BenchConfig { callers, ..config.clone() };
        let mut measured: Vec<Vec<BenchRun>> = vec![Vec::new(); jobs.len()];
        for round in 0..config.rounds.max(1) {
            for (job, runs) in jobs.iter().zip(&mut measured) {
                say(&format!(
                    "round {} of {}: {} with {callers} callers",
                    round + 1,
                    config.rounds,
                    job.name
                ));
                runs.push(BenchRun { name: format!("{}_{callers}", job.name), ..job.run(&config).await? });
            }
        }
        runs.extend(measured.into_iter().filter_map(median));
    }
    Ok(runs)
}

/// As a table of text.
pub fn table(runs: &[BenchRun]) -> String {
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

/// A fixed window as every tutorial has it: one script call a request.
const WINDOW: &str = r"
-- KEYS[1] count.  ARGV[1] hits.  RETURNS the count.
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
if used == tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], 1000) end
return used
";

/// Counts without pause one key after the other, in Redis itself.
pub(super) async fn counts(mut connection: redis::aio::MultiplexedConnection, tally: Rc<Tally>) {
    let script = redis::Script::new(WINDOW);
    while !tally.stop.get() {
        let key = format!("evenkeel-loadtest:bare:window:{}", rand::rng().random_range(0..KEYS));
        let start = Instant::now();
        let used: Result<u64, _> = script.key(key).arg(1).invoke_async(&mut connection).await;
        tally.call(start, true, used.is_ok());
    }
}

/// Asks without pause for one key after the other.
pub(super) async fn asks(channel: Channel, key: &'static str, tally: Rc<Tally>) {
    let mut client = RateLimitServiceClient::new(channel);
    while !tally.stop.get() {
        let value = rand::rng().random_range(0..KEYS).to_string();
        let entries = vec![Entry { key: key.to_owned(), value }];
        let descriptor = RateLimitDescriptor { entries, ..RateLimitDescriptor::default() };
        let request =
            RateLimitRequest { domain: DOMAIN.to_owned(), descriptors: vec![descriptor], hits_addend: 1 };
        let start = Instant::now();
        let answer = client.should_rate_limit(request).await;
        let expected = if key == "over" { Code::OverLimit } else { Code::Ok };
        let ok = answer.is_ok_and(|answer| answer.get_ref().overall_code() == expected);
        tally.call(start, true, ok);
    }
}
