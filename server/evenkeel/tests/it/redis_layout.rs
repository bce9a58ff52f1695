//! What the Redis store writes to Redis: expiries, the repair of lost keys, and Higress's table.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::{
    PoolId, StoreError,
    choice::Prompt,
    limit::{Bucket, CounterRule, Meter, OnStoreFailure, Window},
};
use evenkeel_store::{
    Admit, Pool, Store,
    counters::{self, Renewal, ReservationId, Reserve},
};

use crate::support::{
    eventually,
    redis::Redis,
    store::{admission, held, holder, lease, picked, pool, redis_options, redis_store, roster},
};

const TTL: Duration = Duration::from_secs(60);

async fn admit(store: &dyn Store, pool: &Arc<Pool>, number: u64) -> Option<Arc<str>> {
    let admit = admission(pool, &roster(&[("a", 1.0, 0), ("b", 1.0, 0)]), "h", number, 0);
    picked(store.admit(admit).await.unwrap())
}

fn strings(value: redis::Value) -> Vec<String> {
    redis::from_redis_value(value).unwrap()
}

#[tokio::test]
async fn every_key_expires() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, "x"), TTL).await;
    store.set_ordered_min(2);
    let pool = pool("r", "c");
    let check = |after: &str| {
        let keys = strings(redis.command(&["KEYS", "*"]));
        assert!(!keys.is_empty(), "{after}");
        for key in keys {
            assert!(key.starts_with("x:ek2:"), "{key} after {after}");
            let ttl: i64 = redis::from_redis_value(redis.command(&["PTTL", &key])).unwrap();
            assert!(ttl > 0, "{key} has no expiry after {after}");
        }
    };
    admit(&*store, &pool, 1).await;
    check("admit");
    store.settle(&pool, &holder("h"), lease(1)).await.unwrap();
    store.keep_alive(&pool, &holder("g"), &held(3, &[(2, Some("z"))])).await.unwrap();
    check("keep_alive");
    store.register(&pool).await.unwrap();
    check("register");
    redis.command(&["DEL", "x:ek2:{r|c}:in-flight"]);
    store.recount(&pool).await.unwrap();
    check("recount");
    redis.command(&["DEL", "x:ek2:{r|c}:order"]);
    admit(&*store, &pool, 4).await;
    admit(&*store, &pool, 5).await;
    check("a lost order");
}

/// Guards against the loss of single keys, through eviction or an operator.
#[tokio::test]
async fn a_recount_restores_lost_counts() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let pool = pool("r", "c");
    for number in 1..=4 {
        admit(&*store, &pool, number).await;
    }
    let before = store.table(&pool).await.unwrap().loads;
    redis.command(&["DEL", "ek2:{r|c}:in-flight"]);
    // The settlement must not make the lost count negative.
    assert!(store.settle(&pool, &holder("h"), lease(4)).await.unwrap());
    assert!(store.table(&pool).await.unwrap().loads.is_empty());
    assert_eq!(store.recount(&pool).await.unwrap(), 2);
    let after = store.table(&pool).await.unwrap().loads;
    assert_eq!(
        after.values().map(|load| load.in_flight).sum::<u64>(),
        before.values().map(|load| load.in_flight).sum::<u64>() - 1
    );
    assert_eq!(store.recount(&pool).await.unwrap(), 0);
}

/// The sum of unread tokens is compared with the leases by one sidecar per holder TTL.
#[tokio::test]
async fn a_recount_restores_lost_unread_tokens() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let (pool, roster) = (pool("r", "c"), roster(&[("a", 1.0, 0)]));
    let unread = async |number, tokens| {
        let prompt = Some(Prompt { tokens, cached: Vec::new() });
        store.admit(Admit { prompt, ..admission(&pool, &roster, "h", number, 0) }).await.unwrap();
        store.table(&pool).await.unwrap().loads["a"].unread
    };
    assert_eq!(unread(1, 100).await, 100);
    redis.command(&["DEL", "ek2:{r|c}:unread"]);
    assert_eq!(unread(2, 20).await, 20);
    assert_eq!(store.recount(&pool).await.unwrap(), 1);
    assert_eq!(unread(3, 3).await, 123);
    redis.command(&["HSET", "ek2:{r|c}:unread", "a", "7", "b", "8"]);
    assert_eq!(store.recount(&pool).await.unwrap(), 0, "compared a moment ago");
    redis.command(&["HSET", "ek2:{r|c}:unread", "", ":1"]);
    assert_eq!(store.recount(&pool).await.unwrap(), 2);
    assert_eq!(unread(4, 0).await, 123);
    // A first token and a settlement below the sum do not make it negative.
    redis.command(&["HSET", "ek2:{r|c}:unread", "a", "1"]);
    store.first_token(&pool, &holder("h"), lease(1)).await.unwrap();
    store.settle(&pool, &holder("h"), lease(2)).await.unwrap();
    assert_eq!(unread(5, 0).await, 0);
}

#[tokio::test]
async fn a_dead_holder_is_reaped_after_its_ttl_and_not_before() {
    let redis = Redis::start();
    let ttl = Duration::from_millis(300);
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), ttl).await;
    let pool = pool("r", "c");
    let since = tokio::time::Instant::now();
    admit(&*store, &pool, 1).await;
    let reaped = eventually(Duration::from_secs(5), "the lease is reaped", || async {
        let reaped = store.reap(&pool, &holder("h")).await.unwrap();
        if reaped.leases > 0 { Ok(reaped) } else { Err("nothing reaped".to_owned()) }
    });
    assert_eq!(reaped.await.leases, 1);
    // Redis's clock has whole milliseconds.
    let not_before = ttl - Duration::from_millis(1);
    assert!(since.elapsed() >= not_before, "reaped after {:?}", since.elapsed());
    assert!(store.table(&pool).await.unwrap().loads.is_empty());
    assert!(!store.settle(&pool, &holder("h"), lease(1)).await.unwrap(), "a late settle changes nothing");
}

/// The clock of Redis jumped forward by a minute and was set back. What died meanwhile must not count for a minute.
#[tokio::test]
async fn deadlines_after_a_clock_that_was_set_back_are_brought_forward() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let pool = pool("r", "c");
    admit(&*store, &pool, 1).await;
    let later = |deadline_ms: f64| deadline_ms + 60_000.0;
    let score = |key: &str, member: &str| -> f64 {
        redis::from_redis_value(redis.command(&["ZSCORE", key, member])).unwrap()
    };
    let set = |key: &str, member: &str, score: f64| redis.command(&["ZADD", key, &score.to_string(), member]);
    let holders = "ek2:{r|c}:holders";
    let due = score(holders, "h");
    set(holders, "h", later(due));
    assert_eq!(store.recount(&pool).await.unwrap(), 0);
    assert!((due..due + 30_000.0).contains(&score(holders, "h")), "{due}");

    let id = |number| ReservationId { holder: holder("h"), lease: lease(number) };
    let bucket = Arc::new(Bucket { tag: "consumer=alice".into(), rest: String::new() });
    let renew = async |number| {
        let renewal =
            Renewal { bucket: Arc::clone(&bucket), name: "running".into(), id: id(number), ttl_ms: 9000 };
        counters::Counters::renew(&*store, vec![renewal]).await.unwrap();
    };
    renew(1).await;
    let keys: Vec<String> = redis::from_redis_value(redis.command(&["KEYS", "*running*"])).unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    let due = score(key, "h/1");
    for member in ["h/1", "h/2"] {
        set(key, member, later(due));
    }
    renew(3).await;
    for member in ["h/1", "h/2", "h/3"] {
        assert!((due..due + 8000.0).contains(&score(key, member)), "{member}");
    }
}

/// Gateways that still run Higress's plugin write Higress's table with HINCRBY, and can make it negative.
#[tokio::test]
async fn higress_table_is_shared() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let pool = Arc::new(Pool { id: PoolId::new("r", "outbound|80||c.dns").unwrap(), higress_table: true });
    let key = "higress:global_least_request_table:r:outbound|80||c.dns";
    redis.command(&["HINCRBY", key, "a", "3"]);
    assert_eq!(admit(&*store, &pool, 1).await, Some("b".into()));
    redis.command(&["HINCRBY", key, "b", "1"]);
    let count = |endpoint: &str| -> Option<i64> {
        redis::from_redis_value(redis.command(&["HGET", key, endpoint])).unwrap()
    };
    assert_eq!((count("a"), count("b")), (Some(3), Some(2)));
    assert!(store.settle(&pool, &holder("h"), lease(1)).await.unwrap());
    assert_eq!((count("a"), count("b")), (Some(3), Some(1)));
    // The other gateway decrements once too often. The script then counts from 0.
    redis.command(&["HINCRBY", key, "b", "-2"]);
    assert_eq!(count("b"), Some(-1));
    assert_eq!(admit(&*store, &pool, 2).await, Some("b".into()));
    assert_eq!(count("b"), Some(1));
    assert_eq!(store.table(&pool).await.unwrap().loads["a"].in_flight, 3);
    assert_eq!(
        store.recount(&pool).await.unwrap(),
        0,
        "other gateways' counts have no leases to compare with"
    );
}

#[tokio::test]
async fn an_evicting_policy_is_reported() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    assert_eq!(store.evicting_policy().await.unwrap().as_deref(), Some("allkeys-lru"));
}

fn meter(consumer: &str, name: &str, rule: CounterRule) -> Meter {
    Meter {
        bucket: Arc::new(Bucket { tag: format!("consumer={consumer}"), rest: String::new() }),
        name: name.into(),
        rule,
        cost: 1,
        provisional: false,
        shadow: false,
        on_store_failure: OnStoreFailure::Local,
    }
}

/// Somebody has written a value of another type under a key of Evenkeel. MGET hides this, so a SET would replace the
/// value. Guards against a loss of that value, and against a request that seems to be counted.
#[tokio::test]
async fn a_key_of_another_type_is_an_error_and_is_not_overwritten() {
    use evenkeel_store::counters::Counters as _;
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let fixed = CounterRule::Fixed { amount: 9, window: Window::Length(60_000) };
    let sliding = CounterRule::Sliding { amount: 9, period_ms: 60_000 };
    let running = CounterRule::Running { amount: 9, ttl_ms: 60_000 };
    let credit = CounterRule::Prepaid { default: Some(9) };
    redis.command(&["HSET", "ek2:{consumer=a}:counters", "field", "kept"]);
    redis.command(&["HSET", "ek2:{consumer=b}:running:at-once", "field", "kept"]);
    let reserve = async |number: Option<u64>, meters: &[Meter]| {
        let id = number.map(|number| ReservationId { holder: holder("h"), lease: lease(number) });
        store.reserve(Reserve { id, meters: meters.to_vec() }).await
    };
    let of_a = |name: &str, rule| meter("a", name, rule);
    let of_c = meter("c", "fixed", fixed);
    // Each of these is one call of `one_window`, `windows` or `count`.
    let cases: [(Option<u64>, Vec<Meter>); 6] = [
        (None, vec![of_a("fixed", fixed)]),
        (None, vec![of_a("fixed", fixed), of_c.clone()]),
        (None, vec![of_a("sliding", sliding), of_c.clone()]),
        (Some(1), vec![of_a("sliding", sliding), of_c.clone()]),
        (Some(2), vec![of_a("credit", credit)]),
        (Some(3), vec![meter("b", "at-once", running), of_c.clone()]),
    ];
    for (number, meters) in &cases {
        let name = &meters[0].name;
        let (error, other) =
            tokio::join!(reserve(*number, meters), reserve(Some(9), std::slice::from_ref(&of_c)));
        let Err(StoreError::Script { detail, .. }) = error else { panic!("{name}: {error:?}") };
        assert!(detail.contains("WRONGTYPE"), "{name}: {detail}");
        assert!(other.unwrap().admitted, "{name}: the other request of the batch");
        assert!(reserve(*number, meters).await.is_err(), "{name}: alone");
        assert!(store.peek(meters.clone()).await.is_err(), "{name}: peek");
    }
    // The reservation 9 counts once, and no failed call has counted.
    assert_eq!(store.peek(vec![of_c.clone()]).await.unwrap().states[0].used, 1);
    for key in ["ek2:{consumer=a}:counters", "ek2:{consumer=b}:running:at-once"] {
        let kept: String = redis::from_redis_value(redis.command(&["HGET", key, "field"])).unwrap();
        assert_eq!(kept, "kept", "{key}");
    }
    // The hash of records.
    let records = strings(redis.command(&["KEYS", "ek2:{limits}:reserved:*"]));
    for key in &records {
        redis.command(&["SET", key, "kept"]);
    }
    assert!(reserve(Some(10), std::slice::from_ref(&of_c)).await.is_err());
    assert_eq!(store.peek(vec![of_c]).await.unwrap().states[0].used, 1);
    for key in &records {
        let kept: String = redis::from_redis_value(redis.command(&["GET", key])).unwrap();
        assert_eq!(kept, "kept", "{key}");
    }
}
