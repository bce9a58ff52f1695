//! Single calls, one at a time, on an idle system: what one decision adds to a request.

use std::time::Instant;

use super::{
    BenchConfig, BenchRun,
    callers::{Target, admit_request, settle_request},
    script::PickScript,
};
use crate::{
    figures::quantile,
    lab::{LabError, Ready, connect_redis},
};

const WARM_UP: usize = 200;

#[derive(Default)]
struct Timed {
    ms: Vec<f64>,
    errors: u64,
}

impl Timed {
    fn add(&mut self, start: Instant, ok: bool) {
        self.ms.push(start.elapsed().as_secs_f64() * 1e3);
        self.errors += u64::from(!ok);
    }

    fn run(mut self, name: &str) -> BenchRun {
        self.ms.drain(..WARM_UP.min(self.ms.len()));
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

/// Times Admit (over TCP and over the Unix socket), the same at the bare server, PING and the bare script, in turn.
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
    .map_err(|fault| LabError::Answer { what: format!("the idle calls: {fault}") })?
}

async fn measure(
    sidecar: &Ready,
    echo: &Ready,
    url: &str,
    config: &BenchConfig,
) -> Result<Vec<BenchRun>, LabError> {
    let mut gateways = Vec::new();
    for (name, ready, unix) in
        [("idle_admit", sidecar, false), ("idle_admit_unix", sidecar, true), ("idle_echo", echo, false)]
    {
        if let Some(target) = Target::gateway(ready, unix) {
            gateways.push((name, target.gateway_client().await?, Timed::default()));
        }
    }
    let mut redis = connect_redis(url).await?;
    let mut script = PickScript::connect(url, config.endpoints, false).await?;
    let (mut pings, mut scripts) = (Timed::default(), Timed::default());
    let holder = format!("bench-idle-{}", std::process::id());
    for i in 0..config.idle_calls + WARM_UP {
        for (lane, (_, client, timed)) in (0u64..).zip(&mut gateways) {
            let lease = 3 * i as u64 + lane + 1;
            let start = Instant::now();
            let answer = client.admit(admit_request(&holder, lease)).await;
            timed.add(start, answer.is_ok());
            if client.settle(settle_request(&holder, lease)).await.is_err() {
                timed.errors += 1;
            }
        }
        let start = Instant::now();
        let pong = redis::cmd("PING").exec_async(&mut redis).await;
        pings.add(start, pong.is_ok());
        let start = Instant::now();
        let picked = script.pick().await;
        scripts.add(start, picked.is_ok());
    }
    let mut runs: Vec<BenchRun> = gateways.into_iter().map(|(name, _, timed)| timed.run(name)).collect();
    runs.push(pings.run("redis_round_trip"));
    runs.push(scripts.run("redis_evalsha"));
    Ok(runs)
}
