//! The contract of stores: each scenario runs with memory, with Redis and with Redis Cluster.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_domain::{HolderId, Roster};
use evenkeel_store::{Held, Pool, Reaped, Repairs, Store, memory::MemoryStore};

use crate::support::{
    redis::{Cluster, Redis},
    store::{admission, held, holder, lease, picked, pool, redis_options, redis_store, roster},
};

const TTL: Duration = Duration::from_secs(60);

/// One store under test.
struct Subject {
    store: Arc<dyn Store>,
    pool: Arc<Pool>,
    /// Moves a holder's deadline into the past.
    expire: Expire,
}

type Expire = Box<dyn Fn(&Arc<Pool>, &str) -> futures::future::BoxFuture<'static, ()>>;

/// Supports only pools whose names need no encoding in keys. Returns an error if another node of a cluster has the key.
async fn put_past_deadline(
    c: &mut impl redis::aio::ConnectionLike,
    prefix: &str,
    pool: &Pool,
    holder: &str,
) -> redis::RedisResult<()> {
    let key = format!("{prefix}ek2:{{{}|{}}}:holders", pool.id.route(), pool.id.cluster());
    redis::cmd("ZADD").arg(key).arg("XX").arg(1).arg(holder).exec_async(c).await
}

fn expire_in_redis(connection: redis::aio::MultiplexedConnection, prefix: &'static str) -> Expire {
    Box::new(move |pool, holder| {
        let (mut connection, pool, holder) = (connection.clone(), Arc::clone(pool), holder.to_owned());
        Box::pin(async move {
            put_past_deadline(&mut connection, prefix, &pool, &holder).await.unwrap();
        })
    })
}

impl Subject {
    async fn admit(&self, roster: &Arc<Roster>, who: &str, number: u64, tie: u32) -> Option<Arc<str>> {
        picked(self.store.admit(admission(&self.pool, roster, who, number, tie)).await.unwrap())
    }

    async fn settle(&self, who: &str, number: u64) -> bool {
        self.store.settle(&self.pool, &holder(who), lease(number)).await.unwrap()
    }

    async fn keep_alive(&self, who: &str, held: &Held) -> Repairs {
        self.store.keep_alive(&self.pool, &holder(who), held).await.unwrap()
    }

    async fn counts(&self) -> BTreeMap<String, u64> {
        let table = self.store.table(&self.pool).await.unwrap();
        table.loads.into_iter().map(|(endpoint, load)| (endpoint.to_string(), load.in_flight)).collect()
    }
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(endpoint, n)| ((*endpoint).to_owned(), *n)).collect()
}

fn at(endpoint: &str) -> Option<Arc<str>> {
    Some(endpoint.into())
}

async fn least_request_by_weight_under_caps(s: &Subject) {
    let r = roster(&[("a", 1.0, 2), ("b", 2.0, 2), ("c", 1.0, 1)]);
    assert_eq!(s.admit(&r, "h", 1, 0).await, at("b")); // b: (0+1)/2 is less than 1/1
    assert_eq!(s.admit(&r, "h", 2, u32::MAX).await, at("b")); // all scores are 1: the last of c, a, b
    assert_eq!(s.admit(&r, "h", 3, 0).await, at("c")); // b is full: the first of c, a
    assert_eq!(s.admit(&r, "h", 4, 7).await, at("a"));
    assert_eq!(s.admit(&r, "h", 5, 0).await, at("a"));
    assert_eq!(s.admit(&r, "h", 6, 0).await, None);
    assert_eq!(s.counts().await, counts(&[("a", 2), ("b", 2), ("c", 1)]));
    assert!(s.settle("h", 3).await);
    assert_eq!(s.admit(&r, "h", 7, 0).await, at("c"));
}

async fn admitting_and_settling_twice_equals_once(s: &Subject) {
    let r = roster(&[("a", 1.0, 0), ("b", 1.0, 0)]);
    assert_eq!(s.admit(&r, "h", 1, 0).await, at("a"));
    assert_eq!(s.admit(&r, "h", 1, 1).await, at("a"));
    // An existing lease keeps its endpoint even if the endpoint has left the roster.
    assert_eq!(s.admit(&roster(&[("b", 1.0, 0)]), "h", 1, 0).await, at("a"));
    assert_eq!(s.counts().await, counts(&[("a", 1)]));
    assert!(!s.settle("other", 1).await);
    assert!(s.settle("h", 1).await);
    assert!(!s.settle("h", 1).await);
    assert_eq!(s.counts().await, counts(&[]));
}

async fn the_table_becomes_the_holders_list(s: &Subject) {
    let r = roster(&[("a", 1.0, 0)]);
    for number in 1..=4 {
        s.admit(&r, "h", number, 0).await;
    }
    // The list keeps 1, lacks 2 (ended), and has 3 on b, 9 (lost by the store) and 8 (pending). Lease 4 was issued
    // after it.
    let list = held(3, &[(1, Some("a")), (3, Some("b")), (9, Some("c")), (8, None)]);
    let repairs = s.keep_alive("h", &list).await;
    assert_eq!(repairs, Repairs { restored: 1, dropped: 1, moved: 1, refused: 0 });
    assert_eq!(s.counts().await, counts(&[("a", 2), ("b", 1), ("c", 1)]));
    assert_eq!(s.keep_alive("h", &list).await, Repairs::default());
    // A pending lease that the store knows stays on its endpoint.
    let pending = held(9, &[(1, None), (3, None), (9, None)]);
    assert_eq!(s.keep_alive("h", &pending).await, Repairs { dropped: 1, ..Repairs::default() });
    assert_eq!(s.keep_alive("h", &held(9, &[])).await.dropped, 3);
    assert_eq!(s.counts().await, counts(&[]));
}

async fn a_living_holder_is_not_reaped(s: &Subject) {
    let r = roster(&[("a", 1.0, 0)]);
    s.admit(&r, "h", 1, 0).await;
    assert_eq!(s.store.reap(&s.pool, &holder("h")).await.unwrap(), Reaped::default());
    assert_eq!(s.store.reap(&s.pool, &holder("nobody")).await.unwrap(), Reaped::default());
    assert_eq!(s.counts().await, counts(&[("a", 1)]));
}

async fn leases_and_pools_are_listed(s: &Subject) {
    let r = roster(&[("a", 1.0, 0), ("b", 1.0, 0)]);
    for number in [10, 9, 2] {
        s.admit(&r, "h", number, 0).await;
    }
    let table = s.store.table(&s.pool).await.unwrap();
    let leases = s.store.leases(&s.pool, &holder("h")).await.unwrap();
    assert_eq!(leases.iter().map(|l| l.id.get()).collect::<Vec<_>>(), [2, 9, 10]);
    assert!(leases.iter().all(|l| l.since_ms <= table.now_ms && l.since_ms + 60_000 > table.now_ms));
    assert_eq!(table.holders.keys().map(HolderId::as_str).collect::<Vec<_>>(), ["h"]);
    s.store.register(&s.pool).await.unwrap();
    s.store.register(&s.pool).await.unwrap();
    assert_eq!(s.store.pools().await.unwrap(), std::slice::from_ref(&s.pool.id));
    assert_eq!(s.store.recount(&s.pool).await.unwrap(), 0);
}

async fn many_leases_at_once(s: &Subject) {
    // These are more than unpack() takes in one call, and more than one batch.
    let list: Vec<(u64, Option<&str>)> = (1..=9000).map(|n| (n, Some(["a", "b"][n as usize % 2]))).collect();
    assert_eq!(s.keep_alive("h", &held(9000, &list)).await.restored, 9000);
    assert_eq!(s.counts().await, counts(&[("a", 4500), ("b", 4500)]));
    let r = roster(&[("a", 1.0, 0), ("b", 1.0, 0)]);
    let admits = (9001..=9600).map(|number| s.admit(&r, "h", number, number as u32));
    futures::future::join_all(admits).await;
    assert_eq!(s.counts().await, counts(&[("a", 4800), ("b", 4800)]));
    let settles = futures::future::join_all((9001..=9600).map(|number| s.settle("h", number))).await;
    assert!(settles.into_iter().all(|released| released));
    assert_eq!(s.keep_alive("h", &held(9600, &[])).await.dropped, 9000);
    assert_eq!(s.counts().await, counts(&[]));
}

/// Guards against a scan that starts each time in the part of the hash that the last call emptied.
async fn a_dead_holder_with_very_many_leases_is_reaped(s: &Subject) {
    let list: Vec<(u64, Option<&str>)> = (1..=40_000).map(|n| (n, Some("a"))).collect();
    assert_eq!(s.keep_alive("h", &held(40_000, &list)).await.restored, 40_000);
    (s.expire)(&s.pool, "h").await;
    let (mut reaped, mut calls) = (0, 0);
    loop {
        let part = s.store.reap(&s.pool, &holder("h")).await.unwrap();
        assert!(part.leases > 0, "a call that finds nothing, after {reaped}");
        reaped += part.leases;
        calls += 1;
        if !part.more {
            break;
        }
    }
    assert_eq!((reaped, calls > 10), (40_000, true));
    let table = s.store.table(&s.pool).await.unwrap();
    assert!(table.loads.is_empty() && table.holders.is_empty());
}

macro_rules! contract {
    ($($scenario:ident),* $(,)?) => {
        mod on_memory {
            use super::*;
            $(#[tokio::test] async fn $scenario() {
                let store = Arc::new(MemoryStore::new(TTL));
                let memory = Arc::clone(&store);
                let expire: Expire = Box::new(move |pool, id| {
                    memory.expire(pool, &holder(id));
                    Box::pin(std::future::ready(()))
                });
                super::$scenario(&Subject { store, pool: pool("r", "c"), expire }).await;
            })*
        }
        mod on_redis {
            use super::*;
            $(#[tokio::test] async fn $scenario() {
                // Without and with an order of the rosters.
                for ordered_min in [1000, 1] {
                    let redis = Redis::start();
                    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
                    store.set_ordered_min(ordered_min);
                    let client = redis::Client::open(redis.url()).unwrap();
                    let connection = client.get_multiplexed_async_connection().await.unwrap();
                    let expire = expire_in_redis(connection, "");
                    super::$scenario(&Subject { store, pool: pool("r", "c"), expire }).await;
                }
            })*
        }
        /// All scenarios share one cluster, because its start takes seconds.
        #[tokio::test]
        async fn on_redis_cluster() {
            let cluster = Cluster::start();
            $({
                let name = stringify!($scenario);
                let store = redis_store(&redis_options(cluster.urls(), true, name), TTL).await;
                store.set_ordered_min(1);
                // The pools hash to several slots, and some of their names try to break the hash tag.
                for pool in [pool("r", "c"), pool("", "outbound|80||x"), pool("{a}", "}b{")] {
                    let (store, pool) = (store.clone(), pool);
                    // These scenarios need a registry with only this pool, or expire the pool's holder by hand.
                    let alone = name == "leases_and_pools_are_listed" || name.starts_with("a_dead_holder");
                    if alone && pool.id.route() != "r" { continue }
                    let expire = cluster.expire(concat!(stringify!($scenario), ":"));
                    super::contract::$scenario(&Subject { store, pool, expire }).await;
                }
            })*
        }
    };
}

contract!(
    least_request_by_weight_under_caps,
    admitting_and_settling_twice_equals_once,
    the_table_becomes_the_holders_list,
    a_living_holder_is_not_reaped,
    leases_and_pools_are_listed,
    many_leases_at_once,
    a_dead_holder_with_very_many_leases_is_reaped,
);

impl Cluster {
    fn expire(&self, prefix: &'static str) -> Expire {
        let urls = self.urls();
        Box::new(move |pool, holder| {
            let (urls, pool, holder) = (urls.clone(), Arc::clone(pool), holder.to_owned());
            Box::pin(async move {
                for url in urls {
                    let client = redis::Client::open(url).unwrap();
                    let mut node = client.get_multiplexed_async_connection().await.unwrap();
                    if put_past_deadline(&mut node, prefix, &pool, &holder).await.is_ok() {
                        return;
                    }
                }
                panic!("no node has the pool");
            })
        })
    }
}
