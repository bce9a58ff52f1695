//! The pools this sidecar knows: which rule applies to a (route, cluster), and its endpoints.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::{
    config::{PoolRule, Source},
    domain::{DomainError, ENDPOINTS_MAX, Endpoint, PoolId, Roster, check_name},
    store::Pool,
};

/// Most pools one sidecar serves: bounds memory, metric labels and sweeps.
pub const POOLS_MAX: usize = 4096;

/// An endpoint offered with a request; zeros mean the pool's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its address.
    pub address: String,
    /// Relative capacity.
    pub weight: f64,
    /// Largest number of requests in flight.
    pub cap: u32,
}

/// One pool with what applies to it.
pub struct PoolEntry {
    /// The pool as the store knows it.
    pub pool: Arc<Pool>,
    /// What the configuration says.
    pub rule: Arc<PoolRule>,
    /// Endpoints of configuration or DNS; empty where they come with requests.
    roster: ArcSwap<Roster>,
    offered: Mutex<Option<(Vec<Candidate>, Arc<Roster>)>>,
    used: AtomicBool,
}

impl PoolEntry {
    /// The endpoints to choose from: those offered, or else the pool's own.
    ///
    /// Requests that offer the same list share one [`Roster`], so that they can share a batch.
    pub fn roster(&self, offered: &[Candidate]) -> Result<Arc<Roster>, DomainError> {
        if offered.is_empty() {
            return Ok(self.roster.load_full());
        }
        if let Some((list, roster)) = &*self.offered.lock()
            && list == offered
        {
            return Ok(Arc::clone(roster));
        }
        let roster = Arc::new(self.roster_of(offered)?);
        *self.offered.lock() = Some((offered.to_vec(), Arc::clone(&roster)));
        Ok(roster)
    }

    fn roster_of(&self, offered: &[Candidate]) -> Result<Roster, DomainError> {
        if offered.len() > ENDPOINTS_MAX {
            return Err(DomainError::invalid("candidates", "at most 1024", &offered.len().to_string()));
        }
        let own = self.roster.load();
        let mut endpoints = Vec::with_capacity(offered.len());
        for candidate in offered {
            check_name("candidates.address", &candidate.address)?;
            if candidate.address.is_empty() {
                return Err(DomainError::invalid("candidates.address", "1..256 bytes", "an empty one"));
            }
            // NaN fails both comparisons.
            if candidate.weight != 0.0 && !(candidate.weight >= 0.001 && candidate.weight <= 1000.0) {
                let got = candidate.weight.to_string();
                return Err(DomainError::invalid("candidates.weight", "0 or 0.001..1000", &got));
            }
            let configured = own.get(&candidate.address);
            let (weight, cap) = configured
                .map_or((self.rule.weight, self.rule.cap), |endpoint| (endpoint.weight, endpoint.cap));
            endpoints.push(Endpoint {
                address: candidate.address.as_str().into(),
                weight: if candidate.weight == 0.0 { weight } else { candidate.weight },
                cap: if candidate.cap == 0 { cap } else { candidate.cap },
            });
        }
        Ok(Roster::new(endpoints))
    }

    /// The endpoints known at present, wherever they come from.
    #[must_use]
    pub fn known_roster(&self) -> Arc<Roster> {
        let own = self.roster.load_full();
        if !own.is_empty() {
            return own;
        }
        self.offered.lock().as_ref().map_or(own, |(_, roster)| Arc::clone(roster))
    }

    /// Replaces the pool's own endpoints.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.roster.store(Arc::new(Roster::new(endpoints)));
    }

    /// Notes that a gateway uses the pool.
    pub fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a gateway used the pool since this was last asked.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

/// All pools. Reading takes no allocation; pools appear as requests name them.
pub struct Directory {
    rules: Vec<Arc<PoolRule>>,
    unlisted: Option<Arc<PoolRule>>,
    by_name: RwLock<HashMap<Box<str>, HashMap<Box<str>, Arc<PoolEntry>>>>,
    by_id: RwLock<HashMap<PoolId, Arc<PoolEntry>>>,
    /// New pools whose endpoints are to be looked up in DNS.
    discover: mpsc::UnboundedSender<Arc<PoolEntry>>,
}

impl Directory {
    /// Pools whose rule names a cluster exist from the start.
    pub fn new(
        rules: Vec<PoolRule>,
        unlisted: Option<PoolRule>,
    ) -> (Self, mpsc::UnboundedReceiver<Arc<PoolEntry>>) {
        // Bounded by POOLS_MAX: each pool is sent once.
        let (discover, discovered) = mpsc::unbounded_channel();
        let directory = Self {
            rules: rules.into_iter().map(Arc::new).collect(),
            unlisted: unlisted.map(Arc::new),
            by_name: RwLock::default(),
            by_id: RwLock::default(),
            discover,
        };
        for rule in &directory.rules {
            let route = if rule.per_route { rule.route.as_deref() } else { Some("") };
            if let (Some(cluster), Some(route)) = (&rule.cluster, route)
                && let Ok(id) = PoolId::new(route, cluster)
            {
                directory.insert(id, rule);
            }
        }
        (directory, discovered)
    }

    /// The pool of a request.
    ///
    /// # Errors
    /// `Invalid` for names that cannot be, or one pool too many; `NotFound` where no rule matches and unlisted
    /// pools are refused.
    pub fn resolve(&self, route: &str, cluster: &str) -> Result<Arc<PoolEntry>, DomainError> {
        if let Some(entry) = self.by_name.read().get(cluster).and_then(|routes| routes.get(route)) {
            return Ok(Arc::clone(entry));
        }
        let id = PoolId::new(route, cluster)?;
        let rule = self.rule(&id).ok_or_else(|| DomainError::NotFound {
            what: format!("pool of route {route:?} and cluster {cluster:?}"),
            hint: "no rule under pools matches, and unlisted_pools.accept is false",
        })?;
        let id = if rule.per_route { id } else { PoolId::new("", cluster)? };
        let entry = self.insert(id, rule).ok_or_else(|| {
            DomainError::invalid("pool", "one of at most 4096", "one more; are names generated?")
        })?;
        let mut by_name = self.by_name.write();
        if by_name.values().map(HashMap::len).sum::<usize>() < 4 * POOLS_MAX {
            by_name.entry(cluster.into()).or_default().insert(route.into(), Arc::clone(&entry));
        }
        Ok(entry)
    }

    /// The pool with this identity, as another sidecar may have registered it.
    pub fn adopt(&self, id: &PoolId) -> Option<Arc<PoolEntry>> {
        if let Some(entry) = self.by_id.read().get(id) {
            return Some(Arc::clone(entry));
        }
        let rule = self.rule(id).or(self.unlisted.as_ref())?;
        self.insert(id.clone(), rule)
    }

    /// Every pool known, by identity.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PoolEntry>> {
        let mut all: Vec<_> = self.by_id.read().values().cloned().collect();
        all.sort_by(|a, b| a.pool.id.cmp(&b.pool.id));
        all
    }

    fn rule(&self, id: &PoolId) -> Option<&Arc<PoolRule>> {
        let fits =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        self.rules
            .iter()
            .find(|rule| {
                fits(&rule.cluster, id.cluster())
                    && (fits(&rule.route, id.route()) || (!rule.per_route && id.route().is_empty()))
            })
            .or(self.unlisted.as_ref())
    }

    fn insert(&self, id: PoolId, rule: &Arc<PoolRule>) -> Option<Arc<PoolEntry>> {
        let mut by_id = self.by_id.write();
        if let Some(entry) = by_id.get(&id) {
            return Some(Arc::clone(entry));
        }
        if by_id.len() >= POOLS_MAX {
            return None;
        }
        let roster = match &rule.source {
            Source::Static(endpoints) => Roster::new(endpoints.clone()),
            Source::Request | Source::Dns { .. } => Roster::default(),
        };
        let entry = Arc::new(PoolEntry {
            pool: Arc::new(Pool { id: id.clone(), higress_table: rule.higress_table }),
            rule: Arc::clone(rule),
            roster: ArcSwap::from_pointee(roster),
            offered: Mutex::default(),
            used: AtomicBool::new(false),
        });
        if matches!(rule.source, Source::Dns { .. }) {
            // The receiver ends with the sidecar only.
            let _ = self.discover.send(Arc::clone(&entry));
        }
        by_id.insert(id, Arc::clone(&entry));
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn directory(yaml: &str) -> Directory {
        let config = Config::parse(yaml).unwrap();
        Directory::new(config.pools, config.unlisted).0
    }

    fn candidate(address: &str, weight: f64, cap: u32) -> Candidate {
        Candidate { address: address.to_owned(), weight, cap }
    }

    #[test]
    fn routes_share_a_pool_unless_told_otherwise() {
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
    fn unlisted_pools_can_be_refused() {
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

    #[test]
    fn offered_endpoints_are_checked_and_shared() {
        let d = directory("pools: [{cluster: a, weight: 3, cap: 7, endpoints: [{address: x, cap: 9}]}]");
        let entry = d.resolve("", "a").unwrap();
        let offered = [candidate("x", 0.0, 0), candidate("y", 0.5, 2), candidate("z", 0.0, 0)];
        let roster = entry.roster(&offered).unwrap();
        let seen: Vec<_> = roster.endpoints().iter().map(|e| (&*e.address, e.weight, e.cap)).collect();
        assert_eq!(seen, [("x", 3.0, 9), ("y", 0.5, 2), ("z", 3.0, 7)]);
        assert!(Arc::ptr_eq(&roster, &entry.roster(&offered).unwrap()));
        assert!(entry.roster(&[candidate("x", f64::NAN, 0)]).is_err());
        assert!(entry.roster(&[candidate("", 0.0, 0)]).is_err());
    }
}
