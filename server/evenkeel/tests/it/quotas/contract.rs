//! The contract of stores for quotas: each scenario runs with memory, with Redis and with Redis Cluster.

use std::sync::Arc;

use evenkeel_domain::limit::{CounterRule, Window};
use evenkeel_store::{
    overrides::{Override, override_name},
    records::{Account, Action, Record},
    versioned::Record as _,
};

use super::{HOUR, Subject, TTL};
use crate::support::{
    redis::{Cluster, Redis},
    store::{redis_options, redis_store},
};

async fn a_balance_is_set_used_and_topped_up(s: &Subject) {
    let alice = s.account("alice", "paid", CounterRule::Prepaid { default: None });
    assert_eq!(s.read(&alice).await, Record::default());
    assert!(!s.reserve(&alice, 1, 10).await.0.admitted, "refused without a record");

    let set = s.edit(&alice, Action::Set(100), "1").await.unwrap();
    assert_eq!((set.applied, set.before, set.after), (true, 0, 100));
    let first = s.reserve(&alice, 2, 30).await;
    assert!(first.0.admitted);
    let during = Record { recorded: true, balance: 70, reserved: 30, ..Record::default() };
    assert_eq!(s.read(&alice).await, during);

    // The amount of a request in flight stays reserved.
    let more = s.edit(&alice, Action::Adjust(50), "2").await.unwrap();
    assert_eq!((more.before, more.after, more.record.reserved), (70, 120, 30));
    s.settle(&alice, first, 25).await;
    let after = Record { recorded: true, balance: 125, used: 25, ..Record::default() };
    assert_eq!(s.read(&alice).await, after);

    let taken = s.edit(&alice, Action::Adjust(-1000), "3").await.unwrap();
    assert_eq!((taken.before, taken.after, taken.record.used), (125, 0, 25), "never below 0");
    assert!(!s.reserve(&alice, 3, 1).await.0.admitted);

    // The last request may cost more than the balance.
    s.edit(&alice, Action::Set(5), "4").await.unwrap();
    let last = s.reserve(&alice, 4, 20).await;
    assert_eq!(last.0.states[0].taken, 5, "the last of it goes to one request");
    s.settle(&alice, last, 12).await;
    let spent = Record { recorded: true, used: 37, overrun: 7, ..Record::default() };
    assert_eq!(s.read(&alice).await, spent);
}

async fn the_default_applies_until_a_record_exists(s: &Subject) {
    let rule = CounterRule::Prepaid { default: Some(1000) };
    let bob = s.account("bob", "paid", rule);
    assert_eq!(s.read(&bob).await, Record { balance: 1000, ..Record::default() });
    let added = s.edit(&bob, Action::Adjust(5), "1").await.unwrap();
    assert_eq!((added.before, added.after), (1000, 1005));
    assert!(s.read(&bob).await.recorded);
    let deleted = s.edit(&bob, Action::Delete, "2").await.unwrap();
    assert_eq!((deleted.before, deleted.after, deleted.record.recorded), (1005, 1000, false));
    assert_eq!(s.edit(&bob, Action::Delete, "3").await, None, "nothing to delete");

    // A record that a request has created is listed once it has been read.
    let carol = s.account("carol", "paid", rule);
    assert!(s.reserve(&carol, 1, 10).await.0.admitted);
    let prefix = format!("{}/", s.name);
    assert!(s.names("paid", &rule, &prefix, "", 9).await.is_empty());
    assert_eq!(s.read(&carol).await.balance, 990);
    assert_eq!(s.names("paid", &rule, &prefix, "", 9).await, [format!("{}/carol", s.name)]);
}

async fn changing_a_budget_keeps_its_use(s: &Subject) {
    let rule = CounterRule::Budget { default: Some(100), window: HOUR };
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

async fn a_calendar_budget_resets_at_the_end_of_its_window(s: &Subject) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let (day, week) = (86_400_000, 7 * 86_400_000);
    let window = Window::Edges([now - week, now - day, now + day, now + week]);
    let eve = s.account("eve", "monthly", CounterRule::Budget { default: None, window });
    assert_eq!(s.read(&eve).await.amount, 0);
    s.edit(&eve, Action::Set(10), "1").await.unwrap();
    let taken = s.reserve(&eve, 1, 4).await;
    s.settle(&eve, taken, 4).await;
    let record = s.read(&eve).await;
    assert_eq!((record.recorded, record.amount, record.used, record.balance), (true, 10, 4, 6));
    assert!(record.reset_ms > day - 60_000 && record.reset_ms <= day, "{record:?}");
    // The next window starts with the full amount.
    let window = Window::Edges([now - day, now - 1, now + day, now + week]);
    let next = s.account("eve", "monthly", CounterRule::Budget { default: None, window });
    let record = s.read(&next).await;
    assert_eq!((record.recorded, record.used, record.balance), (true, 0, 10));
}

async fn a_repeated_change_applies_once(s: &Subject) {
    let fay = s.account("fay", "paid", CounterRule::Prepaid { default: None });
    s.edit(&fay, Action::Set(10), "set").await.unwrap();
    assert_eq!(s.edit(&fay, Action::Adjust(5), "once").await.unwrap().after, 15);
    let again = s.edit(&fay, Action::Adjust(5), "once").await.unwrap();
    assert_eq!((again.applied, again.after), (false, 15));
    // An id matches only another id, and only as a whole.
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

async fn concurrent_changes_all_count(s: &Subject) {
    let gus = s.account("gus", "paid", CounterRule::Prepaid { default: None });
    s.edit(&gus, Action::Set(0), "0").await.unwrap();
    let changes = (0..60).map(|i| {
        let (gus, id) = (&gus, format!("c{}", i / 2)); // each id twice
        async move { s.edit(gus, Action::Adjust(7), &id).await.unwrap().applied }
    });
    let applied = futures::future::join_all(changes).await.into_iter().filter(|applied| *applied).count();
    assert_eq!((applied, s.read(&gus).await.balance), (30, 210));
}

async fn records_are_listed_by_name(s: &Subject) {
    let (quota, rule) = (format!("list-{}", s.name.len()), CounterRule::Prepaid { default: Some(1) });
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
    let ninety_nine: Vec<_> = expected.iter().filter(|name| name.contains("99")).cloned().collect();
    assert_eq!(s.names(&quota, &rule, "99", "", 100).await, ninety_nine);
    assert_eq!(s.names(&quota, &rule, "99", &ninety_nine[0], 2).await, ninety_nine[1..3]);
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
    let first = s.overrides.version().await.unwrap();
    let put = s.overrides.put(&of("model=b", Some(5)).entry()).await.unwrap().unwrap();
    let set = s.overrides.version().await.unwrap();
    assert_ne!(first, set);
    assert!(put.at_ms > 1_700_000_000_000);
    let short = Override { expires_at_ms: Some(9), ..of("model=a", None) };
    s.overrides.put(&short.entry()).await.unwrap().unwrap();
    assert!(s.overrides.put(&of("model=b", Some(0)).entry()).await.unwrap().unwrap().before);
    let (version, entries) = s.overrides.read().await.unwrap();
    assert_eq!(version, s.overrides.version().await.unwrap());
    let own = entries.iter().filter_map(Override::read).filter(|o| o.limit == limit);
    let mut own: Vec<_> = own.map(|o| (o.key, o.amount, o.expires_at_ms, o.who)).collect();
    own.sort();
    let key = |key: &str| format!("consumer={}|{key}", s.name);
    let who = || "ops".to_owned();
    assert_eq!(own, [(key("model=a"), None, Some(9), who()), (key("model=b"), Some(0), None, who())]);
    for (key, there) in [(key("model=a"), true), (key("model=a"), false), (key("model=b"), true)] {
        assert_eq!(s.overrides.remove(&override_name(&limit, &key)).await.unwrap(), there);
    }
}

/// Runs last, because it fills the store with overrides.
async fn a_store_keeps_at_most_10000_overrides(s: &Subject) {
    let of = |i: usize, expires_at_ms| Override {
        limit: "bound".into(),
        key: format!("consumer={i}"),
        amount: Some(1),
        expires_at_ms,
        who: "ops".into(),
        at_ms: 0,
    };
    for from in (0..10_000).step_by(100) {
        let set = (from..from + 100).map(|i| async move { s.overrides.put(&of(i, None).entry()).await });
        futures::future::join_all(set).await.into_iter().for_each(|set| assert!(set.unwrap().is_some()));
    }
    assert_eq!(s.overrides.put(&of(10_000, None).entry()).await.unwrap(), None);
    assert!(s.overrides.put(&of(7, Some(1)).entry()).await.unwrap().is_some(), "one there may change");
    assert!(s.overrides.put(&of(10_000, None).entry()).await.unwrap().is_some(), "one that ended makes room");
    assert_eq!(s.overrides.read().await.unwrap().1.len(), 10_000);
}

macro_rules! scenarios {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&Subject::memory(&Arc::default(), stringify!($scenario))).await;
            })*
        }
        mod redis {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let redis = Redis::start();
                let store = redis_store(&redis_options(vec![redis.url()], false, "p"), TTL).await;
                super::$scenario(&Subject::redis(&store, stringify!($scenario))).await;
                every_key_has_a_stated_life(&redis);
            })*
        }
        mod cluster {
            use super::*;
            #[tokio::test]
            async fn every_scenario() {
                let cluster = Cluster::start();
                let store = redis_store(&redis_options(cluster.urls(), true, ""), TTL).await;
                $(super::$scenario(&Subject::redis(&store, stringify!($scenario))).await;)*
            }
        }
    };
}

scenarios!(
    a_balance_is_set_used_and_topped_up,
    the_default_applies_until_a_record_exists,
    changing_a_budget_keeps_its_use,
    a_calendar_budget_resets_at_the_end_of_its_window,
    a_repeated_change_applies_once,
    concurrent_changes_all_count,
    records_are_listed_by_name,
    overrides_are_kept_by_limit_and_key,
    a_store_keeps_at_most_10000_overrides,
);

/// Checks that every key expires, except consumers' records, their index, and overrides.
fn every_key_has_a_stated_life(redis: &Redis) {
    let keys: Vec<String> = ::redis::from_redis_value(redis.command(&["KEYS", "*"])).unwrap();
    for key in keys {
        let ttl: i64 = ::redis::from_redis_value(redis.command(&["PTTL", &key])).unwrap();
        let stays = key.starts_with("p:ek2:quotas:") || key == "p:ek2:overrides";
        let may_stay = key.ends_with("}:counters");
        // -2 means that the key has expired since KEYS.
        assert!(ttl > 0 || ttl == -2 || ttl == -1 && (stays || may_stay), "{key}: {ttl} ms");
    }
}
