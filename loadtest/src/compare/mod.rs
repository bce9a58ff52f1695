//! Replays the same trace through the same gateways, once under each policy.
//!
//! A comparison measures the machine first, and chooses the time scale so that the machine stays half idle. While each
//! policy runs, it measures whether the machine keeps up. A run that the machine decided is repeated, at most
//! [`REPEATS_MAX`] times in the whole comparison; after that, the comparison ends without a verdict. The policy that
//! needs the most CPU runs first, so that a machine that does not keep up shows it at once.

mod calibrate;
mod noise;
mod plan;
mod policy_run;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use plan::Sized;
pub use plan::{Plan, simulated};
use policy_run::{PolicyRun, Stage};

use crate::{
    lab::{Lab, LabError, Policy},
    machine::{CpuUse, Machine},
    pace::{self, Choice, Demand, Limits, Pace, Supply},
    replay::Replay,
    report::{MachineReport, Noise, PolicyReport, Report, RequestCost, Series, Setup},
    verdict::{Cause, Fault, FirstToken, Ratios, Simulated, Verdict},
    workload::Workload,
};

const IDLE_WITHIN: Duration = Duration::from_secs(30);
/// Bounds the duration of a comparison. A repeat takes as long as the run of one policy.
const REPEATS_MAX: usize = 2;
/// Factor on the time scale if the machine did not keep up although other processes were calm.
const SLOWER: f64 = 0.6;
/// Other processes have become busier if they use this fraction of the available cores more than before.
const BUSIER_SHARE: f64 = 0.1;
/// A policy may run again at the same time scale if the machine now allows this fraction of it.
const SAME_SCALE: f64 = 0.95;

#[derive(Debug)]
pub struct Comparison {
    pub report: Report,
    pub series: BTreeMap<Policy, Series>,
    /// Results of every request, by policy.
    pub replays: BTreeMap<Policy, Replay>,
}

/// Runs a comparison. `log` receives progress messages.
pub async fn run(plan: &Plan, trace: &Workload, log: impl Fn(&str)) -> Result<Comparison, LabError> {
    let sizes = plan.sizes(trace);
    if let Some(rejection) = plan.rejection(&sizes[0].workload) {
        return Err(LabError::Invalid(rejection));
    }
    let mut session = Session {
        sizes,
        size: 0,
        time_scale: 0.0,
        machine: Machine::detect(),
        supply: Supply { cores: 0.0, available_cores: 0.0, others_cores: 0.0 },
        demand: None,
        cost: None,
        explanation: String::new(),
        lab: None,
        noise: Noise::default(),
        runs: BTreeMap::new(),
        repeats: 0,
        log,
    };
    let faults = session.run(plan.pace).await?;
    Ok(session.comparison(trace, plan.pace, faults))
}

/// Returns whether other processes became busier after the time scale was chosen.
fn others_became_busier(cpu: &CpuUse, supply: &Supply) -> bool {
    cpu.others_cores - supply.others_cores > BUSIER_SHARE * supply.cores
}

/// The state of a comparison.
struct Session<L> {
    /// Sizes in which the comparison can run, largest first.
    sizes: Vec<Sized>,
    /// Index of the current size.
    size: usize,
    time_scale: f64,
    machine: Machine,
    supply: Supply,
    demand: Option<Demand>,
    cost: Option<RequestCost>,
    /// Why the time scale was chosen; empty before.
    explanation: String,
    lab: Option<Arc<Lab>>,
    noise: Noise,
    runs: BTreeMap<Policy, PolicyRun>,
    repeats: usize,
    log: L,
}

impl<L: Fn(&str)> Session<L> {
    /// Runs all policies. Returns the faults that leave the comparison without a verdict.
    async fn run(&mut self, pace: Pace) -> Result<Vec<Fault>, LabError> {
        (self.log)("measuring the machine");
        let (scale_max, run_max) = match pace {
            Pace::Fixed(time_scale) => {
                self.time_scale = time_scale;
                self.explanation = format!("The time scale of {time_scale:.1} was requested.");
                self.supply = calibrate::supply(&self.machine, None).await;
                return self.run_all_policies().await;
            }
            Pace::Measured { scale_max, run_max } => (scale_max, run_max),
        };
        self.supply = calibrate::calm_supply(&self.machine, None, &self.log).await;
        // Starts no process if there is no CPU for any.
        if let Some(fault) = self.supply.fault() {
            return Ok(vec![fault]);
        }
        let demand = self.calibrate(scale_max).await?;
        let mut limits = Limits { scale_max, scale_kept_up: scale_max, run_max };
        let mut faults = Vec::new();
        loop {
            match self.choose(&demand, &limits) {
                Ok(choice) => (self.size, self.time_scale) = (choice.size, choice.time_scale),
                Err(fault) => {
                    faults.push(fault);
                    return Ok(faults);
                }
            }
            self.explanation = self.explain(&demand);
            self.log_choice();
            match self.run_measured_policies(&demand, &mut limits).await? {
                Outcome::Ended(faults) => return Ok(faults),
                Outcome::Restart(reasons) => faults = reasons,
            }
        }
    }

    fn choose(&self, demand: &Demand, limits: &Limits) -> Result<Choice, Fault> {
        let sizes: Vec<_> = self.sizes.iter().map(|size| size.pace_size(&self.sizes[0])).collect();
        pace::choose(&self.supply, demand, &sizes, limits)
    }

    async fn calibrate(&mut self, scale_max: f64) -> Result<Demand, LabError> {
        let lab = self.lab().await?;
        (self.log)("measuring the cost of a request");
        let (demand, cost) = calibrate::demand(&self.sizes[0], &lab, &self.machine, scale_max).await?;
        (self.demand, self.cost) = (Some(demand), Some(cost));
        Ok(demand)
    }

    /// Returns the processes of the current size. Starts them if they do not run.
    async fn lab(&mut self) -> Result<Arc<Lab>, LabError> {
        let plan = &self.sizes[self.size].plan;
        if let Some(lab) = self.lab.as_ref().filter(|lab| plan.is_served_by(lab)) {
            return Ok(Arc::clone(lab));
        }
        self.lab = None;
        (self.log)("starting Redis, sidecars, Envoys and mock hosts");
        let lab = Arc::new(plan.lab().start().await?);
        self.lab = Some(Arc::clone(&lab));
        Ok(lab)
    }

    fn log_choice(&self) {
        let size = &self.sizes[self.size];
        let run_s = size.workload.duration.as_secs_f64() / self.time_scale;
        (self.log)(&format!(
            "{} {} hosts and {} gateways, {} requests, {:.0} s for each of {} policies",
            self.explanation,
            size.plan.hosts,
            size.plan.gateways,
            size.workload.requests.len(),
            run_s,
            size.plan.policies.len()
        ));
    }

    /// Explains the choice of the time scale, in sentences.
    fn explain(&self, demand: &Demand) -> String {
        let size = self.sizes[self.size].pace_size(&self.sizes[0]);
        let expected = demand.idle_cores * size.process_share
            + demand.cpu_s_per_trace_s * size.rate_share * self.time_scale;
        let cost = self.cost.map_or(0.0, |cost| cost.total_us() / 1e3);
        format!(
            "A request costs {cost:.1} ms of CPU, and other processes use {:.1} of {:.0} cores. At time scale {:.1}, this \
             comparison needs {expected:.1} cores, so that about half of the machine stays idle.",
            self.supply.others_cores, self.supply.cores, self.time_scale
        )
    }

    async fn measure_noise(&mut self) -> Result<Arc<Lab>, LabError> {
        let lab = self.lab().await?;
        (self.log)("measuring the idle system");
        lab.fleet().set_time_scale(self.time_scale);
        self.noise = noise::measure(&self.sizes[self.size].plan, &lab, self.time_scale).await?;
        Ok(lab)
    }

    async fn run_policy(&self, lab: &Arc<Lab>, policy: Policy) -> Result<PolicyRun, LabError> {
        let size = &self.sizes[self.size];
        (self.log)(&format!(
            "replaying under {policy}: {} requests in {:.0} s",
            size.workload.requests.len(),
            size.workload.duration.as_secs_f64() / self.time_scale
        ));
        let stage = Stage { size, lab, machine: &self.machine, time_scale: self.time_scale };
        policy_run::run(&stage, &size.workload, policy).await
    }

    /// Runs all policies at a time scale that the caller requested, whatever the machine does.
    async fn run_all_policies(&mut self) -> Result<Vec<Fault>, LabError> {
        let lab = self.measure_noise().await?;
        let mut faults = Vec::new();
        for policy in self.sizes[self.size].plan.policies.clone() {
            let run = self.run_policy(&lab, policy).await?;
            faults.extend(self.faults(policy, &run));
            self.runs.insert(policy, run);
        }
        Ok(faults)
    }

    /// Runs the policies one after another. Repeats a policy if the machine did not keep up only because other
    /// processes were busier for a time.
    async fn run_measured_policies(
        &mut self,
        demand: &Demand,
        limits: &mut Limits,
    ) -> Result<Outcome, LabError> {
        let lab = self.measure_noise().await?;
        self.runs.clear();
        for (completed, policy) in self.sizes[self.size].plan.costliest_first().into_iter().enumerate() {
            loop {
                let run = self.run_policy(&lab, policy).await?;
                let faults = self.faults(policy, &run);
                let cpu = run.report.cpu.usage;
                self.runs.insert(policy, run);
                if faults.is_empty() {
                    break;
                }
                for fault in &faults {
                    (self.log)(&format!("not valid: {fault}"));
                }
                if self.repeats == REPEATS_MAX {
                    return Ok(Outcome::Ended(faults));
                }
                self.repeats += 1;
                // The first policy needs the most CPU: once it has kept up, the scale is not too fast for the others.
                if completed == 0 && !others_became_busier(&cpu, &self.supply) {
                    limits.scale_kept_up = self.time_scale * SLOWER;
                }
                self.supply = calibrate::calm_supply(&self.machine, Some(&lab), &self.log).await;
                let choice = self.choose(demand, limits);
                let may_repeat = |choice: Choice| {
                    choice.size == self.size && choice.time_scale >= self.time_scale * SAME_SCALE
                };
                if !choice.is_ok_and(may_repeat) {
                    // A restart after the first policy would double the duration of the comparison.
                    let may_restart = completed == 0;
                    let outcome = if may_restart { Outcome::Restart } else { Outcome::Ended };
                    return Ok(outcome(faults));
                }
            }
        }
        Ok(Outcome::Ended(Vec::new()))
    }

    fn faults(&self, policy: Policy, run: &PolicyRun) -> Vec<Fault> {
        let measures = run.measures(&self.machine, self.time_scale);
        measures.faults(Some(policy), self.sizes[self.size].delay_max_ms())
    }

    fn comparison(self, trace: &Workload, pace: Pace, mut faults: Vec<Fault>) -> Comparison {
        let size = &self.sizes[self.size];
        if self.runs.is_empty() && faults.is_empty() {
            faults.push(Fault { policy: None, cause: Cause::NothingRan });
        }
        let first_tokens = self.runs.iter().map(|(policy, run)| (*policy, first_token(&run.report)));
        let verdict = Verdict::of(&first_tokens.collect(), faults);
        let machine = MachineReport {
            cores: self.machine.cores.len(),
            quota_cores: self.machine.quota_cores,
            others_cores: self.supply.others_cores,
            idle_cores: self.demand.map(|demand| demand.idle_cores),
            request_cost: self.cost,
            time_scale_measured: matches!(pace, Pace::Measured { .. }),
            repeats: self.repeats,
            explanation: self.explanation,
        };
        let setup = setup(size, trace, self.time_scale);
        let (mut policies, mut series, mut replays) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (policy, PolicyRun { report, replay, in_flight }) in self.runs {
            let mut ttft_ms = replay.ttft_trace_ms();
            ttft_ms.sort_by(f64::total_cmp);
            series.insert(policy, Series { ttft_ms, in_flight });
            policies.insert(policy, report);
            replays.insert(policy, replay);
        }
        let times = |policy| replays.get(&policy).map(Replay::first_tokens_trace_ms);
        let work_to = |other| {
            let times = times(Policy::EvenkeelLeastWork).zip(times(other));
            times.and_then(|(work, other)| Ratios::of(&work, &other, setup.seed))
        };
        let least_work_to_least_request = work_to(Policy::EvenkeelLeastRequest);
        let least_work_to_ideal_work = work_to(Policy::IdealWork);
        let noise = self.noise;
        let report = Report {
            verdict,
            setup,
            machine,
            noise,
            policies,
            least_work_to_least_request,
            least_work_to_ideal_work,
        };
        Comparison { report, series, replays }
    }
}

/// How an attempt to run all policies ended.
enum Outcome {
    /// With a result, or without one for these reasons.
    Ended(Vec<Fault>),
    /// All policies must run again, at another time scale.
    Restart(Vec<Fault>),
}

fn first_token(report: &PolicyReport) -> FirstToken {
    let simulated = Simulated {
        p99_ms: report.simulated_ttft_p99_ms,
        low_ms: report.simulated_ttft_p99_low_ms,
        high_ms: report.simulated_ttft_p99_high_ms,
    };
    FirstToken { measured_ms: report.ttft_ms.p99, simulated }
}

fn setup(size: &Sized, trace: &Workload, time_scale: f64) -> Setup {
    let Sized { plan, workload, factor, .. } = size;
    let summary = workload.summary();
    Setup {
        trace: trace.source.clone(),
        synthetic: plan.synthetic,
        slice_start_s: plan.slice_start.as_secs_f64(),
        slice_duration_s: workload.duration.as_secs_f64() * factor,
        arrival_factor: *factor,
        requests: summary.requests,
        prompt_mean: summary.prompt_mean,
        output_mean: summary.output_mean,
        load: plan.load,
        slo: plan.slo,
        pools: plan.pools(),
        hosts: plan.hosts,
        gateways: plan.gateways,
        sidecars: if plan.needs_sidecars() { plan.sidecars } else { 0 },
        envoy_concurrency: plan.envoy_concurrency,
        engine: plan.engine.clone(),
        time_scale,
        token_batch: plan.token_batch,
        spread: plan.spread,
        seed: plan.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_processes_are_compared_with_those_before_the_runs() {
        let supply = Supply { cores: 2.0, available_cores: 2.0, others_cores: 0.3 };
        let cpu = |others_cores| CpuUse { others_cores, ..CpuUse::default() };
        assert!(!others_became_busier(&cpu(0.4), &supply));
        assert!(others_became_busier(&cpu(0.6), &supply));
    }
}
