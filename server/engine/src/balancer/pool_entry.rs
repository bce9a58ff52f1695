//! One pool: its rule, its endpoints, and which of the endpoints get requests.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, ENDPOINTS_MAX, Endpoint, PoolId, Roster, check_name,
    choice::PROMPT_TOKENS_MAX,
    settings::{PoolRule, Source},
};
use evenkeel_store::Pool;
use evenkeel_telemetry::{LatencyRoom, PoolCounts, PoolLatencies};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::drained::PoolDrains;
use crate::{mean::Mean, prefix::Prefixes};

/// Maximum number of candidate lists cached per pool. Gateways of different kinds or versions offer different lists.
const OFFERS_MAX: usize = 8;
/// Minimum weight of a new prompt in the mean size of prompts.
const PROMPT_WEIGHT_MIN: f64 = 0.01;

/// An endpoint that a request offers. A weight or cap of 0 means the pool's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub address: String,
    pub weight: f64,
    pub cap: u32,
}

/// One pool: its rule, endpoints and counts.
pub struct PoolEntry {
    pub pool: Arc<Pool>,
    pub rule: Arc<PoolRule>,
    /// Results of the pool's requests at this sidecar.
    pub counts: PoolCounts,
    /// `None` if the choice considers neither prefix caches nor sessions.
    pub prefixes: Option<Prefixes>,
    /// Latency of the answers to the pool's requests that settled first at this sidecar.
    pub latencies: Arc<PoolLatencies>,
    /// Endpoints from the configuration, DNS or Kubernetes. Empty if the endpoints come with requests.
    roster: ArcSwap<Roster>,
    /// The endpoints of `roster` that are not drained. The same [`Roster`] if no endpoint is drained. Requests read
    /// only `open`.
    open: ArcSwap<Roster>,
    /// Locked while `roster` or `open` is replaced, so that `open` always matches `roster` and the drains.
    drains: Mutex<PoolDrains>,
    /// Candidate lists. Each list is sorted by address. The most recently used list comes first.
    offered: Mutex<Vec<Offer>>,
    /// Rosters of one endpoint, for sessions that must stay. Requests of one roster can be in the same batch.
    alone: Mutex<HashMap<Arc<str>, Arc<Roster>>>,
    /// Mean size of the prompts that requests brought, in tokens.
    prompt_size: Mutex<Mean>,
    used: AtomicBool,
    /// Whether the configuration names the pool. Such a pool is never evicted.
    configured: bool,
    /// Smaller for pools that this sidecar has known for longer.
    pub age: u64,
    forgotten: AtomicBool,
    /// When a gateway last used the pool, or its table last had holders or requests in flight.
    busy_at: Mutex<Instant>,
}

struct Offer {
    candidates: Vec<Candidate>,
    roster: Arc<Roster>,
    /// `roster` without drained endpoints.
    open: Arc<Roster>,
}

impl PoolEntry {
    pub(super) fn new(
        id: PoolId,
        rule: &Arc<PoolRule>,
        configured: bool,
        age: u64,
        drains: PoolDrains,
        latency_room: &Arc<LatencyRoom>,
    ) -> Self {
        let roster = match &rule.source {
            Source::Static(endpoints) => Roster::new(endpoints.clone()),
            Source::Request | Source::Dns { .. } | Source::Kubernetes(_) => Roster::default(),
        };
        let roster = Arc::new(roster);
        Self {
            pool: Arc::new(Pool { id, higress_table: rule.higress_table }),
            prefixes: Prefixes::new(rule),
            rule: Arc::clone(rule),
            counts: PoolCounts::default(),
            latencies: Arc::new(PoolLatencies::new(latency_room)),
            open: ArcSwap::new(open(&roster, &drains)),
            roster: ArcSwap::new(roster),
            drains: Mutex::new(drains),
            offered: Mutex::default(),
            alone: Mutex::default(),
            prompt_size: Mutex::default(),
            used: AtomicBool::new(false),
            configured,
            age,
            forgotten: AtomicBool::new(false),
            busy_at: Mutex::new(Instant::now()),
        }
    }

    /// Returns the endpoints to choose from: the offered endpoints, or the pool's own endpoints if none are offered.
    /// Leaves out drained endpoints.
    ///
    /// Requests that offer the same endpoints get the same [`Roster`], so that they can be in the same batch.
    pub fn roster(&self, mut offered: Vec<Candidate>) -> Result<Arc<Roster>, DomainError> {
        if offered.is_empty() {
            return Ok(self.open.load_full());
        }
        if offered.len() > ENDPOINTS_MAX {
            return Err(DomainError::invalid("candidates", "at most 1024", &offered.len().to_string()));
        }
        // The sort is stable: of two candidates with the same address the first remains, as in a roster.
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
                // `offered` is already locked, so a drain after this line finds the new offer in the list.
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

    /// Returns the roster that has only this endpoint.
    pub(super) fn alone(&self, endpoint: &Endpoint) -> Arc<Roster> {
        let mut alone = self.alone.lock();
        if let Some(roster) = alone.get(&endpoint.address)
            && roster.endpoints() == std::slice::from_ref(endpoint)
        {
            return Arc::clone(roster);
        }
        if alone.len() >= ENDPOINTS_MAX {
            alone.clear();
        }
        let roster = Arc::new(Roster::new(vec![endpoint.clone()]));
        alone.insert(Arc::clone(&endpoint.address), Arc::clone(&roster));
        roster
    }

    /// Returns the pool's own endpoints. If it has none, returns the most recently offered endpoints.
    #[must_use]
    pub fn known_roster(&self) -> Arc<Roster> {
        let own = self.roster.load_full();
        if !own.is_empty() {
            return own;
        }
        self.offered.lock().first().map_or(own, |offer| Arc::clone(&offer.roster))
    }

    /// Whether the configuration names the pool. Only such a pool may be a label of the discovery metrics.
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// Returns the pool's own endpoints, from the configuration, DNS or Kubernetes.
    pub fn own_roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    /// Replaces the pool's own endpoints.
    pub fn set_roster(&self, roster: Roster) {
        let (drains, roster) = (self.drains.lock(), Arc::new(roster));
        self.open.store(open(&roster, &drains));
        let before = self.roster.swap(Arc::clone(&roster));
        if let Some(prefixes) = &self.prefixes {
            prefixes.roster_changed(&before, &roster);
        }
    }

    pub(super) fn set_drains(&self, new: &PoolDrains) {
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

    #[must_use]
    pub fn is_drained(&self, address: &str) -> bool {
        self.drains.lock().has(address)
    }

    /// Returns the addresses of the pool's own endpoints and of the cached offers.
    pub(super) fn addresses(&self) -> BTreeSet<Arc<str>> {
        let (own, offered) = (self.roster.load(), self.offered.lock());
        let rosters = std::iter::once(&*own).chain(offered.iter().map(|offer| &offer.roster));
        rosters.flat_map(|roster| roster.endpoints()).map(|e| Arc::clone(&e.address)).collect()
    }

    /// Returns the size of a prompt for the choice of an endpoint: at most [`PROMPT_TOKENS_MAX`]. A prompt of unknown size
    /// counts as the mean of the pool's known ones.
    pub fn prompt_size(&self, tokens: Option<u64>) -> u64 {
        let mut mean = self.prompt_size.lock();
        match tokens {
            Some(tokens) => {
                let tokens = tokens.min(PROMPT_TOKENS_MAX);
                mean.add(tokens as f64, PROMPT_WEIGHT_MIN);
                tokens
            }
            None => mean.value as u64,
        }
    }

    /// Records that a gateway uses the pool.
    pub fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether a gateway has used the pool since the last call.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Records that the pool is in use, or that this sidecar cannot exclude it.
    pub(super) fn mark_busy(&self) {
        *self.busy_at.lock() = Instant::now();
    }

    /// Whether the pool was evicted. Tasks that work for the pool may then end.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Marks the pool as evicted.
    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }

    /// Returns when the pool was last in use. `None` if the pool must not be evicted.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (!self.configured && !self.used.load(Ordering::Relaxed)).then(|| *self.busy_at.lock())
    }
}

/// Returns the roster without its drained endpoints. Returns the same roster if no endpoint is drained.
fn open(roster: &Arc<Roster>, drains: &PoolDrains) -> Arc<Roster> {
    let gets_requests = |endpoint: &&Endpoint| !drains.has(&endpoint.address);
    if !drains.any() || roster.endpoints().iter().all(|endpoint| gets_requests(&endpoint)) {
        return Arc::clone(roster);
    }
    Arc::new(Roster::new(roster.endpoints().iter().filter(gets_requests).cloned().collect()))
}

#[cfg(test)]
mod tests {
    use evenkeel_config::Config;

    use super::*;

    fn candidate(address: &str, weight: f64, cap: u32) -> Candidate {
        Candidate { address: address.to_owned(), weight, cap }
    }

    #[test]
    fn offered_endpoints_are_checked_and_shared() {
        let yaml = "pools: [{cluster: a, weight: 3, cap: 7, endpoints: [{address: x, cap: 9}]}]";
        let rule = Arc::new(Config::parse(yaml).unwrap().pools.remove(0));
        let id = PoolId::new("", "a").unwrap();
        let entry = PoolEntry::new(id, &rule, true, 0, PoolDrains::default(), &Arc::default());
        let offered = vec![candidate("x", 0.0, 0), candidate("y", 0.5, 2), candidate("z", 0.0, 0)];
        let roster = entry.roster(offered.clone()).unwrap();
        let seen: Vec<_> = roster.endpoints().iter().map(|e| (&*e.address, e.weight, e.cap)).collect();
        assert_eq!(seen, [("x", 3.0, 9), ("y", 0.5, 2), ("z", 3.0, 7)]);
        assert!(entry.roster(vec![candidate("x", f64::NAN, 0)]).is_err());
        assert!(entry.roster(vec![candidate("", 0.0, 0)]).is_err());
        assert!(entry.roster(vec![candidate("x", 0.0, 0); ENDPOINTS_MAX + 1]).is_err());
        // The same endpoints in another order give the same roster, also after other gateways have offered other lists.
        for other in 1..OFFERS_MAX as u32 {
            entry.roster(vec![candidate("o", 0.0, other)]).unwrap();
        }
        let reversed = offered.into_iter().rev().collect();
        assert!(Arc::ptr_eq(&roster, &entry.roster(reversed).unwrap()));
        assert_eq!(entry.offered.lock().len(), OFFERS_MAX);
    }
}
