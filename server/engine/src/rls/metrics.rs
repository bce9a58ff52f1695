//! Metrics of descriptors. Labels contain names from the files. They contain values of requests only if a file asks for
//! them, and then a bounded number of values.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Maximum number of values per limit that have time series of their own. Further values are counted as [`OTHER`].
const VALUES_MAX: usize = 100;
const OTHER: &str = "other";

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

/// The time series of one limit, or of one value of a limit.
pub(super) struct LimitMetrics {
    by_result: [IntCounter; DescriptorResult::ALL.len()],
}

impl LimitMetrics {
    pub(super) fn count(&self, result: DescriptorResult) {
        self.by_result[result as usize].inc();
    }
}

/// The time series of one limit, by the values of requests.
pub(super) struct ValueMetrics {
    domain: Box<str>,
    limit: Box<str>,
    vec: IntCounterVec,
    by_value: Mutex<HashMap<Box<str>, Arc<LimitMetrics>>>,
}

impl ValueMetrics {
    pub(super) fn of(&self, value: &str) -> Arc<LimitMetrics> {
        let mut by_value = self.by_value.lock();
        if let Some(metrics) = by_value.get(value) {
            return Arc::clone(metrics);
        }
        let value = if by_value.len() < VALUES_MAX { value } else { OTHER };
        let new = || {
            let counter = |(_, result): (_, &str)| {
                self.vec.with_label_values(&[&*self.domain, &*self.limit, value, result])
            };
            Arc::new(LimitMetrics { by_result: DescriptorResult::ALL.map(counter) })
        };
        Arc::clone(by_value.entry(value.into()).or_insert_with(new))
    }
}

type ByLimit = HashMap<(Box<str>, Box<str>), Arc<ValueMetrics>>;

/// The metrics of all limits.
pub struct RateLimitMetrics {
    limits: IntCounterVec,
    values: IntCounterVec,
    /// By domain and limit. Retained across reloads of the files, so that the bound on values holds.
    value_metrics: Mutex<ByLimit>,
}

impl RateLimitMetrics {
    /// Creates metrics on two vectors. `limits` must have the labels `domain`, `limit` and `result`; `values` must have
    /// the labels `domain`, `limit`, `value` and `result`.
    #[must_use]
    pub fn new(limits: IntCounterVec, values: IntCounterVec) -> Self {
        Self { limits, values, value_metrics: Mutex::default() }
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
        Self::new(vec(&["domain", "limit", "result"]), vec(&["domain", "limit", "value", "result"]))
    }

    pub(super) fn of(&self, domain: &str, limit: &str) -> Arc<LimitMetrics> {
        let counter = |(_, result): (_, &str)| self.limits.with_label_values(&[domain, limit, result]);
        Arc::new(LimitMetrics { by_result: DescriptorResult::ALL.map(counter) })
    }

    pub(super) fn by_value(&self, domain: &str, limit: &str) -> Arc<ValueMetrics> {
        let new = || {
            Arc::new(ValueMetrics {
                domain: domain.into(),
                limit: limit.into(),
                vec: self.values.clone(),
                by_value: Mutex::default(),
            })
        };
        Arc::clone(self.value_metrics.lock().entry((domain.into(), limit.into())).or_insert_with(new))
    }

    /// Returns the counter of descriptors of a domain that match no limit.
    pub(super) fn no_limit(&self, domain: &str) -> IntCounter {
        self.limits.with_label_values(&[domain, "", "no_limit"])
    }

    /// Returns the counter of requests for domains that are in no file.
    pub(super) fn unknown_domain(&self) -> IntCounter {
        self.limits.with_label_values(&["", "", "unknown_domain"])
    }

    pub(super) fn invalid_requests(&self) -> IntCounter {
        self.limits.with_label_values(&["", "", "invalid"])
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
}
