//! The pools that this sidecar knows, and the rule that applies to each route and cluster.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, PoolId,
    settings::{PoolRule, Source},
};
use evenkeel_telemetry::LatencyRoom;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::{drained::Drained, pool_entry::PoolEntry};

/// Maximum number of pools that one sidecar serves. It bounds memory, metric labels and the work of sweeps.
pub const POOLS_MAX: usize = 4096;
/// Maximum number of (route, cluster) names in the cache. When the cache is full, it is cleared.
const NAMES_MAX: usize = 4 * POOLS_MAX;
/// When there are [`POOLS_MAX`] pools, a pool that has been unused for this time may be evicted.
const IDLE: Duration = Duration::from_secs(3600);

/// A cache of pools by the names that gateways use for them. One pool may have many names.
#[derive(Default)]
struct Names {
    by_cluster: HashMap<Box<str>, HashMap<Box<str>, Arc<PoolEntry>>>,
    count: usize,
}

impl Names {
    fn get(&self, route: &str, cluster: &str) -> Option<&Arc<PoolEntry>> {
        self.by_cluster.get(cluster)?.get(route)
    }

    fn insert(&mut self, route: &str, cluster: &str, entry: &Arc<PoolEntry>) {
        // The caller holds the lock under which `forget` drops the names of an evicted pool.
        if entry.is_forgotten() {
            return;
        }
        if self.count >= NAMES_MAX {
            *self = Self::default();
        }
        let routes = self.by_cluster.entry(cluster.into()).or_default();
        if routes.insert(route.into(), Arc::clone(entry)).is_none() {
            self.count += 1;
        }
    }

    fn forget(&mut self, entry: &Arc<PoolEntry>) {
        entry.forget();
        let cluster = entry.pool.id.cluster();
        if let Some(routes) = self.by_cluster.get_mut(cluster) {
            let before = routes.len();
            routes.retain(|_, known| !Arc::ptr_eq(known, entry));
            self.count -= before - routes.len();
            if routes.is_empty() {
                self.by_cluster.remove(cluster);
            }
        }
    }
}

/// All pools. A request for an unknown name creates a pool. When the directory is full, the pool that has been unused
/// for the longest time is evicted. A lookup of a cached name allocates nothing.
pub struct Directory {
    rules: Vec<Arc<PoolRule>>,
    unlisted: Option<Arc<PoolRule>>,
    idle: Duration,
    /// If both locks are needed, `by_id` is locked before this one.
    by_name: RwLock<Names>,
    by_id: RwLock<HashMap<PoolId, Arc<PoolEntry>>>,
    drained: ArcSwap<Drained>,
    /// What the pools' histograms of latencies share.
    latency_room: Arc<LatencyRoom>,
    /// Number of pools so far.
    created: AtomicU64,
    /// Sends new pools whose endpoints the discovery must find.
    discover: mpsc::UnboundedSender<Arc<PoolEntry>>,
}

impl Directory {
    /// Creates the pools whose rules name a cluster. The receiver receives every pool whose endpoints come from DNS or
    /// Kubernetes.
    pub fn new(
        rules: Vec<PoolRule>,
        unlisted: Option<PoolRule>,
    ) -> (Self, mpsc::UnboundedReceiver<Arc<PoolEntry>>) {
        // POOLS_MAX bounds this channel, because each pool is sent once.
        let (discover, discovered) = mpsc::unbounded_channel();
        let directory = Self {
            rules: rules.into_iter().map(Arc::new).collect(),
            unlisted: unlisted.map(Arc::new),
            idle: IDLE,
            by_name: RwLock::default(),
            by_id: RwLock::default(),
            drained: ArcSwap::default(),
            latency_room: Arc::default(),
            created: AtomicU64::new(0),
            discover,
        };
        for rule in &directory.rules {
            let route = if rule.per_route { rule.route.as_deref() } else { Some("") };
            if let (Some(cluster), Some(route)) = (&rule.cluster, route)
                && let Ok(id) = PoolId::new(route, cluster)
            {
                directory.insert(id, rule, Claim::Configured);
            }
        }
        (directory, discovered)
    }

    /// Returns the pool of a request. Creates the pool if it does not exist.
    ///
    /// # Errors
    /// `Invalid` if a name is invalid or there are too many pools; `NotFound` if no rule matches and unlisted pools are
    /// not accepted.
    pub fn resolve(&self, route: &str, cluster: &str) -> Result<Arc<PoolEntry>, DomainError> {
        if let Some(entry) = self.by_name.read().get(route, cluster) {
            return Ok(Arc::clone(entry));
        }
        let id = PoolId::new(route, cluster)?;
        let rule = self.rule(&id).ok_or_else(|| DomainError::NotFound {
            what: format!("pool of route {route:?} and cluster {cluster:?}"),
            hint: "no rule under pools matches, and unlisted_pools.accept is false",
        })?;
        let id = if rule.per_route { id } else { PoolId::new("", cluster)? };
        let entry = self.insert(id, rule, Claim::Requested).ok_or_else(|| {
            DomainError::invalid("pool", "one of at most 4096", "one more; are names generated?")
        })?;
        self.by_name.write().insert(route, cluster, &entry);
        Ok(entry)
    }

    /// Returns the identity of the pool that a gateway's names resolve to. The pool need not exist.
    ///
    /// # Errors
    /// `Invalid` for an invalid name.
    pub fn identity(&self, route: &str, cluster: &str) -> Result<PoolId, DomainError> {
        let id = PoolId::new(route, cluster)?;
        match self.rule(&id) {
            Some(rule) if !rule.per_route => PoolId::new("", cluster),
            _ => Ok(id),
        }
    }

    /// Returns an existing pool by the names that ListPools shows or that a gateway uses.
    ///
    /// # Errors
    /// `Invalid` for an invalid name; `NotFound` if this sidecar does not know the pool.
    pub fn find(&self, route: &str, cluster: &str) -> Result<Arc<PoolEntry>, DomainError> {
        let (listed, resolved) = (PoolId::new(route, cluster)?, self.identity(route, cluster)?);
        let by_id = self.by_id.read();
        let found = by_id.get(&listed).or_else(|| by_id.get(&resolved)).cloned();
        found.ok_or_else(|| DomainError::NotFound {
            what: format!("pool of route {route:?} and cluster {cluster:?}"),
            hint: "no gateway has used it yet",
        })
    }

    /// Returns the pool with this identity, which another sidecar has registered. Creates the pool if the directory is
    /// not full.
    pub fn adopt(&self, id: &PoolId) -> Option<Arc<PoolEntry>> {
        if let Some(entry) = self.by_id.read().get(id) {
            return Some(Arc::clone(entry));
        }
        let rule = self.rule(id).or(self.unlisted.as_ref())?;
        self.insert(id.clone(), rule, Claim::Adopted)
    }

    /// Returns all pools, sorted by identity.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PoolEntry>> {
        let mut all: Vec<_> = self.by_id.read().values().cloned().collect();
        all.sort_by(|a, b| a.pool.id.cmp(&b.pool.id));
        all
    }

    /// Replaces the drains of every pool.
    pub(super) fn set_drained(&self, drained: &Arc<Drained>) {
        // Stored first, so that a pool created concurrently either reads the new drains or is in `all`.
        self.drained.store(Arc::clone(drained));
        for entry in self.all() {
            entry.set_drains(&drained.of(&entry.pool.id));
        }
    }

    fn rule(&self, id: &PoolId) -> Option<&Arc<PoolRule>> {
        let fits =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        self.rules
            .iter()
            .find(|rule| {
                // A rule that names a route has a table per route, because the route of a shared table is empty.
                fits(&rule.cluster, id.cluster()) && fits(&rule.route, id.route())
            })
            .or(self.unlisted.as_ref())
    }

    fn insert(&self, id: PoolId, rule: &Arc<PoolRule>, claim: Claim) -> Option<Arc<PoolEntry>> {
        let mut by_id = self.by_id.write();
        if let Some(entry) = by_id.get(&id) {
            return Some(Arc::clone(entry));
        }
        if by_id.len() >= POOLS_MAX {
            // An adopted pool evicts no other pool. Otherwise two registered pools would evict each other in turn.
            let idlest = match claim {
                Claim::Configured | Claim::Adopted => None,
                Claim::Requested => idlest(&by_id, self.idle),
            }?;
            self.by_name.write().forget(&idlest);
            by_id.remove(&idlest.pool.id);
        }
        let drains = self.drained.load().of(&id);
        let age = self.created.fetch_add(1, Ordering::Relaxed);
        let configured = claim == Claim::Configured;
        let entry = PoolEntry::new(id.clone(), rule, configured, age, drains, &self.latency_room);
        let entry = Arc::new(entry);
        let is_found = match &rule.source {
            Source::Dns { .. } => true,
            Source::Kubernetes(service) => service.of(entry.pool.id.cluster()).is_some(),
            Source::Request | Source::Static(_) => false,
        };
        if is_found {
            // The receiver lives as long as the sidecar.
            let _ = self.discover.send(Arc::clone(&entry));
        }
        by_id.insert(id, Arc::clone(&entry));
        Some(entry)
    }
}

/// Why a pool is created.
#[derive(Clone, Copy, PartialEq)]
enum Claim {
    Configured,
    Requested,
    Adopted,
}

/// Returns the pool that has been unused for the longest time, if that time is at least `idle`.
fn idlest(by_id: &HashMap<PoolId, Arc<PoolEntry>>, idle: Duration) -> Option<Arc<PoolEntry>> {
    let since = by_id.values().filter_map(|entry| Some((entry.idle_since()?, entry)));
    let idle = since.filter(|(since, _)| since.elapsed() >= idle);
    idle.min_by_key(|(since, _)| *since).map(|(_, entry)| Arc::clone(entry))
}

#[cfg(test)]
mod tests {
    use evenkeel_config::Config;

    use super::*;

    fn directory(yaml: &str) -> Directory {
        let config = Config::parse(yaml).unwrap();
        Directory::new(config.pools, config.unlisted).0
    }

    #[test]
    fn routes_share_a_pool_unless_the_rule_is_per_route() {
        let d = directory("pools: [{cluster: a}, {cluster: b, per_route: true}]");
        let id = |route, cluster| d.resolve(route, cluster).unwrap().pool.id.clone();
        assert_eq!(id("r1", "a"), id("r2", "a"));
        assert_ne!(id("r1", "b"), id("r2", "b"));
        assert_eq!(d.all().len(), 3);
    }

    #[test]
    fn the_first_rule_that_matches_applies() {
        let d = directory(
            "pools: [{cluster: a, route: x, per_route: true, cap: 1}, {cluster: a, per_route: true, cap: 2}, \
             {cluster: '*', cap: 3}]\nunlisted_pools: {accept: false}",
        );
        let cap = |route, cluster| d.resolve(route, cluster).unwrap().rule.cap;
        assert_eq!([cap("x", "a"), cap("y", "a"), cap("x", "b")], [1, 2, 3]);
    }

    #[test]
    fn unlisted_pools_can_be_rejected() {
        let d = directory("pools: [{cluster: a}]\nunlisted_pools: {accept: false}");
        assert!(matches!(d.resolve("r", "b"), Err(DomainError::NotFound { .. })));
        assert!(matches!(d.resolve("r", ""), Err(DomainError::Invalid { .. })));
    }

    #[test]
    fn pools_are_bounded() {
        let d = directory("");
        for i in 0..POOLS_MAX {
            d.resolve("", &format!("c{i}")).unwrap();
        }
        assert!(d.resolve("", "one more").is_err());
        assert!(d.resolve("", "c0").is_ok());
    }

    /// Guards against a full directory that rejects every new pool forever, although some pools are idle.
    #[test]
    fn an_idle_pool_is_evicted() {
        let mut d = directory("pools: [{cluster: a}]");
        for i in 1..POOLS_MAX {
            d.resolve("", &format!("c{i}")).unwrap();
        }
        assert!(d.resolve("", "new").is_err(), "nothing has been idle for long");
        d.idle = Duration::ZERO;
        d.resolve("", "c1").unwrap().mark_used();
        d.resolve("", "c2").unwrap().mark_busy();
        let registered = PoolId::new("", "elsewhere").unwrap();
        assert!(d.adopt(&registered).is_none(), "an adopted pool evicts none");
        let idlest = d.resolve("", "c3").unwrap();
        d.resolve("", "new").unwrap();
        assert!(idlest.is_forgotten() && matches!(d.find("", "c3"), Err(DomainError::NotFound { .. })));
        for stays in ["a", "c1", "c2", "c4", "new"] {
            assert!(d.find("", stays).is_ok(), "{stays}");
        }
        assert_eq!((d.all().len(), d.by_name.read().count), (POOLS_MAX, POOLS_MAX - 1));
        let latencies = Arc::downgrade(&idlest.latencies);
        drop(idlest);
        assert!(latencies.upgrade().is_none(), "its histograms make room for those of others");
    }

    #[test]
    fn names_are_bounded() {
        let d = directory("");
        for i in 0..=NAMES_MAX {
            d.resolve(&format!("r{i}"), "a").unwrap();
        }
        assert_eq!((d.all().len(), d.by_name.read().count), (1, 1));
    }

    #[test]
    fn find_resolves_a_gateways_names_and_creates_no_pool() {
        let d = directory("pools: [{cluster: a}, {cluster: b, per_route: true}]");
        let found = |route, cluster| match d.find(route, cluster) {
            Ok(entry) => Some(entry.pool.id.clone()),
            Err(DomainError::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found("any", "a"), PoolId::new("", "a").ok());
        assert_eq!([found("r", "b"), found("r", "c")], [None, None]);
        assert_eq!(d.all().len(), 1);
        d.resolve("r", "b").unwrap();
        assert_eq!(found("r", "b"), PoolId::new("r", "b").ok());
        assert!(matches!(d.find("", ""), Err(DomainError::Invalid { .. })));
    }
}
