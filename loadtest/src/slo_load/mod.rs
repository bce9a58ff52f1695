//! The highest load at which a policy meets the service level: searched by the simulation, and checked by real runs just
//! below and just above.

mod check;
mod report;
mod search;

use std::collections::BTreeMap;

use check::Check;
pub use report::{CheckReport, LoadReport, Side, SloLoadReport, SloLoadSetup};
pub use search::{Found, search};

use crate::{
    compare::{Plan, simulated},
    lab::{LabError, Policy},
    simulate,
    workload::Workload,
};

/// Parameters of a search.
#[derive(Clone, Debug)]
pub struct SloLoadPlan {
    /// The system, the trace and the service level. Its load does not matter.
    pub plan: Plan,
    /// Fraction of the requests that must meet the service level.
    pub target: f64,
    /// Number of simulations for each load. Their mean decides.
    pub seeds: u64,
    /// Distance of the real runs from the load that was found, as a fraction of it.
    pub margin: f64,
    /// Policies whose result is checked by real runs.
    pub checked: Vec<Policy>,
}

/// Searches the load of every policy, and checks those that the plan names. `log` receives progress messages.
pub async fn run(
    plan: &SloLoadPlan,
    trace: &Workload,
    log: &impl Fn(&str),
) -> Result<SloLoadReport, LabError> {
    let full_load = Plan { load: 1.0, ..plan.plan.clone() };
    let (workload, factor) = full_load.workload(trace);
    if workload.requests.is_empty() {
        return Err(LabError::Invalid("the slice of the trace has no requests"));
    }
    let mut policies = BTreeMap::new();
    for policy in &plan.plan.policies {
        let found = plan.search(&workload, *policy);
        log(&format!("{policy}: {found}"));
        policies.insert(*policy, LoadReport::of(found, workload.summary().rate_rps));
    }
    let least_request = policies.get(&Policy::EvenkeelLeastRequest).and_then(|report| report.load);
    for report in policies.values_mut() {
        report.times_least_request = report.load.zip(least_request).map(|(load, least)| load / least);
    }
    let mut report = SloLoadReport::new(plan, trace, &workload, factor, policies);
    check::run(plan, trace, &workload, &mut report, log).await?;
    Ok(report)
}

impl SloLoadPlan {
    /// Returns the highest load at which the simulated policy meets the service level. `workload` offers a load of 1.
    fn search(&self, workload: &Workload, policy: Policy) -> Found {
        search(self.target, |load| self.simulated_attainment(workload, policy, load))
    }

    /// Returns the fraction of the requests that meet the service level in simulation, as the mean over the seeds.
    fn simulated_attainment(&self, workload: &Workload, policy: Policy, load: f64) -> f64 {
        let offered = workload.faster(load);
        let system = self.plan.system();
        let seeds = (0..self.seeds).map(|offset| self.plan.seed.wrapping_add(offset));
        let attained =
            seeds.map(|seed| simulate::run(&offered, &system, simulated(policy), seed).slo_attainment);
        attained.sum::<f64>() / self.seeds.max(1) as f64
    }

    /// Returns the real runs just below and just above each load that was found, and that the plan wants checked.
    fn checks(&self, report: &SloLoadReport) -> Vec<Check> {
        let loads = report.policies.iter().filter(|(policy, _)| self.checked.contains(policy));
        let loads = loads.filter_map(|(policy, report)| Some((*policy, report.load?)));
        let sides =
            |(policy, load): (Policy, f64)| {
                [(Side::Below, 1.0 - self.margin), (Side::Above, 1.0 + self.margin)]
                    .map(|(side, times)| Check { policy, side, load: load * times })
            };
        loads.flat_map(sides).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{demo, workload::conversations};

    fn plan(policies: Vec<Policy>) -> SloLoadPlan {
        let plan = Plan {
            policies,
            hosts: 4,
            gateways: 2,
            slice_start: Duration::ZERO,
            slice_duration: Duration::from_secs(300),
            ..demo::prefix_plan()
        };
        SloLoadPlan { plan, target: 0.95, seeds: 2, margin: 0.1, checked: Vec::new() }
    }

    #[tokio::test]
    async fn work_and_prefixes_allow_more_load_than_counts() {
        let policies = vec![Policy::EvenkeelLeastRequest, Policy::EvenkeelLeastWork, Policy::IdealWork];
        let plan = plan(policies);
        let trace = conversations::generate(1, Duration::from_secs(300), conversations::RATE_RPS);
        let report = run(&plan, &trace, &|_| {}).await.unwrap();
        let load = |policy| report.policies[&policy].load.unwrap();
        let (requests, work) = (load(Policy::EvenkeelLeastRequest), load(Policy::EvenkeelLeastWork));
        assert!(1.2 * requests < work && work < 1.1 * load(Policy::IdealWork), "{report:?}");
        assert_eq!(report.policies[&Policy::EvenkeelLeastRequest].times_least_request, Some(1.0));
        assert!(report.valid && report.policies.values().all(|report| report.checks.is_empty()));

        // At the load that was found, the service level is met; slightly above, it is not.
        let (workload, _) = Plan { load: 1.0, ..plan.plan.clone() }.workload(&trace);
        let attained = |load| plan.simulated_attainment(&workload, Policy::EvenkeelLeastWork, load);
        assert!(
            attained(work) >= 0.95 && attained(work * 1.05) < 0.97,
            "{} {}",
            attained(work),
            attained(work * 1.05)
        );
    }

    #[tokio::test]
    async fn a_slice_without_requests_is_refused() {
        let plan = plan(vec![Policy::EvenkeelLeastRequest]);
        let trace =
            Workload { source: "test".into(), requests: Vec::new(), duration: Duration::from_secs(1) };
        assert!(matches!(run(&plan, &trace, &|_| {}).await, Err(LabError::Invalid(_))));
    }

    #[test]
    fn checks_lie_on_both_sides_of_the_load() {
        let mut plan = plan(vec![Policy::EvenkeelLeastRequest, Policy::EvenkeelLeastWork]);
        plan.checked = vec![Policy::EvenkeelLeastWork];
        let policies = [(Policy::EvenkeelLeastRequest, 0.5), (Policy::EvenkeelLeastWork, 1.0)];
        let found = |load| LoadReport::of(Found::At { load, attainment: 0.95 }, 2.0);
        let policies = policies.map(|(policy, load)| (policy, found(load)));
        let trace = conversations::generate(1, Duration::from_secs(60), 1.0);
        let report = SloLoadReport::new(&plan, &trace, &trace, 1.0, policies.into());
        let checks = plan.checks(&report);
        assert!(checks.iter().all(|check| check.policy == Policy::EvenkeelLeastWork));
        assert_eq!(checks.iter().map(|check| check.load).collect::<Vec<_>>(), [0.9, 1.1]);
    }
}
