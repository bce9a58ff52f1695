//! Draining endpoints: administrators take one out of the choice, in one pool or in all; what it has is finished.
//! Each sidecar has all drains in memory, looks four times a
//! [`keep_alive_interval`](evenkeel_config::Config::keep_alive_interval) whether they changed, and keeps the last it saw
//! while the store is away.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use evenkeel_domain::{DomainError, PoolId, StoreError, check_name, check_text};
use evenkeel_store::{
    changes::AdminChange,
    drains::{DRAINS_MAX, Drain, DrainList, Drains},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Balancer,
    directory::{Directory, PoolEntry},
    sweep::Views,
};
use crate::{audit::Audit, follow::follow};

/// Longest note, in bytes.
const NOTE_BYTES_MAX: usize = 256;
/// Endpoints named where the one that was meant is not known.
const NEAREST: usize = 3;

type Addresses = Arc<HashSet<Box<str>>>;

static NONE: LazyLock<Addresses> = LazyLock::new(Addresses::default);

/// Endpoints drained, by pool, at one moment.
#[derive(Debug, Default)]
pub struct Drained {
    everywhere: Addresses,
    of: HashMap<PoolId, Addresses>,
}

impl Drained {
    fn new(list: &[Drain]) -> Self {
        let mut everywhere = HashSet::new();
        let mut of: HashMap<PoolId, HashSet<Box<str>>> = HashMap::new();
        for Drain { endpoint, pool, .. } in list.iter().take(DRAINS_MAX) {
            match pool {
                Some(pool) => of.entry(pool.clone()).or_default(),
                None => &mut everywhere,
            }
            .insert(endpoint.as_str().into());
        }
        let of = of.into_iter().map(|(pool, addresses)| (pool, Arc::new(addresses))).collect();
        Self { everywhere: Arc::new(everywhere), of }
    }

    /// Those of one pool.
    pub(super) fn of(&self, pool: &PoolId) -> PoolDrains {
        let here = self.of.get(pool).unwrap_or(&NONE);
        PoolDrains { everywhere: Arc::clone(&self.everywhere), here: Arc::clone(here) }
    }
}

/// Endpoints drained in one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolDrains {
    everywhere: Addresses,
    here: Addresses,
}

impl PoolDrains {
    /// Whether this endpoint is.
    pub(super) fn has(&self, address: &str) -> bool {
        self.everywhere.contains(address) || self.here.contains(address)
    }

    /// Whether any is.
    pub(super) fn any(&self) -> bool {
        !self.everywhere.is_empty() || !self.here.is_empty()
    }
}

/// Drains as administrators set them, and as this sidecar knows them.
pub struct DrainBook {
    store: Arc<dyn Drains>,
    balancer: Arc<Balancer>,
    views: Arc<Views>,
    audit: Arc<Audit>,
    /// Version in force. Also lets one read at a time, so that an older list never follows a newer one.
    version: tokio::sync::Mutex<Option<u64>>,
    changed: Notify,
}

impl DrainBook {
    /// Knowing none until [`Self::run`] has read them.
    #[must_use]
    pub fn new(
        store: Arc<dyn Drains>,
        balancer: Arc<Balancer>,
        views: Arc<Views>,
        audit: Arc<Audit>,
    ) -> Arc<Self> {
        let (version, changed) = (tokio::sync::Mutex::default(), Notify::new());
        Arc::new(Self { store, balancer, views, audit, version, changed })
    }

    /// Takes an endpoint out of the choice of one pool, or of all where `pool` (route and cluster) is none. In force
    /// here when this returns, elsewhere within an interval. Draining it again replaces who, when and why.
    ///
    /// # Errors
    /// Where no pool concerned has such an endpoint, as far as this sidecar can tell; where the pool is not known, a
    /// text is wrong, or the store is away or has too many.
    pub async fn drain(
        self: &Arc<Self>,
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
        let this = Arc::clone(self);
        let done = async move {
            let put = this.store.put_drain(&new).await.map_err(DomainError::store("draining an endpoint"))?;
            let put = put.ok_or_else(|| DomainError::Full {
                what: format!("{DRAINS_MAX} endpoints are drained already"),
                hint: "undrain some, or take them out of the configuration or discovery",
            })?;
            new.at_ms = put.at_ms;
            let before = if put.before { "drained" } else { "in use" };
            this.changed(&new, "endpoint.drain", before, "drained").await;
            Ok(new)
        };
        self.audit.whole(done).await
    }

    /// Gives an endpoint requests again; `pool` as it was drained.
    ///
    /// # Errors
    /// Where it is not drained so, or the store is away.
    pub async fn undrain(
        self: &Arc<Self>,
        endpoint: &str,
        pool: Option<(&str, &str)>,
        who: &str,
    ) -> Result<(), DomainError> {
        check_endpoint(endpoint)?;
        // As lists show the pool, or as gateways call it. It may be one that is not known any more.
        let pools = match pool {
            None => vec![None],
            Some((route, cluster)) => {
                let listed = PoolId::new(route, cluster)?;
                let resolved = self.balancer.directory.identity(route, cluster)?;
                if listed == resolved { vec![Some(listed)] } else { vec![Some(listed), Some(resolved)] }
            }
        };
        let (this, endpoint, who) = (Arc::clone(self), endpoint.to_owned(), who.to_owned());
        let done = async move {
            for pool in &pools {
                let deleted = this.store.delete_drain(&endpoint, pool.as_ref()).await;
                if deleted.map_err(DomainError::store("undraining an endpoint"))? {
                    let (pool, note) = (pool.clone(), String::new());
                    let gone = Drain { endpoint, pool, note, who, at_ms: 0 };
                    this.changed(&gone, "endpoint.undrain", "drained", "in use").await;
                    return Ok(());
                }
            }
            let wanted = pools.first().and_then(Option::as_ref);
            Err(this.not_drained(&endpoint, wanted).await)
        };
        self.audit.whole(done).await
    }

    /// All of them, by endpoint, then pool.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn list(&self) -> Result<Vec<Drain>, DomainError> {
        Ok(self.store.drains().await.map_err(DomainError::store("reading drains"))?.drains)
    }

    /// Writes what was changed and puts it in force here.
    async fn changed(&self, drain: &Drain, what: &str, before: &str, after: &str) {
        let change = AdminChange {
            at_ms: 0,
            who: drain.who.clone(),
            what: what.to_owned(),
            target: place(&drain.endpoint, drain.pool.as_ref()),
            before: before.to_owned(),
            after: after.to_owned(),
            note: drain.note.clone(),
        };
        self.audit.record(change).await;
        if self.refresh().await.is_err() {
            self.changed.notify_one();
        }
    }

    async fn not_drained(&self, endpoint: &str, pool: Option<&PoolId>) -> DomainError {
        let list = self.store.drains().await.unwrap_or_default().drains;
        let elsewhere: Vec<String> = list
            .iter()
            .filter(|drain| drain.endpoint == endpoint)
            .take(NEAREST)
            .map(|drain| {
                drain.pool.as_ref().map_or_else(|| "in every pool".to_owned(), |pool| format!("in {pool}"))
            })
            .collect();
        let is =
            if elsewhere.is_empty() { String::new() } else { format!(" (it is {})", elsewhere.join(", ")) };
        DomainError::NotFound {
            what: format!("drain of {}{is}", place(endpoint, pool)),
            hint: "ListDrains names those there are",
        }
    }

    /// Refuses an endpoint that none of the pools concerned has: more often a slip of the pen than one to come. Where a
    /// pool's endpoints are not known here (they come with requests, and other sidecars get those), none is refused.
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

    /// Follows what is on record until `end`.
    pub async fn run(self: Arc<Self>, keep_alive_interval: Duration, end: CancellationToken) {
        follow("drains", keep_alive_interval, &self.changed, &end, || self.refresh()).await;
    }

    /// Reads them where they have changed, and puts them in force.
    ///
    /// # Errors
    /// Where the store is away: those known stay in force.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut version = self.version.lock().await;
        if *version != Some(self.store.drains_version().await?) {
            let DrainList { version: read, drains } = self.store.drains().await?;
            in_force(&self.balancer.directory, &drains);
            *version = Some(read);
        }
        Ok(())
    }
}

fn in_force(directory: &Directory, drains: &[Drain]) {
    directory.set_drained(&Arc::new(Drained::new(drains)));
}

fn check_endpoint(endpoint: &str) -> Result<(), DomainError> {
    if endpoint.is_empty() {
        return Err(DomainError::invalid("endpoint", "an address of 1..256 bytes", "an empty one"));
    }
    check_name("endpoint", endpoint)
}

/// An endpoint, and the pool it is drained in, in words.
fn place(endpoint: &str, pool: Option<&PoolId>) -> String {
    pool.map_or_else(|| endpoint.to_owned(), |pool| format!("{endpoint} in {pool}"))
}

/// Those that begin and end most like `wanted`.
fn nearest(wanted: &str, known: &BTreeSet<Arc<str>>) -> Vec<String> {
    let like = |address: &str| {
        let same = |(a, b): &(u8, u8)| a == b;
        let front = address.bytes().zip(wanted.bytes()).take_while(same).count();
        let back = address.bytes().rev().zip(wanted.bytes().rev()).take_while(same).count();
        // What is alike from both ends is counted once.
        (front + back).min(address.len().min(wanted.len()))
    };
    let mut all: Vec<_> = known.iter().map(|address| (Reverse(like(address)), address)).collect();
    all.sort_unstable();
    all.into_iter().take(NEAREST).map(|(_, address)| address.to_string()).collect()
}

#[cfg(test)]
mod tests;
