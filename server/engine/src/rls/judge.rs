//! Whether a request is to be limited: finds the limits of its descriptors, counts, and tells.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, HolderId, LeaseId,
    clock::unix_ms,
    limit::{AMOUNT_MAX, Bucket, Meter, OnOutage, Rule, Window},
    settings::RateLimiterOptions,
};
use evenkeel_store::counters::{
    Counters, Entry, Ground, Reading, ReservationId, Reserve, Settlement, Verdict,
};
use prometheus::IntCounter;
use tracing::debug;

use super::{
    headers::headers,
    tally::{Outcome, Tallies, Tally},
    tree::{self, Domain, Found, Kind, Limit, Rules},
    unit::Unit,
};
use crate::limiter::refusals::Refusals;

/// Most descriptors of one request. One with more is refused: an error would let it pass, as gateways are configured
/// by default.
const DESCRIPTORS_MAX: usize = 256;
/// In whose name hits are given back.
const HOLDER: &str = "rls";
/// What is left where there is no limit.
const REMAINING_MAX: u32 = u32::MAX;

/// A request as the gateway describes it.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// Whose limits.
    pub domain: &'a str,
    /// Hits of each descriptor that brings none; 0: one.
    pub hits: u32,
    /// What it is to be counted as.
    pub descriptors: Vec<Descriptor<'a>>,
}

/// One descriptor.
#[derive(Clone, Debug, Default)]
pub struct Descriptor<'a> {
    /// Its keys and values, in order.
    pub entries: Vec<tree::Entry<'a>>,
    /// The limit it brings with it.
    pub limit: Option<(u32, Unit)>,
    /// Its own hits; 0: only look.
    pub hits: Option<u64>,
    /// Hits are given back, not taken.
    pub give_back: bool,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The request is over a limit.
    pub over: bool,
    /// One for each descriptor.
    pub statuses: Vec<Status>,
    /// For the client.
    pub headers: Vec<(&'static str, String)>,
}

/// How one descriptor fared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Over its limit.
    pub over: bool,
    /// The limit; `None` where there is none.
    pub limit: Option<Told>,
    /// What is left.
    pub remaining: u32,
    /// Seconds until all of it is there again, rounded up.
    pub reset_s: u64,
}

/// A limit as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Empty where it has none.
    pub name: Arc<str>,
    /// Most in a unit.
    pub requests: u32,
    /// The unit.
    pub unit: Unit,
}

/// Answers requests.
pub struct Judge {
    rules: Arc<ArcSwap<Rules>>,
    counters: Arc<dyn Counters>,
    refusals: Refusals,
    options: RateLimiterOptions,
    unknown_domain: IntCounter,
    invalid: IntCounter,
    /// Names of the counters of limits that come with a descriptor, by unit, and of these limits.
    overridden: [Arc<str>; Unit::ALL.len()],
    unnamed: Arc<str>,
}

/// A descriptor under judgement.
struct Judged<'r> {
    limit: Option<Told>,
    tally: Option<&'r Tally>,
    detail: Option<Arc<Tally>>,
    case: Case,
}

/// What becomes of a descriptor.
enum Case {
    Unlisted,
    Unlimited,
    Replaced,
    Metered {
        /// Which meter counts it.
        meter: usize,
        shadow: bool,
        quota: bool,
        /// Hits of its own: they are charged also where the request is refused.
        own_hits: u64,
    },
    /// Hits are given back to this counter.
    GiveBack(Meter),
}

/// What the counters said.
struct Counted {
    verdict: Verdict,
    /// Refused without asking: of the counters that are not over nothing is known.
    remembered: bool,
}

impl Judge {
    /// Answers by rules that may change.
    #[must_use]
    pub fn new(
        rules: Arc<ArcSwap<Rules>>,
        counters: Arc<dyn Counters>,
        options: RateLimiterOptions,
        tallies: &Tallies,
    ) -> Self {
        Self {
            rules,
            counters,
            refusals: Refusals::default(),
            options,
            unknown_domain: tallies.unknown_domain(),
            invalid: tallies.invalid(),
            overridden: Unit::ALL.map(tree::override_counter),
            unnamed: "".into(),
        }
    }

    /// Judges a request, and counts it.
    ///
    /// # Errors
    /// Where the request is wrong in itself, or the store failed in a way that no policy covers.
    pub async fn judge(&self, question: &Question<'_>) -> Result<Answer, DomainError> {
        if let Err(error) = check(question) {
            self.invalid.inc();
            return Err(error);
        }
        let rules = self.rules.load_full();
        let Some(domain) = rules.domain(question.domain) else {
            self.unknown_domain.inc();
            return Ok(Answer {
                statuses: vec![Status::default(); question.descriptors.len()],
                ..Answer::default()
            });
        };
        if question.descriptors.len() > DESCRIPTORS_MAX {
            self.invalid.inc();
            return Ok(self.too_many(question));
        }
        let mut meters = Vec::with_capacity(question.descriptors.len());
        let judged = self.find(domain, question, &mut meters);
        let counted = match self.recall(&judged, &meters) {
            Some(counted) => counted,
            None => self.count(&meters).await?,
        };
        let charged = self.charge(&judged, &meters, &counted).await;
        let mut answer = Answer { statuses: Vec::with_capacity(judged.len()), ..Answer::default() };
        // A request is over where a limit is, or where all its limits in quota mode are.
        let (mut quotas, mut quotas_over) = (0, 0);
        for descriptor in &judged {
            let (status, outcome) = match &descriptor.case {
                Case::Unlisted => {
                    domain.unlisted.inc();
                    (Status::default(), None)
                }
                Case::Unlimited => {
                    (Status { remaining: REMAINING_MAX, ..Status::default() }, Some(Outcome::Unlimited))
                }
                Case::Replaced => (Status::default(), Some(Outcome::Replaced)),
                Case::GiveBack(meter) => {
                    let reading = self.give_back(meter).await;
                    let limit = descriptor.limit.as_ref();
                    (status(limit, &reading, Ground::Shared, false), Some(Outcome::GivenBack))
                }
                Case::Metered { meter, .. }
                    if counted.remembered && !counted.verdict.readings[*meter].over =>
                {
                    (Status::default(), None)
                }
                Case::Metered { meter, shadow, quota, .. } => {
                    let Counted { verdict, remembered } = &counted;
                    let mut reading = verdict.readings[*meter];
                    let over = is_over(&meters[*meter], &reading, verdict);
                    reading.used += charged.get(meter).unwrap_or(&0);
                    let told = over && !shadow;
                    quotas += u32::from(*quota);
                    quotas_over += u32::from(*quota && told);
                    answer.over |= told && !quota;
                    let outcome = match (over, told) {
                        (false, _) => Outcome::Ok,
                        (true, _) if *shadow || self.options.shadow => Outcome::ShadowOver,
                        (true, _) if *remembered => Outcome::Remembered,
                        (true, _) => Outcome::Over,
                    };
                    let mut status = status(descriptor.limit.as_ref(), &reading, verdict.ground, over);
                    status.over = told;
                    (status, Some(outcome))
                }
            };
            if let Some(outcome) = outcome {
                descriptor.tally.inspect(|tally| tally.count(outcome));
                descriptor.detail.as_ref().inspect(|tally| tally.count(outcome));
            }
            answer.statuses.push(status);
        }
        answer.over |= quotas > 0 && quotas == quotas_over;
        answer.headers = headers(self.options.headers, &answer.statuses);
        answer.over &= !self.options.shadow;
        Ok(answer)
    }

    /// Refuses a request that is not judged.
    fn too_many(&self, question: &Question<'_>) -> Answer {
        let status = Status { over: true, ..Status::default() };
        Answer {
            over: !self.options.shadow,
            statuses: vec![status; question.descriptors.len()],
            headers: Vec::new(),
        }
    }

    /// Finds the limits of all descriptors, and what counts them.
    fn find<'r>(
        &self,
        domain: &'r Domain,
        question: &Question<'_>,
        meters: &mut Vec<Meter>,
    ) -> Vec<Judged<'r>> {
        let find = |descriptor: &Descriptor<'_>| match descriptor.limit {
            Some(_) => None,
            None => domain.find(&descriptor.entries),
        };
        let found: Vec<Option<Found<'r>>> = question.descriptors.iter().map(find).collect();
        let replaced = |name: &str| {
            let named = |found: &Found<'r>| found.limit.replaces.iter().any(|other| **other == *name);
            !name.is_empty() && found.iter().flatten().any(named)
        };
        let judge = |(descriptor, found): (&Descriptor<'_>, &Option<Found<'r>>)| {
            let entries = &descriptor.entries;
            let Some(found) = found else {
                let Some((requests, unit)) = descriptor.limit else {
                    return Judged { limit: None, tally: None, detail: None, case: Case::Unlisted };
                };
                let told = Told { name: Arc::clone(&self.unnamed), requests, unit };
                let name = &self.overridden[unit as usize];
                let meter = self.meter(&told, domain.override_bucket(entries), name, false);
                let case = case(question, descriptor, meter, (false, false), meters);
                return Judged { limit: Some(told), tally: Some(&domain.overrides), detail: None, case };
            };
            let limit: &'r Limit = found.limit;
            let (tally, detail) = (Some(&*limit.tally), found.detail(entries));
            match limit.kind {
                Kind::Unlimited => Judged { limit: None, tally, detail, case: Case::Unlimited },
                Kind::PerUnit(..) if replaced(&limit.name) => {
                    Judged { limit: None, tally, detail, case: Case::Replaced }
                }
                Kind::PerUnit(requests, unit) => {
                    let told = Told { name: Arc::clone(&limit.name), requests, unit };
                    let shadow = limit.shadow || limit.quota;
                    let meter = self.meter(&told, found.bucket(entries), &limit.counter, shadow);
                    let case = case(question, descriptor, meter, (limit.shadow, limit.quota), meters);
                    Judged { limit: Some(told), tally, detail, case }
                }
            }
        };
        question.descriptors.iter().zip(&found).map(judge).collect()
    }

    fn meter(&self, limit: &Told, bucket: Arc<Bucket>, name: &Arc<str>, shadow: bool) -> Meter {
        Meter {
            bucket,
            name: Arc::clone(name),
            rule: Rule::Fixed { amount: u64::from(limit.requests), window: Window::Length(limit.unit.ms()) },
            cost: 0,
            provisional: false,
            shadow: shadow || self.options.shadow,
            on_outage: self.options.on_outage,
        }
    }

    /// Takes of all counters, or of none.
    async fn count(&self, meters: &[Meter]) -> Result<Counted, DomainError> {
        if meters.is_empty() {
            return Ok(Counted {
                verdict: Verdict { admitted: true, ..Verdict::default() },
                remembered: false,
            });
        }
        let look = meters.iter().all(|meter| meter.cost == 0);
        let looked = if look { self.counters.peek(meters.to_vec()).await.ok() } else { None };
        let verdict = match looked {
            Some(verdict) => verdict,
            // Also where looking failed: taking nothing is answered by policy.
            None => {
                let taken = self.counters.reserve(Reserve { id: None, meters: meters.to_vec() }).await;
                taken.map_err(DomainError::store("counting a request"))?
            }
        };
        if !verdict.admitted && verdict.ground == Ground::Shared {
            for (meter, reading) in meters.iter().zip(&verdict.readings) {
                self.refusals.note(meter, reading);
            }
        }
        Ok(Counted { verdict, remembered: false })
    }

    /// The refusal of a request of which a counter is known to be over.
    fn recall(&self, judged: &[Judged<'_>], meters: &[Meter]) -> Option<Counted> {
        let known: Vec<Option<Reading>> = meters.iter().map(|meter| self.refusals.recall(meter)).collect();
        known.iter().find(|known| known.is_some())?;
        // Hits of a descriptor's own are to be charged, unless that would change nothing.
        let is_to_be_charged = |judged: &Judged<'_>| match judged.case {
            Case::Metered { meter, own_hits, .. } => {
                own_hits > 0 && known[meter].is_none_or(|reading| reading.used < reading.amount)
            }
            _ => false,
        };
        if judged.iter().any(is_to_be_charged) {
            return None;
        }
        let readings = known.into_iter().map(Option::unwrap_or_default).collect();
        Some(Counted { verdict: Verdict { readings, ..Verdict::default() }, remembered: true })
    }

    /// Charges hits that a descriptor brings with it, though the request is refused, by this limit or another: they
    /// tell what was used, and to forget them would leave the limit without effect. What was charged, by meter.
    async fn charge(
        &self,
        judged: &[Judged<'_>],
        meters: &[Meter],
        counted: &Counted,
    ) -> BTreeMap<usize, u64> {
        let Counted { verdict, remembered } = counted;
        let mut own = BTreeMap::new();
        if verdict.admitted || *remembered || verdict.ground == Ground::Closed {
            return own;
        }
        for judged in judged {
            if let Case::Metered { meter, own_hits: hits @ 1.., .. } = judged.case {
                let sum = own.entry(meter).or_insert(0_u64);
                *sum = (*sum + hits).min(AMOUNT_MAX);
            }
        }
        if own.is_empty() {
            return own;
        }
        // As shadows they are charged whatever is left.
        let charge =
            |(meter, hits): (&usize, &u64)| Meter { cost: *hits, shadow: true, ..meters[*meter].clone() };
        let charges = own.iter().map(charge).collect();
        match self.counters.reserve(Reserve { id: None, meters: charges }).await {
            Ok(_) => own,
            Err(error) => {
                debug!(%error, "hits of a request that was refused were not charged");
                BTreeMap::new()
            }
        }
    }

    /// Gives hits back; where the store fails, as if there were none. The counter as it is then.
    async fn give_back(&self, meter: &Meter) -> Reading {
        let given = async {
            let look = || self.counters.peek(vec![Meter { cost: 0, ..meter.clone() }]);
            let before = look().await.map_err(DomainError::store("looking what is used"))?;
            let id = ReservationId { holder: HolderId::new(HOLDER)?, lease: LeaseId::new(1)? };
            let entry = Entry {
                bucket: Arc::clone(&meter.bucket),
                name: Arc::clone(&meter.name),
                rule: meter.rule,
                window: before.readings.first().map_or(0, |reading| reading.window),
                reserved: meter.cost,
                actual: 0,
                provisional: false,
            };
            let settlement = Settlement { id, notes: Vec::new(), entries: vec![entry] };
            self.counters.settle(settlement).await.map_err(DomainError::store("giving hits back"))?;
            self.refusals.forget(&meter.bucket, &meter.name);
            let after = look().await.map_err(DomainError::store("looking what is left"))?;
            Ok::<_, DomainError>(after.readings.first().copied().unwrap_or_default())
        };
        given.await.unwrap_or_else(|error| {
            debug!(error = &error as &dyn std::error::Error, "hits were not given back");
            Reading { amount: meter.rule.most(), ..Reading::default() }
        })
    }
}

/// The case of a descriptor with a limit. Two of one counter share a meter.
fn case(
    question: &Question<'_>,
    descriptor: &Descriptor<'_>,
    mut meter: Meter,
    (shadow, quota): (bool, bool),
    meters: &mut Vec<Meter>,
) -> Case {
    meter.cost = descriptor.hits.unwrap_or(u64::from(question.hits.max(1))).min(AMOUNT_MAX);
    if descriptor.give_back {
        return Case::GiveBack(meter);
    }
    let own_hits = if descriptor.hits.is_some() { meter.cost } else { 0 };
    let same = |other: &Meter| other.bucket == meter.bucket && other.name == meter.name;
    let index = meters.iter().position(same).unwrap_or(meters.len());
    match meters.get_mut(index) {
        Some(other) => {
            other.cost = (other.cost + meter.cost).min(AMOUNT_MAX);
            // Limits that come with descriptors may differ in their amount: within the smaller is within both.
            if meter.rule.most() < other.rule.most() {
                other.rule = meter.rule;
            }
        }
        None => meters.push(meter),
    }
    Case::Metered { meter: index, shadow, quota, own_hits }
}

fn check(question: &Question<'_>) -> Result<(), DomainError> {
    if question.domain.is_empty() {
        return Err(DomainError::invalid("domain", "a name", "none"));
    }
    if question.descriptors.is_empty() {
        return Err(DomainError::invalid("descriptors", "at least one descriptor", "none"));
    }
    Ok(())
}

/// Whether a counter is over its limit, also where its meter is never refused.
fn is_over(meter: &Meter, reading: &Reading, verdict: &Verdict) -> bool {
    let is_counted = match verdict.ground {
        Ground::Shared => true,
        Ground::Local => meter.on_outage == OnOutage::Local,
        Ground::Closed => false,
    };
    let cost = if verdict.admitted { 0 } else { meter.cost };
    reading.over || is_counted && meter.shadow && reading.used + cost > reading.amount
}

fn status(limit: Option<&Told>, reading: &Reading, ground: Ground, over: bool) -> Status {
    let Some(limit) = limit else { return Status::default() };
    let uncounted = ground != Ground::Shared && reading.amount == 0;
    let amount = if uncounted { u64::from(limit.requests) } else { reading.amount };
    let left = if over { 0 } else { amount.saturating_sub(reading.used) };
    let reset_ms = match reading.reset_ms {
        0 => limit.unit.ms() - unix_ms() % limit.unit.ms(),
        ms => ms,
    };
    Status {
        over,
        limit: Some(limit.clone()),
        remaining: u32::try_from(left).unwrap_or(REMAINING_MAX),
        reset_s: reset_ms.div_ceil(1000),
    }
}

#[cfg(test)]
mod tests;
