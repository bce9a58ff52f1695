//! Records of quotas and overrides: each scenario runs in memory, on Redis and on Redis Cluster; then their
//! administration by gRPC, HTTP, the command line and a gateway's path.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use evenkeel::{
    domain::limit::{Meter, OnOutage, Rule, Window},
    store::{
        counters::{Counters, Entry, Reading, ReservationId, Reserve, Settlement, Verdict},
        memory::{MemoryCounters, MemoryRecords},
        records::{Account, Action, Edit, Edited, Override, Range, Record, Records},
    },
};

use crate::{
    contract::{holder, lease, redis_options, redis_store},
    support::{
        eventually,
        proxy::{Mode, Proxy},
        redis::{Cluster, Redis},
    },
};

const HOUR: Window = Window::Length(3_600_000);

/// One store under test.
struct Subject {
    records: Arc<dyn Records>,
    counters: Arc<dyn Counters>,
    /// A consumer's own name in each scenario and store.
    name: &'static str,
}

impl Subject {
    fn account(&self, consumer: &str, quota: &str, rule: Rule) -> Account {
        Account::new(&format!("{}/{consumer}", self.name), quota.into(), rule).unwrap()
    }

    async fn edit(&self, account: &Account, action: Action, id: &str) -> Option<Edited> {
        let edit = Edit { action, who: "ops".into(), note: format!("note of {id}"), id: id.into() };
        self.records.edit_quota(account, &edit).await.unwrap()
    }

    async fn read(&self, account: &Account) -> Record {
        self.records.quota(account).await.unwrap()
    }

    async fn reserve(&self, account: &Account, number: u64, cost: u64) -> (Verdict, ReservationId) {
        let id = ReservationId { holder: holder("h"), lease: lease(number) };
        let meters = vec![Meter {
            bucket: Arc::clone(&account.bucket),
            name: Arc::clone(&account.quota),
            rule: account.rule,
            cost,
            provisional: true,
            shadow: false,
            on_outage: OnOutage::Open,
        }];
        (self.counters.reserve(Reserve { id: Some(id.clone()), meters }).await.unwrap(), id)
    }

    async fn settle(&self, account: &Account, (verdict, id): (Verdict, ReservationId), actual: u64) {
        let entries = vec![Entry {
            bucket: Arc::clone(&account.bucket),
            name: Arc::clone(&account.quota),
            rule: account.rule,
            window: verdict.readings[0].window,
            reserved: verdict.readings[0].taken,
            actual,
            provisional: true,
        }];
        assert!(self.counters.settle(Settlement { id, notes: verdict.notes, entries }).await.unwrap());
    }

    async fn names(&self, quota: &str, rule: &Rule, prefix: &str, after: &str, most: usize) -> Vec<String> {
        let range = Range { prefix, after, most };
        let page = self.records.quotas(&quota.into(), rule, range).await.unwrap();
        page.into_iter().map(|(name, _)| name.to_string()).collect()
    }
}

async fn a_balance_is_set_used_and_filled_up(s: &Subject) {
    let alice = s.account("alice", "paid", Rule::Prepaid { default: None });
    assert_eq!(s.read(&alice).await, Record::default());
    assert!(!s.reserve(&alice, 1, 10).await.0.admitted, "refused without a record");

    let set = s.edit(&alice, Action::Set(100), "1").await.unwrap();
    assert_eq!((set.applied, set.before, set.after), (true, 0, 100));
    let first = s.reserve(&alice, 2, 30).await;
    assert!(first.0.admitted);
    let during = Record { recorded: true, balance: 70, reserved: 30, ..Record::default() };
    assert_eq!(s.read(&alice).await, during);

    // What is under way stays reserved.
    let more = s.edit(&alice, Action::Adjust(50), "2").await.unwrap();
    assert_eq!((more.before, more.after, more.record.reserved), (70, 120, 30));
    s.settle(&alice, first, 25).await;
    let after = Record { recorded: true, balance: 125, used: 25, ..Record::default() };
    assert_eq!(s.read(&alice).await, after);

    let taken = s.edit(&alice, Action::Adjust(-1000), "3").await.unwrap();
    assert_eq!((taken.before, taken.after, taken.record.used), (125, 0, 25), "never below 0");
    assert!(!s.reserve(&alice, 3, 1).await.0.admitted);

    // A request that costs more than there is.
    s.edit(&alice, Action::Set(5), "4").await.unwrap();
    let last = s.reserve(&alice, 4, 20).await;
    assert_eq!(last.0.readings[0].taken, 5, "the last of it goes to one request");
    s.settle(&alice, last, 12).await;
    let spent = Record { recorded: true, used: 37, overrun: 7, ..Record::default() };
    assert_eq!(s.read(&alice).await, spent);
}

async fn a_default_holds_until_there_is_a_record(s: &Subject) {
    let rule = Rule::Prepaid { default: Some(1000) };
    let bob = s.account("bob", "paid", rule);
    assert_eq!(s.read(&bob).await, Record { balance: 1000, ..Record::default() });
    let added = s.edit(&bob, Action::Adjust(5), "1").await.unwrap();
    assert_eq!((added.before, added.after), (1000, 1005));
    assert!(s.read(&bob).await.recorded);
    let deleted = s.edit(&bob, Action::Delete, "2").await.unwrap();
    assert_eq!((deleted.before, deleted.after, deleted.record.recorded), (1005, 1000, false));
    assert_eq!(s.edit(&bob, Action::Delete, "3").await, None, "nothing to delete");

    // One a request made is listed once it was looked at.
    let carol = s.account("carol", "paid", rule);
    assert!(s.reserve(&carol, 1, 10).await.0.admitted);
    let prefix = format!("{}/", s.name);
    assert!(s.names("paid", &rule, &prefix, "", 9).await.is_empty());
    assert_eq!(s.read(&carol).await.balance, 990);
    assert_eq!(s.names("paid", &rule, &prefix, "", 9).await, [format!("{}/carol", s.name)]);
}

async fn a_budget_keeps_what_was_used(s: &Subject) {
    let rule = Rule::Budget { default: Some(100), window: HOUR };
    let dan = s.account("dan", "monthly", rule);
    let first = s.reserve(&dan, 1, 40).await;
    s.settle(&dan, first, 30).await;
    let second = s.reserve(&dan, 2, 20).await;
    assert!(second.0.admitted);
    let record = s.read(&dan).await;
    assert_eq!((record.recorded, record.amount, record.balance), (false, 100, 50));
    assert_eq!((record.used, record.reserved, record.overrun), (30, 20, 0));
    assert!((1..=3_600_000).contains(&record.reset_ms), "{record:?}");

    let set = s.edit(&dan, Action::Set(40), "1").await.unwrap();
    assert_eq!((set.before, set.after, set.record.balance, set.record.overrun), (100, 40, 0, 10));
    assert!(!s.reserve(&dan, 3, 1).await.0.admitted);
    let raised = s.edit(&dan, Action::Adjust(60), "2").await.unwrap();
    assert_eq!((raised.after, raised.record.balance), (100, 50));
    s.settle(&dan, second, 20).await;

    let deleted = s.edit(&dan, Action::Delete, "3").await.unwrap();
    assert_eq!((deleted.after, deleted.record.recorded, deleted.record.used), (100, false, 50));
    assert_eq!(s.edit(&dan, Action::Delete, "4").await, None);
    assert_eq!(s.read(&dan).await.balance, 50, "the period's use outlives the record");
}

async fn a_calendar_budget_knows_its_window(s: &Subject) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let (day, week) = (86_400_000, 7 * 86_400_000);
    let window = Window::Edges([now - week, now - day, now + day, now + week]);
    let eve = s.account("eve", "monthly", Rule::Budget { default: None, window });
    assert_eq!(s.read(&eve).await.amount, 0);
    s.edit(&eve, Action::Set(10), "1").await.unwrap();
    let taken = s.reserve(&eve, 1, 4).await;
    s.settle(&eve, taken, 4).await;
    let record = s.read(&eve).await;
    assert_eq!((record.recorded, record.amount, record.used, record.balance), (true, 10, 4, 6));
    assert!(record.reset_ms > day - 60_000 && record.reset_ms <= day, "{record:?}");
    // The next window begins full.
    let window = Window::Edges([now - day, now - 1, now + day, now + week]);
    let next = s.account("eve", "monthly", Rule::Budget { default: None, window });
    let record = s.read(&next).await;
    assert_eq!((record.recorded, record.used, record.balance), (true, 0, 10));
}

async fn a_change_happens_once_and_is_remembered(s: &Subject) {
    let fay = s.account("fay", "paid", Rule::Prepaid { default: None });
    s.edit(&fay, Action::Set(10), "set").await.unwrap();
    assert_eq!(s.edit(&fay, Action::Adjust(5), "once").await.unwrap().after, 15);
    let again = s.edit(&fay, Action::Adjust(5), "once").await.unwrap();
    assert_eq!((again.applied, again.after), (false, 15));
    // An id is looked for whole, and in ids alone.
    for id in ["onc", "ops", "", "adjust", "note of once"] {
        assert!(s.edit(&fay, Action::Adjust(1), id).await.unwrap().applied, "{id:?}");
    }
    let changes = s.records.quota_changes(&fay).await.unwrap();
    let all: Vec<_> = changes.iter().map(|c| (c.what.as_str(), c.before, c.after, c.who.as_str())).collect();
    assert_eq!(all[all.len() - 2..], [("adjust", 10, 15, "ops"), ("set", 0, 10, "ops")]);
    assert_eq!(changes[5].note, "note of once");
    assert!(changes.iter().all(|change| change.at_ms > 1_700_000_000_000));

    for i in 0..120 {
        s.edit(&fay, Action::Adjust(1), &format!("n{i}")).await.unwrap();
    }
    let changes = s.records.quota_changes(&fay).await.unwrap();
    assert_eq!((changes.len(), changes[0].after, changes[99].after), (100, 140, 41));
    s.edit(&fay, Action::Delete, "gone").await.unwrap();
    assert_eq!(s.records.quota_changes(&fay).await.unwrap()[0].what, "delete", "history outlives the record");
    let again = s.edit(&fay, Action::Delete, "gone").await.unwrap();
    assert!(!again.applied, "a deletion sent again is no error");
}

async fn changes_at_once_all_count(s: &Subject) {
    let gus = s.account("gus", "paid", Rule::Prepaid { default: None });
    s.edit(&gus, Action::Set(0), "0").await.unwrap();
    let changes = (0..60).map(|i| {
        let (gus, id) = (&gus, format!("c{}", i / 2)); // each twice
        async move { s.edit(gus, Action::Adjust(7), &id).await.unwrap().applied }
    });
    let applied = futures::future::join_all(changes).await.into_iter().filter(|applied| *applied).count();
    assert_eq!((applied, s.read(&gus).await.balance), (30, 210));
}

async fn records_are_listed_by_name(s: &Subject) {
    let (quota, rule) = (format!("list-{}", s.name.len()), Rule::Prepaid { default: Some(1) });
    let make = |i: usize| Account::new(&format!("{}{i:04}", s.name), quota.as_str().into(), rule).unwrap();
    let accounts: Vec<Account> = (0..2500).map(make).collect();
    for chunk in accounts.chunks(50) {
        futures::future::join_all(chunk.iter().map(|a| s.edit(a, Action::Set(3), "1"))).await;
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = s.names(&quota, &rule, s.name, &after, 700).await;
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        seen.extend(page);
    }
    let expected: Vec<String> = accounts.iter().map(|a| a.consumer.to_string()).collect();
    assert_eq!(seen, expected);
    assert_eq!(s.names(&quota, &rule, &format!("{}001", s.name), "", 100).await, expected[10..20]);
    assert_eq!(s.names(&quota, &rule, &expected[7], "", 100).await, [expected[7].as_str()]);
    assert!(s.names(&quota, &rule, &expected[7], &expected[7], 100).await.is_empty());
    assert!(s.names("no-such", &rule, "", "", 100).await.is_empty());
    for account in &accounts[..30] {
        s.edit(account, Action::Delete, "2").await.unwrap();
    }
    assert_eq!(s.names(&quota, &rule, s.name, "", 2).await, expected[30..32]);
}

async fn overrides_are_kept_by_limit_and_key(s: &Subject) {
    let limit = format!("limit-{}", s.name.len());
    let of = |key: &str, amount| Override {
        limit: limit.clone(),
        key: format!("consumer={}|{key}", s.name),
        amount,
        expires_at_ms: None,
        who: "ops".into(),
        at_ms: 0,
    };
    let first = s.records.overrides_version().await.unwrap();
    let at_ms = s.records.set_override(&of("model=b", Some(5))).await.unwrap().unwrap();
    let set = s.records.overrides_version().await.unwrap();
    assert_ne!(first, set);
    assert!(at_ms > 1_700_000_000_000);
    s.records
        .set_override(&Override { expires_at_ms: Some(9), ..of("model=a", None) })
        .await
        .unwrap()
        .unwrap();
    s.records.set_override(&of("model=b", Some(0))).await.unwrap().unwrap();
    let list = s.records.overrides().await.unwrap();
    assert_eq!(list.version, s.records.overrides_version().await.unwrap());
    let own = list.overrides.into_iter().filter(|o| o.limit == limit);
    let own: Vec<_> = own.map(|o| (o.key, o.amount, o.expires_at_ms, o.who)).collect();
    let key = |key: &str| format!("consumer={}|{key}", s.name);
    let who = || "ops".to_owned();
    assert_eq!(own, [(key("model=a"), None, Some(9), who()), (key("model=b"), Some(0), None, who())]);
    for (key, there) in [(key("model=a"), true), (key("model=a"), false), (key("model=b"), true)] {
        assert_eq!(s.records.delete_override(&limit, &key).await.unwrap(), there);
    }
}

/// Fills the store with overrides; to run last.
async fn overrides_have_a_bound(s: &Subject) {
    let of = |i: usize, expires_at_ms| Override {
        limit: "bound".into(),
        key: format!("consumer={i}"),
        amount: Some(1),
        expires_at_ms,
        who: "ops".into(),
        at_ms: 0,
    };
    for from in (0..10_000).step_by(100) {
        let set = (from..from + 100).map(|i| async move { s.records.set_override(&of(i, None)).await });
        futures::future::join_all(set).await.into_iter().for_each(|set| assert!(set.unwrap().is_some()));
    }
    assert_eq!(s.records.set_override(&of(10_000, None)).await.unwrap(), None);
    assert!(s.records.set_override(&of(7, Some(1))).await.unwrap().is_some(), "one there may change");
    assert!(s.records.set_override(&of(10_000, None)).await.unwrap().is_some(), "one that ended makes room");
    assert_eq!(s.records.overrides().await.unwrap().overrides.len(), 10_000);
}

macro_rules! scenarios {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let counters = Arc::new(MemoryCounters::default());
                let records = Arc::new(MemoryRecords::new(Arc::clone(&counters)));
                super::$scenario(&Subject { records, counters, name: stringify!($scenario) }).await;
            })*
        }
        mod redis {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let redis = Redis::start();
                let store = redis_store(&redis_options(vec![redis.url()], false, "p"), TTL).await;
                let (records, counters): (Arc<dyn Records>, Arc<dyn Counters>) = (store.clone(), store);
                super::$scenario(&Subject { records, counters, name: stringify!($scenario) }).await;
                every_key_has_a_stated_life(&redis);
            })*
        }
        mod cluster {
            use super::*;
            #[tokio::test]
            async fn every_scenario() {
                let cluster = Cluster::start();
                let store = redis_store(&redis_options(cluster.urls(), true, ""), TTL).await;
                $({
                    let (records, counters): (Arc<dyn Records>, Arc<dyn Counters>) = (store.clone(), store.clone());
                    super::$scenario(&Subject { records, counters, name: stringify!($scenario) }).await;
                })*
            }
        }
    };
}

const TTL: Duration = Duration::from_secs(60);

scenarios!(
    a_balance_is_set_used_and_filled_up,
    a_default_holds_until_there_is_a_record,
    a_budget_keeps_what_was_used,
    a_calendar_budget_knows_its_window,
    a_change_happens_once_and_is_remembered,
    changes_at_once_all_count,
    records_are_listed_by_name,
    overrides_are_kept_by_limit_and_key,
    overrides_have_a_bound,
);

/// What stays for good: records of consumers, their index, overrides. All else ends by itself.
fn every_key_has_a_stated_life(redis: &Redis) {
    let keys: Vec<String> = ::redis::from_redis_value(redis.command(&["KEYS", "*"])).unwrap();
    for key in keys {
        let ttl: i64 = ::redis::from_redis_value(redis.command(&["PTTL", &key])).unwrap();
        let for_good = key.starts_with("p:ek2:quotas:") || key == "p:ek2:overrides";
        let may_be = key.ends_with("}:counters");
        // -2: gone since they were listed.
        assert!(ttl > 0 || ttl == -2 || ttl == -1 && (for_good || may_be), "{key}: {ttl} ms");
    }
}

#[tokio::test]
async fn only_what_is_on_record_stays_for_good() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let s = Subject { records: store.clone(), counters: store, name: "n" };
    let (paid, monthly) = (Rule::Prepaid { default: None }, Rule::Budget { default: Some(9), window: HOUR });
    let (paid, monthly) = (s.account("a", "paid", paid), s.account("a", "monthly", monthly));
    let key = "ek2:{consumer=n/a}:counters";
    let ttl = || -> i64 { ::redis::from_redis_value(redis.command(&["PTTL", key])).unwrap() };

    s.reserve(&monthly, 1, 1).await;
    assert!((1..=7_200_000).contains(&ttl()), "use alone ends with its window: {}", ttl());
    s.edit(&monthly, Action::Set(5), "1").await.unwrap();
    assert_eq!(ttl(), -1, "an amount on record stays");
    s.edit(&paid, Action::Set(5), "1").await.unwrap();
    s.edit(&monthly, Action::Delete, "2").await.unwrap();
    assert_eq!(ttl(), -1, "a balance stays");
    s.edit(&paid, Action::Delete, "2").await.unwrap();
    assert!(ttl() > 0, "only use is left");
    s.reserve(&monthly, 2, 1).await;
    assert!(ttl() > 0);
    s.edit(&paid, Action::Set(5), "3").await.unwrap();
    assert_eq!(ttl(), -1);

    let other = s.account("b", "paid", Rule::Prepaid { default: None });
    s.edit(&other, Action::Set(5), "1").await.unwrap();
    s.edit(&other, Action::Delete, "2").await.unwrap();
    let left: BTreeSet<String> = ::redis::from_redis_value(redis.command(&["KEYS", "*n/b*"])).unwrap();
    assert_eq!(left, BTreeSet::from(["ek2:{consumer=n/b}:changes:paid".to_owned()]));
}

/// Reservations are kept by day: those of requests that never ended leave after two.
#[tokio::test]
async fn reservations_of_days_gone_are_forgotten() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let s = Subject { records: store.clone(), counters: store, name: "n" };
    let account = s.account("a", "paid", Rule::Prepaid { default: None });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let today = now.as_secs() / 86_400;
    for (days_ago, reserved) in [(1, 5), (2, 0), (9, 0)] {
        // One counter, a prepaid balance of six doubles called "paid", on record.
        let text = b"\x05\x06\x04\0paid";
        let head = [0, 1].map(|n| f64::from(n).to_le_bytes()).concat();
        let record = [100, 7, 0, today - days_ago, 5, 3].map(|n| (n as f64).to_le_bytes()).concat();
        let value = [&(text.len() as u16).to_le_bytes()[..], text, &head, &record].concat();
        let mut write = ::redis::cmd("SET");
        write.arg("ek2:{consumer=n/a}:counters").arg(value);
        let _: () = write.query(&mut redis.connection()).unwrap();
        let expected = Record { recorded: true, balance: 100, used: 7, reserved, ..Record::default() };
        assert_eq!(s.read(&account).await, expected, "{days_ago} days ago");
        let edited = s.edit(&account, Action::Adjust(1), &days_ago.to_string()).await.unwrap();
        assert_eq!(edited.record, Record { balance: 101, ..expected });
        assert_eq!(s.read(&account).await, edited.record);
    }
}

/// Random changes and requests have the same effect in memory and on Redis.
#[tokio::test]
async fn both_stores_agree() {
    use rand::{Rng as _, SeedableRng as _};
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let shared = Subject { records: store.clone(), counters: store, name: "r" };
    let counters = Arc::new(MemoryCounters::default());
    let records = Arc::new(MemoryRecords::new(Arc::clone(&counters)));
    let local = Subject { records, counters, name: "r" };
    // A window that does not end while the test runs.
    let window = Window::Length(1_000_000_000_000_000);
    let rules = [
        Rule::Prepaid { default: None },
        Rule::Prepaid { default: Some(40) },
        Rule::Budget { default: None, window },
        Rule::Budget { default: Some(60), window },
    ];
    for seed in 0..8 {
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut open = Vec::new();
        for step in 0..150 {
            let at = random.random_range(0..rules.len());
            let account = shared.account(&format!("s{seed}"), &format!("q{at}"), rules[at]);
            let said = match random.random_range(0..8) {
                0 => "settle a request",
                1..=3 => {
                    let number = seed * 1000 + step + 1;
                    let cost = random.random_range(0..30);
                    let pair = (
                        shared.reserve(&account, number, cost).await,
                        local.reserve(&account, number, cost).await,
                    );
                    // But for what the clocks tell.
                    let [one, other] = [&pair.0.0, &pair.1.0].map(|verdict| {
                        let reading = verdict.readings[0];
                        (verdict.admitted, Reading { reset_ms: 0, retry_ms: 0, ..reading })
                    });
                    assert_eq!(one, other, "seed {seed} step {step}: reserve {cost}");
                    if pair.0.0.admitted {
                        open.push((account.clone(), pair));
                    }
                    "reserve"
                }
                action => {
                    let action = match action {
                        4 => Action::Set(random.random_range(0..100)),
                        5 | 6 => Action::Adjust(random.random_range(-80..80)),
                        _ => Action::Delete,
                    };
                    let id = random.random_range(0..120).to_string();
                    let pair =
                        (shared.edit(&account, action, &id).await, local.edit(&account, action, &id).await);
                    let known = |edited: Option<Edited>| {
                        edited.map(|e| Edited { record: Record { reset_ms: 0, ..e.record }, ..e })
                    };
                    assert_eq!(known(pair.0), known(pair.1), "seed {seed} step {step}: {action:?} {id}");
                    "edit"
                }
            };
            if said == "settle a request" && !open.is_empty() {
                let (account, pair) = open.swap_remove(random.random_range(0..open.len()));
                let actual = random.random_range(0..50);
                shared.settle(&account, pair.0, actual).await;
                local.settle(&account, pair.1, actual).await;
            }
            let (one, other) = (shared.read(&account).await, local.read(&account).await);
            let known = |record: Record| Record { reset_ms: 0, ..record };
            assert_eq!(known(one), known(other), "seed {seed} step {step}: {said}");
        }
        for (at, rule) in rules.iter().enumerate() {
            let account = shared.account(&format!("s{seed}"), &format!("q{at}"), *rule);
            let history = async |s: &Subject| {
                let all = s.records.quota_changes(&account).await.unwrap();
                all.into_iter().map(|c| (c.what, c.before, c.after)).collect::<Vec<_>>()
            };
            assert_eq!(history(&shared).await, history(&local).await, "seed {seed}");
        }
    }
}

/// A change whose answer was lost is sent again with its id.
#[tokio::test]
async fn a_lost_answer_does_not_count_twice() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let store = redis_store(&redis_options(vec![proxy.url()], false, ""), TTL).await;
    let s = Subject { records: store.clone(), counters: store, name: "n" };
    let account = s.account("a", "paid", Rule::Prepaid { default: None });
    s.edit(&account, Action::Set(0), "0").await.unwrap();
    let edit = Edit { action: Action::Adjust(5), who: "ops".into(), note: String::new(), id: "once".into() };
    for mode in [Mode::CutReply, Mode::Refuse] {
        proxy.set(mode);
        assert!(s.records.edit_quota(&account, &edit).await.is_err(), "{mode:?}");
        proxy.set(Mode::Pass);
    }
    let edited = eventually(Duration::from_secs(20), "the store is back", async || {
        let edited = s.records.edit_quota(&account, &edit).await;
        edited.map_err(|error| error.to_string())
    });
    assert_eq!(edited.await.unwrap().after, 5);
    s.edit(&account, Action::Adjust(5), "once").await.unwrap();
    assert_eq!(
        (s.read(&account).await.balance, s.records.quota_changes(&account).await.unwrap().len()),
        (5, 2)
    );
}
