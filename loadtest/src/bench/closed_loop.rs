//! Runs callers in a closed loop: each caller has one call in flight, and starts the next call when the previous one
//! has ended.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, LocalSet};

use super::{
    BenchConfig,
    callers::{
        fixed_window, gateway, http, pick_script, pick_script::PickScript, rate_limit_service, stream,
    },
    recorder::{Recorder, Recording},
    target::Target,
};
use crate::lab::{LabError, connect_redis};

const WARM_UP: Duration = Duration::from_millis(500);

/// Result of a closed loop.
#[derive(Debug)]
pub(super) struct Measurement<C> {
    pub(super) recording: Recording,
    pub(super) wall: Duration,
    pub(super) cpu_before: C,
    pub(super) cpu_after: C,
}

/// Calls `target` on the current thread for `config.run`, after a warm-up. Reads `cpu` at the start and at the end.
pub(super) fn run<C>(
    target: &Target,
    config: &BenchConfig,
    cpu: impl Fn() -> C,
) -> Result<Measurement<C>, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("starting a runtime"))?;
    let recorder = Rc::new(Recorder::new()?);
    let (wall, cpu_before, cpu_after) = LocalSet::new().block_on(&runtime, async {
        let callers = start_callers(target, config, &recorder).await?;
        tokio::time::sleep(WARM_UP).await;
        let (cpu_before, start) = (cpu(), Instant::now());
        recorder.set_recording(true);
        tokio::time::sleep(config.run).await;
        recorder.set_recording(false);
        let (wall, cpu_after) = (start.elapsed(), cpu());
        recorder.stop();
        for caller in callers {
            let _ = caller.await;
        }
        Ok::<_, LabError>((wall, cpu_before, cpu_after))
    })?;
    Ok(Measurement { recording: recorder.recording(), wall, cpu_before, cpu_after })
}

/// Starts `config.callers` callers, distributed over `config.connections` connections.
async fn start_callers(
    target: &Target,
    config: &BenchConfig,
    recorder: &Rc<Recorder>,
) -> Result<Vec<JoinHandle<()>>, LabError> {
    let mut tasks = Vec::new();
    let connections = config.connections.clamp(1, config.callers.max(1));
    let mut callers_of = vec![config.callers / connections; connections];
    callers_of[0] += config.callers % connections;
    for (connection, callers) in callers_of.into_iter().enumerate() {
        let recorders = (0..callers).map(|_| Rc::clone(recorder));
        match target {
            Target::Gateway { server, limited } => {
                let client = server.gateway_client().await?;
                tasks.extend(gateway::spawn(&client, connection, *limited, recorders));
            }
            Target::Stream { server, by_work } => {
                tasks.extend(stream::spawn(server.gateway_client().await?, *by_work, recorders).await?);
            }
            Target::RateLimitService { server, key } => {
                let channel = server.connect().await?;
                let caller = |recorder| rate_limit_service::call(channel.clone(), key, recorder);
                tasks.extend(recorders.map(caller).map(tokio::task::spawn_local));
            }
            Target::Http { address } => {
                for recorder in recorders {
                    tasks.push(tokio::task::spawn_local(http::call(http::connect(address).await?, recorder)));
                }
            }
            Target::FixedWindow { redis_url } => {
                let redis = connect_redis(redis_url).await?;
                let caller = |recorder| fixed_window::call(redis.clone(), recorder);
                tasks.extend(recorders.map(caller).map(tokio::task::spawn_local));
            }
            Target::PickScript { redis_url, endpoints, by_rule } => {
                let script = PickScript::connect(redis_url, *endpoints, *by_rule).await?;
                let caller = |recorder| pick_script::call(script.clone(), recorder);
                tasks.extend(recorders.map(caller).map(tokio::task::spawn_local));
            }
        }
    }
    Ok(tasks)
}
