//! The parameters of a comparison, and the sizes in which it can run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    engine::EngineParams,
    lab::{Lab, LabBuilder, Policy},
    pace::{self, Pace},
    replay::{IdealRule, PrefixCaches, ReplayConfig, Spread},
    simulate::{self, SimulatedPolicy, System},
    slo::Slo,
    verdict::{self, Simulated},
    workload::{Request, Workload, prompt},
};

/// Number of simulations of each policy. Their spread shows how much chance contributes to a p99.
const SEEDS: u64 = 5;
/// Wall time after which a request fails.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Largest body that the plugin reads, below Envoy's buffer of 1 MiB: a prompt of 240,000 tokens.
const BODY_BYTES_MAX: usize = 983_040;

/// Parameters of a comparison.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Policies in the order in which they run.
    pub policies: Vec<Policy>,
    pub hosts: usize,
    pub gateways: usize,
    pub sidecars: usize,
    /// Worker threads per gateway.
    pub envoy_concurrency: usize,
    pub engine: EngineParams,
    pub pace: Pace,
    /// Whether a slow machine may run a shorter slice and fewer hosts, gateways and sidecars.
    pub may_shrink: bool,
    /// Tokens per SSE event.
    pub token_batch: u32,
    /// Offered load, see [`Workload::load`].
    pub load: f64,
    pub slo: Slo,
    /// Start of the slice within the trace.
    pub slice_start: Duration,
    /// Duration of the slice at the recorded rate.
    pub slice_duration: Duration,
    pub spread: Spread,
    pub seed: u64,
    pub synthetic: bool,
    /// Directory for logs and configurations.
    pub lab_dir: Option<PathBuf>,
}

impl Plan {
    /// Returns the workload to send, and how many times faster than recorded its requests arrive.
    pub fn workload(&self, trace: &Workload) -> (Workload, f64) {
        simulate::at_load(&trace.slice(self.slice_start, self.slice_duration), self.load, &self.system())
    }

    /// Returns the system that a simulation needs.
    pub fn system(&self) -> System {
        // Envoy counts a host's requests per process, not per worker.
        System { hosts: self.hosts, gateways: self.gateways, engine: self.engine.clone(), slo: self.slo }
    }

    /// Returns the policy of Evenkeel that the comparison judges. Without one, it is least request.
    pub(super) fn judged(&self) -> Policy {
        Policy::judged(self.policies.iter().copied()).unwrap_or(Policy::EvenkeelLeastRequest)
    }

    /// Returns this plan in full size and, if it may shrink, in the smaller sizes in which the simulation still shows
    /// the same order of the policies.
    pub(super) fn sizes(&self, trace: &Workload) -> Vec<Sized> {
        let full = Sized::new(self.clone(), trace);
        let mut sizes = Vec::new();
        if self.may_shrink {
            let shorter = Self { slice_duration: self.slice_duration / 2, ..self.clone() };
            let half = |count: usize| (count / 2).max(1);
            let smaller = Self {
                hosts: half(self.hosts),
                gateways: half(self.gateways),
                sidecars: half(self.sidecars),
                ..shorter.clone()
            };
            sizes.extend([shorter, smaller].map(|plan| Sized::new(plan, trace)));
        }
        sizes.retain(|size| size.order() == full.order());
        sizes.insert(0, full);
        sizes
    }

    pub(super) fn lab(&self) -> LabBuilder {
        let lab = Lab::builder()
            .hosts(self.hosts)
            .envoys(self.gateways)
            .envoy_concurrency(self.envoy_concurrency)
            .engine(self.engine.clone())
            .token_batch(self.token_batch);
        let lab = match &self.lab_dir {
            Some(dir) => lab.dir(dir),
            None => lab,
        };
        // Do not start processes that no policy uses: they would take CPU time from the others.
        let lab = if self.needs_sidecars() { lab.redis().sidecars(self.sidecars) } else { lab };
        // The measurement of the idle system needs a path without Evenkeel.
        let policies: BTreeSet<Policy> =
            self.policies.iter().copied().chain([Policy::EnvoyRoundRobin]).collect();
        let reads_bodies = policies.iter().any(|policy| policy.is_by_work());
        // Every policy of the comparison has the same plugin, so that only the policies differ.
        lab.policies(policies).plugin_config(|config| {
            if reads_bodies {
                config["read_body"] = true.into();
                config["body_bytes_max"] = BODY_BYTES_MAX.into();
            }
        })
    }

    /// Returns the configuration of the sidecars' pool for each policy that has one.
    pub fn pools(&self) -> BTreeMap<Policy, String> {
        let pool = |policy: &Policy| Some((*policy, policy.pool_yaml()?.trim_end().to_owned()));
        self.policies.iter().filter_map(pool).collect()
    }

    /// Returns whether a policy of the plan needs sidecars.
    pub(super) fn needs_sidecars(&self) -> bool {
        self.policies.iter().any(|policy| policy.is_evenkeel())
    }

    /// Returns why this workload cannot run with this plan.
    pub(super) fn rejection(&self, workload: &Workload) -> Option<&'static str> {
        let body_bytes = |request: &Request| prompt::chat_request(request, 0).len();
        let by_work = self.policies.iter().any(|policy| policy.is_by_work());
        let largest = workload.requests.iter().max_by_key(|request| request.prompt);
        match largest {
            None => Some("the slice of the trace has no requests"),
            Some(largest) if by_work && body_bytes(largest) > BODY_BYTES_MAX => {
                Some("a prompt of the trace is larger than the plugin can read, 240,000 tokens")
            }
            Some(_) => None,
        }
    }

    /// Returns whether the processes of this lab are those that this plan needs.
    pub(super) fn is_served_by(&self, lab: &Lab) -> bool {
        let sidecars_match = lab.sidecars().is_empty() || lab.sidecars().len() == self.sidecars;
        lab.hosts().len() == self.hosts && lab.envoys().len() == self.gateways && sidecars_match
    }

    pub(super) fn replay(&self, lab: &Arc<Lab>, policy: Policy, time_scale: f64) -> ReplayConfig {
        let rule = match policy {
            Policy::Ideal => Some(IdealRule::LeastRequest),
            Policy::HigressPrefix => Some(IdealRule::HigressPrefix),
            Policy::IdealWork => Some(IdealRule::LeastWork(Arc::clone(lab) as Arc<dyn PrefixCaches>)),
            _ => None,
        };
        ReplayConfig {
            gateways: lab.urls(policy),
            ideal: rule.map(|rule| (lab.hosts(), rule)),
            time_scale,
            spread: self.spread,
            seed: self.seed,
            timeout: REQUEST_TIMEOUT,
        }
    }

    /// Returns the policies with the one that needs the most CPU first.
    pub(super) fn costliest_first(&self) -> Vec<Policy> {
        let mut policies = self.policies.clone();
        policies.sort_by_key(|policy| Some(*policy) != self.costliest());
        policies
    }

    /// Returns the policy that needs the most CPU.
    pub(super) fn costliest(&self) -> Option<Policy> {
        let judged = Policy::judged(self.policies.iter().copied());
        judged.or(self.policies.first().copied())
    }
}

/// A plan with its workload and what the simulation predicts for it.
#[derive(Clone, Debug)]
pub(super) struct Sized {
    pub(super) plan: Plan,
    pub(super) workload: Workload,
    /// How many times faster than recorded requests arrive.
    pub(super) factor: f64,
    predictions: BTreeMap<SimulatedPolicy, Simulated>,
}

/// Returns the simulated policy that predicts a real one.
pub fn simulated(policy: Policy) -> SimulatedPolicy {
    match policy {
        Policy::EnvoyRoundRobin => SimulatedPolicy::RoundRobin,
        Policy::EnvoyRandom => SimulatedPolicy::Random,
        Policy::EnvoyLeastRequest => SimulatedPolicy::LocalTwoChoices,
        Policy::EvenkeelLeastRequest | Policy::Ideal => SimulatedPolicy::GlobalLeast,
        Policy::EvenkeelUnread => SimulatedPolicy::GlobalWork,
        Policy::EvenkeelLeastWork => SimulatedPolicy::IndexedWork,
        Policy::HigressPrefix => SimulatedPolicy::HigressPrefix,
        Policy::IdealWork => SimulatedPolicy::IdealWork,
    }
}

impl PrefixCaches for Lab {
    fn expected_cached(&self, blocks: &[u64]) -> Vec<u64> {
        self.fleet().expected_cached(blocks)
    }
}

impl Sized {
    fn new(plan: Plan, trace: &Workload) -> Self {
        let (workload, factor) = plan.workload(trace);
        let system = plan.system();
        let predict = |policy: SimulatedPolicy| {
            let seeds = (0..SEEDS).map(|offset| plan.seed.wrapping_add(offset));
            let p99 = |seed| simulate::run(&workload, &system, policy, seed).ttft_ms.p99;
            Simulated::of(&seeds.map(p99).collect::<Vec<_>>())
        };
        let judged = plan.judged();
        let others = [Policy::EnvoyLeastRequest, judged, judged.ideal()];
        let needed: BTreeSet<SimulatedPolicy> =
            plan.policies.iter().copied().chain(others).map(simulated).collect();
        let predictions = needed.into_iter().map(|policy| (policy, predict(policy))).collect();
        Self { plan, workload, factor, predictions }
    }

    pub(super) fn prediction(&self, policy: Policy) -> Simulated {
        self.predictions.get(&simulated(policy)).copied().unwrap_or_default()
    }

    /// Returns the highest acceptable p99 of the machine's delays, in trace milliseconds.
    pub(super) fn delay_max_ms(&self) -> f64 {
        verdict::delay_max_ms(self.prediction(self.plan.judged().ideal()).p99_ms)
    }

    fn order(&self) -> verdict::Order {
        verdict::simulated_order(
            &self.prediction(self.plan.judged()),
            &self.prediction(Policy::EnvoyLeastRequest),
        )
    }

    fn rate_rps(&self) -> f64 {
        self.workload.summary().rate_rps
    }

    /// Describes this size, relative to the full size.
    pub(super) fn pace_size(&self, full: &Self) -> pace::Size {
        let processes = |plan: &Plan| (plan.gateways + plan.sidecars) as f64;
        pace::Size {
            trace_s: self.workload.duration.as_secs_f64(),
            rate_share: self.rate_rps() / full.rate_rps(),
            process_share: processes(&self.plan) / processes(&full.plan),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    #[test]
    fn the_demo_shrinks_only_to_sizes_with_the_same_simulated_order() {
        let (trace, _) = demo::synthetic_trace();
        let plan = demo::plan();
        let sizes = plan.sizes(&trace);
        assert_eq!(sizes.len(), 3);
        assert!(sizes.iter().all(|size| size.order() == verdict::Order::Ahead));
        let paces: Vec<_> = sizes.iter().map(|size| size.pace_size(&sizes[0])).collect();
        assert!(paces[1].trace_s < 0.7 * paces[0].trace_s, "{paces:?}");
        assert!(paces[2].rate_share < 0.7 && paces[2].process_share == 0.5, "{paces:?}");
        assert_eq!(Plan { may_shrink: false, ..plan }.sizes(&trace).len(), 1);
    }

    #[test]
    fn evenkeel_runs_first_and_the_others_keep_their_order() {
        let policies =
            vec![Policy::Ideal, Policy::EnvoyRandom, Policy::EvenkeelLeastRequest, Policy::EnvoyRoundRobin];
        let plan = Plan { policies, ..demo::plan() };
        let expected =
            [Policy::EvenkeelLeastRequest, Policy::Ideal, Policy::EnvoyRandom, Policy::EnvoyRoundRobin];
        assert_eq!(plan.costliest_first(), expected);
        let plan = Plan { policies: vec![Policy::Ideal, Policy::EnvoyRandom], ..plan };
        assert_eq!(plan.costliest_first(), plan.policies);
    }

    #[test]
    fn every_policy_has_a_prediction_and_the_delay_limit_follows_the_ideal() {
        let (trace, _) = demo::synthetic_trace();
        let size = &Plan { may_shrink: false, ..demo::plan() }.sizes(&trace)[0];
        for policy in Policy::BY_REQUESTS {
            let Simulated { p99_ms, low_ms, high_ms } = size.prediction(policy);
            assert!(0.0 < low_ms && low_ms <= p99_ms && p99_ms <= high_ms, "{policy}");
        }
        assert!(size.delay_max_ms() < size.prediction(Policy::Ideal).p99_ms);
    }
}
