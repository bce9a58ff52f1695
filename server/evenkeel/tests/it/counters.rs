//! Counters in virtual time: any interleaving of operations has the same results in memory and on Redis, and no
//! algorithm admits more than it promises.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_domain::limit::{
    Bucket, CounterRule, Meter, OnStoreFailure, Window,
    rule::{SLOTS, slot_ms},
};
use evenkeel_store::{
    counters::{
        CounterState, Counters, Entry, Renewal, ReservationId, Reserve, Settlement, Settler, Verdict,
    },
    memory::MemoryCounters,
    redis::RedisStore,
};
use proptest::prelude::*;

use crate::support::{
    redis::Redis,
    store::{holder, lease, redis_options, redis_store},
};

const START_MS: u64 = 1_800_000_000_000;
const DAY_MS: u64 = 86_400_000;
const TTL: Duration = Duration::from_secs(60);
/// Number of settlers: the first leaves no mark, and the last rolls back.
const SETTLERS: usize = 4;

/// Returns limits and quotas with small amounts and short periods, so that a few steps reach their edges.
fn rules() -> Vec<(&'static str, CounterRule)> {
    let edges = [START_MS - 5000, START_MS, START_MS + 3000, START_MS + 9000];
    vec![
        ("fixed", CounterRule::Fixed { amount: 10, window: Window::Length(1000) }),
        ("calendar", CounterRule::Fixed { amount: 30, window: Window::Edges(edges) }),
        ("sliding", CounterRule::Sliding { amount: 10, period_ms: 1000 }),
        ("bucket", CounterRule::TokenBucket { burst: 6, amount: 10, period_ms: 1000 }),
        ("running", CounterRule::Running { amount: 3, ttl_ms: 1500 }),
        ("credit", CounterRule::Prepaid { default: Some(60) }),
        ("no-credit", CounterRule::Prepaid { default: None }),
        ("budget", CounterRule::Budget { default: Some(20), window: Window::Length(2000) }),
        ("no-budget", CounterRule::Budget { default: None, window: Window::Length(2000) }),
    ]
}

/// Sets of rules that count a request. Bit n stands for rule n of [`rules`]. Rules without a default refuse everything,
/// so they are rare here.
const SETS: [u32; 7] =
    [0b0_0000_0001, 0b0_0000_0100, 0b0_0000_1000, 0b0_0001_0001, 0b0_1010_0101, 0b0_1011_1111, 0b1_0100_0011];

fn meters(set: usize, key: usize, cost: u64, shadow: bool, provisional: bool) -> Vec<Meter> {
    let bucket = |quota: bool| {
        let rest = if quota || key < 2 { String::new() } else { "model=m".to_owned() };
        Arc::new(Bucket { tag: format!("consumer=c{}", key % 2), rest })
    };
    let chosen = rules().into_iter().enumerate().filter(|(i, _)| SETS[set] >> i & 1 == 1);
    let meter = |(i, (name, rule)): (usize, (&str, CounterRule))| Meter {
        bucket: bucket(rule.is_quota()),
        name: name.into(),
        // An exception or override changes the amount without changing the counter.
        rule: if cost == 5 { with_amount(rule, 25) } else { rule },
        cost: if matches!(rule, CounterRule::Running { .. }) { 1 } else { cost },
        provisional: provisional || matches!(rule, CounterRule::Running { .. }),
        shadow: shadow && i % 2 == 0,
        on_store_failure: OnStoreFailure::Local,
    };
    chosen.map(meter).collect()
}

fn with_amount(rule: CounterRule, amount: u64) -> CounterRule {
    match rule {
        CounterRule::Fixed { window, .. } => CounterRule::Fixed { amount, window },
        CounterRule::Sliding { period_ms, .. } => CounterRule::Sliding { amount, period_ms },
        other => other,
    }
}

fn id(number: u64) -> ReservationId {
    ReservationId { holder: holder("g"), lease: lease(number) }
}

#[derive(Clone, Debug)]
enum Step {
    Pass {
        ms: u64,
    },
    /// The clock is set back by a few milliseconds.
    Back {
        ms: u64,
    },
    /// Takes back the reservation of this id, by its reservation record.
    GiveBack {
        id: u64,
    },
    /// Reserves, with or without an id. A reservation without an id cannot be settled.
    Reserve {
        id: Option<u64>,
        set: usize,
        key: usize,
        cost: u64,
        shadow: bool,
        provisional: bool,
    },
    Peek {
        set: usize,
        key: usize,
        cost: u64,
    },
    /// Settles the reservation of this id, if there is one, at `actual`. It may have been settled before.
    Settle {
        id: u64,
        actual: u64,
        settler: usize,
    },
    Renewal {
        id: u64,
        key: usize,
    },
    /// Several operations in one script call. If the last field is true, the operation settles; otherwise it reserves.
    Batch {
        ops: Vec<(u64, usize, usize, u64, bool)>,
    },
    ForgetScripts,
    /// The store restarts empty.
    LoseAll,
}

fn step() -> impl Strategy<Value = Step> {
    let reserve =
        (prop::option::of(1_u64..=12), 0..SETS.len(), 0_usize..4, 0_u64..7, any::<bool>(), any::<bool>());
    prop_oneof![
        6 => prop_oneof![1_u64..80, 200_u64..1500, Just(DAY_MS)].prop_map(|ms| Step::Pass { ms }),
        1 => (1_u64..20).prop_map(|ms| Step::Back { ms }),
        1 => (1_u64..=12).prop_map(|id| Step::GiveBack { id }),
        12 => reserve.prop_map(|(id, set, key, cost, shadow, provisional)| Step::Reserve { id, set, key, cost, shadow, provisional }),
        2 => (0..SETS.len(), 0_usize..4, 0_u64..7).prop_map(|(set, key, cost)| Step::Peek { set, key, cost }),
        6 => (1_u64..=12, 0_u64..12, 0_usize..SETTLERS).prop_map(|(id, actual, settler)| Step::Settle { id, actual, settler }),
        1 => (1_u64..=12, 0_usize..4).prop_map(|(id, key)| Step::Renewal { id, key }),
        2 => prop::collection::vec((1_u64..=12, 0..SETS.len(), 0_usize..4, 0_u64..7, any::<bool>()), 1..8).prop_map(|ops| Step::Batch { ops }),
        1 => Just(Step::ForgetScripts),
        1 => Just(Step::LoseAll),
    ]
}

struct Both {
    memory: MemoryCounters,
    redis: Arc<RedisStore>,
    server: Arc<Redis>,
    prefix: String,
    settlers: [Settler; SETTLERS],
    now_ms: u64,
    /// The time of the last batch with a refusal or a repetition. In Redis, such a request advances the counters that it
    /// reads, if another request of its batch writes them; in memory it does not. The amounts are the same, but at an
    /// earlier time the windows are not, so the clock is not set back beyond this time.
    not_before_ms: u64,
    /// The reservation under each id, as memory and as Redis returned it.
    reserved: BTreeMap<u64, (Vec<Meter>, Verdict, Verdict)>,
}

/// Checks that two verdicts are equal, except for the place where the reservation is recorded.
fn same(memory: &Verdict, redis: &Verdict) -> Result<(), TestCaseError> {
    prop_assert_eq!(memory.admitted, redis.admitted, "{:?} {:?}", memory, redis);
    prop_assert_eq!(&memory.states, &redis.states);
    prop_assert_eq!(memory.records.len(), redis.records.len());
    Ok(())
}

fn settlement(number: u64, meters: &[Meter], verdict: &Verdict, actual: u64, by: Settler) -> Settlement {
    // The caller of a settlement does not know the limit's amount.
    let entry = |(meter, state): (&Meter, &CounterState)| Entry {
        rule: with_amount(meter.rule, 0),
        ..Entry::settling(meter, state, actual)
    };
    let entries: Vec<Entry> = meters.iter().zip(&verdict.states).map(entry).collect();
    Settlement { id: id(number), records: verdict.records.clone(), entries, tokens: 0, by }
}

impl Both {
    async fn reserve(&mut self, number: Option<u64>, meters: Vec<Meter>) -> Result<(), TestCaseError> {
        let reserve = Reserve { id: number.map(id), meters: meters.clone() };
        let m = self.memory.reserve(reserve.clone()).await.unwrap();
        let r = self.redis.reserve(reserve).await.unwrap();
        same(&m, &r)?;
        if let Some(number) = number.filter(|number| m.admitted && !self.reserved.contains_key(number)) {
            self.reserved.insert(number, (meters, m, r));
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Pass { ms } => {
                self.now_ms += ms;
                self.memory.set_clock(self.now_ms);
                self.redis.set_clock(self.now_ms);
            }
            Step::Back { ms } => {
                self.now_ms = (self.now_ms - ms).max(self.not_before_ms);
                self.memory.set_clock(self.now_ms);
                self.redis.set_clock(self.now_ms);
            }
            Step::GiveBack { id: number } => {
                if let Some((meters, ..)) = self.reserved.get(number) {
                    let reserve = || Reserve { id: Some(id(*number)), meters: meters.clone() };
                    self.memory.give_back(reserve()).await.unwrap();
                    self.redis.give_back(reserve()).await.unwrap();
                }
            }
            Step::Reserve { id, set, key, cost, shadow, provisional } => {
                // A provisional meter needs an id, so that it can be settled.
                let meters = meters(*set, *key, *cost, *shadow, *provisional);
                let needs_id = meters.iter().any(|meter| meter.provisional);
                let id = if needs_id { Some(id.unwrap_or(1)) } else { *id };
                self.reserve(id, meters).await?;
            }
            Step::Peek { set, key, cost } => {
                let meters = meters(*set, *key, *cost, false, true);
                let m = self.memory.peek(meters.clone()).await.unwrap();
                same(&m, &self.redis.peek(meters).await.unwrap())?;
            }
            Step::Settle { id: number, actual, settler } => {
                let by = self.settlers[*settler];
                let today = self.now_ms / DAY_MS;
                // Reservation records expire after two days of Redis's own time, which does not pass in this test.
                let kept = |v: &Verdict| v.records.iter().all(|record| record.day + 1 >= today);
                if let Some((meters, m, r)) = self.reserved.get(number).filter(|(_, m, _)| kept(m)) {
                    let m = self.memory.settle(settlement(*number, meters, m, *actual, by)).await.unwrap();
                    let r = self.redis.settle(settlement(*number, meters, r, *actual, by)).await.unwrap();
                    prop_assert_eq!(m, r);
                }
            }
            Step::Renewal { id: number, key } => {
                let meters = meters(3, *key, 1, false, true);
                let running = meters.iter().find(|m| matches!(m.rule, CounterRule::Running { .. })).unwrap();
                let hold = || Renewal {
                    id: id(*number),
                    bucket: Arc::clone(&running.bucket),
                    name: Arc::clone(&running.name),
                    ttl_ms: 1500,
                };
                self.memory.renew(vec![hold()]).await.unwrap();
                self.redis.renew(vec![hold()]).await.unwrap();
            }
            Step::Batch { ops } => self.batch(ops).await?,
            Step::ForgetScripts => drop(self.server.command(&["SCRIPT", "FLUSH"])),
            Step::LoseAll => {
                self.memory.clear();
                let keys = self.keys();
                for key in keys {
                    self.server.command(&["DEL", &key]);
                }
                // The clock of a restarted store shows a later time.
                self.now_ms += 1;
                self.memory.set_clock(self.now_ms);
                self.redis.set_clock(self.now_ms);
            }
        }
        Ok(())
    }

    async fn batch(&mut self, ops: &[(u64, usize, usize, u64, bool)]) -> Result<(), TestCaseError> {
        let today = self.now_ms / DAY_MS;
        let mut asked: BTreeMap<u64, Vec<Meter>> = BTreeMap::new();
        let mut ended: Vec<(u64, u64)> = Vec::new();
        // One call cannot contain an id twice.
        for (number, set, key, cost, ends) in ops {
            let known = self.reserved.get(number);
            let kept = known.is_some_and(|(_, m, _)| m.records.iter().all(|record| record.day + 1 >= today));
            if *ends && kept && !ended.iter().any(|(n, _)| n == number) && !asked.contains_key(number) {
                ended.push((*number, *cost));
            } else if !ended.iter().any(|(n, _)| n == number) {
                asked.entry(*number).or_insert_with(|| meters(*set, *key, *cost, false, true));
            }
        }
        let reserve =
            |number: u64, meters: &[Meter]| Reserve { id: Some(id(number)), meters: meters.to_vec() };
        let settles = ended.iter().map(|(number, actual)| {
            let (meters, _, r) = &self.reserved[number];
            let by = self.settlers[*actual as usize % SETTLERS];
            self.redis.settle(settlement(*number, meters, r, *actual, by))
        });
        let reserves = asked.iter().map(|(number, meters)| self.redis.reserve(reserve(*number, meters)));
        let (settled, reserved) =
            futures::future::join(futures::future::join_all(settles), futures::future::join_all(reserves))
                .await;
        for ((number, actual), r) in ended.iter().zip(settled) {
            let (meters, m, _) = &self.reserved[number];
            let by = self.settlers[*actual as usize % SETTLERS];
            let m = self.memory.settle(settlement(*number, meters, m, *actual, by)).await.unwrap();
            prop_assert_eq!(m, r.unwrap());
        }
        for ((number, meters), r) in asked.into_iter().zip(reserved) {
            let (m, r) = (self.memory.reserve(reserve(number, &meters)).await.unwrap(), r.unwrap());
            same(&m, &r)?;
            if !m.admitted || self.reserved.contains_key(&number) {
                self.not_before_ms = self.now_ms;
            }
            if m.admitted && !self.reserved.contains_key(&number) {
                self.reserved.insert(number, (meters, m, r));
            }
        }
        Ok(())
    }

    fn keys(&self) -> Vec<String> {
        let found = self.server.command(&["KEYS", &format!("{}:*", self.prefix)]);
        redis::from_redis_value(found).unwrap()
    }

    /// Returns whether the value of a counters key contains a quota.
    fn has_a_quota(&self, key: &str) -> bool {
        let value: Vec<u8> = redis::from_redis_value(self.server.command(&["GET", key])).unwrap();
        ["credit", "budget"].iter().any(|name| value.windows(name.len()).any(|at| at == name.as_bytes()))
    }

    /// Checks that every key expires, except records of quotas.
    fn every_key_expires(&self) -> Result<(), TestCaseError> {
        for key in self.keys() {
            let ttl: i64 = redis::from_redis_value(self.server.command(&["PTTL", &key])).unwrap();
            let lasts = key.ends_with("}:counters") && self.has_a_quota(&key);
            prop_assert!(ttl > 0 || (lasts && ttl == -1), "{} lives {} ms", key, ttl);
        }
        Ok(())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn memory_and_redis_count_alike() {
    let runtime = runtime();
    let server = Arc::new(Redis::start());
    let cases = AtomicU64::new(0);
    let config = ProptestConfig { cases: 96, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        let prefix = format!("case{}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let redis = redis_store(&redis_options(vec![server.url()], false, &prefix), TTL).await;
            let memory = MemoryCounters::default();
            let settlers = [Settler::new(false), Settler::new(true), Settler::new(true), Settler::rollback()];
            let mut both = Both { memory, redis, server: Arc::clone(&server), prefix, settlers, now_ms: START_MS, not_before_ms: 0, reserved: BTreeMap::new() };
            both.step(&Step::Pass { ms: 0 }).await?;
            for step in &steps {
                both.step(step).await?;
            }
            both.every_key_expires()
        })?;
    });
}

/// Returns the time and cost of each admitted request.
async fn admitted(
    counters: &dyn Counters,
    set_clock: &dyn Fn(u64),
    rule: CounterRule,
    asks: &[(u64, u64)],
) -> Vec<(u64, u64)> {
    let (mut now, mut log) = (START_MS, Vec::new());
    for (pass_ms, cost) in asks {
        now += pass_ms;
        set_clock(now);
        let bucket = Arc::new(Bucket { tag: "consumer=log".into(), rest: String::new() });
        let (name, on_store_failure) = ("l".into(), OnStoreFailure::Local);
        let meter =
            Meter { bucket, name, rule, cost: *cost, provisional: false, shadow: false, on_store_failure };
        let verdict = counters.reserve(Reserve { id: None, meters: vec![meter.clone()] }).await.unwrap();
        if verdict.admitted {
            log.push((now, *cost));
        } else if verdict.states[0].retry_ms > 0 {
            // Retry-After is exact: just before that time the limit still refuses, and at that time it admits.
            let retry_ms = verdict.states[0].retry_ms;
            set_clock(now + retry_ms - 1);
            assert!(
                !counters.peek(vec![meter.clone()]).await.unwrap().admitted,
                "{rule:?}: room before its time"
            );
            set_clock(now + retry_ms);
            assert!(counters.peek(vec![meter]).await.unwrap().admitted, "{rule:?}: no room at its time");
            set_clock(now);
        }
    }
    log
}

/// Returns the sum of the costs admitted in `from..to`.
fn between(log: &[(u64, u64)], from: u64, to: u64) -> u64 {
    log.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, cost)| cost).sum()
}

fn holds_what_it_states(rule: CounterRule, log: &[(u64, u64)]) -> Result<(), TestCaseError> {
    for (i, (from, _)) in log.iter().enumerate() {
        match rule {
            CounterRule::Fixed { amount, window } => {
                let (start, end) = window.around(*from);
                prop_assert!(between(log, start, end) <= amount, "{:?}", log);
            }
            // The limit holds in every window as long as the period, wherever the window starts.
            CounterRule::Sliding { amount, period_ms } => {
                prop_assert!(between(log, *from, from + period_ms) <= amount, "from {}: {:?}", from, log);
            }
            CounterRule::TokenBucket { burst, amount, period_ms } => {
                for (to, _) in &log[i..] {
                    let most = burst as f64 + (to - from) as f64 * amount as f64 / period_ms as f64;
                    prop_assert!(
                        between(log, *from, to + 1) as f64 <= most + 1e-6,
                        "{}..{}: {:?}",
                        from,
                        to,
                        log
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn no_algorithm_admits_more_than_it_states() {
    let runtime = runtime();
    let server = Redis::start();
    let cases = AtomicU64::new(0);
    let some_rule = prop_oneof![
        (1_u64..30, 1000_u64..5000)
            .prop_map(|(amount, ms)| CounterRule::Fixed { amount, window: Window::Length(ms) }),
        (1_u64..30, 1000_u64..5000)
            .prop_map(|(amount, period_ms)| CounterRule::Sliding { amount, period_ms }),
        (1_u64..30, 1_u64..30, 1000_u64..5000)
            .prop_map(|(burst, amount, period_ms)| CounterRule::TokenBucket { burst, amount, period_ms }),
    ];
    let asks = prop::collection::vec((prop_oneof![Just(0_u64), 1_u64..40, 100_u64..900], 1_u64..5), 1..120);
    let config = ProptestConfig { cases: 64, ..ProptestConfig::default() };
    proptest!(config, |(rule in some_rule, asks in asks)| {
        let prefix = format!("case{}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let redis = redis_store(&redis_options(vec![server.url()], false, &prefix), TTL).await;
            let memory = MemoryCounters::default();
            let m = admitted(&memory, &|now| memory.set_clock(now), rule, &asks).await;
            let r = admitted(&*redis, &|now| redis.set_clock(now), rule, &asks).await;
            prop_assert_eq!(&m, &r);
            holds_what_it_states(rule, &m)
        })?;
    });
}

/// A sliding window approximates: capacity returns at most one slot late.
#[tokio::test]
async fn a_sliding_window_is_at_most_one_slot_late() {
    let memory = MemoryCounters::default();
    let (amount, period_ms) = (10, 1600);
    let rule = CounterRule::Sliding { amount, period_ms };
    for offset in 0..slot_ms(period_ms) * SLOTS as u64 {
        memory.clear();
        let late = period_ms + slot_ms(period_ms);
        let log =
            admitted(&memory, &|now| memory.set_clock(now), rule, &[(offset, amount), (late, amount)]).await;
        assert_eq!(log.len(), 2, "at {offset}");
    }
}

/// A KeepAlive that lists a request may arrive after the Settle of this request, and restores the request as in flight.
/// Gateways then settle the request again. Guards against a request that stays in flight as long as those of a dead
/// gateway.
#[tokio::test]
async fn a_repeated_settlement_ends_a_restored_request() {
    let server = Redis::start();
    let redis = redis_store(&redis_options(vec![server.url()], false, ""), TTL).await;
    let memory = MemoryCounters::default();
    let stores: [&dyn Counters; 2] = [&memory, &*redis];
    let meters = meters(3, 0, 1, false, true);
    let running = meters.iter().position(|m| matches!(m.rule, CounterRule::Running { .. })).unwrap();
    for store in stores {
        let used = async || store.peek(meters.clone()).await.unwrap().states[running].used;
        let verdict = store.reserve(Reserve { id: Some(id(1)), meters: meters.clone() }).await.unwrap();
        let settlement = || settlement(1, &meters, &verdict, 1, Settler::new(false));
        assert!(store.settle(settlement()).await.unwrap().is_first());
        let meter = &meters[running];
        let hold = Renewal {
            id: id(1),
            bucket: Arc::clone(&meter.bucket),
            name: Arc::clone(&meter.name),
            ttl_ms: 60_000,
        };
        store.renew(vec![hold]).await.unwrap();
        assert!(!store.settle(settlement()).await.unwrap().is_first());
        // A peek reserves nothing, so this counts only requests in flight.
        assert_eq!(used().await, 0);
    }
}
