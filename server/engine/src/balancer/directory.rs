//! The pools this sidecar knows: which rule applies to a (route, cluster), and its endpoints.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, ENDPOINTS_MAX, Endpoint, PoolId, Roster, check_name,
    settings::{PoolRule, Source},
};
use evenkeel_store::Pool;
use evenkeel_telemetry::PoolCounts;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::mpsc, time::Instant};

use super::drains::{Drained, PoolDrains};

/// Most pools one sidecar serves: bounds memory, metric labels and sweeps.
pub const POOLS_MAX: usize = 4096;
/// Most (route, cluster) names remembered with their pools; more than that and all are learnt anew.
const NAMES_MAX: usize = 4 * POOLS_MAX;
/// Lists of candidates remembered for one pool: gateways of several kinds or releases offer as many.
const OFFERS_MAX: usize = 8;
/// A pool that was out of use for this long makes room where there is none left.
const IDLE: Duration = Duration::from_secs(3600);

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
    /// What became of its requests at this sidecar.
    pub counts: PoolCounts,
    /// Endpoints of configuration, DNS or Kubernetes; empty where they come with requests.
    roster: ArcSwap<Roster>,
    /// Those of them that are not drained: the same [`Roster`] where none is. Requests look at this one alone.
    open: ArcSwap<Roster>,
    /// Held while either is replaced, so that the one always follows from the other.
    drains: Mutex<PoolDrains>,
    /// Lists of candidates by address, the last used first.
    offered: Mutex<Vec<Offer>>,
    used: AtomicBool,
    /// Named in the configuration: never forgotten.
    configured: bool,
    forgotten: AtomicBool,
    /// When it was last seen in use, here or in its table.
    busy_at: Mutex<Instant>,
}

struct Offer {
    candidates: Vec<Candidate>,
    roster: Arc<Roster>,
    /// Without those that are drained.
    open: Arc<Roster>,
}

impl PoolEntry {
    fn new(id: PoolId, rule: &Arc<PoolRule>, configured: bool, drains: PoolDrains) -> Self {
        let roster = match &rule.source {
            Source::Static(endpoints) => Roster::new(endpoints.clone()),
            Source::Request | Source::Dns { .. } | Source::Kubernetes(_) => Roster::default(),
        };
        let roster = Arc::new(roster);
        Self {
            pool: Arc::new(Pool { id, higress_table: rule.higress_table }),
            rule: Arc::clone(rule),
            counts: PoolCounts::default(),
            open: ArcSwap::new(open(&roster, &drains)),
            roster: ArcSwap::new(roster),
            drains: Mutex::new(drains),
            offered: Mutex::default(),
            used: AtomicBool::new(false),
            configured,
            forgotten: AtomicBool::new(false),
            busy_at: Mutex::new(Instant::now()),
        }
    }

    /// The endpoints to choose from: those offered, or else the pool's own; none that is drained.
    ///
    /// Requests that offer the same endpoints share one [`Roster`], so that they can share a batch.
    pub fn roster(&self, mut offered: Vec<Candidate>) -> Result<Arc<Roster>, DomainError> {
        if offered.is_empty() {
            return Ok(self.open.load_full());
        }
        if offered.len() > ENDPOINTS_MAX {
            return Err(DomainError::invalid("candidates", "at most 1024", &offered.len().to_string()));
        }
        // Stable: of two with one address the first stays, as in a roster.
        offered.sort_by(|a, b| a.address.cmp(&b.address));
        let mut known = self.offered.lock();
        let roster = match known.iter().position(|offer| offer.candidates == offered) {
            Some(at) => {
                known[..=at].rotate_right(1);
                Arc::clone(&known[0].open)
            }
            None => {
                let roster = Arc::new(self.roster_of(&offered)?);
                known.truncate(OFFERS_MAX - 1);
                // After the list was locked: what is drained from now on finds this offer in it.
                let open = open(&roster, &self.drains.lock());
                known.insert(0, Offer { candidates: offered, roster, open: Arc::clone(&open) });
                open
            }
        };
        Ok(roster)
    }

    fn roster_of(&self, offered: &[Candidate]) -> Result<Roster, DomainError> {
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
        self.offered.lock().first().map_or(own, |offer| Arc::clone(&offer.roster))
    }

    /// Whether the configuration names it: only then may it be a label of metrics that count discovery.
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// The pool's own endpoints, of configuration, DNS or Kubernetes.
    pub fn own_roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    /// Replaces the pool's own endpoints.
    pub fn set_roster(&self, roster: Roster) {
        let (drains, roster) = (self.drains.lock(), Arc::new(roster));
        self.open.store(open(&roster, &drains));
        self.roster.store(roster);
    }

    /// Replaces what is drained.
    fn set_drains(&self, new: &PoolDrains) {
        {
            let mut drains = self.drains.lock();
            if *drains == *new {
                return;
            }
            self.open.store(open(&self.roster.load(), new));
            *drains = new.clone();
        }
        for offer in self.offered.lock().iter_mut() {
            offer.open = open(&offer.roster, new);
        }
    }

    /// Whether an administrator has drained an endpoint.
    #[must_use]
    pub fn is_drained(&self, address: &str) -> bool {
        self.drains.lock().has(address)
    }

    /// Every address known, the pool's own and offered ones.
    pub(super) fn addresses(&self) -> BTreeSet<Arc<str>> {
        let (own, offered) = (self.roster.load(), self.offered.lock());
        let rosters = std::iter::once(&*own).chain(offered.iter().map(|offer| &offer.roster));
        rosters.flat_map(|roster| roster.endpoints()).map(|e| Arc::clone(&e.address)).collect()
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

    /// Notes that the pool is in use, or that nobody can tell.
    pub(super) fn mark_busy(&self) {
        *self.busy_at.lock() = Instant::now();
    }

    /// Whether the pool made room for another: what follows it may end.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    fn busy_at(&self) -> Instant {
        *self.busy_at.lock()
    }
}

/// A roster without what is drained; itself where nothing is.
fn open(roster: &Arc<Roster>, drains: &PoolDrains) -> Arc<Roster> {
    let gets_requests = |endpoint: &&Endpoint| !drains.has(&endpoint.address);
    if !drains.any() || roster.endpoints().iter().all(|endpoint| gets_requests(&endpoint)) {
        return Arc::clone(roster);
    }
    Arc::new(Roster::new(roster.endpoints().iter().filter(gets_requests).cloned().collect()))
}

/// Pools by the names gateways use for them, which may be many for one: a cache.
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
        // Checked under the same lock as its names are dropped.
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
        entry.forgotten.store(true, Ordering::Relaxed);
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

/// All pools. Reading takes no allocation; pools appear as requests name them, and the one longest out of use
/// goes where there is no room for another.
pub struct Directory {
    rules: Vec<Arc<PoolRule>>,
    unlisted: Option<Arc<PoolRule>>,
    idle: Duration,
    /// Taken after `by_id` where both are needed.
    by_name: RwLock<Names>,
    by_id: RwLock<HashMap<PoolId, Arc<PoolEntry>>>,
    drained: ArcSwap<Drained>,
    /// New pools whose endpoints are to be found in DNS or Kubernetes.
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
            idle: IDLE,
            by_name: RwLock::default(),
            by_id: RwLock::default(),
            drained: ArcSwap::default(),
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

    /// The pool of a request.
    ///
    /// # Errors
    /// `Invalid` for names that cannot be, or one pool too many; `NotFound` where no rule matches and unlisted
    /// pools are refused.
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

    /// The identity of the pool that a gateway's names lead to, whether or not it exists.
    ///
    /// # Errors
    /// `Invalid` for names that cannot be.
    pub fn identity(&self, route: &str, cluster: &str) -> Result<PoolId, DomainError> {
        let id = PoolId::new(route, cluster)?;
        match self.rule(&id) {
            Some(rule) if !rule.per_route => PoolId::new("", cluster),
            _ => Ok(id),
        }
    }

    /// The pool with this name, as a list shows it or as a gateway calls it; none is made.
    ///
    /// # Errors
    /// `Invalid` for names that cannot be; `NotFound` where no sidecar has told of it.
    pub fn find(&self, route: &str, cluster: &str) -> Result<Arc<PoolEntry>, DomainError> {
        let (listed, resolved) = (PoolId::new(route, cluster)?, self.identity(route, cluster)?);
        let by_id = self.by_id.read();
        let found = by_id.get(&listed).or_else(|| by_id.get(&resolved)).cloned();
        found.ok_or_else(|| DomainError::NotFound {
            what: format!("pool of route {route:?} and cluster {cluster:?}"),
            hint: "no gateway has used it yet",
        })
    }

    /// The pool with this identity, as another sidecar may have registered it; none where there is no room.
    pub fn adopt(&self, id: &PoolId) -> Option<Arc<PoolEntry>> {
        if let Some(entry) = self.by_id.read().get(id) {
            return Some(Arc::clone(entry));
        }
        let rule = self.rule(id).or(self.unlisted.as_ref())?;
        self.insert(id.clone(), rule, Claim::Adopted)
    }

    /// Every pool known, by identity.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PoolEntry>> {
        let mut all: Vec<_> = self.by_id.read().values().cloned().collect();
        all.sort_by(|a, b| a.pool.id.cmp(&b.pool.id));
        all
    }

    /// Replaces what is drained, in every pool.
    pub(super) fn set_drained(&self, drained: &Arc<Drained>) {
        // First for pools to come: one that is made meanwhile has it, or is among those that follow.
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
                // A rule that names a route is per route: a shared table's route is empty.
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
            // A pool that is only heard of does not drive out one that this sidecar knows: the two would take
            // turns for as long as both are registered.
            let idlest = match claim {
                Claim::Configured | Claim::Adopted => None,
                Claim::Requested => idlest(&by_id, self.idle),
            }?;
            self.by_name.write().forget(&idlest);
            by_id.remove(&idlest.pool.id);
        }
        let drains = self.drained.load().of(&id);
        let entry = Arc::new(PoolEntry::new(id.clone(), rule, claim == Claim::Configured, drains));
        let is_found = match &rule.source {
            Source::Dns { .. } => true,
            Source::Kubernetes(service) => service.of(entry.pool.id.cluster()).is_some(),
            Source::Request | Source::Static(_) => false,
        };
        if is_found {
            // The receiver ends with the sidecar only.
            let _ = self.discover.send(Arc::clone(&entry));
        }
        by_id.insert(id, Arc::clone(&entry));
        Some(entry)
    }
}

/// Who wants a pool to be known.
#[derive(Clone, Copy, PartialEq)]
enum Claim {
    Configured,
    Requested,
    Adopted,
}

/// Of the pools that nobody has used for a while the one that was used the longest ago.
fn idlest(by_id: &HashMap<PoolId, Arc<PoolEntry>>, idle: Duration) -> Option<Arc<PoolEntry>> {
    let spare = by_id.values().filter(|entry| {
        !entry.configured && !entry.used.load(Ordering::Relaxed) && entry.busy_at().elapsed() >= idle
    });
    spare.min_by_key(|entry| entry.busy_at()).cloned()
}

#[cfg(test)]
mod tests {
    use evenkeel_config::Config;

    use super::*;

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
        let offered = vec![candidate("x", 0.0, 0), candidate("y", 0.5, 2), candidate("z", 0.0, 0)];
        let roster = entry.roster(offered.clone()).unwrap();
        let seen: Vec<_> = roster.endpoints().iter().map(|e| (&*e.address, e.weight, e.cap)).collect();
        assert_eq!(seen, [("x", 3.0, 9), ("y", 0.5, 2), ("z", 3.0, 7)]);
        assert!(entry.roster(vec![candidate("x", f64::NAN, 0)]).is_err());
        assert!(entry.roster(vec![candidate("", 0.0, 0)]).is_err());
        assert!(entry.roster(vec![candidate("x", 0.0, 0); ENDPOINTS_MAX + 1]).is_err());
        // The same endpoints in another order, and after lists of other gateways, are the same roster.
        for other in 1..OFFERS_MAX as u32 {
            entry.roster(vec![candidate("o", 0.0, other)]).unwrap();
        }
        let reversed = offered.into_iter().rev().collect();
        assert!(Arc::ptr_eq(&roster, &entry.roster(reversed).unwrap()));
        assert_eq!(entry.offered.lock().len(), OFFERS_MAX);
    }

    /// Once 4096 names had been seen, every further one was refused for good.
    #[test]
    fn an_idle_pool_makes_room() {
        let mut d = directory("pools: [{cluster: a}]");
        for i in 1..POOLS_MAX {
            d.resolve("", &format!("c{i}")).unwrap();
        }
        assert!(d.resolve("", "new").is_err(), "nothing has been idle for long");
        d.idle = Duration::ZERO;
        d.resolve("", "c1").unwrap().mark_used();
        d.resolve("", "c2").unwrap().mark_busy();
        let registered = PoolId::new("", "elsewhere").unwrap();
        assert!(d.adopt(&registered).is_none(), "what is only heard of drives nothing out");
        let idlest = d.resolve("", "c3").unwrap();
        d.resolve("", "new").unwrap();
        assert!(idlest.is_forgotten() && matches!(d.find("", "c3"), Err(DomainError::NotFound { .. })));
        for stays in ["a", "c1", "c2", "c4", "new"] {
            assert!(d.find("", stays).is_ok(), "{stays}");
        }
        assert_eq!((d.all().len(), d.by_name.read().count), (POOLS_MAX, POOLS_MAX - 1));
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
    fn pools_are_found_by_a_gateways_names_and_not_made() {
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
