//! Real runs just below and just above the loads that the simulation found.

use super::{CheckReport, Side, SloLoadPlan, SloLoadReport};
use crate::{
    compare::{self, Plan},
    lab::{LabError, Policy},
    pace::Pace,
    report::Report,
    workload::Workload,
};

/// A run that the machine decided is repeated this often, each time slower.
const REPEATS_MAX: usize = 1;
/// Factor on the time scale of a repeat.
const SLOWER: f64 = 0.6;

/// A real run of one policy at one load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) policy: Policy,
    pub(super) side: Side,
    pub(super) load: f64,
}

/// Runs the checks and adds them to the report. `workload` offers a load of 1.
///
/// The first run measures the machine. The others take their time scale from it: a lower load has fewer requests per
/// second, and so allows a faster scale. The first one is therefore the one that needs the most CPU.
pub(super) async fn run(
    plan: &SloLoadPlan,
    trace: &Workload,
    workload: &Workload,
    report: &mut SloLoadReport,
    log: &impl Fn(&str),
) -> Result<(), LabError> {
    let mut checks = plan.checks(report);
    checks
        .sort_by(|a, b| b.policy.is_evenkeel().cmp(&a.policy.is_evenkeel()).then(b.load.total_cmp(&a.load)));
    let mut measured: Option<(f64, f64)> = None;
    for check in checks {
        log(&format!("checking {} at load {:.3}, {} the limit", check.policy, check.load, check.side));
        let pace = match (measured, plan.plan.pace) {
            (Some((load, scale)), Pace::Measured { scale_max, .. }) => {
                Pace::Fixed((scale * load / check.load).min(scale_max))
            }
            (_, pace) => pace,
        };
        let result = repeated(plan, trace, check, pace, log).await?;
        let is_first = measured.is_none();
        if result.setup.time_scale > 0.0 {
            measured.get_or_insert((check.load, result.setup.time_scale));
        }
        let simulated = plan.simulated_attainment(workload, check.policy, check.load);
        report.add(check.policy, CheckReport::of(check.side, check.load, simulated, &result));
        if is_first && result.policies.is_empty() {
            // The machine has no CPU for any run.
            break;
        }
    }
    report.conclude(plan.target);
    Ok(())
}

/// Runs one policy at one load. Repeats the run at a slower scale if the machine did not keep up.
async fn repeated(
    plan: &SloLoadPlan,
    trace: &Workload,
    check: Check,
    mut pace: Pace,
    log: &impl Fn(&str),
) -> Result<Report, LabError> {
    let logs = format!("{}-{}", check.policy, check.side);
    let lab_dir = plan.plan.lab_dir.as_ref().map(|dir| dir.join(logs));
    // A time scale that the caller requested stays as it is.
    let may_repeat = matches!(plan.plan.pace, Pace::Measured { .. });
    for attempt in 0.. {
        let run = Plan {
            policies: vec![check.policy],
            load: check.load,
            pace,
            may_shrink: false,
            lab_dir: lab_dir.clone(),
            ..plan.plan.clone()
        };
        let report = compare::run(&run, trace, log).await?.report;
        match pace {
            Pace::Fixed(scale) if may_repeat && !report.verdict.valid && attempt < REPEATS_MAX => {
                log(&format!("not valid: {}; repeating more slowly", report.verdict.reasons.join("; ")));
                pace = Pace::Fixed(scale * SLOWER);
            }
            _ => return Ok(report),
        }
    }
    Err(LabError::Invalid("no run was possible"))
}
