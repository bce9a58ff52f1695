//! The contract of stores for drains and for the log of changes.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::PoolId;
use evenkeel_store::{
    changes::{AdminChange, ChangeStore},
    drains::{DRAINS_MAX, Drain, drain_name},
    memory::{MemoryChanges, MemoryMap},
    versioned::{Put, Record as _, VersionedMap},
};

use crate::support::{
    redis::{Cluster, Redis},
    store::{redis_options, redis_store},
};

const TTL: Duration = Duration::from_secs(20);

/// The stores under test.
struct Subject {
    drains: Arc<dyn VersionedMap>,
    changes: Arc<dyn ChangeStore>,
}

fn a_drain(endpoint: &str, pool: Option<PoolId>) -> Drain {
    Drain { endpoint: endpoint.into(), pool, note: "a|note".into(), who: "ops".into(), at_ms: 0 }
}

impl Subject {
    async fn put(&self, drain: &Drain) -> Option<Put> {
        self.drains.put(&drain.entry()).await.unwrap()
    }

    async fn remove(&self, endpoint: &str, pool: Option<&PoolId>) -> bool {
        self.drains.remove(&drain_name(endpoint, pool)).await.unwrap()
    }

    /// Returns the version, and the drains sorted by pool.
    async fn read(&self) -> (u64, Vec<Drain>) {
        let (version, entries) = self.drains.read().await.unwrap();
        let mut drains: Vec<Drain> = entries.iter().filter_map(Drain::read).collect();
        drains.sort_by(|a, b| a.pool.cmp(&b.pool));
        (version, drains)
    }
}

async fn each_pool_has_its_own_drains(s: &Subject) {
    let first = s.drains.version().await.unwrap();
    assert_eq!(s.read().await.1, []);
    let pools = [None, PoolId::new("r", "c|1").ok(), PoolId::new("", "c|1").ok()];
    for pool in &pools {
        let put = s.put(&a_drain("m|0:80", pool.clone())).await.unwrap();
        assert!(!put.before && put.at_ms > 1_600_000_000_000);
    }
    let again = Drain { note: String::new(), who: "night".into(), ..a_drain("m|0:80", None) };
    let put = s.put(&again).await.unwrap();
    assert!(put.before);
    let (version, list) = s.read().await;
    assert_eq!(version, s.drains.version().await.unwrap());
    assert_ne!(version, first);
    let sorted = [pools[0].clone(), pools[2].clone(), pools[1].clone()];
    assert_eq!(list.iter().map(|drain| drain.pool.clone()).collect::<Vec<_>>(), sorted);
    assert_eq!(list[0], Drain { at_ms: put.at_ms, ..again });
    assert_eq!(list[1].note, "a|note");
    for pool in &pools {
        assert!(s.remove("m|0:80", pool.as_ref()).await);
        assert!(!s.remove("m|0:80", pool.as_ref()).await);
    }
    let (emptied, empty) = s.read().await;
    assert_eq!(empty, []);
    assert_ne!(emptied, version, "deleting one is a change too");
}

async fn a_store_keeps_at_most_1000_drains(s: &Subject) {
    for from in (0..1000).step_by(100) {
        let put =
            (from..from + 100).map(|i| async move { s.put(&a_drain(&format!("m-{i}:80"), None)).await });
        futures::future::join_all(put).await.into_iter().for_each(|put| assert!(put.is_some()));
    }
    assert_eq!(s.put(&a_drain("m-1000:80", None)).await, None);
    assert!(s.put(&a_drain("m-7:80", None)).await.unwrap().before);
    assert!(s.remove("m-7:80", None).await);
    assert!(s.put(&a_drain("m-1000:80", None)).await.is_some());
    assert_eq!(s.read().await.1.len(), 1000);
}

async fn a_store_keeps_the_newest_1000_changes_once(s: &Subject) {
    let change = |i: usize| AdminChange {
        at_ms: 0,
        who: "ops".into(),
        what: "quota.set".into(),
        target: format!("credit/{i}"),
        before: String::new(),
        after: "7".into(),
        note: "why".into(),
    };
    assert_eq!(s.changes.changes(10).await.unwrap(), []);
    for i in 0..1003 {
        s.changes.add_change(&format!("id-{i}"), &change(i)).await.unwrap();
        if i % 100 == 0 {
            s.changes.add_change(&format!("id-{i}"), &change(i)).await.unwrap();
        }
    }
    let all = s.changes.changes(5000).await.unwrap();
    assert_eq!(all.len(), 1000);
    for (i, kept) in all.iter().enumerate() {
        assert!(kept.at_ms > 1_600_000_000_000);
        assert_eq!(AdminChange { at_ms: 0, ..kept.clone() }, change(1002 - i));
    }
    assert_eq!(s.changes.changes(2).await.unwrap(), all[..2]);
    assert_eq!(s.changes.changes(0).await.unwrap(), []);
}

macro_rules! scenarios {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let drains = Arc::new(MemoryMap::new(DRAINS_MAX));
                let changes = Arc::<MemoryChanges>::default();
                super::$scenario(&Subject { drains, changes }).await;
            })*
        }
        mod redis {
            use super::*;
            $(#[tokio::test]
            async fn $scenario() {
                let redis = Redis::start();
                let store = redis_store(&redis_options(vec![redis.url()], false, "p"), TTL).await;
                super::$scenario(&Subject { drains: Arc::new(store.map("drains", DRAINS_MAX)), changes: store }).await;
            })*
        }
        mod cluster {
            use super::*;
            #[tokio::test]
            async fn every_scenario() {
                let cluster = Cluster::start();
                $({
                    let options = redis_options(cluster.urls(), true, stringify!($scenario));
                    let store = redis_store(&options, TTL).await;
                    super::$scenario(&Subject { drains: Arc::new(store.map("drains", DRAINS_MAX)), changes: store }).await;
                })*
            }
        }
    };
}

scenarios!(
    each_pool_has_its_own_drains,
    a_store_keeps_at_most_1000_drains,
    a_store_keeps_the_newest_1000_changes_once,
);

/// Guards against an older version that ignores all drains because a newer version has written some in another layout.
#[tokio::test]
async fn an_unreadable_drain_hides_no_other() {
    let redis = Redis::start();
    let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
    let s = Subject { drains: Arc::new(store.map("drains", DRAINS_MAX)), changes: store };
    for endpoint in ["m-0:80", "m-1:80"] {
        s.put(&a_drain(endpoint, None)).await.unwrap();
    }
    let key = "ek2:drains";
    let kept: i64 = ::redis::from_redis_value(redis.command(&["HLEN", key])).unwrap();
    assert_eq!(kept, 3, "two and a version");
    for (field, value) in [("||m-2:80", "not lines"), ("m-3:80", "7\nops\n"), ("||m-4:80", "soon\nops\n")] {
        redis.command(&["HSET", key, field, value]);
    }
    let (version, mut drains) = s.read().await;
    drains.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    let endpoints: Vec<_> = drains.iter().map(|drain| &*drain.endpoint).collect();
    assert_eq!(endpoints, ["m-0:80", "m-1:80"]);
    assert_eq!(version, s.drains.version().await.unwrap());
}
