//! What Redis stores for quotas, how long it stores it, and the effect of a lost reply.

use std::{collections::BTreeSet, time::Duration};

use evenkeel_domain::limit::CounterRule;
use evenkeel_store::records::{Action, Edit, Record};

use super::{HOUR, Subject, TTL};
use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::Redis,
    store::{redis_options, redis_store},
};

#[tokio::test]
async fn only_records_never_expire() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let s = Subject::redis(&store, "n");
    let (paid, monthly) =
        (CounterRule::Prepaid { default: None }, CounterRule::Budget { default: Some(9), window: HOUR });
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

    let other = s.account("b", "paid", CounterRule::Prepaid { default: None });
    s.edit(&other, Action::Set(5), "1").await.unwrap();
    s.edit(&other, Action::Delete, "2").await.unwrap();
    let left: BTreeSet<String> = ::redis::from_redis_value(redis.command(&["KEYS", "*n/b*"])).unwrap();
    assert_eq!(left, BTreeSet::from(["ek2:{consumer=n/b}:changes:paid".to_owned()]));
}

/// Clients may be free to choose their consumer.
#[tokio::test]
async fn what_is_left_of_a_default_expires() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let s = Subject::redis(&store, "n");
    let rule = CounterRule::Prepaid { default: Some(1000) };
    let ttl = |name: &str| -> i64 {
        let key = format!("ek2:{{consumer=n/{name}}}:counters");
        ::redis::from_redis_value(redis.command(&["PTTL", &key])).unwrap()
    };
    let day = 86_400_000;
    let used = s.account("used", "trial", rule);
    let reserved = s.reserve(&used, 1, 10).await;
    assert!(
        (day..=2 * day + 61_000).contains(&ttl("used")),
        "a reservation counts for two days: {}",
        ttl("used")
    );
    s.settle(&used, reserved, 7).await;
    assert!((399 * day..=400 * day).contains(&ttl("used")), "{}", ttl("used"));
    assert_eq!(s.read(&used).await, Record { recorded: true, balance: 993, used: 7, ..Record::default() });
    let again = s.reserve(&used, 2, 900).await;
    assert_eq!(s.read(&used).await.balance, 93);
    s.settle(&used, again, 1000).await;
    let spent = Record { recorded: true, used: 1007, overrun: 7, ..Record::default() };
    assert_eq!(s.read(&used).await, spent);
    assert!(!s.reserve(&used, 3, 1).await.0.admitted);

    let refused = s.account("refused", "trial", rule);
    assert!(!s.reserve(&refused, 4, 0).await.0.states.is_empty());
    let free = s.account("free", "trial", rule);
    let reserved = s.reserve(&free, 5, 10).await;
    s.settle(&free, reserved, 0).await;
    assert!(ttl("free") <= 2 * day + 61_000, "nothing was charged: {}", ttl("free"));

    s.edit(&used, Action::Adjust(5), "1").await.unwrap();
    assert_eq!(ttl("used"), -1, "what an administrator has set stays");
    let reserved = s.reserve(&used, 6, 1).await;
    s.settle(&used, reserved, 1).await;
    assert_eq!((ttl("used"), s.read(&used).await.balance), (-1, 4));
}

/// Reservations are recorded by day. A reservation that is never settled counts for two days.
#[tokio::test]
async fn reservations_count_for_two_days() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let s = Subject::redis(&store, "n");
    let account = s.account("a", "paid", CounterRule::Prepaid { default: None });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let today = now.as_secs() / 86_400;
    for (days_ago, reserved) in [(1, 5), (2, 0), (9, 0)] {
        let record = [100, 7, 0, today - days_ago, 5, 3].map(|n| (n as f64).to_le_bytes()).concat();
        // The value has one counter: a recorded prepaid balance of six doubles, named "paid".
        let text = b"\x05\x06\x04\0paid";
        let head = [0, 1].map(|n| f64::from(n).to_le_bytes()).concat();
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

#[tokio::test]
async fn a_change_repeated_after_a_lost_reply_counts_once() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port).await;
    let store = redis_store(&redis_options(vec![proxy.url()], false, ""), TTL).await;
    let s = Subject::redis(&store, "n");
    let account = s.account("a", "paid", CounterRule::Prepaid { default: None });
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
