//! The contract of stores for records of holders: each scenario runs with memory, with Redis and with Redis Cluster.

use std::{sync::Arc, time::Duration};

use evenkeel_store::{
    holders::{Epoch, HolderRecord, HolderStore, Secret},
    memory::MemoryHolders,
};

use crate::support::{
    redis::{Cluster, Redis},
    store::{holder, redis_options, redis_store},
};

const TTL: Duration = Duration::from_secs(60);
const ONE: Secret = Secret::new([1; 16]);
const OTHER: Secret = Secret::new([2; 16]);

async fn claim(store: &dyn HolderStore, who: &str, secret: &Secret, epoch: Epoch) -> HolderRecord {
    store.claim(&holder(who), secret, epoch).await.unwrap()
}

async fn the_first_secret_stays(s: &dyn HolderStore) {
    assert_eq!(claim(s, "h", &ONE, Epoch::AtLeast(0)).await, HolderRecord { secret: ONE, epoch: 0 });
    assert_eq!(claim(s, "h", &OTHER, Epoch::Next).await, HolderRecord { secret: ONE, epoch: 0 });
    assert_eq!(claim(s, "h", &OTHER, Epoch::AtLeast(9)).await, HolderRecord { secret: ONE, epoch: 0 });
    assert_eq!(claim(s, "g", &OTHER, Epoch::AtLeast(0)).await, HolderRecord { secret: OTHER, epoch: 0 });
    // A secret may contain any bytes.
    let bytes = Secret::new([0, 13, 10, 255, 128, 0, 36, 42, 1, 2, 3, 4, 5, 6, 7, 0]);
    assert_eq!(claim(s, "bytes", &bytes, Epoch::Next).await.secret, bytes);
    assert_eq!(claim(s, "bytes", &OTHER, Epoch::Next).await.secret, bytes);
}

async fn each_stream_has_a_larger_epoch(s: &dyn HolderStore) {
    let first = claim(s, "h", &ONE, Epoch::Next).await.epoch;
    let second = claim(s, "h", &ONE, Epoch::Next).await.epoch;
    assert!(0 < first && first < second, "{first} {second}");
    assert_eq!(
        claim(s, "h", &ONE, Epoch::AtLeast(first)).await.epoch,
        second,
        "the first learns of the second"
    );
    assert_eq!(claim(s, "h", &ONE, Epoch::AtLeast(second)).await.epoch, second);
    assert_eq!(claim(s, "h", &ONE, Epoch::AtLeast(0)).await.epoch, second, "unary calls change no epoch");
    // A sidecar that served the holder while the store was away writes its epoch afterwards.
    assert_eq!(claim(s, "h", &ONE, Epoch::AtLeast(second + 5)).await.epoch, second + 5);
    assert_eq!(claim(s, "new", &ONE, Epoch::AtLeast(7)).await.epoch, 7);
}

macro_rules! contract {
    ($($scenario:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test] async fn $scenario() {
                super::$scenario(&super::MemoryHolders::default()).await;
            })*
        }
        mod on_redis {
            use super::*;
            $(#[tokio::test] async fn $scenario() {
                let redis = Redis::start();
                let store = redis_store(&redis_options(vec![redis.url()], false, ""), TTL).await;
                super::$scenario(&*store).await;
                assert_eq!(redis.refused(), [""; 0]);
            })*
        }
        #[tokio::test]
        async fn on_redis_cluster() {
            let cluster = Cluster::start();
            $({
                let options = redis_options(cluster.urls(), true, stringify!($scenario));
                $scenario(&*redis_store(&options, TTL).await).await;
            })*
        }
    };
}

contract!(the_first_secret_stays, each_stream_has_a_larger_epoch);

/// Guards against an epoch that a store repeats after it has lost its data: an older stream would then look newer.
#[tokio::test]
async fn a_store_that_lost_its_data_repeats_no_epoch() {
    let redis = Redis::start();
    let store: Arc<dyn HolderStore> = redis_store(&redis_options(vec![redis.url()], false, "x"), TTL).await;
    let before = claim(&*store, "h", &ONE, Epoch::Next).await.epoch;
    let expiry: i64 = redis::from_redis_value(redis.command(&["PTTL", "x:ek2:holder:h"])).unwrap();
    assert!((3_500_000..=3_600_000).contains(&expiry), "{expiry}");
    redis.command(&["FLUSHALL"]);
    let after = claim(&*store, "h", &ONE, Epoch::Next).await;
    assert!(after.epoch > before && after.secret == ONE, "{before} {after:?}");
}
