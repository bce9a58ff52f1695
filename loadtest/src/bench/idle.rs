//! Measures single calls, one at a time, on an idle system: the latency that one decision adds to a request.

use std::time::Instant;

use super::{
    BenchConfig,
    callers::{
        gateway::{admit_request, settle_request},
        pick_script::PickScript,
    },
    report::BenchRun,
    target::GrpcServer,
};
use crate::{
    lab::{LabError, Ready, connect_redis},
    percentiles::quantile,
};

const WARM_UP_CALLS: usize = 200;

#[derive(Default)]
struct Latencies {
    ms: Vec<f64>,
    errors: u64,
}

impl Latencies {
    fn add(&mut self, start: Instant, ok: bool) {
        self.ms.push(start.elapsed().as_secs_f64() * 1e3);
        self.errors += u64::from(!ok);
    }

    fn into_run(mut self, name: &str) -> BenchRun {
        self.ms.drain(..WARM_UP_CALLS.min(self.ms.len()));
        self.ms.sort_by(f64::total_cmp);
        let total_s = self.ms.iter().sum::<f64>() / 1e3;
        BenchRun {
            name: name.into(),
            calls_per_s: self.ms.len() as f64 / total_s.max(f64::MIN_POSITIVE),
            admits_per_s: None,
            p50_ms: quantile(&self.ms, 0.5),
            p99_ms: quantile(&self.ms, 0.99),
            server_cpu_us_per_call: None,
            redis_cpu_us_per_call: None,
            redis_cpu_us_per_admit: None,
            errors: self.errors,
        }
    }
}

/// Measures in turn: Admit to the sidecar over TCP and over the Unix socket, Admit to the bare server, PING, and the
/// naive script.
pub(super) async fn run(
    sidecar: &Ready,
    echo: &Ready,
    redis_url: &str,
    config: &BenchConfig,
) -> Result<Vec<BenchRun>, LabError> {
    let (sidecar, echo, url, config) = (sidecar.clone(), echo.clone(), redis_url.to_owned(), config.clone());
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::io("starting a runtime"))?;
        runtime.block_on(measure(&sidecar, &echo, &url, &config))
    })
    .await
    .map_err(|error| LabError::Response { what: format!("measuring idle calls: {error}") })?
}

async fn measure(
    sidecar: &Ready,
    echo: &Ready,
    url: &str,
    config: &BenchConfig,
) -> Result<Vec<BenchRun>, LabError> {
    let mut gateways = Vec::new();
    for (name, server) in [
        ("idle_admit", GrpcServer::tcp(sidecar)),
        ("idle_admit_unix", GrpcServer::unix(sidecar)),
        ("idle_echo", GrpcServer::tcp(echo)),
    ] {
        if let Some(server) = server {
            gateways.push((name, server.gateway_client().await?, Latencies::default()));
        }
    }
    let mut redis = connect_redis(url).await?;
    let mut script = PickScript::connect(url, config.endpoints, false).await?;
    let (mut pings, mut scripts) = (Latencies::default(), Latencies::default());
    let holder = format!("bench-idle-{}", std::process::id());
    for i in 0..config.idle_calls + WARM_UP_CALLS {
        for (index, (_, client, latencies)) in (0u64..).zip(&mut gateways) {
            let lease = 3 * i as u64 + index + 1;
            let start = Instant::now();
            let admitted = client.admit(admit_request(&holder, lease)).await;
            latencies.add(start, admitted.is_ok());
            if client.settle(settle_request(&holder, lease)).await.is_err() {
                latencies.errors += 1;
            }
        }
        let start = Instant::now();
        let pong = redis::cmd("PING").exec_async(&mut redis).await;
        pings.add(start, pong.is_ok());
        let start = Instant::now();
        let picked = script.pick().await;
        scripts.add(start, picked.is_ok());
    }
    let mut runs: Vec<BenchRun> =
        gateways.into_iter().map(|(name, _, latencies)| latencies.into_run(name)).collect();
    runs.push(pings.into_run("redis_round_trip"));
    runs.push(scripts.into_run("redis_evalsha"));
    Ok(runs)
}
