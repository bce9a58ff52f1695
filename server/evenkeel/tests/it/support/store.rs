//! Stores without a sidecar, and the values that their methods need.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::{
    Endpoint, HolderId, LeaseId, PoolId, Roster,
    settings::{OnStoreFailure, RedisOptions, Topology},
    verdict::{Basis, Reason, Verdict},
};
use evenkeel_store::{
    Admit, Held, HeldLease, Pool, Store as _,
    redis::{Background, RedisStore},
};
use evenkeel_telemetry::Metrics;

pub(crate) fn redis_options(urls: Vec<String>, cluster: bool, key_prefix: &str) -> RedisOptions {
    RedisOptions {
        urls,
        topology: if cluster { Topology::Cluster } else { Topology::Single },
        key_prefix: key_prefix.to_owned(),
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        ..Default::default()
    }
}

/// Connects a store. A holder lives for `ttl` without a KeepAlive.
pub(crate) async fn redis_store(options: &RedisOptions, ttl: Duration) -> Arc<RedisStore> {
    let store = RedisStore::new(options, ttl, Metrics::new().unwrap(), &Background::default()).unwrap();
    store.ping().await.unwrap();
    Arc::new(store)
}

pub(crate) fn pool(route: &str, cluster: &str) -> Arc<Pool> {
    Arc::new(Pool { id: PoolId::new(route, cluster).unwrap(), higress_table: false })
}

pub(crate) fn holder(id: &str) -> HolderId {
    HolderId::new(id).unwrap()
}

pub(crate) fn admission(pool: &Arc<Pool>, roster: &Arc<Roster>, who: &str, number: u64, tie: u32) -> Admit {
    let (pool, roster) = (Arc::clone(pool), Arc::clone(roster));
    let (holder, lease) = (holder(who), lease(number));
    Admit { pool, roster, holder, lease, tie, prompt: None, on_failure: OnStoreFailure::Local }
}

/// Returns the endpoint that a store picked. `None` means that every endpoint was at its cap.
pub(crate) fn picked(verdict: Verdict) -> Option<Arc<str>> {
    match verdict {
        Verdict::Admitted { endpoint: Some(endpoint), basis: Basis::Shared, .. } => Some(endpoint),
        Verdict::Refused(Reason::PoolFull) => None,
        verdict => panic!("{verdict:?} is not a decision of the shared table"),
    }
}

pub(crate) fn lease(number: u64) -> LeaseId {
    LeaseId::new(number).unwrap()
}

/// Builds a roster from (address, weight, cap).
pub(crate) fn roster(endpoints: &[(&str, f64, u32)]) -> Arc<Roster> {
    let endpoint =
        |&(address, weight, cap): &(&str, f64, u32)| Endpoint { address: address.into(), weight, cap };
    Arc::new(Roster::new(endpoints.iter().map(endpoint).collect()))
}

pub(crate) fn held(issued_through: u64, leases: &[(u64, Option<&str>)]) -> Held {
    let entry = |&(id, endpoint): &(u64, Option<&str>)| HeldLease {
        id: lease(id),
        endpoint: endpoint.map(Into::into),
        unread: 0,
    };
    Held { issued_through, leases: leases.iter().map(entry).collect(), ..Held::default() }
}
