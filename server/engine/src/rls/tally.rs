//! What is counted of descriptors, by the limits they met. Labels are configured names; values of requests only where
//! a file asks for them, and then a bounded number.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Most values of one limit that are counted apart; those after are counted as [`OTHER`].
pub const VALUES_MAX: usize = 100;
/// All other values.
const OTHER: &str = "other";

/// How a descriptor fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Within the limit.
    Ok,
    /// Over it.
    Over,
    /// Over it, as was known without asking the store.
    Remembered,
    /// Over it, and let through: shadow mode.
    ShadowOver,
    /// There is no limit.
    Unlimited,
    /// Another limit took the place of this one.
    Replaced,
    /// Hits were given back.
    GivenBack,
}

impl Outcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "ok"),
        (Self::Over, "over_limit"),
        (Self::Remembered, "over_limit_cached"),
        (Self::ShadowOver, "shadow_over_limit"),
        (Self::Unlimited, "unlimited"),
        (Self::Replaced, "replaced"),
        (Self::GivenBack, "refunded"),
    ];
}

/// Counters of one limit, or of one value under it.
pub(super) struct Tally {
    counters: [IntCounter; Outcome::ALL.len()],
}

impl Tally {
    pub(super) fn count(&self, outcome: Outcome) {
        self.counters[outcome as usize].inc();
    }
}

/// The counters of a limit by the values of requests.
pub(super) struct Details {
    domain: Box<str>,
    limit: Box<str>,
    values: IntCounterVec,
    known: Mutex<HashMap<Box<str>, Arc<Tally>>>,
}

impl Details {
    pub(super) fn of(&self, value: &str) -> Arc<Tally> {
        let mut known = self.known.lock();
        if let Some(tally) = known.get(value) {
            return Arc::clone(tally);
        }
        let value = if known.len() < VALUES_MAX { value } else { OTHER };
        let new = || {
            let counter = |(_, result): (_, &str)| {
                self.values.with_label_values(&[&*self.domain, &*self.limit, value, result])
            };
            Arc::new(Tally { counters: Outcome::ALL.map(counter) })
        };
        Arc::clone(known.entry(value.into()).or_insert_with(new))
    }
}

/// Details by domain and limit.
type Kept = HashMap<(Box<str>, Box<str>), Arc<Details>>;

/// Makes tallies. What is known of values is kept when files are read again, so that their bound holds.
pub struct Tallies {
    limits: IntCounterVec,
    values: IntCounterVec,
    details: Mutex<Kept>,
}

impl Tallies {
    /// Over the metrics by `domain, limit, result` and by `domain, limit, value, result`.
    #[must_use]
    pub fn new(limits: IntCounterVec, values: IntCounterVec) -> Self {
        Self { limits, values, details: Mutex::default() }
    }

    /// Counts for nobody: to check files.
    ///
    /// # Panics
    /// Never: the names are fixed.
    #[must_use]
    pub fn unregistered() -> Self {
        let counters = |labels: &[&str]| {
            IntCounterVec::new(Opts::new("unregistered", "Nobody sees it."), labels).expect("valid names")
        };
        Self::new(counters(&["domain", "limit", "result"]), counters(&["domain", "limit", "value", "result"]))
    }

    pub(super) fn of(&self, domain: &str, limit: &str) -> Arc<Tally> {
        let counter = |(_, result): (_, &str)| self.limits.with_label_values(&[domain, limit, result]);
        Arc::new(Tally { counters: Outcome::ALL.map(counter) })
    }

    pub(super) fn details(&self, domain: &str, limit: &str) -> Arc<Details> {
        let new = || {
            Arc::new(Details {
                domain: domain.into(),
                limit: limit.into(),
                values: self.values.clone(),
                known: Mutex::default(),
            })
        };
        Arc::clone(self.details.lock().entry((domain.into(), limit.into())).or_insert_with(new))
    }

    /// Descriptors of a domain without a limit.
    pub(super) fn unlisted(&self, domain: &str) -> IntCounter {
        self.limits.with_label_values(&[domain, "", "no_limit"])
    }

    /// Requests for domains that no file has.
    pub(super) fn unknown_domain(&self) -> IntCounter {
        self.limits.with_label_values(&["", "", "unknown_domain"])
    }

    /// Requests that were wrong in themselves.
    pub(super) fn invalid(&self) -> IntCounter {
        self.limits.with_label_values(&["", "", "invalid"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded() {
        let tallies = Tallies::unregistered();
        for round in 0..2 {
            let details = tallies.details("d", "l");
            for i in 0..VALUES_MAX * 2 {
                details.of(&i.to_string()).count(Outcome::Ok);
            }
            let is = |value: &str, other: &str| Arc::ptr_eq(&details.of(value), &details.of(other));
            assert!(is("new", OTHER) && is("newer", OTHER), "round {round}");
            assert!(!is("3", OTHER) && !is("3", "4"));
            assert_eq!(details.known.lock().len(), VALUES_MAX + 1);
        }
    }

    #[test]
    fn outcomes_are_in_order() {
        assert!(Outcome::ALL.iter().enumerate().all(|(i, (outcome, _))| *outcome as usize == i));
    }
}
