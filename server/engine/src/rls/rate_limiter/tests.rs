use std::sync::atomic::{AtomicUsize, Ordering};

use evenkeel_domain::StoreError;
use evenkeel_store::{
    counters::{Renewal, Reserve, SettleResult, Settlement},
    memory::MemoryCounters,
};

use super::*;
use crate::rls::{compile::compile, file::parse, request::Descriptor};

mod quota_mode;

const RULES: &str = "
domain: d
descriptors:
- {key: two, rate_limit: {name: two, unit: minute, requests_per_unit: 2}}
- {key: ten, rate_limit: {unit: hour, requests_per_unit: 10}}
- {key: none, rate_limit: {unit: second, requests_per_unit: 0}}
- {key: free, rate_limit: {unlimited: true}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: small, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: large, quota_mode: true, metadata: {name: large, a: {x: 1}}, rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: noted, metadata: {name: noted, a: {x: 2, y: 3}}, rate_limit: {unit: hour, requests_per_unit: 1}}
- key: backend_name
  descriptors:
  - key: model_name_override
    descriptors:
    - {key: tenant, quota_mode: true, metadata: {tenant: t}, rate_limit: {unit: hour, requests_per_unit: 1}}
    - {key: all, quota_mode: true, metadata: {all: t}, rate_limit: {unit: hour, requests_per_unit: 3}}
- {key: instead, rate_limit: {unit: day, requests_per_unit: 5, replaces: [{name: two}]}}
- {key: 'fr|ee', value: 'v*', share_threshold: true, rate_limit: {unit: week, requests_per_unit: 1}}
";

fn limiter_with(options: RateLimiterOptions, counters: Arc<dyn Counters>) -> RateLimiter {
    let metrics = RateLimitMetrics::unregistered();
    let rules = compile(parse("a", RULES).unwrap().files, false, &metrics).unwrap();
    RateLimiter::new(Arc::new(ArcSwap::from_pointee(rules)), counters, options, &metrics)
}

/// The start of a day.
const START_MS: u64 = 1_700_006_400_000;

/// Returns counters with a stopped clock.
fn counters() -> Arc<MemoryCounters> {
    let counters = MemoryCounters::default();
    counters.set_clock(START_MS);
    Arc::new(counters)
}

fn limiter() -> RateLimiter {
    limiter_with(RateLimiterOptions::default(), counters())
}

fn by<'a>(key: &'a str, value: &'a str) -> Descriptor<'a> {
    Descriptor { entries: vec![(key, value)], ..Descriptor::default() }
}

async fn ask(limiter: &RateLimiter, hits: u32, descriptors: &[Descriptor<'_>]) -> Evaluation {
    let request = RateLimitRequest { domain: "d", hits, descriptors: descriptors.to_vec() };
    limiter.evaluate(&request).await.unwrap()
}

/// Returns whether the request is over its limits, and the remaining amount of each descriptor.
async fn left(limiter: &RateLimiter, hits: u32, descriptors: &[Descriptor<'_>]) -> (bool, Vec<u32>) {
    let evaluation = ask(limiter, hits, descriptors).await;
    (evaluation.over, evaluation.statuses.iter().map(|status| status.remaining).collect())
}

#[tokio::test]
async fn each_value_is_counted_separately_until_the_unit_ends() {
    let counters = counters();
    let limiter = limiter_with(RateLimiterOptions::default(), Arc::clone(&counters) as Arc<dyn Counters>);
    assert_eq!(left(&limiter, 0, &[by("two", "a")]).await, (false, vec![1]));
    assert_eq!(left(&limiter, 1, &[by("two", "a")]).await, (false, vec![0]));
    assert_eq!(left(&limiter, 1, &[by("two", "b")]).await, (false, vec![1]));
    let refused = ask(&limiter, 1, &[by("two", "a")]).await;
    let limit = CurrentLimit { name: "two".into(), requests: 2, unit: Unit::Minute };
    let status = DescriptorStatus { over: true, limit: Some(limit), remaining: 0, reset_s: 60 };
    assert_eq!(refused, Evaluation { over: true, statuses: vec![status], ..Evaluation::default() });
    counters.set_clock(START_MS + 60_000);
    // Uses another sidecar, because the first one caches the refusal for a second of its own clock.
    let limiter = limiter_with(RateLimiterOptions::default(), Arc::clone(&counters) as Arc<dyn Counters>);
    assert_eq!(left(&limiter, 1, &[by("two", "a")]).await, (false, vec![1]));
    assert_eq!(left(&limiter, 1, &[by("none", "a")]).await, (true, vec![0]));
    // Values that share a limit share its counter.
    assert_eq!(left(&limiter, 1, &[by("fr|ee", "v1")]).await, (false, vec![0]));
    assert_eq!(left(&limiter, 1, &[by("fr|ee", "v2")]).await, (true, vec![0]));
}

#[tokio::test]
async fn requests_without_a_limit_pass() {
    let limiter = limiter();
    let evaluation = ask(&limiter, 1, &[by("unknown", "a"), by("free", "a")]).await;
    assert!(!evaluation.over);
    assert_eq!(evaluation.statuses[0], DescriptorStatus::default());
    assert_eq!(
        evaluation.statuses[1],
        DescriptorStatus { remaining: u32::MAX, ..DescriptorStatus::default() }
    );
    let elsewhere = RateLimitRequest { domain: "e", hits: 0, descriptors: vec![by("none", "a")] };
    assert_eq!(limiter.evaluate(&elsewhere).await.unwrap().statuses, [DescriptorStatus::default()]);
    for request in [
        RateLimitRequest { domain: "", descriptors: vec![by("two", "a")], ..RateLimitRequest::default() },
        RateLimitRequest { domain: "d", ..RateLimitRequest::default() },
    ] {
        assert!(matches!(limiter.evaluate(&request).await, Err(DomainError::Invalid { .. })), "{request:?}");
    }
}

/// Guards against an error for too many descriptors: by default, Envoy lets a request pass after an error.
#[tokio::test]
async fn up_to_256_descriptors_are_counted_and_more_are_refused() {
    let limiter = limiter();
    let values: Vec<String> = (0..=256).map(|i| i.to_string()).collect();
    let mut many: Vec<Descriptor<'_>> = values[..255].iter().map(|value| by("ten", value)).collect();
    assert_eq!(left(&limiter, 1, &many).await, (false, vec![9; 255]));
    many.push(by("none", "a"));
    let (over, rest) = left(&limiter, 1, &many).await;
    assert_eq!((over, &rest[..255], rest[255]), (true, &[9; 255][..], 0), "all or none");
    many.pop();
    assert_eq!(left(&limiter, 1, &many).await, (false, vec![8; 255]));
    let many: Vec<Descriptor<'_>> = values.iter().map(|value| by("ten", value)).collect();
    let evaluation = ask(&limiter, 1, &many).await;
    assert!(evaluation.over && evaluation.statuses.len() == 257);
    assert_eq!(left(&limiter, 1, &many[..1]).await, (false, vec![7]), "not charged");
    let elsewhere = RateLimitRequest { domain: "e", hits: 0, descriptors: many };
    assert!(!limiter.evaluate(&elsewhere).await.unwrap().over, "nothing there has a limit");
}

#[tokio::test]
async fn if_one_limit_refuses_no_other_is_charged() {
    let limiter = limiter();
    let both = [by("two", "a"), by("ten", "a")];
    assert_eq!(left(&limiter, 1, &both).await, (false, vec![1, 9]));
    assert_eq!(left(&limiter, 3, &both).await, (true, vec![0, 9]));
    assert_eq!(
        left(&limiter, 1, &both).await,
        (false, vec![0, 8]),
        "three hits did not fit and took nothing"
    );
    assert_eq!(left(&limiter, 1, &both).await, (true, vec![0, 8]));
    // Two descriptors with the same counter take from it together.
    assert_eq!(left(&limiter, 2, &[by("ten", "b"), by("ten", "b")]).await, (false, vec![6, 6]));
}

#[tokio::test]
async fn own_hits_are_always_charged() {
    let limiter = limiter();
    let hits = |hits| Descriptor { hits: Some(hits), ..by("ten", "a") };
    assert_eq!(left(&limiter, 1, &[hits(0)]).await, (false, vec![10]), "only reads");
    assert_eq!(left(&limiter, 1, &[hits(7)]).await, (false, vec![3]));
    assert_eq!(left(&limiter, 1, &[hits(0)]).await, (false, vec![3]));
    // A response used more than remained. After that nothing passes, not even a read.
    assert_eq!(left(&limiter, 1, &[hits(7), by("two", "a")]).await, (true, vec![0, 2]));
    assert_eq!(left(&limiter, 1, &[hits(0)]).await, (true, vec![0]));
    assert!(left(&limiter, 1, &[Descriptor { hits: Some(u64::MAX), ..by("ten", "b") }]).await.0);
}

/// Descriptors' own hits report what a response used. They are charged even if another limit refuses the request.
#[tokio::test]
async fn own_hits_are_charged_if_another_limit_refuses() {
    let limiter = limiter();
    let own = |hits, value| Descriptor { hits: Some(hits), ..by("ten", value) };
    let all =
        [own(3, "a"), by("none", "x"), own(2, "a"), by("ten", "a"), own(4, "b"), by("two", "c"), own(1, "a")];
    assert_eq!(left(&limiter, 1, &all).await, (true, vec![4, 0, 4, 4, 6, 2, 4]));
    assert_eq!(left(&limiter, 1, &[own(0, "a"), own(0, "b")]).await, (false, vec![4, 6]), "each once");
    assert_eq!(
        left(&limiter, 1, &[own(0, "a"), by("two", "c")]).await,
        (false, vec![4, 1]),
        "no other counter"
    );
    // Own hits are also charged if the refusal is cached.
    assert!(left(&limiter, 1, &[by("none", "x"), own(4, "a")]).await.0);
    assert_eq!(left(&limiter, 1, &[own(0, "a")]).await, (false, vec![0]));
}

/// Guards against hits that are lost because a refusal is cached whose counter has nothing left.
#[tokio::test]
async fn own_hits_are_charged_beside_a_cached_refusal_of_their_counter() {
    let limiter = limiter();
    let own = |hits| Descriptor { hits: Some(hits), ..by("ten", "a") };
    let back = |hits| Descriptor { give_back: true, ..own(hits) };
    assert_eq!(left(&limiter, 1, &[own(10)]).await, (false, vec![0]));
    assert_eq!(left(&limiter, 1, &[by("ten", "a")]).await, (true, vec![0]));
    assert_eq!(left(&limiter, 1, &[own(5)]).await, (true, vec![0]));
    assert_eq!(left(&limiter, 1, &[own(0)]).await, (true, vec![0]), "15 are used");
    assert_eq!(left(&limiter, 1, &[own(2)]).await, (true, vec![0]), "the refusal of a look is cached too");
    assert_eq!(left(&limiter, 1, &[back(8)]).await, (false, vec![1]));
}

#[tokio::test]
async fn hits_are_given_back() {
    let limiter = limiter();
    let back = |hits| Descriptor { hits: Some(hits), give_back: true, ..by("ten", "a") };
    assert_eq!(left(&limiter, 6, &[by("ten", "a")]).await, (false, vec![4]));
    assert_eq!(left(&limiter, 1, &[back(2)]).await, (false, vec![6]));
    assert_eq!(left(&limiter, 1, &[back(100)]).await, (false, vec![10]), "at most down to nothing used");
    assert_eq!(left(&limiter, 1, &[by("ten", "a"), by("none", "a"), back(1)]).await, (true, vec![10, 0, 10]));
}

/// Guards against a peek that is refused: a refusal contains no window to which hits could be given back.
#[tokio::test]
async fn hits_are_given_back_to_a_counter_over_its_limit() {
    let limiter = limiter();
    let own = |hits, value| Descriptor { hits: Some(hits), ..by("ten", value) };
    let back = |hits, value| Descriptor { give_back: true, ..own(hits, value) };
    assert_eq!(left(&limiter, 1, &[own(14, "a")]).await, (true, vec![0]));
    assert_eq!(left(&limiter, 1, &[own(5, "b")]).await, (false, vec![5]));
    assert_eq!(left(&limiter, 1, &[back(5, "a"), back(1, "b")]).await, (false, vec![1, 6]));
    assert_eq!(left(&limiter, 1, &[own(0, "a"), own(0, "b")]).await, (false, vec![1, 6]));
}

/// A store that counts its calls.
#[derive(Default)]
struct Calls {
    counters: MemoryCounters,
    reserves: AtomicUsize,
    peeks: AtomicUsize,
    settlements: AtomicUsize,
}

#[async_trait::async_trait]
impl Counters for Calls {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        self.reserves.fetch_add(1, Ordering::Relaxed);
        self.counters.reserve(reserve).await
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        self.peeks.fetch_add(1, Ordering::Relaxed);
        self.counters.peek(meters).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<SettleResult, StoreError> {
        self.settlements.fetch_add(1, Ordering::Relaxed);
        self.counters.settle(settlement).await
    }

    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError> {
        self.counters.give_back(reserve).await
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
        self.counters.renew(renewals).await
    }
}

#[tokio::test]
async fn all_hits_of_a_request_are_given_back_at_once() {
    let calls = Arc::new(Calls::default());
    calls.counters.set_clock(START_MS);
    let limiter = limiter_with(RateLimiterOptions::default(), Arc::clone(&calls) as Arc<dyn Counters>);
    let back = |hits, value| Descriptor { hits: Some(hits), give_back: true, ..by("ten", value) };
    assert_eq!(left(&limiter, 6, &[by("ten", "a"), by("ten", "b")]).await, (false, vec![4, 4]));
    let request = [back(1, "a"), back(2, "b"), by("two", "c"), back(3, "a")];
    assert_eq!(left(&limiter, 1, &request).await, (false, vec![5, 6, 1, 8]), "each after those before it");
    let made = [&calls.reserves, &calls.peeks, &calls.settlements].map(|calls| calls.load(Ordering::Relaxed));
    assert_eq!(made, [2, 1, 1]);
    assert_eq!(left(&limiter, 1, &[by("ten", "a"), by("ten", "b")]).await, (false, vec![7, 5]));
}

#[tokio::test]
async fn a_limit_in_shadow_mode_counts_and_never_refuses() {
    let limiter = limiter();
    for expected in [0, 0, 0] {
        assert!(!left(&limiter, 1, &[by("shadow", "a"), by("ten", "a")]).await.0);
        assert_eq!(left(&limiter, 1, &[by("shadow", "a")]).await, (false, vec![expected]));
    }
    assert_eq!(left(&limiter, 1, &[by("ten", "a")]).await, (false, vec![6]));
    let options = RateLimiterOptions { shadow: true, ..RateLimiterOptions::default() };
    let limiter = limiter_with(options, Arc::new(MemoryCounters::default()));
    let evaluation = ask(&limiter, 1, &[by("none", "a")]).await;
    assert!(!evaluation.over && evaluation.statuses[0].over, "reported, but not refused: {evaluation:?}");
}

#[tokio::test]
async fn a_limit_replaces_another() {
    let limiter = limiter();
    let evaluation = ask(&limiter, 1, &[by("two", "a"), by("instead", "a")]).await;
    assert_eq!(evaluation.statuses[0], DescriptorStatus::default());
    assert_eq!(evaluation.statuses[1].remaining, 4);
    assert_eq!(left(&limiter, 1, &[by("two", "a")]).await, (false, vec![1]), "not charged");
}

#[tokio::test]
async fn a_descriptor_may_have_its_own_limit() {
    let limiter = limiter();
    let own = |requests| Descriptor { limit: Some((requests, Unit::Day)), ..by("shadow", "a") };
    let evaluation = ask(&limiter, 1, &[own(1)]).await;
    assert_eq!(
        evaluation.statuses[0].limit,
        Some(CurrentLimit { name: "".into(), requests: 1, unit: Unit::Day })
    );
    assert!(ask(&limiter, 1, &[own(1)]).await.over, "shadow mode belongs to the file's limit");
    assert_eq!(left(&limiter, 1, &[own(3)]).await, (false, vec![1]));
    // An unknown key in a known domain.
    let unknown = Descriptor { entries: vec![("x", "y")], limit: Some((0, Unit::Day)), ..by("", "") };
    assert!(ask(&limiter, 1, std::slice::from_ref(&unknown)).await.over);
    let elsewhere = RateLimitRequest { domain: "e", hits: 0, descriptors: vec![unknown] };
    assert!(!limiter.evaluate(&elsewhere).await.unwrap().over);
}

#[tokio::test]
async fn a_refusal_is_cached() {
    let counters = counters();
    let limiter = limiter_with(RateLimiterOptions::default(), Arc::clone(&counters) as Arc<dyn Counters>);
    assert_eq!(left(&limiter, 2, &[by("two", "a"), by("ten", "a")]).await, (false, vec![0, 8]));
    assert_eq!(left(&limiter, 1, &[by("two", "a"), by("ten", "a")]).await, (true, vec![0, 8]));
    // The counters are empty now, but the limiter does not ask the store.
    counters.clear();
    let evaluation = ask(&limiter, 1, &[by("two", "a"), by("ten", "a")]).await;
    assert_eq!(
        (evaluation.over, evaluation.statuses[0].over, evaluation.statuses[0].remaining),
        (true, true, 0)
    );
    assert_eq!(evaluation.statuses[0].limit.as_ref().map(|limit| limit.requests), Some(2));
    assert_eq!(evaluation.statuses[1], DescriptorStatus::default(), "unknown");
    // Own hits are charged nevertheless, because a response has used them.
    let own = Descriptor { hits: Some(4), ..by("ten", "a") };
    assert_eq!(left(&limiter, 1, &[own]).await, (false, vec![6]));
    let back = Descriptor { give_back: true, ..by("two", "a") };
    assert!(!ask(&limiter, 1, &[back]).await.over);
    assert_eq!(left(&limiter, 1, &[by("two", "a")]).await, (false, vec![1]), "giving back ends the refusal");
}

/// Guards against windows of different durations on one counter, which would reset each other.
#[tokio::test]
async fn own_limits_have_a_counter_for_each_unit() {
    let limiter = limiter();
    let own = |requests, unit| Descriptor { limit: Some((requests, unit)), ..by("x", "y") };
    let (day, year) = (|| own(3, Unit::Day), || own(5, Unit::Year));
    assert_eq!(left(&limiter, 1, &[day()]).await, (false, vec![2]));
    assert_eq!(left(&limiter, 1, &[year()]).await, (false, vec![4]));
    assert_eq!(left(&limiter, 1, &[day(), year()]).await, (false, vec![1, 3]), "separately");
    assert_eq!(left(&limiter, 1, &[year(), day()]).await, (false, vec![2, 0]));
    assert_eq!(left(&limiter, 1, &[year(), day()]).await, (true, vec![2, 0]));
    // If two limits with different amounts have the same counter, the smaller amount applies.
    assert_eq!(left(&limiter, 1, &[own(9, Unit::Hour), own(3, Unit::Hour)]).await, (false, vec![1, 1]));
    assert_eq!(left(&limiter, 1, &[own(9, Unit::Hour), own(3, Unit::Hour)]).await, (true, vec![0, 0]));
    assert_eq!(left(&limiter, 1, &[own(9, Unit::Hour)]).await, (false, vec![6]));
}

#[tokio::test]
async fn own_limits_share_no_counter_with_limits_of_a_file() {
    for name in ["override", "override.day", "override%2Eday"] {
        let yaml = format!(
            "domain: d\ndescriptors: [{{key: a, rate_limit: {{name: {name}, unit: day, requests_per_unit: 3}}}}]"
        );
        let metrics = RateLimitMetrics::unregistered();
        let rules = compile(parse("a", &yaml).unwrap().files, false, &metrics).unwrap();
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let limiter = RateLimiter::new(rules, counters(), RateLimiterOptions::default(), &metrics);
        let own = Descriptor { limit: Some((9, Unit::Day)), ..by("a", "x") };
        assert_eq!(left(&limiter, 1, &[by("a", "x")]).await, (false, vec![2]), "{name}");
        assert_eq!(left(&limiter, 1, &[own, by("a", "x")]).await, (false, vec![8, 1]), "{name}");
    }
}

/// A store that is unavailable and applies `on_store_failure`.
struct Down;

#[async_trait::async_trait]
impl Counters for Down {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        let closed = reserve.meters.iter().any(|meter| meter.on_store_failure == OnStoreFailure::Closed);
        let (basis, admitted) =
            if closed { (ReserveBasis::Closed, false) } else { (ReserveBasis::Local, true) };
        let states = vec![CounterState { over: closed, ..CounterState::default() }; reserve.meters.len()];
        Ok(Verdict { basis, admitted, states, ..Verdict::default() })
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        self.reserve(Reserve { id: None, meters }).await
    }

    async fn settle(&self, _: Settlement) -> Result<SettleResult, StoreError> {
        Err(StoreError::Timeout(1))
    }

    async fn give_back(&self, _: Reserve) -> Result<(), StoreError> {
        Ok(())
    }

    async fn renew(&self, _: Vec<Renewal>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn the_configured_policy_applies_during_an_outage() {
    let with = |on_store_failure| {
        limiter_with(RateLimiterOptions { on_store_failure, ..RateLimiterOptions::default() }, Arc::new(Down))
    };
    assert_eq!(left(&with(OnStoreFailure::Open), 1, &[by("ten", "a")]).await, (false, vec![10]));
    let closed = with(OnStoreFailure::Closed);
    assert_eq!(left(&closed, 1, &[by("ten", "a"), by("free", "")]).await, (true, vec![0, u32::MAX]));
    assert_eq!(left(&closed, 1, &[by("unknown", "a")]).await, (false, vec![0]), "needs no store");
}
