//! Metrics of descriptors. Labels contain names from the files. They contain values of requests only if a file asks for
//! them, and then a bounded number of values.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Maximum number of values per limit that have time series of their own. Further values are counted as [`OTHER`].
const VALUES_MAX: usize = 100;
const OTHER: &str = "other";
/// From this part of its amount on, a counter is near its limit, as in envoyproxy/ratelimit.
const NEAR_LIMIT_PERCENT: u128 = 80;

/// The values of the label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DescriptorResult {
    Ok,
    OverLimit,
    /// Over the limit according to a cached refusal, without a call of the store.
    OverLimitCached,
    /// Over the limit, but the limit or the whole service is in shadow mode.
    ShadowOverLimit,
    Unlimited,
    /// Another limit of the request replaces this one.
    Replaced,
    Refunded,
}

impl DescriptorResult {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "ok"),
        (Self::OverLimit, "over_limit"),
        (Self::OverLimitCached, "over_limit_cached"),
        (Self::ShadowOverLimit, "shadow_over_limit"),
        (Self::Unlimited, "unlimited"),
        (Self::Replaced, "replaced"),
        (Self::Refunded, "refunded"),
    ];
}

/// One time series for each result.
pub(super) struct ByResult([IntCounter; DescriptorResult::ALL.len()]);

impl ByResult {
    fn new(vec: &IntCounterVec, labels: &[&str]) -> Self {
        let counter = |(_, result): (_, &str)| vec.with_label_values(&[labels, &[result]].concat());
        Self(DescriptorResult::ALL.map(counter))
    }

    pub(super) fn count(&self, result: DescriptorResult) {
        self.0[result as usize].inc();
    }
}

/// The time series of one limit.
pub(super) struct LimitMetrics {
    descriptors: ByResult,
    hits: ByResult,
    near: IntCounter,
}

impl LimitMetrics {
    pub(super) fn count(&self, result: DescriptorResult, hits: u64) {
        self.descriptors.count(result);
        self.hits.0[result as usize].inc_by(hits);
    }

    /// Counts the hits that a counter took between [`NEAR_LIMIT_PERCENT`] of its amount and the whole amount. `before`
    /// and `after` are the used amounts.
    pub(super) fn count_near(&self, amount: u64, before: u64, after: u64) {
        let near = u64::try_from(u128::from(amount) * NEAR_LIMIT_PERCENT / 100).unwrap_or(amount);
        self.near.inc_by(after.min(amount).saturating_sub(before.max(near)));
    }
}

/// The time series of one limit, by the values of requests.
pub(super) struct ValueMetrics {
    domain: Box<str>,
    limit: Box<str>,
    vec: IntCounterVec,
    by_value: Mutex<HashMap<Box<str>, Arc<ByResult>>>,
}

impl ValueMetrics {
    pub(super) fn of(&self, value: &str) -> Arc<ByResult> {
        let mut by_value = self.by_value.lock();
        if let Some(metrics) = by_value.get(value) {
            return Arc::clone(metrics);
        }
        let value = if by_value.len() < VALUES_MAX { value } else { OTHER };
        let new = || Arc::new(ByResult::new(&self.vec, &[&self.domain, &self.limit, value]));
        Arc::clone(by_value.entry(value.into()).or_insert_with(new))
    }
}

type ByLimit = HashMap<(Box<str>, Box<str>), Arc<ValueMetrics>>;

/// The metrics of all limits.
pub struct RateLimitMetrics {
    vectors: RateLimitVectors,
    /// By domain and limit. Retained across reloads of the files, so that the bound on values holds.
    value_metrics: Mutex<ByLimit>,
}

/// The vectors in which [`RateLimitMetrics`] counts.
pub struct RateLimitVectors {
    /// Labels: `domain`, `limit`, `result`.
    pub descriptors: IntCounterVec,
    /// Labels: `domain`, `limit`, `result`.
    pub hits: IntCounterVec,
    /// Labels: `domain`, `limit`.
    pub near_limit_hits: IntCounterVec,
    /// Labels: `domain`, `limit`, `value`, `result`.
    pub detailed: IntCounterVec,
}

impl RateLimitMetrics {
    #[must_use]
    pub fn new(vectors: RateLimitVectors) -> Self {
        Self { vectors, value_metrics: Mutex::default() }
    }

    /// Returns metrics that are never exported, for checking files.
    ///
    /// # Panics
    /// Never: the names are constants.
    #[must_use]
    pub fn unregistered() -> Self {
        let vec = |labels: &[&str]| {
            IntCounterVec::new(Opts::new("unregistered", "Never exported."), labels).expect("valid names")
        };
        Self::new(RateLimitVectors {
            descriptors: vec(&["domain", "limit", "result"]),
            hits: vec(&["domain", "limit", "result"]),
            near_limit_hits: vec(&["domain", "limit"]),
            detailed: vec(&["domain", "limit", "value", "result"]),
        })
    }

    pub(super) fn of(&self, domain: &str, limit: &str) -> Arc<LimitMetrics> {
        Arc::new(LimitMetrics {
            descriptors: ByResult::new(&self.vectors.descriptors, &[domain, limit]),
            hits: ByResult::new(&self.vectors.hits, &[domain, limit]),
            near: self.vectors.near_limit_hits.with_label_values(&[domain, limit]),
        })
    }

    pub(super) fn by_value(&self, domain: &str, limit: &str) -> Arc<ValueMetrics> {
        let new = || {
            Arc::new(ValueMetrics {
                domain: domain.into(),
                limit: limit.into(),
                vec: self.vectors.detailed.clone(),
                by_value: Mutex::default(),
            })
        };
        Arc::clone(self.value_metrics.lock().entry((domain.into(), limit.into())).or_insert_with(new))
    }

    /// Returns the counter of descriptors of a domain that match no limit.
    pub(super) fn no_limit(&self, domain: &str) -> IntCounter {
        self.vectors.descriptors.with_label_values(&[domain, "", "no_limit"])
    }

    /// Returns the counter of requests for domains that are in no file.
    pub(super) fn unknown_domain(&self) -> IntCounter {
        self.vectors.descriptors.with_label_values(&["", "", "unknown_domain"])
    }

    pub(super) fn invalid_requests(&self) -> IntCounter {
        self.vectors.descriptors.with_label_values(&["", "", "invalid"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded() {
        let metrics = RateLimitMetrics::unregistered();
        for round in 0..2 {
            let values = metrics.by_value("d", "l");
            for i in 0..VALUES_MAX * 2 {
                values.of(&i.to_string()).count(DescriptorResult::Ok);
            }
            let is_same = |value: &str, other: &str| Arc::ptr_eq(&values.of(value), &values.of(other));
            assert!(is_same("new", OTHER) && is_same("newer", OTHER), "round {round}");
            assert!(!is_same("3", OTHER) && !is_same("3", "4"));
            assert_eq!(values.by_value.lock().len(), VALUES_MAX + 1);
        }
    }

    #[test]
    fn results_are_in_order() {
        assert!(DescriptorResult::ALL.iter().enumerate().all(|(i, (result, _))| *result as usize == i));
    }

    #[test]
    fn hits_are_near_the_limit_from_80_percent_on() {
        for (amount, before, after, expected) in [
            (10, 0, 8, 0),
            (10, 0, 9, 1),
            (10, 8, 10, 2),
            (10, 9, 10, 1),
            (10, 7, 15, 2),
            (10, 10, 15, 0),
            (0, 0, 5, 0),
            (u64::MAX, 0, u64::MAX, u64::MAX - u64::MAX / 5 * 4),
        ] {
            let metrics = RateLimitMetrics::unregistered().of("d", "l");
            metrics.count_near(amount, before, after);
            assert_eq!(metrics.near.get(), expected, "{amount} {before} {after}");
        }
    }
}
