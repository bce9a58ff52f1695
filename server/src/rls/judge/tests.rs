use super::*;
use crate::{
    rls::{file::File, tree::Rules},
    store::{StoreError, counters::Renewal, memory::MemoryCounters},
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
    ] {
        assert!(matches!(judge.judge(&question).await, Err(DomainError::Invalid { .. })), "{question:?}");
    }
}

/// An error would let a request pass, as gateways are configured by default.
#[tokio::test]
async fn all_of_many_descriptors_are_judged_and_too_many_are_refused() {
    let judge = judge();
    let values: Vec<String> = (0..=256).map(|i| i.to_string()).collect();
    let mut many: Vec<Descriptor<'_>> = values[..255].iter().map(|value| by("ten", value)).collect();
    assert_eq!(left(&judge, 1, &many).await, (false, vec![9; 255]));
    many.push(by("none", "a"));
    let (over, rest) = left(&judge, 1, &many).await;
    assert_eq!((over, &rest[..255], rest[255]), (true, &[9; 255][..], 0), "all or none");
    many.pop();
    assert_eq!(left(&judge, 1, &many).await, (false, vec![8; 255]));
    let many: Vec<Descriptor<'_>> = values.iter().map(|value| by("ten", value)).collect();
    let answer = ask(&judge, 1, &many).await;
    assert!(answer.over && answer.statuses.len() == 257);
    assert_eq!(left(&judge, 1, &many[..1]).await, (false, vec![7]), "it was not charged");
    let elsewhere = Question { domain: "e", hits: 0, descriptors: many };
    assert!(!judge.judge(&elsewhere).await.unwrap().over, "nothing there has a limit");
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

/// Hits of a descriptor's own tell what a response used: who refuses the request is beside the point.
#[tokio::test]
async fn own_hits_are_charged_where_another_limit_refuses() {
    let judge = judge();
    let own = |hits, value| Descriptor { hits: Some(hits), ..by("ten", value) };
    let all =
        [own(3, "a"), by("none", "x"), own(2, "a"), by("ten", "a"), own(4, "b"), by("two", "c"), own(1, "a")];
    assert_eq!(left(&judge, 1, &all).await, (true, vec![4, 0, 4, 4, 6, 2, 4]));
    assert_eq!(left(&judge, 1, &[own(0, "a"), own(0, "b")]).await, (false, vec![4, 6]), "each once");
    assert_eq!(left(&judge, 1, &[own(0, "a"), by("two", "c")]).await, (false, vec![4, 1]), "and no other");
    // Also where the refusal is remembered.
    assert!(left(&judge, 1, &[by("none", "x"), own(4, "a")]).await.0);
    assert_eq!(left(&judge, 1, &[own(0, "a")]).await, (false, vec![0]));
}

#[tokio::test]
async fn hits_are_given_back() {
    let judge = judge();
    let back = |hits| Descriptor { hits: Some(hits), give_back: true, ..by("ten", "a") };
    assert_eq!(left(&judge, 6, &[by("ten", "a")]).await, (false, vec![4]));
    assert_eq!(left(&judge, 1, &[back(2)]).await, (false, vec![6]));
    assert_eq!(left(&judge, 1, &[back(100)]).await, (false, vec![10]), "never below nothing");
    assert_eq!(left(&judge, 1, &[by("ten", "a"), by("none", "a"), back(1)]).await, (true, vec![10, 0, 10]));
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
    assert_eq!(left(&judge, 1, &[by("two", "a")]).await, (false, vec![1]), "what is given back is forgotten");
}

/// Windows of different lengths in one counter would reset each other.
#[tokio::test]
async fn limits_that_come_with_descriptors_count_by_unit() {
    let judge = judge();
    let own = |requests, unit| Descriptor { limit: Some((requests, unit)), ..by("x", "y") };
    let (day, year) = (|| own(3, Unit::Day), || own(5, Unit::Year));
    assert_eq!(left(&judge, 1, &[day()]).await, (false, vec![2]));
    assert_eq!(left(&judge, 1, &[year()]).await, (false, vec![4]));
    assert_eq!(left(&judge, 1, &[day(), year()]).await, (false, vec![1, 3]), "each by itself");
    assert_eq!(left(&judge, 1, &[year(), day()]).await, (false, vec![2, 0]));
    assert_eq!(left(&judge, 1, &[year(), day()]).await, (true, vec![2, 0]));
    // Two amounts of one counter: the smaller holds.
    assert_eq!(left(&judge, 1, &[own(9, Unit::Hour), own(3, Unit::Hour)]).await, (false, vec![1, 1]));
    assert_eq!(left(&judge, 1, &[own(9, Unit::Hour), own(3, Unit::Hour)]).await, (true, vec![0, 0]));
    assert_eq!(left(&judge, 1, &[own(9, Unit::Hour)]).await, (false, vec![6]));
}

#[tokio::test]
async fn a_limit_of_a_file_shares_no_counter_with_one_that_comes_with_a_descriptor() {
    for name in ["override", "override.day", "override%2Eday"] {
        let yaml = format!(
            "domain: d\ndescriptors: [{{key: a, rate_limit: {{name: {name}, unit: day, requests_per_unit: 3}}}}]"
        );
        let tallies = Tallies::unregistered();
        let rules = Rules::compile(vec![File::parse("a", &yaml).unwrap()], false, &tallies).unwrap();
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let judge = Judge::new(rules, counters(), JudgeOptions::default(), &tallies);
        let own = Descriptor { limit: Some((9, Unit::Day)), ..by("a", "x") };
        assert_eq!(left(&judge, 1, &[by("a", "x")]).await, (false, vec![2]), "{name}");
        assert_eq!(left(&judge, 1, &[own, by("a", "x")]).await, (false, vec![8, 1]), "{name}");
    }
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

    async fn give_back(&self, _: Reserve) -> Result<(), StoreError> {
        Ok(())
    }

    async fn renew(&self, _: Vec<Renewal>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn an_outage_is_answered_as_configured() {
    let with = |on_outage| judge_with(JudgeOptions { on_outage, ..JudgeOptions::default() }, Arc::new(Away));
    assert_eq!(left(&with(OnOutage::Open), 1, &[by("ten", "a")]).await, (false, vec![10]));
    let closed = with(OnOutage::Closed);
    assert_eq!(left(&closed, 1, &[by("ten", "a"), by("free", "")]).await, (true, vec![0, u32::MAX]));
    assert_eq!(left(&closed, 1, &[by("unknown", "a")]).await, (false, vec![0]), "it needs no store");
}
