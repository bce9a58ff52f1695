//! Drains: an administrator stops new requests to an endpoint, in one pool or in all pools. The requests on the
//! endpoint finish.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc, time::Duration};

use evenkeel_domain::{DomainError, PoolId, check_name, check_text};
use evenkeel_store::{
    changes::AdminChange,
    drains::{DRAINS_MAX, Drain, drain_name},
    versioned::{Record as _, VersionedMap},
};
use tokio_util::sync::CancellationToken;

use super::{Balancer, drained::Drained, pool_entry::PoolEntry, sweep::Views};
use crate::{
    change_log::ChangeLog,
    versioned::{RecordList, Versioned},
};

/// Maximum length of a note, in bytes.
const NOTE_BYTES_MAX: usize = 256;
/// Maximum number of similar endpoints, or of pools, that an error names.
const SUGGESTIONS: usize = 3;

/// Changes drains, and applies the stored drains at this sidecar.
pub struct Drains {
    balancer: Arc<Balancer>,
    views: Arc<Views>,
    versioned: Arc<Versioned<DrainRecords>>,
}

struct DrainRecords {
    balancer: Arc<Balancer>,
}

impl RecordList for DrainRecords {
    type Record = Drain;

    const NAME: &'static str = "drains";

    fn apply(&self, drains: Vec<Drain>) {
        self.balancer.directory.set_drained(&Arc::new(Drained::new(&drains)));
    }
}

impl Drains {
    /// Creates the service. No drain is active until [`Self::run`] has read the drains.
    #[must_use]
    pub fn new(
        map: Arc<dyn VersionedMap>,
        balancer: Arc<Balancer>,
        views: Arc<Views>,
        change_log: Arc<ChangeLog>,
    ) -> Self {
        let records = DrainRecords { balancer: Arc::clone(&balancer) };
        Self { balancer, views, versioned: Versioned::new(map, records, change_log) }
    }

    /// Drains an endpoint in one pool, or in all pools if `pool` (route and cluster) is `None`. The drain is active at
    /// this sidecar when the call returns, and at the other sidecars within a quarter of a KeepAlive interval. A
    /// repeated drain replaces who, when and why.
    ///
    /// # Errors
    /// If the pool is unknown, this sidecar knows that no pool has the endpoint, a text is invalid, or the store is
    /// unavailable or full.
    pub async fn drain(
        &self,
        endpoint: &str,
        pool: Option<(&str, &str)>,
        note: &str,
        who: &str,
    ) -> Result<Drain, DomainError> {
        let pool = pool.map(|(route, cluster)| self.balancer.directory.find(route, cluster)).transpose()?;
        check_endpoint(endpoint)?;
        let expected = "at most 256 bytes without control characters";
        check_text("note", note, NOTE_BYTES_MAX, expected)?;
        self.check_known(endpoint, pool.as_deref())?;
        let mut new = Drain {
            endpoint: endpoint.to_owned(),
            pool: pool.map(|entry| entry.pool.id.clone()),
            note: note.to_owned(),
            who: who.to_owned(),
            at_ms: 0,
        };
        let map = Arc::clone(&self.versioned.map);
        let drain = async move {
            let put = map.put(&new.entry()).await.map_err(DomainError::store("draining an endpoint"))?;
            let put = put.ok_or_else(|| DomainError::Full {
                what: format!("{DRAINS_MAX} endpoints are drained already"),
                hint: "undrain some, or take them out of the configuration or discovery",
            })?;
            new.at_ms = put.at_ms;
            let before = if put.before { "drained" } else { "in use" };
            let change = change(&new, "endpoint.drain", before, "drained");
            Ok((new, change))
        };
        self.versioned.change(drain).await
    }

    /// Lets an endpoint get new requests again. `pool` must be the pool that the drain applies to, or `None` if it
    /// applies to all pools.
    ///
    /// # Errors
    /// If there is no such drain or the store is unavailable.
    pub async fn undrain(
        &self,
        endpoint: &str,
        pool: Option<(&str, &str)>,
        who: &str,
    ) -> Result<(), DomainError> {
        check_endpoint(endpoint)?;
        // The names may come from a list or from a gateway, and the pool may no longer exist.
        let pools = match pool {
            None => vec![None],
            Some((route, cluster)) => {
                let listed = PoolId::new(route, cluster)?;
                let resolved = self.balancer.directory.identity(route, cluster)?;
                if listed == resolved { vec![Some(listed)] } else { vec![Some(listed), Some(resolved)] }
            }
        };
        let (versioned, endpoint, who) = (Arc::clone(&self.versioned), endpoint.to_owned(), who.to_owned());
        let undrain = async move {
            for pool in &pools {
                let deleted = versioned.map.remove(&drain_name(&endpoint, pool.as_ref())).await;
                if deleted.map_err(DomainError::store("undraining an endpoint"))? {
                    let (pool, note) = (pool.clone(), String::new());
                    let deleted = Drain { endpoint, pool, note, who, at_ms: 0 };
                    return Ok(((), change(&deleted, "endpoint.undrain", "drained", "in use")));
                }
            }
            let wanted = pools.first().and_then(Option::as_ref);
            let (_, drains) = versioned.read().await.unwrap_or_default();
            Err(not_drained(drains, &endpoint, wanted))
        };
        self.versioned.change(undrain).await
    }

    /// Returns all drains, sorted by endpoint, then by pool.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn list(&self) -> Result<Vec<Drain>, DomainError> {
        let (_, mut drains) = self.versioned.read().await.map_err(DomainError::store("reading drains"))?;
        drains.sort_by(|a, b| (&a.endpoint, &a.pool).cmp(&(&b.endpoint, &b.pool)));
        Ok(drains)
    }

    /// Reads changed drains from the store until `end`.
    pub async fn run(self: Arc<Self>, keep_alive_interval: Duration, end: CancellationToken) {
        self.versioned.run(keep_alive_interval, &end).await;
    }

    /// Rejects an endpoint that none of the pools has, because it is more likely a typo than a future endpoint. Accepts
    /// any endpoint if this sidecar does not know the endpoints of one of the pools, for example because only other
    /// sidecars get requests for that pool, and the requests bring the endpoints.
    fn check_known(&self, endpoint: &str, pool: Option<&PoolEntry>) -> Result<(), DomainError> {
        let views = self.views.all();
        let all;
        let entries = match pool {
            Some(entry) => std::slice::from_ref(entry).iter().collect::<Vec<_>>(),
            None => {
                all = self.balancer.directory.all();
                all.iter().map(|entry| &**entry).collect()
            }
        };
        let (mut known, mut unclear) = (BTreeSet::new(), entries.is_empty());
        for entry in entries {
            let mut addresses = entry.addresses();
            unclear |= addresses.is_empty();
            let view = views.get(&entry.pool.id);
            addresses
                .extend(view.into_iter().flat_map(|view| &view.endpoints).map(|e| Arc::clone(&e.address)));
            if addresses.iter().any(|address| **address == *endpoint) {
                return Ok(());
            }
            known.extend(addresses);
        }
        if unclear {
            return Ok(());
        }
        let nearest = nearest(endpoint, &known);
        Err(DomainError::NotFound {
            what: format!("endpoint {endpoint:?} (nearest: {})", nearest.join(", ")),
            hint: "no pool has an endpoint with this address",
        })
    }
}

fn change(drain: &Drain, what: &str, before: &str, after: &str) -> AdminChange {
    AdminChange {
        at_ms: 0,
        who: drain.who.clone(),
        what: what.to_owned(),
        target: place(&drain.endpoint, drain.pool.as_ref()),
        before: before.to_owned(),
        after: after.to_owned(),
        note: drain.note.clone(),
    }
}

/// Builds the error for a drain that does not exist. The error names the other drains of the endpoint.
fn not_drained(mut drains: Vec<Drain>, endpoint: &str, pool: Option<&PoolId>) -> DomainError {
    drains.sort_by(|a, b| a.pool.cmp(&b.pool));
    let elsewhere: Vec<String> = drains
        .iter()
        .filter(|drain| drain.endpoint == endpoint)
        .take(SUGGESTIONS)
        .map(|drain| {
            drain.pool.as_ref().map_or_else(|| "in every pool".to_owned(), |pool| format!("in {pool}"))
        })
        .collect();
    let is = if elsewhere.is_empty() { String::new() } else { format!(" (it is {})", elsewhere.join(", ")) };
    DomainError::NotFound {
        what: format!("drain of {}{is}", place(endpoint, pool)),
        hint: "ListDrains names those there are",
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), DomainError> {
    if endpoint.is_empty() {
        return Err(DomainError::invalid("endpoint", "an address of 1..256 bytes", "an empty one"));
    }
    check_name("endpoint", endpoint)
}

/// Formats an endpoint and the pool in which it is drained, for operators.
fn place(endpoint: &str, pool: Option<&PoolId>) -> String {
    pool.map_or_else(|| endpoint.to_owned(), |pool| format!("{endpoint} in {pool}"))
}

/// Returns the addresses whose start and end are most similar to `wanted`.
fn nearest(wanted: &str, known: &BTreeSet<Arc<str>>) -> Vec<String> {
    let like = |address: &str| {
        let same = |(a, b): &(u8, u8)| a == b;
        let front = address.bytes().zip(wanted.bytes()).take_while(same).count();
        let back = address.bytes().rev().zip(wanted.bytes().rev()).take_while(same).count();
        // A byte in both the common start and the common end is counted once.
        (front + back).min(address.len().min(wanted.len()))
    };
    let mut all: Vec<_> = known.iter().map(|address| (Reverse(like(address)), address)).collect();
    all.sort_unstable();
    all.into_iter().take(SUGGESTIONS).map(|(_, address)| address.to_string()).collect()
}

#[cfg(test)]
mod tests;
