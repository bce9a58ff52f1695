//! The rules as requests are held against them: what can be worked out once is worked out once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwapOption;

use super::{estimates::Estimate, overrides::Overrides};
use crate::{
    domain::limit::{
        Algorithm, Bucket, Condition, Counts, Facts, Key, Limit, LimitRules, Meter, OnOutage, Period,
        QuotaKind, QuotaRule, Rejected, Rule, Window, price::Tokens,
    },
    telemetry::{LimitCounters, LimitMetrics},
};

/// A limit or a quota.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Limit(Arc<Limit>),
    Quota(Arc<QuotaRule>),
}

/// One of them, ready for requests.
pub(super) struct Entry {
    pub(super) source: Source,
    /// Which of [`Compiled::keys`] it is counted by; `None`: one counter for all.
    key: Option<usize>,
    /// That one counter.
    shared: Arc<Bucket>,
    /// The windows of its period, where that is of the calendar, and the time they are good for.
    window: ArcSwapOption<(std::ops::Range<u64>, Window)>,
    pub(super) counters: LimitCounters,
}

/// What one request is counted by.
#[derive(Clone)]
pub(super) struct Chosen {
    /// Index of the entry.
    pub(super) entry: usize,
    pub(super) meter: Meter,
}

/// All rules, ready for requests.
pub(super) struct Compiled {
    pub(super) rules: Arc<LimitRules>,
    pub(super) entries: Vec<Entry>,
    keys: Vec<Key>,
    by_name: HashMap<Arc<str>, usize>,
    /// Headers that gateways have to pass on.
    pub(super) wanted_headers: Vec<String>,
    ttl_ms: u64,
}

/// The amount in force for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) amount: u64,
    burst: u64,
}

impl Entry {
    fn new(source: Source, keys: &mut Vec<Key>, metrics: &LimitMetrics) -> Self {
        let name = source.name();
        let key = match &source {
            Source::Limit(limit) => limit.key.clone(),
            Source::Quota(_) => Key::new(vec![crate::domain::limit::Attribute::Consumer]),
        };
        let index = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
            keys.push(key.clone());
            keys.len() - 1
        });
        let shared = Arc::new(Bucket { tag: format!("limit={name}"), rest: String::new() });
        Self {
            key: (!key.attributes().is_empty()).then_some(index),
            shared,
            window: ArcSwapOption::empty(),
            counters: metrics.of(name),
            source,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.source.name()
    }

    pub(super) fn conditions(&self) -> &[Condition] {
        self.source.when()
    }

    /// The first condition that does not hold; `None`: it applies.
    pub(super) fn unmet(&self, facts: &Facts) -> Option<&Condition> {
        self.source.when().iter().find(|condition| !condition.holds(facts))
    }

    /// The amount in force; `None`: unlimited.
    pub(super) fn amount(&self, facts: &Facts, bucket: &Bucket, overrides: &Overrides) -> Option<Amount> {
        let Source::Limit(limit) = &self.source else { return Some(Amount { amount: 0, burst: 0 }) };
        if overrides.any_of(&limit.name)
            && let Some(exemption) = overrides.get(&limit.name, &bucket.to_string())
        {
            return exemption.amount.map(|amount| Amount { amount, burst: limit.burst_for(amount) });
        }
        let holds = |conditions: &[Condition]| conditions.iter().all(|condition| condition.holds(facts));
        match limit.exceptions.iter().find(|exception| holds(&exception.when)) {
            Some(exception) => exception.amount.map(|amount| Amount {
                amount,
                burst: exception.burst.unwrap_or_else(|| limit.burst_for(amount)),
            }),
            None => Some(Amount { amount: limit.amount, burst: limit.burst_for(limit.amount) }),
        }
    }

    /// How its counters work now.
    pub(super) fn rule(&self, amount: Amount, ttl_ms: u64, now_ms: u64) -> Rule {
        let Amount { amount, burst } = amount;
        match &self.source {
            Source::Limit(limit) => {
                let period_ms = limit.period.longest().as_millis() as u64;
                match limit.algorithm {
                    Algorithm::FixedWindow => {
                        Rule::Fixed { amount, window: self.window(&limit.period, now_ms) }
                    }
                    Algorithm::SlidingWindow => Rule::Sliding { amount, period_ms },
                    Algorithm::TokenBucket { .. } => {
                        Rule::TokenBucket { burst, amount: amount.max(1), period_ms }
                    }
                    Algorithm::Concurrency => Rule::Running { amount, ttl_ms },
                }
            }
            Source::Quota(quota) => match &quota.kind {
                QuotaKind::Prepaid => Rule::Prepaid { default: quota.default },
                QuotaKind::Budget(period) => {
                    Rule::Budget { default: quota.default, window: self.window(period, now_ms) }
                }
            },
        }
    }

    /// Asking the calendar takes a microsecond: it is asked once a window.
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

    /// What a request that is expected to use so much takes.
    pub(super) fn cost(&self, estimate: &Estimate, rules: &LimitRules, model: &str) -> u64 {
        if self.source.counts() == Counts::Requests || self.source.is_concurrency() {
            return 1;
        }
        let tokens = estimate.with_margin(self.source.margin());
        counted(self.source.counts(), &tokens, rules, model).max(1)
    }
}

fn counted(counts: Counts, tokens: &Tokens, rules: &LimitRules, model: &str) -> u64 {
    match counts {
        Counts::Requests => 1,
        Counts::Tokens => tokens.total(),
        Counts::InputTokens => tokens.input,
        Counts::OutputTokens => tokens.output,
        Counts::Cost => rules.prices.cost(model, tokens),
    }
}

impl Source {
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

    pub(super) fn is_quota(&self) -> bool {
        matches!(self, Self::Quota(_))
    }

    /// Whether what is taken is replaced when the request has ended.
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

    pub(super) fn on_outage(&self) -> OnOutage {
        match self {
            Self::Limit(limit) => limit.on_outage,
            Self::Quota(quota) => quota.on_outage,
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
        let limits = rules.limits.iter().cloned().map(Source::Limit);
        let sources = limits.chain(rules.quotas.iter().cloned().map(Source::Quota));
        let entries: Vec<Entry> = sources.map(|source| Entry::new(source, &mut keys, metrics)).collect();
        let by_name = entries.iter().enumerate().map(|(i, entry)| (Arc::clone(entry.name()), i)).collect();
        let conditions = entries.iter().flat_map(|entry| entry.source.when());
        let exceptions = rules.limits.iter().flat_map(|limit| &limit.exceptions);
        let conditions = conditions.chain(exceptions.flat_map(|exception| &exception.when));
        let attributes = conditions.map(|condition| &condition.attribute);
        let attributes = attributes.chain(keys.iter().flat_map(Key::attributes));
        let wanted: BTreeSet<&str> = attributes.filter_map(|attribute| attribute.wanted_header()).collect();
        let wanted_headers = wanted.into_iter().map(str::to_owned).collect();
        Self { rules, entries, keys, by_name, wanted_headers, ttl_ms }
    }

    /// What a request is counted by; what it is not limited by is left out.
    pub(super) fn choose(
        &self,
        facts: &Facts,
        overrides: &Overrides,
        estimate: &Estimate,
        now_ms: u64,
    ) -> Vec<Chosen> {
        let mut buckets: Vec<Option<Option<Arc<Bucket>>>> = vec![None; self.keys.len()];
        let mut chosen = Vec::with_capacity(self.entries.len().min(8));
        for (i, entry) in self.entries.iter().enumerate() {
            if entry.unmet(facts).is_some() {
                continue;
            }
            let bucket = match entry.key {
                None => Some(Arc::clone(&entry.shared)),
                Some(key) => buckets[key]
                    .get_or_insert_with(|| self.keys[key].bucket(facts, ""))
                    .as_ref()
                    .map(Arc::clone),
            };
            let Some(bucket) = bucket else { continue };
            let Some(amount) = entry.amount(facts, &bucket, overrides) else { continue };
            let rule = entry.rule(amount, self.ttl_ms, now_ms);
            let cost = entry.cost(estimate, &self.rules, &facts.model).min(rule.most()).max(1);
            let meter = Meter {
                bucket,
                name: Arc::clone(entry.name()),
                rule,
                cost,
                provisional: entry.source.is_provisional(),
                shadow: entry.source.shadow(),
                on_outage: entry.source.on_outage(),
            };
            chosen.push(Chosen { entry: i, meter });
        }
        chosen
    }

    /// The key a request would be counted under, or the attribute it lacks.
    pub(super) fn bucket_of(&self, entry: &Entry, facts: &Facts) -> Result<Arc<Bucket>, String> {
        let Some(key) = entry.key else { return Ok(Arc::clone(&entry.shared)) };
        self.keys[key].bucket(facts, "").ok_or_else(|| {
            let lacks = self.keys[key].attributes().iter().find(|attribute| attribute.value(facts).is_none());
            lacks.map(ToString::to_string).unwrap_or_default()
        })
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|i| &self.entries[*i])
    }

    /// The rule of a counter that is to be settled. The amount matters to token buckets alone.
    pub(super) fn rule_to_settle(&self, entry: &Entry, rate: u64, now_ms: u64) -> Rule {
        entry.rule(Amount { amount: rate, burst: rate }, self.ttl_ms, now_ms)
    }

    /// To read one key's counter with, which is known to have this amount.
    pub(super) fn meter_to_read(
        &self,
        entry: &Entry,
        bucket: Arc<Bucket>,
        amount: u64,
        now_ms: u64,
    ) -> Meter {
        let burst = if let Source::Limit(limit) = &entry.source { limit.burst_for(amount) } else { 0 };
        Meter {
            bucket,
            name: Arc::clone(entry.name()),
            rule: entry.rule(Amount { amount, burst }, self.ttl_ms, now_ms),
            cost: 1,
            provisional: entry.source.is_provisional(),
            shadow: true,
            on_outage: entry.source.on_outage(),
        }
    }

    pub(super) fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }
}

impl Limit {
    /// The burst for another amount: in proportion.
    fn burst_for(&self, amount: u64) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } if amount == self.amount => burst,
            Algorithm::TokenBucket { burst } => {
                let scaled = u128::from(burst) * u128::from(amount) / u128::from(self.amount.max(1));
                u64::try_from(scaled)
                    .unwrap_or(u64::MAX)
                    .clamp(u64::from(amount > 0), crate::domain::limit::AMOUNT_MAX)
            }
            _ => 0,
        }
    }
}
