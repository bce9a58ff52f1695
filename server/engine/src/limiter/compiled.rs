//! The limits and quotas in compiled form. They are compiled after each reload, so that a request only costs the work
//! that depends on the request itself.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use evenkeel_domain::limit::{
    Algorithm, Attribute, Attributes, Bucket, Condition, CounterRule, Counts, Generation, Key, Limit,
    LimitRules, Meter, OnStoreFailure, Period, QuotaKind, QuotaRule, Rejected, Window,
};
use evenkeel_telemetry::{LimitCounters, LimitMetrics};

use super::{estimates::Estimate, overrides::OverrideTable};

/// The configuration of a limit or quota.
#[derive(Clone, Debug)]
pub(super) enum Definition {
    Limit(Arc<Limit>),
    Quota(Arc<QuotaRule>),
}

/// A limit or quota, compiled for requests.
pub(super) struct CompiledLimit {
    pub(super) definition: Definition,
    /// Index in [`Compiled::keys`]. `None`: one counter for all requests.
    key: Option<usize>,
    /// The bucket of the single counter, if `key` is `None`.
    shared: Arc<Bucket>,
    /// The attributes that decide whether the limit applies, and with which key and amount.
    pub(super) attributes: Arc<[String]>,
    /// For a calendar period, the current windows, and the time in which they are valid.
    window: ArcSwapOption<(std::ops::Range<u64>, Window)>,
    pub(super) counters: LimitCounters,
}

/// A limit or quota that applies to one request.
#[derive(Clone)]
pub(super) struct SelectedLimit {
    /// Index in [`Compiled::entries`].
    pub(super) entry: usize,
    pub(super) meter: Meter,
}

/// The estimated use of one request. Computes the cost once for all limits that count cost.
struct Expected<'r> {
    estimate: &'r Estimate,
    rules: &'r LimitRules,
    model: &'r str,
    /// The last margin, and the cost with this margin.
    cost: Cell<Option<(f64, u64)>>,
}

impl Expected<'_> {
    fn amount(&self, counts: Counts, margin: f64) -> u64 {
        let tokens = self.estimate.with_margin(margin);
        let cost = || match self.cost.get() {
            Some((known, cost)) if known.to_bits() == margin.to_bits() => cost,
            _ => {
                let cost = self.rules.prices.cost(self.model, "", &tokens);
                self.cost.set(Some((margin, cost)));
                cost
            }
        };
        counts.amount(&tokens, cost).max(1)
    }
}

/// All limits and quotas, compiled for requests.
pub(super) struct Compiled {
    pub(super) rules: Arc<LimitRules>,
    pub(super) entries: Vec<CompiledLimit>,
    keys: Vec<Key>,
    by_name: HashMap<Arc<str>, usize>,
    /// Request headers that gateways must pass on.
    pub(super) wanted_headers: Vec<String>,
    pub(super) wants_source_ip: bool,
    ttl_ms: u64,
}

/// The amount that applies to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) amount: u64,
    burst: u64,
}

impl CompiledLimit {
    fn new(definition: Definition, keys: &mut Vec<Key>, metrics: &LimitMetrics) -> Self {
        let name = definition.name();
        let key = match &definition {
            Definition::Limit(limit) => limit.key.clone(),
            Definition::Quota(_) => Key::new(vec![evenkeel_domain::limit::Attribute::Consumer]),
        };
        let index = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
            keys.push(key.clone());
            keys.len() - 1
        });
        let shared = Arc::new(Bucket { tag: format!("limit={name}"), rest: String::new() });
        Self {
            key: (!key.attributes().is_empty()).then_some(index),
            shared,
            attributes: definition.attributes(&key),
            window: ArcSwapOption::empty(),
            counters: metrics.of(name),
            definition,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.definition.name()
    }

    pub(super) fn conditions(&self) -> &[Condition] {
        self.definition.when()
    }

    /// Returns the first condition that is not met. `None`: all conditions are met.
    pub(super) fn unmet(&self, attributes: &Attributes) -> Option<&Condition> {
        self.definition.when().iter().find(|condition| !condition.holds(attributes))
    }

    /// Returns whether the limit counts anything of a request with this estimate. A request that generates nothing has no
    /// tokens and no cost, so a client without any left can still read what it has paid for.
    pub(super) fn counts(&self, estimate: &Estimate) -> bool {
        estimate.generation != Generation::Nothing || self.definition.counts() == Counts::Requests
    }

    /// Returns the amount that applies to the request's key. `None`: unlimited.
    pub(super) fn amount(
        &self,
        attributes: &Attributes,
        bucket: &Bucket,
        overrides: &OverrideTable,
    ) -> Option<Amount> {
        let Definition::Limit(limit) = &self.definition else { return Some(Amount { amount: 0, burst: 0 }) };
        if overrides.any_of(&limit.name)
            && let Some(found) = overrides.get(&limit.name, &bucket.to_string())
        {
            return found.amount.map(|amount| Amount { amount, burst: limit.burst_for(amount) });
        }
        let holds = |conditions: &[Condition]| conditions.iter().all(|condition| condition.holds(attributes));
        match limit.exceptions.iter().find(|exception| holds(&exception.when)) {
            Some(exception) => exception.amount.map(|amount| Amount {
                amount,
                burst: exception.burst.unwrap_or_else(|| limit.burst_for(amount)),
            }),
            None => Some(Amount { amount: limit.amount, burst: limit.burst_for(limit.amount) }),
        }
    }

    /// Returns the rule of the limit's counters as of now.
    pub(super) fn rule(&self, amount: Amount, ttl_ms: u64, now_ms: u64) -> CounterRule {
        let Amount { amount, burst } = amount;
        match &self.definition {
            Definition::Limit(limit) => {
                let period_ms = limit.period.longest().as_millis() as u64;
                match limit.algorithm {
                    Algorithm::FixedWindow => {
                        CounterRule::Fixed { amount, window: self.window(&limit.period, now_ms) }
                    }
                    Algorithm::SlidingWindow => CounterRule::Sliding { amount, period_ms },
                    Algorithm::TokenBucket { .. } => {
                        CounterRule::TokenBucket { burst, amount: amount.max(1), period_ms }
                    }
                    Algorithm::Concurrency => CounterRule::Running { amount, ttl_ms },
                }
            }
            Definition::Quota(quota) => match &quota.kind {
                QuotaKind::Prepaid => CounterRule::Prepaid { default: quota.default },
                QuotaKind::Budget(period) => {
                    CounterRule::Budget { default: quota.default, window: self.window(period, now_ms) }
                }
            },
        }
    }

    /// Returns the current window. Caches a calendar window, because computing it takes a microsecond.
    fn window(&self, period: &Period, now_ms: u64) -> Window {
        if let Period::Length(length) = period {
            return Window::Length(length.as_millis() as u64);
        }
        if let Some(known) = &*self.window.load()
            && known.0.contains(&now_ms)
        {
            return known.1;
        }
        let window = period.window(now_ms);
        let (start, end) = window.around(now_ms);
        self.window.store(Some(Arc::new((start..end, window))));
        window
    }

    /// Returns the amount that a request reserves.
    fn cost(&self, expected: &Expected<'_>) -> u64 {
        if self.definition.is_concurrency() {
            1
        } else {
            expected.amount(self.definition.counts(), self.definition.margin())
        }
    }
}

impl Definition {
    pub(super) fn name(&self) -> &Arc<str> {
        match self {
            Self::Limit(limit) => &limit.name,
            Self::Quota(quota) => &quota.name,
        }
    }

    fn when(&self) -> &[Condition] {
        match self {
            Self::Limit(limit) => &limit.when,
            Self::Quota(quota) => &quota.when,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::Limit(limit) => limit.counts,
            Self::Quota(quota) => quota.counts,
        }
    }

    pub(super) fn is_concurrency(&self) -> bool {
        matches!(self, Self::Limit(limit) if limit.algorithm == Algorithm::Concurrency)
    }

    /// Returns the names of the attributes that decide whether the limit applies, and with which key and amount.
    fn attributes(&self, key: &Key) -> Arc<[String]> {
        let exceptions = match self {
            Self::Limit(limit) => limit.exceptions.as_slice(),
            Self::Quota(_) => &[],
        };
        let conditions = self.when().iter().chain(exceptions.iter().flat_map(|exception| &exception.when));
        let attributes = key.attributes().iter().chain(conditions.map(|condition| &condition.attribute));
        let names: BTreeSet<String> = attributes.map(ToString::to_string).collect();
        names.into_iter().collect()
    }

    pub(super) fn is_quota(&self) -> bool {
        matches!(self, Self::Quota(_))
    }

    /// Whether the settlement replaces the reserved amount.
    pub(super) fn is_provisional(&self) -> bool {
        self.counts() != Counts::Requests || self.is_concurrency()
    }

    fn margin(&self) -> f64 {
        match self {
            Self::Limit(limit) => limit.margin,
            Self::Quota(quota) => quota.margin,
        }
    }

    pub(super) fn shadow(&self) -> bool {
        match self {
            Self::Limit(limit) => limit.shadow,
            Self::Quota(quota) => quota.shadow,
        }
    }

    pub(super) fn on_store_failure(&self) -> OnStoreFailure {
        match self {
            Self::Limit(limit) => limit.on_store_failure,
            Self::Quota(quota) => quota.on_store_failure,
        }
    }

    pub(super) fn rejected(&self) -> &Rejected {
        match self {
            Self::Limit(limit) => &limit.rejected,
            Self::Quota(quota) => &quota.rejected,
        }
    }
}

impl Compiled {
    pub(super) fn new(rules: Arc<LimitRules>, ttl_ms: u64, metrics: &LimitMetrics) -> Self {
        let mut keys = Vec::new();
        let limits = rules.limits.iter().cloned().map(Definition::Limit);
        let sources = limits.chain(rules.quotas.iter().cloned().map(Definition::Quota));
        let entries: Vec<CompiledLimit> =
            sources.map(|definition| CompiledLimit::new(definition, &mut keys, metrics)).collect();
        let by_name = entries.iter().enumerate().map(|(i, entry)| (Arc::clone(entry.name()), i)).collect();
        let conditions = entries.iter().flat_map(|entry| entry.definition.when());
        let exceptions = rules.limits.iter().flat_map(|limit| &limit.exceptions);
        let conditions = conditions.chain(exceptions.flat_map(|exception| &exception.when));
        let attributes = conditions.map(|condition| &condition.attribute);
        let attributes: Vec<&Attribute> = attributes.chain(keys.iter().flat_map(Key::attributes)).collect();
        let wanted: BTreeSet<&str> =
            attributes.iter().filter_map(|attribute| attribute.wanted_header()).collect();
        let wanted_headers = wanted.into_iter().map(str::to_owned).collect();
        let wants_source_ip = attributes.iter().any(|attribute| matches!(attribute, Attribute::Ip { .. }));
        Self { rules, entries, keys, by_name, wanted_headers, wants_source_ip, ttl_ms }
    }

    /// Selects the limits and quotas that apply to a request.
    pub(super) fn select(
        &self,
        attributes: &Attributes,
        overrides: &OverrideTable,
        estimate: &Estimate,
        now_ms: u64,
    ) -> Vec<SelectedLimit> {
        let expected =
            Expected { estimate, rules: &self.rules, model: &attributes.model, cost: Cell::new(None) };
        let mut buckets: Vec<Option<Option<Arc<Bucket>>>> = vec![None; self.keys.len()];
        let mut selected = Vec::with_capacity(self.entries.len().min(8));
        for (i, entry) in self.entries.iter().enumerate() {
            if !entry.counts(estimate) || entry.unmet(attributes).is_some() {
                continue;
            }
            let bucket = match entry.key {
                None => Some(Arc::clone(&entry.shared)),
                Some(key) => buckets[key]
                    .get_or_insert_with(|| self.keys[key].bucket(attributes, ""))
                    .as_ref()
                    .map(Arc::clone),
            };
            let Some(bucket) = bucket else { continue };
            let Some(amount) = entry.amount(attributes, &bucket, overrides) else { continue };
            let rule = entry.rule(amount, self.ttl_ms, now_ms);
            let cost = entry.cost(&expected).min(rule.most()).max(1);
            let meter = Meter {
                bucket,
                name: Arc::clone(entry.name()),
                rule,
                cost,
                provisional: entry.definition.is_provisional(),
                shadow: entry.definition.shadow(),
                on_store_failure: entry.definition.on_store_failure(),
            };
            selected.push(SelectedLimit { entry: i, meter });
        }
        selected
    }

    /// Returns the key under which a request is counted. If the request lacks an attribute of the key, returns that
    /// attribute as the error.
    pub(super) fn bucket_of(
        &self,
        entry: &CompiledLimit,
        attributes: &Attributes,
    ) -> Result<Arc<Bucket>, String> {
        let Some(key) = entry.key else { return Ok(Arc::clone(&entry.shared)) };
        self.keys[key].bucket(attributes, "").ok_or_else(|| {
            let lacks =
                self.keys[key].attributes().iter().find(|attribute| attribute.value(attributes).is_none());
            lacks.map(ToString::to_string).unwrap_or_default()
        })
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&CompiledLimit> {
        self.by_name.get(name).map(|i| &self.entries[*i])
    }

    /// Returns the rule for settling a counter. The amount matters only for token buckets.
    pub(super) fn rule_to_settle(&self, entry: &CompiledLimit, rate: u64, now_ms: u64) -> CounterRule {
        entry.rule(Amount { amount: rate, burst: rate }, self.ttl_ms, now_ms)
    }

    /// Returns the meter for reading the counter of one key with this amount.
    pub(super) fn meter_to_read(
        &self,
        entry: &CompiledLimit,
        bucket: Arc<Bucket>,
        amount: u64,
        now_ms: u64,
    ) -> Meter {
        let burst =
            if let Definition::Limit(limit) = &entry.definition { limit.burst_for(amount) } else { 0 };
        Meter {
            bucket,
            name: Arc::clone(entry.name()),
            rule: entry.rule(Amount { amount, burst }, self.ttl_ms, now_ms),
            cost: 1,
            provisional: entry.definition.is_provisional(),
            shadow: true,
            on_store_failure: entry.definition.on_store_failure(),
        }
    }

    pub(super) fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }
}
