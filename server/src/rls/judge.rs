//! Whether a request is to be limited: finds the limits of its descriptors, counts, and tells.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use tracing::debug;

use super::{
    tally::{Outcome, Tallies, Tally},
    tree::{self, Domain, Found, Kind, Limit, Rules},
    unit::Unit,
};
use crate::{
    domain::{
        DomainError, HolderId, LeaseId,
        limit::{AMOUNT_MAX, Bucket, METERS_MAX, Meter, OnOutage, Rule, Window},
    },
    limiter::refusals::Refusals,
    store::counters::{Counters, Entry, Ground, Reading, ReservationId, Reserve, Settlement, Verdict},
};

/// Most descriptors of one request.
const DESCRIPTORS_MAX: usize = 64;
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

/// Headers that tell a client of the limit that is nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `RateLimit-Limit`, `-Remaining` and `-Reset`, as envoyproxy/ratelimit has them.
    pub plain: bool,
    /// The same with `X-` before them.
    pub x: bool,
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft, of all limits.
    pub ietf: bool,
}

/// What holds for all domains.
#[derive(Clone, Copy, Debug, Default)]
pub struct JudgeOptions {
    /// Nothing is refused.
    pub shadow: bool,
    /// Headers of answers.
    pub headers: Headers,
    /// While the store is unavailable.
    pub on_outage: OnOutage,
}

/// Answers requests.
pub struct Judge {
    rules: Arc<ArcSwap<Rules>>,
    counters: Arc<dyn Counters>,
    refusals: Refusals,
    options: JudgeOptions,
    unknown_domain: IntCounter,
    invalid: IntCounter,
    /// Name of the counters of limits that come with a descriptor, and of these limits.
    overridden: Arc<str>,
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
        /// Hits of its own: they are charged also where they are too many.
        own_hits: bool,
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
        options: JudgeOptions,
        tallies: &Tallies,
    ) -> Self {
        Self {
            rules,
            counters,
            refusals: Refusals::default(),
            options,
            unknown_domain: tallies.unknown_domain(),
            invalid: tallies.invalid(),
            overridden: "override".into(),
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
        let mut meters = Vec::with_capacity(question.descriptors.len());
        let judged = self.find(domain, question, &mut meters);
        if meters.len() > METERS_MAX {
            self.invalid.inc();
            let got = meters.len().to_string();
            return Err(DomainError::invalid("descriptors", "at most 16 that have a limit", &got));
        }
        let counted = match self.recall(&judged, &meters) {
            Some(counted) => counted,
            None => self.count(&meters).await?,
        };
        self.charge(&judged, &meters, &counted).await;
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
                    let (meter, reading) = (&meters[*meter], &verdict.readings[*meter]);
                    let over = is_over(meter, reading, verdict);
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
                    let mut status = status(descriptor.limit.as_ref(), reading, verdict.ground, over);
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
                let meter = self.meter(&told, domain.override_bucket(entries), &self.overridden, false);
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
                own_hits && known[meter].is_none_or(|reading| reading.used < reading.amount)
            }
            _ => false,
        };
        if judged.iter().any(is_to_be_charged) {
            return None;
        }
        let readings = known.into_iter().map(Option::unwrap_or_default).collect();
        Some(Counted { verdict: Verdict { readings, ..Verdict::default() }, remembered: true })
    }

    /// Charges hits that a descriptor brings with it, though they are over the limit: they tell what was used, and to
    /// forget them would leave the limit without effect.
    async fn charge(&self, judged: &[Judged<'_>], meters: &[Meter], counted: &Counted) {
        let Counted { verdict, remembered } = counted;
        if verdict.admitted || *remembered || verdict.ground == Ground::Closed {
            return;
        }
        let over = |meter: &usize| verdict.readings.get(*meter).is_some_and(|reading| reading.over);
        let own = judged.iter().filter_map(|judged| match judged.case {
            Case::Metered { meter, own_hits: true, .. } => Some(meter),
            _ => None,
        });
        let mut own: Vec<usize> = own.filter(over).collect();
        own.dedup();
        if own.is_empty() {
            return;
        }
        let meters = own.into_iter().map(|meter| Meter { shadow: true, ..meters[meter].clone() }).collect();
        if let Err(error) = self.counters.reserve(Reserve { id: None, meters }).await {
            debug!(%error, "hits over a limit were not charged");
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
    let own_hits = descriptor.hits.is_some_and(|hits| hits > 0);
    let same = |other: &Meter| other.bucket == meter.bucket && other.name == meter.name;
    let index = meters.iter().position(same).unwrap_or(meters.len());
    match meters.get_mut(index) {
        Some(other) => other.cost = (other.cost + meter.cost).min(AMOUNT_MAX),
        None => meters.push(meter),
    }
    Case::Metered { meter: index, shadow, quota, own_hits }
}

fn check(question: &Question<'_>) -> Result<(), DomainError> {
    if question.domain.is_empty() {
        return Err(DomainError::invalid("domain", "a name", "none"));
    }
    if question.descriptors.is_empty() || question.descriptors.len() > DESCRIPTORS_MAX {
        let got = question.descriptors.len().to_string();
        return Err(DomainError::invalid("descriptors", "1..64 descriptors", &got));
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

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Tells of the limit that is over, or of the one of which least is left; the IETF draft of all.
fn headers(headers: Headers, statuses: &[Status]) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if headers == Headers::default() {
        return all;
    }
    let limited = || statuses.iter().filter_map(|status| Some((status, status.limit.as_ref()?)));
    let Some((nearest, limit)) = limited().min_by_key(|(status, _)| (!status.over, status.remaining)) else {
        return all;
    };
    let values = || [limit.requests.to_string(), nearest.remaining.to_string(), nearest.reset_s.to_string()];
    if headers.plain {
        all.extend(["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"].into_iter().zip(values()));
    }
    if headers.x {
        all.extend(
            ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"].into_iter().zip(values()),
        );
    }
    if headers.ietf {
        let (mut policy, mut state) = (String::new(), String::new());
        for (status, limit) in limited() {
            let separator = if policy.is_empty() { "" } else { ", " };
            let name = quoted(&limit.name);
            let seconds = limit.unit.ms() / 1000;
            let _ = write!(policy, "{separator}{name};q={};w={seconds}", limit.requests);
            let _ = write!(state, "{separator}{name};r={};t={}", status.remaining, status.reset_s);
        }
        all.push(("RateLimit-Policy", policy));
        all.push(("RateLimit", state));
    }
    all
}

/// A name as a string of structured fields: printable ASCII, quotes and backslashes escaped.
fn quoted(name: &str) -> String {
    let name = if name.is_empty() { "limit" } else { name };
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            ' '..='~' => text.push(c),
            _ => text.push('_'),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rls::{file::File, tree::Rules},
        store::{StoreError, counters::Hold, memory::MemoryCounters},
    };

    const RULES: &str = "
domain: d
descriptors:
- {key: two, rate_limit: {name: two, unit: minute, requests_per_unit: 2}}
- {key: ten, rate_limit: {unit: hour, requests_per_unit: 10}}
- {key: none, rate_limit: {unit: second, requests_per_unit: 0}}
- {key: free, rate_limit: {unlimited: true}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: small, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: large, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: instead, rate_limit: {unit: day, requests_per_unit: 5, replaces: [{name: two}]}}
- {key: 'fr|ee', value: 'v*', share_threshold: true, rate_limit: {unit: week, requests_per_unit: 1}}
";

    fn judge_with(options: JudgeOptions, counters: Arc<dyn Counters>) -> Judge {
        let tallies = Tallies::unregistered();
        let rules = Rules::compile(vec![File::parse("a", RULES).unwrap()], false, &tallies).unwrap();
        Judge::new(Arc::new(ArcSwap::from_pointee(rules)), counters, options, &tallies)
    }

    /// The start of a day.
    const START_MS: u64 = 1_700_006_400_000;

    /// Counters whose clock stands still.
    fn counters() -> Arc<MemoryCounters> {
        let counters = MemoryCounters::default();
        counters.set_clock(START_MS);
        Arc::new(counters)
    }

    fn judge() -> Judge {
        judge_with(JudgeOptions::default(), counters())
    }

    fn by<'a>(key: &'a str, value: &'a str) -> Descriptor<'a> {
        Descriptor { entries: vec![(key, value)], ..Descriptor::default() }
    }

    async fn ask(judge: &Judge, hits: u32, descriptors: &[Descriptor<'_>]) -> Answer {
        let question = Question { domain: "d", hits, descriptors: descriptors.to_vec() };
        judge.judge(&question).await.unwrap()
    }

    /// Over, and what is left of each.
    async fn left(judge: &Judge, hits: u32, descriptors: &[Descriptor<'_>]) -> (bool, Vec<u32>) {
        let answer = ask(judge, hits, descriptors).await;
        (answer.over, answer.statuses.iter().map(|status| status.remaining).collect())
    }

    #[tokio::test]
    async fn counts_each_value_apart_until_the_unit_ends() {
        let counters = counters();
        let judge = judge_with(JudgeOptions::default(), Arc::clone(&counters) as Arc<dyn Counters>);
        assert_eq!(left(&judge, 0, &[by("two", "a")]).await, (false, vec![1]));
        assert_eq!(left(&judge, 1, &[by("two", "a")]).await, (false, vec![0]));
        assert_eq!(left(&judge, 1, &[by("two", "b")]).await, (false, vec![1]));
        let refused = ask(&judge, 1, &[by("two", "a")]).await;
        let limit = Told { name: "two".into(), requests: 2, unit: Unit::Minute };
        let status = Status { over: true, limit: Some(limit), remaining: 0, reset_s: 60 };
        assert_eq!(refused, Answer { over: true, statuses: vec![status], headers: Vec::new() });
        counters.set_clock(START_MS + 60_000);
        // Another sidecar: this one remembers the refusal for a second of its own clock.
        let judge = judge_with(JudgeOptions::default(), Arc::clone(&counters) as Arc<dyn Counters>);
        assert_eq!(left(&judge, 1, &[by("two", "a")]).await, (false, vec![1]));
        assert_eq!(left(&judge, 1, &[by("none", "a")]).await, (true, vec![0]));
        // Values that share a limit share its counter.
        assert_eq!(left(&judge, 1, &[by("fr|ee", "v1")]).await, (false, vec![0]));
        assert_eq!(left(&judge, 1, &[by("fr|ee", "v2")]).await, (true, vec![0]));
    }

    #[tokio::test]
    async fn what_has_no_limit_passes() {
        let judge = judge();
        let answer = ask(&judge, 1, &[by("unknown", "a"), by("free", "a")]).await;
        assert!(!answer.over);
        assert_eq!(answer.statuses[0], Status::default());
        assert_eq!(answer.statuses[1], Status { remaining: u32::MAX, ..Status::default() });
        let elsewhere = Question { domain: "e", hits: 0, descriptors: vec![by("none", "a")] };
        assert_eq!(judge.judge(&elsewhere).await.unwrap().statuses, [Status::default()]);
        for question in [
            Question { domain: "", descriptors: vec![by("two", "a")], ..Question::default() },
            Question { domain: "d", ..Question::default() },
            Question { domain: "d", descriptors: vec![by("two", "a"); 65], ..Question::default() },
        ] {
            assert!(matches!(judge.judge(&question).await, Err(DomainError::Invalid { .. })), "{question:?}");
        }
        let values: Vec<String> = (0..17).map(|i| i.to_string()).collect();
        let many = Question {
            domain: "d",
            descriptors: values.iter().map(|value| by("ten", value)).collect(),
            ..Question::default()
        };
        assert!(judge.judge(&many).await.is_err());
    }

    #[tokio::test]
    async fn where_one_refuses_no_other_is_charged() {
        let judge = judge();
        let both = [by("two", "a"), by("ten", "a")];
        assert_eq!(left(&judge, 1, &both).await, (false, vec![1, 9]));
        assert_eq!(left(&judge, 3, &both).await, (true, vec![0, 9]));
        assert_eq!(left(&judge, 1, &both).await, (false, vec![0, 8]), "what was too much took nothing");
        assert_eq!(left(&judge, 1, &both).await, (true, vec![0, 8]));
        // The same counter twice is taken from once, for both.
        assert_eq!(left(&judge, 2, &[by("ten", "b"), by("ten", "b")]).await, (false, vec![6, 6]));
    }

    #[tokio::test]
    async fn hits_of_a_descriptor_are_its_own_and_are_charged_in_any_case() {
        let judge = judge();
        let hits = |hits| Descriptor { hits: Some(hits), ..by("ten", "a") };
        assert_eq!(left(&judge, 1, &[hits(0)]).await, (false, vec![10]), "it only looks");
        assert_eq!(left(&judge, 1, &[hits(7)]).await, (false, vec![3]));
        assert_eq!(left(&judge, 1, &[hits(0)]).await, (false, vec![3]));
        // A response used more than was left: from now on nothing passes, not even a look.
        assert_eq!(left(&judge, 1, &[hits(7), by("two", "a")]).await, (true, vec![0, 2]));
        assert_eq!(left(&judge, 1, &[hits(0)]).await, (true, vec![0]));
        assert!(left(&judge, 1, &[Descriptor { hits: Some(u64::MAX), ..by("ten", "b") }]).await.0);
    }

    #[tokio::test]
    async fn hits_are_given_back() {
        let judge = judge();
        let back = |hits| Descriptor { hits: Some(hits), give_back: true, ..by("ten", "a") };
        assert_eq!(left(&judge, 6, &[by("ten", "a")]).await, (false, vec![4]));
        assert_eq!(left(&judge, 1, &[back(2)]).await, (false, vec![6]));
        assert_eq!(left(&judge, 1, &[back(100)]).await, (false, vec![10]), "never below nothing");
        assert_eq!(
            left(&judge, 1, &[by("ten", "a"), by("none", "a"), back(1)]).await,
            (true, vec![10, 0, 10])
        );
    }

    #[tokio::test]
    async fn shadow_counts_and_never_refuses() {
        let judge = judge();
        for expected in [0, 0, 0] {
            assert!(!left(&judge, 1, &[by("shadow", "a"), by("ten", "a")]).await.0);
            assert_eq!(left(&judge, 1, &[by("shadow", "a")]).await, (false, vec![expected]));
        }
        assert_eq!(left(&judge, 1, &[by("ten", "a")]).await, (false, vec![6]));
        let options = JudgeOptions { shadow: true, ..JudgeOptions::default() };
        let judge = judge_with(options, Arc::new(MemoryCounters::default()));
        let answer = ask(&judge, 1, &[by("none", "a")]).await;
        assert!(!answer.over && answer.statuses[0].over, "told, not done: {answer:?}");
    }

    #[tokio::test]
    async fn quotas_refuse_when_all_are_used_up() {
        let judge = judge();
        let both = [by("small", "a"), by("large", "a")];
        let over = async || {
            let answer = ask(&judge, 1, &both).await;
            (answer.over, answer.statuses.iter().map(|status| status.over).collect::<Vec<_>>())
        };
        assert_eq!(over().await, (false, vec![false, false]));
        assert_eq!(over().await, (false, vec![true, false]));
        assert_eq!(over().await, (true, vec![true, true]));
        assert!(!ask(&judge, 1, &[by("large", "b"), by("ten", "a")]).await.over);
    }

    #[tokio::test]
    async fn limits_replace_others() {
        let judge = judge();
        let answer = ask(&judge, 1, &[by("two", "a"), by("instead", "a")]).await;
        assert_eq!(answer.statuses[0], Status::default());
        assert_eq!(answer.statuses[1].remaining, 4);
        assert_eq!(left(&judge, 1, &[by("two", "a")]).await, (false, vec![1]), "it was not charged");
    }

    #[tokio::test]
    async fn a_descriptor_may_bring_its_limit() {
        let judge = judge();
        let own = |requests| Descriptor { limit: Some((requests, Unit::Day)), ..by("shadow", "a") };
        let answer = ask(&judge, 1, &[own(1)]).await;
        assert_eq!(answer.statuses[0].limit, Some(Told { name: "".into(), requests: 1, unit: Unit::Day }));
        assert!(ask(&judge, 1, &[own(1)]).await.over, "shadow mode is of the file's limit only");
        assert_eq!(left(&judge, 1, &[own(3)]).await, (false, vec![1]));
        // Without a key of any file, but only in domains of one.
        let unknown = Descriptor { entries: vec![("x", "y")], limit: Some((0, Unit::Day)), ..by("", "") };
        assert!(ask(&judge, 1, std::slice::from_ref(&unknown)).await.over);
        let elsewhere = Question { domain: "e", hits: 0, descriptors: vec![unknown] };
        assert!(!judge.judge(&elsewhere).await.unwrap().over);
    }

    #[tokio::test]
    async fn headers_tell_of_the_nearest_limit() {
        let headers = Headers { plain: true, x: true, ietf: true };
        let counters = counters();
        let judge = judge_with(JudgeOptions { headers, ..JudgeOptions::default() }, counters);
        let answer = ask(&judge, 1, &[by("ten", "a"), by("two", "a"), by("unknown", "")]).await;
        let lines: Vec<String> =
            answer.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "RateLimit-Limit: 2",
            "RateLimit-Remaining: 1",
            "RateLimit-Reset: 60",
            "X-RateLimit-Limit: 2",
            "X-RateLimit-Remaining: 1",
            "X-RateLimit-Reset: 60",
            "RateLimit-Policy: \"limit\";q=10;w=3600, \"two\";q=2;w=60",
            "RateLimit: \"limit\";r=9;t=3600, \"two\";r=1;t=60",
        ];
        assert_eq!(lines, expected);
        let answer = ask(&judge, 1, &[by("free", "a"), by("unknown", "")]).await;
        assert_eq!(answer.headers, []);
        assert_eq!(quoted("a\"b\\ü"), "\"a\\\"b\\\\_\"");
    }

    #[tokio::test]
    async fn what_is_over_is_not_asked_for_again() {
        let counters = counters();
        let judge = judge_with(JudgeOptions::default(), Arc::clone(&counters) as Arc<dyn Counters>);
        assert_eq!(left(&judge, 2, &[by("two", "a"), by("ten", "a")]).await, (false, vec![0, 8]));
        assert_eq!(left(&judge, 1, &[by("two", "a"), by("ten", "a")]).await, (true, vec![0, 8]));
        // The counters are empty again, which nobody has asked.
        counters.clear();
        let answer = ask(&judge, 1, &[by("two", "a"), by("ten", "a")]).await;
        assert_eq!((answer.over, answer.statuses[0].over, answer.statuses[0].remaining), (true, true, 0));
        assert_eq!(answer.statuses[0].limit.as_ref().map(|limit| limit.requests), Some(2));
        assert_eq!(answer.statuses[1], Status::default(), "nothing is known of the others");
        // Hits of a descriptor's own are charged, though: a response has used them.
        let own = Descriptor { hits: Some(4), ..by("ten", "a") };
        assert_eq!(left(&judge, 1, &[own]).await, (false, vec![6]));
        let back = Descriptor { give_back: true, ..by("two", "a") };
        assert!(!ask(&judge, 1, &[back]).await.over);
        assert_eq!(
            left(&judge, 1, &[by("two", "a")]).await,
            (false, vec![1]),
            "what is given back is forgotten"
        );
    }

    /// A store that is away: what its policies make of it.
    struct Away;

    #[async_trait::async_trait]
    impl Counters for Away {
        async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
            let closed = reserve.meters.iter().any(|meter| meter.on_outage == OnOutage::Closed);
            let (ground, admitted) = if closed { (Ground::Closed, false) } else { (Ground::Local, true) };
            let readings = vec![Reading { over: closed, ..Reading::default() }; reserve.meters.len()];
            Ok(Verdict { ground, admitted, readings, ..Verdict::default() })
        }

        async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
            self.reserve(Reserve { id: None, meters }).await
        }

        async fn settle(&self, _: Settlement) -> Result<bool, StoreError> {
            Err(StoreError::Timeout(1))
        }

        async fn hold(&self, _: Vec<Hold>) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_outage_is_answered_as_configured() {
        let with =
            |on_outage| judge_with(JudgeOptions { on_outage, ..JudgeOptions::default() }, Arc::new(Away));
        assert_eq!(left(&with(OnOutage::Open), 1, &[by("ten", "a")]).await, (false, vec![10]));
        let closed = with(OnOutage::Closed);
        assert_eq!(left(&closed, 1, &[by("ten", "a"), by("free", "")]).await, (true, vec![0, u32::MAX]));
        assert_eq!(left(&closed, 1, &[by("unknown", "a")]).await, (false, vec![0]), "it needs no store");
    }
}
