//! Compares the p99 times to first token of two policies, measured and simulated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fault::{Cause, Fault};
use crate::lab::Policy;

/// Smallest significant ratio of two p99 times to first token. Repeated runs of one policy differ by a few per
/// cent.
const FACTOR_MIN: f64 = 1.1;

/// Highest factor between a measured p99 and the nearest end of the simulated range. A run adds the latency of
/// gateways and sidecars, which the simulation lacks; in valid runs, this adds less than half.
const AGREEMENT_FACTOR: f64 = 2.0;

/// The p99 times to first token that the simulation predicts for one policy, over several seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    /// Result for the seed of the run.
    pub p99_ms: f64,
    /// Lowest result over all seeds.
    pub low_ms: f64,
    /// Highest result over all seeds.
    pub high_ms: f64,
}

impl Simulated {
    /// Combines the results of several seeds. The first seed is that of the run.
    pub fn of(p99s_ms: &[f64]) -> Self {
        Self {
            p99_ms: p99s_ms.first().copied().unwrap_or_default(),
            low_ms: p99s_ms.iter().copied().reduce(f64::min).unwrap_or_default(),
            high_ms: p99s_ms.iter().copied().reduce(f64::max).unwrap_or_default(),
        }
    }

    fn middle_ms(&self) -> f64 {
        (self.low_ms * self.high_ms).sqrt()
    }

    fn spread(&self) -> f64 {
        self.high_ms / self.low_ms
    }
}

/// The p99 time to first token under one policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstToken {
    pub measured_ms: f64,
    pub simulated: Simulated,
}

/// How Evenkeel compares with another policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Ahead,
    /// The difference is too small to be significant.
    Level,
    Behind,
}

impl Order {
    fn of(times_lower: f64, significant: f64) -> Self {
        match times_lower {
            times if times > significant => Self::Ahead,
            times if times < 1.0 / significant => Self::Behind,
            _ => Self::Level,
        }
    }
}

/// Evenkeel compared with another policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub order: Order,
    /// p99 time to first token under the other policy, divided by that with Evenkeel.
    pub times_lower: f64,
    /// The same factor in simulation.
    pub simulated_times_lower: f64,
    /// Factor above which a difference is significant: with other seeds, the simulated factor changes by up to this
    /// much.
    pub significant_times: f64,
}

impl Finding {
    fn of(ours: &FirstToken, theirs: &FirstToken) -> Self {
        let times_lower = theirs.measured_ms / ours.measured_ms;
        let significant_times = significant(&ours.simulated, &theirs.simulated);
        Self {
            order: Order::of(times_lower, significant_times),
            times_lower,
            simulated_times_lower: theirs.simulated.middle_ms() / ours.simulated.middle_ms(),
            significant_times,
        }
    }
}

fn significant(ours: &Simulated, theirs: &Simulated) -> f64 {
    (ours.spread() * theirs.spread()).max(FACTOR_MIN)
}

/// Returns how `ours` compares with `theirs` in simulation.
pub fn simulated_order(ours: &Simulated, theirs: &Simulated) -> Order {
    Order::of(theirs.middle_ms() / ours.middle_ms(), significant(ours, theirs))
}

/// Compares Evenkeel, by work if it ran, with every other policy that ran.
pub fn findings(first_tokens: &BTreeMap<Policy, FirstToken>) -> BTreeMap<Policy, Finding> {
    let Some((judged, ours)) =
        Policy::judged(first_tokens.keys().copied()).and_then(|judged| first_tokens.get_key_value(&judged))
    else {
        return BTreeMap::new();
    };
    let others = first_tokens.iter().filter(|(policy, _)| *policy != judged);
    others.map(|(policy, theirs)| (*policy, Finding::of(ours, theirs))).collect()
}

/// Returns where the measured results contradict the simulation.
pub fn contradictions(first_tokens: &BTreeMap<Policy, FirstToken>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (policy, FirstToken { measured_ms, simulated }) in first_tokens {
        let Simulated { low_ms, high_ms, .. } = *simulated;
        let agreed = low_ms / AGREEMENT_FACTOR..=high_ms * AGREEMENT_FACTOR;
        if !agreed.contains(measured_ms) {
            let cause =
                Cause::Disagrees { measured_ms: *measured_ms, low_ms, high_ms, factor: AGREEMENT_FACTOR };
            faults.push(Fault { policy: Some(*policy), cause });
        }
    }
    for (rival, finding) in findings(first_tokens) {
        let simulated = Order::of(finding.simulated_times_lower, finding.significant_times);
        if matches!((simulated, finding.order), (Order::Ahead, Order::Behind) | (Order::Behind, Order::Ahead))
        {
            let Finding { times_lower, simulated_times_lower, .. } = finding;
            let cause = Cause::Reversed { rival, times_lower, simulated_times_lower };
            faults.push(Fault { policy: Policy::judged(first_tokens.keys().copied()), cause });
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_token(measured_ms: f64, low_ms: f64, high_ms: f64) -> FirstToken {
        FirstToken { measured_ms, simulated: Simulated { p99_ms: low_ms, low_ms, high_ms } }
    }

    fn runs(evenkeel: FirstToken, least_request: FirstToken) -> BTreeMap<Policy, FirstToken> {
        [(Policy::EvenkeelLeastRequest, evenkeel), (Policy::EnvoyLeastRequest, least_request)].into()
    }

    /// The demo, as it ran on a quiet machine, and as it ran beside other work.
    #[test]
    fn the_demos_opposite_result_contradicts_the_simulation() {
        let quiet = runs(first_token(478.0, 392.0, 398.0), first_token(3006.0, 2370.0, 2942.0));
        assert_eq!(contradictions(&quiet), []);
        assert_eq!(findings(&quiet)[&Policy::EnvoyLeastRequest].order, Order::Ahead);

        let busy = runs(first_token(3554.0, 392.0, 398.0), first_token(2513.0, 2370.0, 2942.0));
        let faults: Vec<String> = contradictions(&busy).iter().map(Fault::to_string).collect();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("measured p99 time to first token, 3554 ms"), "{faults:?}");
        assert_eq!(
            faults[1],
            "under evenkeel_least_request, the p99 time to first token is 1.4 times higher than under envoy_least_request, but 6.7 times \
             lower in simulation: the measured order contradicts the simulated order"
        );
    }

    #[test]
    fn a_reversal_within_the_agreement_factor_is_found() {
        let reversed = runs(first_token(790.0, 400.0, 400.0), first_token(600.0, 800.0, 800.0));
        let faults = contradictions(&reversed);
        assert!(matches!(faults[..], [Fault { cause: Cause::Reversed { .. }, .. }]), "{faults:?}");
    }

    /// A trace with long prompts: with other seeds, the simulated results of both policies change by more than they
    /// differ.
    #[test]
    fn a_difference_below_the_spread_of_the_seeds_is_not_significant() {
        for measured in [12_000.0, 9_000.0, 8_000.0] {
            let close =
                runs(first_token(9_500.0, 8_400.0, 9_500.0), first_token(measured, 9_300.0, 12_900.0));
            assert_eq!(contradictions(&close), []);
            assert_eq!(findings(&close)[&Policy::EnvoyLeastRequest].order, Order::Level);
        }
    }

    #[test]
    fn evenkeel_may_be_behind_where_the_simulation_agrees() {
        let behind = runs(first_token(900.0, 800.0, 810.0), first_token(600.0, 590.0, 600.0));
        assert_eq!(contradictions(&behind), []);
        assert_eq!(findings(&behind)[&Policy::EnvoyLeastRequest].order, Order::Behind);
    }

    #[test]
    fn a_run_without_results_disagrees() {
        let none = runs(first_token(0.0, 392.0, 398.0), first_token(2500.0, 2370.0, 2942.0));
        assert!(!contradictions(&none).is_empty());
    }
}
