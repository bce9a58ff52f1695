//! Measures what the machine can do, before the policies run.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    plan::Sized,
    policy_run::{self, Stage},
};
use crate::{
    lab::{Lab, LabError},
    machine::{CpuSample, CpuUse, Machine},
    pace::{Demand, Supply},
    report::RequestCost,
    workload::Workload,
};

/// Long enough for `/proc`, which counts CPU time in ticks of 10 ms.
const WINDOW: Duration = Duration::from_secs(2);
/// Other work on a machine often ends soon.
const CALM_WITHIN: Duration = Duration::from_secs(30);
/// Enough for a mean within about a tenth. The first requests cost more, because they open connections and find idle
/// hosts.
const REQUESTS: usize = 400;
/// Slow enough for most machines; the cost of a request hardly depends on it.
const TIME_SCALE_MAX: f64 = 6.0;

/// Returns which cores are available, and how much of them other processes use.
pub(super) async fn supply(machine: &Machine, lab: Option<&Lab>) -> Supply {
    let others_cores = window(machine, lab).await.others_cores;
    Supply { cores: machine.cores.len() as f64, available_cores: machine.available_cores(), others_cores }
}

/// Waits until other processes use little CPU, but not longer than [`CALM_WITHIN`]. Returns what is available then.
pub(super) async fn calm_supply(machine: &Machine, lab: Option<&Lab>, log: &impl Fn(&str)) -> Supply {
    let start = Instant::now();
    let mut is_logged = false;
    loop {
        let supply = supply(machine, lab).await;
        if supply.is_calm() || start.elapsed() > CALM_WITHIN {
            return supply;
        }
        if !is_logged {
            log(&format!(
                "other processes use {:.1} of {:.0} cores; waiting until they end, for at most {:.0} s",
                supply.others_cores,
                supply.cores,
                CALM_WITHIN.as_secs_f64()
            ));
            is_logged = true;
        }
    }
}

/// Samples the CPU for a short time.
async fn window(machine: &Machine, lab: Option<&Lab>) -> CpuUse {
    let pids = || lab.map(Lab::pids).unwrap_or_default();
    let before = CpuSample::now(machine, pids());
    tokio::time::sleep(WINDOW).await;
    CpuSample::now(machine, pids()).since(&before, machine)
}

/// Measures the idle system, and what a request costs under the policy that needs the most CPU.
pub(super) async fn demand(
    size: &Sized,
    lab: &Arc<Lab>,
    machine: &Machine,
    scale_max: f64,
) -> Result<(Demand, RequestCost), LabError> {
    let time_scale = scale_max.min(TIME_SCALE_MAX);
    lab.fleet().set_time_scale(time_scale);
    let policy = size.plan.costliest().ok_or(LabError::Invalid("the comparison has no policies"))?;
    let idle_cores = window(machine, Some(lab)).await.ours_cores;
    let stage = Stage { size, lab, machine, time_scale };
    let run = policy_run::run(&stage, &beginning(&size.workload), policy).await?;

    let cpu = run.report.cpu;
    let idle_us = idle_cores * run.replay.wall.as_secs_f64() * 1e6 / run.report.requests.max(1) as f64;
    let cost = RequestCost {
        policy,
        envoy_us: cpu.envoy_us,
        sidecar_us: cpu.sidecar_us,
        redis_us: cpu.redis_us,
        loadtest_us: cpu.loadtest_us,
        idle_us,
    };
    let cpu_s_per_trace_s = cost.total_us() / 1e6 * size.workload.summary().rate_rps;
    Ok((Demand { cpu_s_per_trace_s, idle_cores }, cost))
}

/// Returns the first requests of a workload.
fn beginning(workload: &Workload) -> Workload {
    let requests = workload.requests.iter().take(REQUESTS).cloned().collect();
    let duration = workload.requests.get(REQUESTS).map_or(workload.duration, |next| next.at);
    Workload { source: workload.source.clone(), requests, duration }
}
