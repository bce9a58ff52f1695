//! KeepAlives with very many leases. They take steps, with others' calls in between, and stay exact.

use std::{sync::Arc, time::Duration};

use evenkeel_store::{Held, HeldLease, Store as _};

use crate::support::{
    redis::Redis,
    store::{admission, held, holder, lease, picked, pool, redis_options, redis_store, roster},
};

const TTL: Duration = Duration::from_secs(600);
/// The largest list that a gateway worker may send.
const LEASES: u64 = 262_144;

fn list(numbers: impl Iterator<Item = u64>, through: u64) -> Held {
    let entry =
        |n: u64| HeldLease { id: lease(n), endpoint: Some(["a", "b"][n as usize % 2].into()), unread: 0 };
    let leases = numbers.map(entry).collect();
    Held { issued_through: through, leases, ..Held::default() }
}

/// Guards against one script call for the whole list, which held Redis for 989 ms.
#[tokio::test]
async fn a_long_list_holds_redis_only_for_moments() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let (pool, h) = (pool("r", "c"), holder("h"));
    redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    redis.command(&["CONFIG", "SET", "slowlog-max-len", "100000"]);
    let restored = store.keep_alive(&pool, &h, &list(1..=LEASES, LEASES)).await.unwrap().restored;
    assert_eq!(restored, LEASES);
    let every_other = list((1..=LEASES).filter(|n| n % 2 == 0), LEASES);
    assert_eq!(store.keep_alive(&pool, &h, &every_other).await.unwrap().dropped, LEASES / 2);
    assert_eq!(store.leases(&pool, &h).await.unwrap().len() as u64, LEASES / 2);
    let slow: Vec<Vec<redis::Value>> =
        redis::from_redis_value(redis.command(&["SLOWLOG", "GET", "-1"])).unwrap();
    let took = |entry: &Vec<redis::Value>| redis::from_redis_value::<u64>(entry[2].clone()).unwrap();
    let longest = slow.iter().map(took).max().unwrap();
    eprintln!("of {} calls, the longest held Redis for {longest} µs", slow.len());
    // A step takes about 4 ms on an idle machine. The bound is for a machine that does much other work.
    assert!(longest < 400_000, "{longest} µs");
    assert_eq!(store.recount(&pool).await.unwrap(), 0);
}

/// Between two steps of a list, the holder settles leases of the list, and takes and settles newer leases. The list must
/// drop none of the newer ones, and afterwards the table is exact.
#[tokio::test]
async fn a_list_in_steps_leaves_newer_leases_alone() {
    const LISTED: u64 = 600;
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    store.set_list_step(20);
    let (pool, h, r) = (pool("r", "c"), holder("h"), roster(&[("a", 1.0, 0), ("b", 1.0, 0)]));
    store.keep_alive(&pool, &h, &list(1..=LISTED * 2, LISTED * 2)).await.unwrap();
    let lists = {
        let (store, pool, h) = (Arc::clone(&store), Arc::clone(&pool), h.clone());
        tokio::spawn(async move {
            // The first list drops the leases above LISTED.
            for _ in 0..5 {
                store.keep_alive(&pool, &h, &list(1..=LISTED, LISTED * 2)).await.unwrap();
            }
        })
    };
    let (mut number, mut settled) = (LISTED * 2, 0);
    while !lists.is_finished() {
        number += 1;
        assert!(picked(store.admit(admission(&pool, &r, "h", number, 0)).await.unwrap()).is_some());
        assert!(store.settle(&pool, &h, lease(number)).await.unwrap(), "lease {number} was dropped");
        if settled < LISTED / 2 {
            settled += 1;
            store.settle(&pool, &h, lease(settled)).await.unwrap();
        }
    }
    lists.await.unwrap();
    assert!(number > LISTED * 2 + 10, "calls came between the steps: {}", number - LISTED * 2);
    let rest = list(settled + 1..=LISTED, number);
    store.keep_alive(&pool, &h, &rest).await.unwrap();
    let leases = store.leases(&pool, &h).await.unwrap();
    assert!(leases.iter().map(|lease| lease.id.get()).eq(settled + 1..=LISTED));
    let table = store.table(&pool).await.unwrap();
    assert_eq!(table.loads.values().map(|load| load.in_flight).sum::<u64>(), LISTED - settled);
    assert_eq!(store.recount(&pool).await.unwrap(), 0);
}

/// An empty list for a holder with many leases, and a short list for a holder with more leases than a step.
#[tokio::test]
async fn a_short_list_for_a_long_table_drops_the_rest() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let (pool, h) = (pool("r", "c"), holder("h"));
    store.keep_alive(&pool, &h, &list(1..=3000, 3000)).await.unwrap();
    let repairs =
        store.keep_alive(&pool, &h, &held(3000, &[(7, Some("c")), (3001, Some("a"))])).await.unwrap();
    assert_eq!((repairs.restored, repairs.moved, repairs.dropped), (1, 1, 2999));
    store.keep_alive(&pool, &h, &list(1..=3000, 3000)).await.unwrap();
    assert_eq!(
        store.keep_alive(&pool, &h, &Held { issued_through: 3000, ..Held::default() }).await.unwrap().dropped,
        3000
    );
    assert!(store.table(&pool).await.unwrap().holders.contains_key(&h), "the holder is alive");
    assert_eq!(store.leases(&pool, &h).await.unwrap().len(), 1, "the lease above 3000 was issued later");
}
